"""Audits of a small made-up model on made-up groups, with everything that an audit can hold."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import qfair_check
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.record import Audit

BITS = "fp16,8,4,3,2"
_CLASSES, _FEATURES = 4, 12


def made_up_audit(
    names: Sequence[str], *, size: int = 80, bits: str = BITS, curvature: bool = True, seed: int = 0
) -> Audit:
    """Return the audit of a network whose groups are noisier the later they stand in `names`.

    Parameters
    ----------
    names : sequence of str
        Of the groups.
    size : int
        Groups have from a third of this to twice as many samples.
    bits : str
        Precisions beside fp32.
    curvature : bool
        Whether to measure it, on at most 50 samples of each group.
    seed : int
        Of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(size // 3, 2 * size, (len(names),), generator=generator)
    groups = np.repeat(np.array(names), sizes)
    y = torch.randint(_CLASSES, (len(groups),), generator=generator)
    noise = torch.linspace(0.8, 2.2, len(names)).repeat_interleave(sizes)
    means = 1.4 * torch.randn(_CLASSES, _FEATURES, generator=generator)
    x = means[y] + noise[:, None] * torch.randn(len(y), _FEATURES, generator=generator)
    options = CurvatureOptions.of(samples="50") if curvature else None
    return qfair_check.audit(_trained(x, y, generator), (x.numpy(), y.numpy(), groups), bits=bits, curvature=options)


def _trained(x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(_FEATURES, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, _CLASSES))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(200):
        batch = torch.randint(len(x), (256,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    return net.eval()

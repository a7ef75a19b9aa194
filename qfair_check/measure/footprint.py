"""How much memory differentiating twice takes, and what fits into the memory that the user allows."""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from qfair_check.errors import OptionError
from qfair_check.inputs.sample import Sample, mapped, size
from qfair_check.measure.chunks import CHUNK
from qfair_check.measure.group_loss import Point, differentiating

MOST_VECTORS = 32
LEAST_VECTORS = 8

_WORKING_VECTORS = 12
_TRANSIENT = 1.0
_PROBED = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What measuring curvature may hold at a time.

    Parameters
    ----------
    chunk : int
        Samples that go through the model at a time.
    vectors : int
        Lanczos vectors.
    kept : int
        Chunks of a group whose graphs stay between products, where that is all of them; else none do.
    """

    chunk: int
    vectors: int
    kept: int


def plan(point: Point, batch: Sample, memory: int, extra_vectors: int) -> Plan:
    """Return what fits into `memory` bytes.

    The graph of a gradient is measured on a few samples. In the first place come vectors of the length of all
    parameters, then one chunk of at most 64 samples, halved until it fits, then the graphs of further chunks. Chunk and
    vectors do not depend on `extra_vectors`.

    Parameters
    ----------
    point : Point
    batch : tensor, tuple of tensors, or dict of tensors
        At least two samples.
    memory : int
        Bytes.
    extra_vectors : int
        Vectors that are held besides.

    Raises
    ------
    OptionError
        If the memory does not hold one sample.
    """
    vector = 4 * max(point.dimension, 1)
    fixed, by_sample = _graph_bytes(point, batch)
    spare = memory - _WORKING_VECTORS * vector - fixed - (1 + _TRANSIENT) * by_sample
    vectors = max(LEAST_VECTORS, min(MOST_VECTORS, memory // 4 // vector, int(spare // vector)))
    left = memory - (vectors + _WORKING_VECTORS) * vector - fixed
    chunk = CHUNK
    while chunk > 1 and (1 + _TRANSIENT) * chunk * by_sample > left:
        chunk //= 2
    transient = _TRANSIENT * chunk * by_sample
    if chunk * by_sample + transient > left:
        needed = (LEAST_VECTORS + _WORKING_VECTORS) * vector + fixed + (1 + _TRANSIENT) * by_sample
        raise OptionError(
            f"measuring curvature of this model takes {ceil(needed / 2**10):,} KiB for one sample, and "
            f"--qfair-curvature-memory allows {memory / 2**10:,.4g} KiB: allow more"
        )
    kept = int((left - extra_vectors * vector - transient) // max(chunk * by_sample + fixed, 1))
    return Plan(chunk, vectors, max(kept, 0))


def _graph_bytes(point: Point, batch: Sample) -> tuple[float, float]:
    """Return the bytes that the graph of a gradient holds, whatever the samples, and for each sample."""
    few = [_saved_bytes(point, mapped(lambda part, n=n: part[:n], batch)) for n in (_PROBED, 2 * _PROBED)]
    by_sample = max((few[1] - few[0]) / _PROBED, 1.0)
    return max(few[0] - _PROBED * by_sample, 0.0), by_sample


def _saved_bytes(point: Point, batch: Sample) -> int:
    held: dict[int, int] = {}
    own = {leaf.untyped_storage().data_ptr() for leaf in point.leaves}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    labels = torch.zeros(size(batch), dtype=torch.int64)
    with differentiating(0, point.device), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = point.loss(mapped(torch.clone, batch), labels, size(batch))
        graph = torch.autograd.grad(loss, point.leaves, create_graph=True, allow_unused=True)
    total = sum(held.values())
    del graph
    return total

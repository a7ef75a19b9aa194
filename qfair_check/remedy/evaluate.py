"""What could be taken at the end of an epoch, counted on held-out samples."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qfair_check.inputs.sample import called
from qfair_check.measure.chunks import CHUNK
from qfair_check.measure.outputs import logits_of
from qfair_check.remedy.attach import FrozenModel
from qfair_check.remedy.batchnorm import reestimate_batchnorm
from qfair_check.remedy.epoch import without_single
from qfair_check.remedy.holdout import Split
from qfair_check.remedy.samples import Batch, TrainingSamples
from qfair_check.remedy.selection import Candidate, GroupCounts, Statistics

Integers = NDArray[np.int64]
STATISTICS_SAMPLES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Samples that candidates are made and counted with.

    Parameters
    ----------
    samples : TrainingSamples
    split : Split
    device : torch.device
    batch_size : int
        Of the batches that BatchNorm statistics come from.
    seed : int
    """

    samples: TrainingSamples
    split: Split
    device: torch.device
    batch_size: int
    seed: int

    def statistics_batches(self) -> Iterator[Batch]:
        """Yield shuffled samples that are trained on, of natural distribution, the same each time; at most 4096."""
        order = np.random.default_rng(self.seed).permutation(self.split.fit)[:STATISTICS_SAMPLES]
        yield from self.samples.batches(without_single(order, self.batch_size), self.batch_size, self.device)

    def fit_part(self) -> Integers:
        """Return samples that are trained on, of each group as many as are held out, or all there are."""
        groups, split = self.samples.groups, self.split
        mine = np.random.default_rng(self.seed).permutation(split.fit)
        held = np.bincount(groups[split.held_out], minlength=len(self.samples.group_names))
        return np.concatenate([mine[groups[mine] == group][:count] for group, count in enumerate(held.tolist())])


def count_correct(module: nn.Module, bench: Bench, indices: Integers) -> GroupCounts:
    """Return correct predictions and samples by group of a module in eval mode; NaN or infinite logits are wrong."""
    groups = len(bench.samples.group_names)
    right = torch.zeros(groups, dtype=torch.int64)
    with torch.inference_mode():
        for batch in bench.samples.batches(indices, CHUNK, bench.device):
            logits = logits_of(called(module, batch.inputs), len(batch))
            hit = (logits.argmax(dim=1) == batch.labels) & torch.isfinite(logits).all(dim=1)
            right += torch.bincount(batch.groups[hit], minlength=groups).cpu()
    held = np.bincount(bench.samples.groups[indices], minlength=groups)
    return GroupCounts(tuple(right.tolist()), tuple(held.tolist()))


def made_candidates(
    frozen: FrozenModel, bench: Bench, epoch: int | None, allocation: str = ""
) -> list[tuple[Candidate, FrozenModel]]:
    """Return a quantized model with BatchNorm statistics re-estimated for it, and with those it has, both counted.

    Without BatchNorm there is one of them.
    """
    again = reestimate_batchnorm(frozen.module, (batch.inputs for batch in bench.statistics_batches()))
    made: list[tuple[Statistics, FrozenModel]] = [("running", frozen)]
    if again is not frozen.module:
        made.insert(0, ("re-estimated", FrozenModel(again, frozen.grids)))
    return [
        (Candidate(epoch, statistics, count_correct(model.module, bench, bench.split.held_out), allocation), model)
        for statistics, model in made
    ]

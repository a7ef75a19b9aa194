"""What could be taken at the end of an epoch, counted on held-out samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qfair_check.measure.chunks import CHUNK
from qfair_check.remedy.answer import answered
from qfair_check.remedy.attach import FrozenModel
from qfair_check.remedy.batchnorm import reestimate_batchnorm
from qfair_check.remedy.epoch import without_single
from qfair_check.remedy.holdout import Split
from qfair_check.remedy.offsets import equalizing_offsets, moved_bias, output_bias
from qfair_check.remedy.samples import Batch, TrainingSamples
from qfair_check.remedy.selection import Candidate, GroupCounts, Statistics

Integers = NDArray[np.int64]
STATISTICS_SAMPLES = 4096
ADJUSTMENTS = tuple(tenths / 10 for tenths in range(1, 11))
_TRIED = 8


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

    @property
    def classes_are_groups(self) -> bool:
        """Whether every group is one class, and every class one group."""
        samples = self.samples
        pairs = np.unique(np.stack([samples.labels, samples.groups]), axis=1)
        return all(len(np.unique(ends)) == pairs.shape[1] for ends in pairs)

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
    return _counted(logits_on(module, bench.samples.batches(indices, CHUNK, bench.device)), bench, indices)


def count_outputs(module: nn.Module, bench: Bench) -> int:
    """Return how many classes a module in eval mode tells apart."""
    few = bench.samples.batches(bench.split.held_out[:_TRIED], _TRIED, bench.device)
    return logits_on(module, few).shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A candidate, and the quantized model that it is: `model` with some values of its state dict changed."""

    candidate: Candidate
    model: FrozenModel
    changed: Mapping[str, Tensor]


def made_candidates(
    frozen: FrozenModel, bench: Bench, epoch: int | None, allocation: str = "", *, adjusts: bool = False
) -> list[Made]:
    """Return a quantized model with BatchNorm statistics re-estimated for it, and with those it has, both counted.

    Without BatchNorm there is one of them. Where classes are the groups and outputs may be adjusted, each is followed
    by itself with shares of the offsets that bring the groups to one accuracy (`equalizing_offsets`).
    """
    again = reestimate_batchnorm(frozen.module, (batch.inputs for batch in bench.statistics_batches()))
    models: list[tuple[Statistics, FrozenModel]] = [("running", frozen)]
    if again is not frozen.module:
        models.insert(0, ("re-estimated", FrozenModel(again, frozen.grids)))
    held = bench.split.held_out
    made = []
    for statistics, model in models:
        logits = logits_on(model.module, bench.samples.batches(held, CHUNK, bench.device))
        plain = Candidate(epoch, statistics, _counted(logits, bench, held), allocation)
        made.append(Made(plain, model, {}))
        if adjusts:
            made += _adjusted(plain, model, logits, bench)
    return made


def movable_output(module: nn.Module, bench: Bench) -> str | None:
    """Return the name of the bias that moves the outputs (`output_bias`), if the classes are the groups; or None."""
    if not bench.classes_are_groups:
        return None
    return output_bias(module, bench.samples.take(bench.split.held_out[:_TRIED], bench.device).inputs)


def _adjusted(plain: Candidate, model: FrozenModel, logits: Tensor, bench: Bench) -> Iterator[Made]:
    if not bool(torch.isfinite(logits).all()):
        return
    name = movable_output(model.module, bench)
    if name is None:
        return
    held = bench.split.held_out
    offsets = equalizing_offsets(logits, torch.from_numpy(bench.samples.labels[held]).to(logits.device))
    bias = model.module.get_parameter(name)
    every = model.module.named_parameters(remove_duplicate=False)
    names = [other for other, parameter in every if parameter is bias]  # one layer may have two names
    for share in ADJUSTMENTS:
        counts = _counted(logits + share * offsets, bench, held)
        moved = moved_bias(bias.detach(), share * offsets)
        yield Made(replace(plain, counts=counts, adjusted=share), model, dict.fromkeys(names, moved))


def logits_on(module: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """Return float32 logits of a module in eval mode, shape (samples, classes)."""
    with torch.inference_mode():
        return torch.cat([answered(module, batch.inputs, len(batch)) for batch in batches])


def _counted(logits: Tensor, bench: Bench, indices: Integers) -> GroupCounts:
    labels = torch.from_numpy(bench.samples.labels[indices]).to(logits.device)
    hit = ((logits.argmax(dim=1) == labels) & torch.isfinite(logits).all(dim=1)).cpu().numpy()
    groups, every = bench.samples.groups[indices], len(bench.samples.group_names)
    right, held = (np.bincount(some, minlength=every) for some in (groups[hit], groups))
    return GroupCounts(tuple(right.tolist()), tuple(held.tolist()))

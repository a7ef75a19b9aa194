"""A training run from its first epoch, or from a checkpoint, to its end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic as clock
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from qfair_check.inputs.model import Model
from qfair_check.inputs.sample import mapped
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.model import copy_of
from qfair_check.remedy.attach import FrozenModel, attach_lsq, freeze_lsq
from qfair_check.remedy.augment import augmented
from qfair_check.remedy.budget import Budget, Iterations, Seconds
from qfair_check.remedy.checkpoint import EpochRecord, Progressed, frozen_state, load_checkpoint, save_checkpoint
from qfair_check.remedy.epoch import (
    DivergedError,
    Step,
    Trainee,
    epoch_order,
    oscillating_share,
    train_epoch,
    trainee_of,
)
from qfair_check.remedy.evaluate import Bench, Made, count_correct, made_candidates
from qfair_check.remedy.loss import group_weights
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import Batch
from qfair_check.remedy.selection import Candidate, contenders, epochs_without_gain

Report = Callable[[Step | EpochRecord], object]
_SECONDS_PER_MINUTE = 60
_IMAGE_AXES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A model, its samples and a recipe, ready to be trained.

    Parameters
    ----------
    subject : Model
        As it was given.
    module : torch.nn.Module
        Its module, which is copied.
    recipe : Recipe
        Settled.
    bench : Bench
    """

    subject: Model
    module: nn.Module
    recipe: Recipe
    bench: Bench

    def rounded(self) -> list[Made]:
        """Return PTQ at the bits asked for, and with the layers that have others."""
        mixed = self.recipe.allocation
        plain = replace(mixed, first_last=None, layer_bits=())
        made = made_candidates(self._on_grid(self.module, plain), self.bench, None)
        if mixed != plain:
            made += made_candidates(self._on_grid(self.module, mixed), self.bench, None, str(mixed))
        return made

    def run(self, rounded: Sequence[Made], path: Path | None, progress: Report | None) -> Progressed:
        """Train for what is left of the budget, or until nothing is gained.

        Parameters
        ----------
        rounded : sequence of Made
            Candidates without training.
        path : Path or None
            The checkpoint, which is gone on from if it is there.
        progress : callable or None
        """
        recipe, samples, fit = self.recipe, self.bench.samples, self.bench.split.fit
        plain = [made.candidate for made in rounded]
        progressed = Progressed((), kept_states(rounded, {}, plain))
        trainee = trainee_of(self._laid_out(self._attached() if recipe.trains_grid else self._copy()), recipe)
        teacher = self._laid_out(self._copy()).eval() if recipe.distillation else None
        hashes = {"recipe": recipe.sha256, "data": samples.sha256, "model": self.subject.sha256 or ""}
        if path is not None and path.exists():
            progressed = load_checkpoint(path, hashes, trainee)
        weights = None
        if recipe.group_weights is not None:
            weights = group_weights(dict(recipe.group_weights), samples.group_names).to(self.bench.device)
        per_epoch = -(-len(epoch_order(recipe, samples.groups[fit], 0)) // recipe.batch_size)
        budget = self._budget(per_epoch, progressed.seconds)
        for epoch in range(len(progressed.records), recipe.epochs):
            if progressed.stopped or budget.passed(epoch * per_epoch) >= 1:
                break
            seed = _seed_all((recipe.seed, epoch), self.bench.device)
            order = fit[epoch_order(recipe, samples.groups[fit], epoch)]
            try:
                loss = train_epoch(
                    trainee,
                    self._batches(order, seed),
                    recipe,
                    weights,
                    epoch=epoch,
                    per_epoch=per_epoch,
                    budget=budget,
                    teacher=teacher,
                    progress=progress,
                )
            except DivergedError as error:
                return replace(progressed, stopped=f"training stopped: {error}; epochs before it are kept")
            made = made_candidates(self._frozen(trainee), self.bench, epoch + 1, adjusts=recipe.balance == "outputs")
            record = EpochRecord(
                epoch + 1,
                loss,
                tuple(one.candidate for one in made),
                count_correct(made[0].model.module, self.bench, self.bench.fit_part()),
                oscillating_share(trainee),
            )
            records = (*progressed.records, record)
            every = all_candidates(plain, records)
            idle = epochs_without_gain(every, epoch + 1)
            ended = idle >= recipe.patience and epoch + 1 < recipe.epochs
            progressed = Progressed(
                records,
                kept_states(made, progressed.kept, every),
                f"training stopped after epoch {epoch + 1}: none of the last {idle} was better" if ended else "",
                budget.spent if isinstance(budget, Seconds) else 0.0,
            )
            if path is not None:
                save_checkpoint(path, hashes, trainee, progressed)
            if progress:
                progress(record)
        return progressed

    def _budget(self, per_epoch: int, spent: float) -> Budget:
        if self.recipe.minutes is None:
            return Iterations(self.recipe.epochs * per_epoch)
        return Seconds.start(self.recipe.minutes * _SECONDS_PER_MINUTE, spent=spent, clock=clock)

    def _batches(self, order: np.ndarray, seed: int) -> Iterator[Batch]:
        """Yield what an epoch trains on; its random changes depend on the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        for batch in self.bench.samples.batches(order, self.recipe.batch_size, self.bench.device):
            inputs = batch.inputs
            if self.recipe.augmentation:
                inputs = augmented(cast(Tensor, inputs), self.recipe.augmentation, generator)
            yield replace(batch, inputs=mapped(self._last, inputs) if self.recipe.amp else inputs)

    def _laid_out(self, module: nn.Module) -> nn.Module:
        """Put channels last where bfloat16 is used: its convolutions are fastest so."""
        if self.recipe.amp:
            for parameter in module.parameters():
                parameter.data = self._last(parameter.data)
        return module

    @staticmethod
    def _last(part: Tensor) -> Tensor:
        return part.contiguous(memory_format=torch.channels_last) if part.ndim == _IMAGE_AXES else part

    def _copy(self) -> nn.Module:
        return copy_of(self.module).float().to(self.bench.device)

    def _attached(self) -> nn.Module:
        return self._with_grid(self._copy(), self.recipe.allocation)

    def _frozen(self, trainee: Trainee) -> FrozenModel:
        if self.recipe.trains_grid:
            return freeze_lsq(trainee.module)
        return self._on_grid(trainee.module, self.recipe.allocation)

    def _on_grid(self, module: nn.Module, allocation: Allocation) -> FrozenModel:
        return freeze_lsq(self._with_grid(module, allocation))

    def _with_grid(self, module: nn.Module, allocation: Allocation) -> nn.Module:
        example = self.bench.samples.take(self.bench.split.fit[:1], self.bench.device)
        on_device = copy_of(module).float().to(self.bench.device)
        return attach_lsq(on_device, self.recipe.bits, self.recipe.scheme, allocation=allocation, batch=example.inputs)


def kept_states(
    made: Sequence[Made], before: Mapping[Candidate, Mapping[str, Any]], every: Sequence[Candidate]
) -> dict[Candidate, Mapping[str, Any]]:
    """Return the states of those candidates that can still be chosen; those of one model share their tensors."""
    states: dict[int, Mapping[str, Any]] = {}
    new = {one.candidate: one for one in made}

    def state_of(one: Made) -> Mapping[str, Any]:
        if id(one.model) not in states:
            states[id(one.model)] = frozen_state(one.model)
        whole = states[id(one.model)]
        return {**whole, "state": {**whole["state"], **{name: value.cpu() for name, value in one.changed.items()}}}

    return {
        candidate: before[candidate] if candidate in before else state_of(new[candidate])
        for candidate in contenders(every)
    }


def all_candidates(rounded: Sequence[Candidate], records: Sequence[EpochRecord]) -> list[Candidate]:
    """Return the candidates of a run in the order in which they came."""
    return [*rounded, *(candidate for record in records for candidate in record.candidates)]


def _seed_all(entropy: tuple[int, int], device: torch.device) -> int:
    """Seed what layers such as dropout draw from, in a state that the caller restores; return the seed."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    return seed

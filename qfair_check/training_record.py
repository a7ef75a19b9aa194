"""How a remedied model was trained: right answers of each group, epoch by epoch."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from qfair_check.errors import OptionError
from qfair_check.precision import Precision

Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class TrainingEpoch:
    """What was counted after one epoch, of the quantized model with BatchNorm statistics estimated anew, if it has any.

    Parameters
    ----------
    loss : float
        What was minimized, the mean over its samples: cross-entropy, times group weights and mixed with distillation
        where the strategy has these; dampening is left out.
    fit, held_out : tuple of int
        Right answers of each group, in the order of `TrainingRecord.groups`, among samples that are trained on and
        among those held out.
    """

    loss: float
    fit: tuple[Count, ...]
    held_out: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """Example difficulty: how well each group is learned, and how much of that holds for samples that are held out.

    Parameters
    ----------
    strategy : str
        Such as ``fair-qat``.
    precision : str
        That it was trained for, such as ``int4``.
    groups : tuple of str
    fit_samples, held_out_samples : tuple of int
        Samples of each group that the right answers are among. Those held out chose the epoch; the audited samples are
        neither.
    epochs : tuple of TrainingEpoch
    chosen : int or None
        The epoch of the model that was audited, from 1; None where rounding without training was taken.

    Source: Bellam & Kim, arXiv 2509.07222, section 4.6.
    """

    strategy: str
    precision: str
    groups: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    fit_samples: tuple[Count, ...]
    held_out_samples: tuple[Count, ...]
    epochs: Annotated[tuple[TrainingEpoch, ...], msgspec.Meta(min_length=1)]
    chosen: Count | None = None


def contradiction_in(training: TrainingRecord) -> str | None:
    """Return what a record says that cannot be true; None if nothing does."""
    try:
        Precision(training.precision)
    except OptionError as error:
        return str(error)
    if len(set(training.groups)) != len(training.groups):
        return "two groups of the training have the same name"
    if training.chosen is not None and not 1 <= training.chosen <= len(training.epochs):
        return f"epoch {training.chosen} of the training was chosen, and there are {len(training.epochs)}"
    for epoch in training.epochs:
        for right, samples in ((epoch.fit, training.fit_samples), (epoch.held_out, training.held_out_samples)):
            if not len(right) == len(samples) == len(training.groups):
                return "an epoch of the training does not tell of each group"
            if any(one > among for one, among in zip(right, samples, strict=True)):
                return "more is right in an epoch of the training than there are samples"
    return None

"""Which of several candidates is taken: a pure function of what was counted on held-out samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from qfair_check.errors import InputError
from qfair_check.gaps import accuracy_gap

Statistics = Literal["running", "re-estimated"]
MOST_ACCURACY_LOST = Fraction(1, 20)


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Correct predictions and samples of each group.

    Examples
    --------
    >>> counts = GroupCounts((9, 2), (10, 4))
    >>> counts.overall_accuracy, counts.fvo, counts.worst
    (Fraction(11, 14), Fraction(2, 5), 1)
    """

    correct: tuple[int, ...]
    samples: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.samples or len(self.correct) != len(self.samples) or 0 in self.samples:
            raise InputError("a group has no samples to choose by: hold out some of every group")

    @property
    def accuracies(self) -> tuple[Fraction, ...]:
        """Accuracy of each group, exactly."""
        return tuple(Fraction(right, held) for right, held in zip(self.correct, self.samples, strict=True))

    @property
    def overall_accuracy(self) -> Fraction:
        """OA: correct predictions over samples."""
        return Fraction(sum(self.correct), sum(self.samples))

    @property
    def fvo(self) -> Fraction:
        """The largest gap in accuracy between two groups."""
        return accuracy_gap(list(self.accuracies))

    @property
    def worst(self) -> int:
        """Place of the group with the least accuracy; of equal ones the first."""
        return min(range(len(self.samples)), key=lambda group: self.accuracies[group])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized model that could be taken.

    Parameters
    ----------
    epoch : int or None
        After which epoch, from 1; None for rounding without training (PTQ).
    statistics : str
        Those of BatchNorm: ``running`` or ``re-estimated``.
    counts : GroupCounts
        On held-out samples.
    allocation : str
        Bits that differ from those asked for; empty where all layers have the same.
    adjusted : float
        Share of the offsets, fitted on held-out samples, that is added to the outputs; 0 for none.
    """

    epoch: int | None
    statistics: Statistics
    counts: GroupCounts
    allocation: str = ""
    adjusted: float = 0.0

    @property
    def is_trained(self) -> bool:
        """Whether it is more than rounding."""
        return self.epoch is not None

    def __str__(self) -> str:
        made = f"epoch {self.epoch}" if self.is_trained else f"PTQ{f' ({self.allocation})' if self.allocation else ''}"
        moved = f", outputs moved by {self.adjusted:.0%} of what makes groups equal" if self.adjusted else ""
        return f"{made}, {self.statistics} BatchNorm statistics{moved}"


def eligible(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those within 0.05 of the best overall accuracy of a trained candidate; all if none is trained.

    The floor is that of trained candidates: rounding keeps what the model knows of training data by heart, held-out
    samples among it, and accuracy that was learned this way is not lost by fairness.
    """
    trained = [candidate.counts.overall_accuracy for candidate in candidates if candidate.is_trained]
    floor = max(trained) - MOST_ACCURACY_LOST if trained else Fraction(0)
    return [candidate for candidate in candidates if candidate.counts.overall_accuracy >= floor]


def select(candidates: Sequence[Candidate]) -> Candidate:
    """Return the one with the least FVO among those that are accurate enough (`eligible`).

    Ties go to the higher overall accuracy, then to the later epoch, and rounding comes last: where held-out samples
    cannot tell candidates apart, such as when a model knows them by heart, longer training is trusted. Of equals of one
    epoch the first is taken.

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> fair, accurate = GroupCounts((8, 7), (10, 10)), GroupCounts((10, 6), (10, 10))
    >>> select([Candidate(1, "running", accurate), Candidate(2, "running", fair)]).epoch
    2
    """
    if not candidates:
        raise InputError("there is no candidate to choose from")
    return min(eligible(candidates), key=_rank)


def contenders(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those that `select` could still take once further candidates come; the others need not be kept.

    The floor only rises, so what lies below it is lost, and so is what another matches in accuracy and precedes in
    rank.
    """
    held = eligible(candidates)
    ranked = sorted(held, key=_rank)  # stable, so that of equals the first precedes
    kept: list[Candidate] = []
    for candidate in ranked:
        if all(candidate.counts.overall_accuracy > before.counts.overall_accuracy for before in kept):
            kept.append(candidate)
    return kept


def is_better(one: Candidate, other: Candidate) -> bool:
    """Whether one has a smaller FVO than the other, or the same at a higher overall accuracy."""
    return _rank(one)[:2] < _rank(other)[:2]


def epochs_without_gain(candidates: Sequence[Candidate], epoch: int) -> int:
    """Return how many epochs have passed since that of the trained candidate that would be taken now."""
    trained = [candidate for candidate in candidates if candidate.is_trained]
    return epoch - (select(trained).epoch or 0) if trained else 0


def reason(chosen: Candidate, candidates: Sequence[Candidate]) -> str:
    """Say in a sentence why it was chosen."""
    counts, held = chosen.counts, eligible(candidates)
    among = f"{len(candidates)} candidates"
    if any(candidate.is_trained for candidate in candidates):
        among = (
            f"{len(held)} of {among}, those within {float(MOST_ACCURACY_LOST):g} of the best overall accuracy of a "
            "trained one"
        )
    return (
        f"{chosen}: the least FVO on held-out samples, {float(counts.fvo):.3f} at an overall accuracy of "
        f"{float(counts.overall_accuracy):.3f}, among {among}"
    )


def _rank(candidate: Candidate) -> tuple[Fraction, Fraction, int]:
    return candidate.counts.fvo, -candidate.counts.overall_accuracy, -(candidate.epoch or 0)

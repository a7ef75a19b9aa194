"""Whether the samples of an audit can tell on which side of a limit a quantity lies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from qfair_check.judge.certainty import BOUNDS, MOST_SAMPLES, Bounds, Counts, samples_to_settle
from qfair_check.judge.checks import Check
from qfair_check.judge.findings import Finding, judgeable
from qfair_check.judge.reasons import Fault, Reason
from qfair_check.record import Audit, Measures, PrecisionResult
from qfair_check.reference_record import NO_OUTCOMES

_METRICS = {
    "fvo": "accuracy",
    "fvo-increase": "accuracy_drop",
    "group-drop": "accuracy_drop",
    "worst-group-accuracy": "accuracy",
    "flip-rate": "flip_rate",
}
_OF_ALL = ("accuracy", "accuracy-drop")
_PAIRED = ("fvo-increase", "group-drop", "accuracy-drop")
_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Certainty:
    """Between which bounds a quantity lies in the population that the samples were drawn from.

    Parameters
    ----------
    confidence : Decimal
        Of each of the two bounds.
    low, high : float
    samples_to_settle : int or None
        How many samples of each group, at these rates, would put the limit outside the bounds; None where it lies
        outside, or where 10 million would not.
    """

    confidence: Decimal
    low: float
    high: float
    samples_to_settle: int | None = None


@dataclass(frozen=True, slots=True)
class Certified:
    """What is certain of one quantity against one limit.

    Parameters
    ----------
    certainty : Certainty or None
        None for what is no rate, or cannot be bounded.
    is_beyond : bool
        Whether the bounds lie beyond the limit.
    doubt : Reason or None
        Why they lie on neither side of it.
    """

    certainty: Certainty | None
    is_beyond: bool
    doubt: Reason | None = None


def certified(
    audit: Audit,
    check: Check,
    result: PrecisionResult,
    finding: Finding,
    limit: Decimal,
    confidence: Decimal,
    least: int,
) -> Certified | None:
    """Judge one quantity by its bounds; None for what is judged by its value, being no rate of samples.

    Parameters
    ----------
    finding : Finding
        That of the same check, with a value.
    least : int
        Samples that a group needs.
    """
    if check.ratio_of:
        return _of_subsample(result)
    if check.name not in BOUNDS:
        return None
    groups = _groups(audit, check, result, least)
    if check.name in _PAIRED and any(group.right_to_wrong is None for group in groups):
        return Certified(None, False, Reason(Fault.UNPAIRED, NO_OUTCOMES))
    counts, alpha, bound = _counts(groups), float(1 - confidence), float(limit)

    def bounds(given: Counts) -> Bounds:
        low, high = BOUNDS[check.name](given, alpha)
        return (low, high) if check.is_ceiling else (-high, -low)

    low, high = bounds(counts)
    signed = bound if check.is_ceiling else -bound
    certainty = Certainty(confidence, *((low, high) if check.is_ceiling else (-high, -low)))
    is_beyond = low > signed
    if is_beyond or high <= signed:
        return Certified(certainty, is_beyond)
    needed = samples_to_settle(counts, bounds, signed)
    certainty = replace(certainty, samples_to_settle=needed)
    quantity = f"{check.phrase} at {result.precision}"
    return Certified(certainty, False, _doubt(quantity, finding, certainty, needed, check.name in _OF_ALL))


def _groups(audit: Audit, check: Check, result: PrecisionResult, least: int) -> Sequence[Measures]:
    if check.name in _OF_ALL:
        return [result.overall]
    held, _ = judgeable(audit, result, _METRICS[check.name], least)
    return [result.groups[index] for index in held]


def _counts(groups: Sequence[Measures]) -> Counts:
    def each(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([getattr(group, name) or 0 for group in groups], np.float64)

    return Counts(each("samples"), each("correct"), each("wrong_to_right"), each("right_to_wrong"), each("flips"))


def _of_subsample(result: PrecisionResult) -> Certified | None:
    """Refuse curvature of a subsample, of which no bounds are known; that of all samples is judged by its value."""
    drawn = [group.samples < whole.samples for group, whole in zip(result.curvature, result.groups, strict=True)]
    if not any(drawn):
        return None
    told = "curvature was measured on a subsample, and there are no bounds of what all samples would give"
    return Certified(None, False, Reason(Fault.SUBSAMPLE, told))


def _doubt(quantity: str, finding: Finding, certainty: Certainty, needed: int | None, is_of_all: bool) -> Reason:
    of_which = "samples" if is_of_all else "samples of each group"
    told = (
        f"{quantity} is {float(finding.measured or 0):.3f} on these samples, and from {certainty.low:.3f} to "
        f"{certainty.high:.3f} at {certainty.confidence:%} confidence; "
    )
    if needed is None:
        return Reason(Fault.AT_LIMIT, f"{told}at these rates not even {MOST_SAMPLES:,} {of_which} would tell")
    return Reason(Fault.FEW_SAMPLES, f"{told}at these rates {_rounded_up(needed):,} {of_which} would tell")


def _rounded_up(count: int) -> int:
    """Return the count with two digits, or a little more.

    Examples
    --------
    >>> [_rounded_up(count) for count in (97, 101, 2508)]
    [97, 110, 2600]
    """
    unit: int = 10 ** max(len(str(count)) - _DIGITS, 0)
    return -(-count // unit) * unit

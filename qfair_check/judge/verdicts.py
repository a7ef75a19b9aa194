"""An audit and limits become verdicts: pure, exact, and the same wherever they are asked for."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from qfair_check.baseline_record import Tally
from qfair_check.judge.checks import CHECKS, DEFAULT_MIN_GROUP_SIZE, Check
from qfair_check.judge.findings import find
from qfair_check.judge.limits import Limits
from qfair_check.judge.reasons import OF_CERTAINTY, Fault, first_fault
from qfair_check.precision import Precision
from qfair_check.record import Audit

if TYPE_CHECKING:
    from qfair_check.judge.certify import Certainty


class Outcome(StrEnum):
    """How a quantity stands against its limit."""

    PASS = "pass"
    FAIL = "fail"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True)
class Flips:
    """Samples that were right in a baseline and are wrong now, and the other way round."""

    lost: int
    gained: int


@dataclass(frozen=True, slots=True)
class GroupChange:
    """A group in a baseline and now; its flips are None where they are not known."""

    name: str
    before: Tally
    after: Tally
    flips: Flips | None = None

    @property
    def drop(self) -> Fraction | None:
        """By how much accuracy fell; None where it is not defined."""
        before, after = self.before.accuracy, self.after.accuracy
        return None if before is None or after is None else before - after


@dataclass(frozen=True, slots=True)
class Comparison:
    """What an audit is compared with, and how it differs.

    Parameters
    ----------
    before, after : Tally
        Of all samples, in the baseline and now.
    fvo_before, fvo_after : Fraction or None
        Over the groups that can be judged.
    changed : tuple of GroupChange
        Those of them with another accuracy or with flips, the largest drop first.
    flips : Flips or None
        Of all samples; None where they are not known.
    is_same_model : bool or None
        None where a model has no hash.
    """

    before: Tally
    after: Tally
    fvo_before: Fraction | None
    fvo_after: Fraction | None
    changed: tuple[GroupChange, ...]
    flips: Flips | None
    is_same_model: bool | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One quantity at one precision against one limit.

    Parameters
    ----------
    check : str
        Name of the check, such as ``fvo``.
    precision : str
        Such as ``int4``.
    limit : Decimal
        As the user typed it.
    measured : Fraction or None
        Exact where it comes from counts, and for ratios of what was measured. Over the groups that can be judged, if
        there are others.
    baseline : Fraction or None
        The same quantity at fp32, where it has one.
    outcome : Outcome
    lowest, highest : int or None
        Positions in `Audit.groups` of the groups that make the value.
    reasons : tuple of str
        Why something could not be judged.
    fault : Fault or None
        Which kind of reason is the one to cure; None without reasons.
    certainty : Certainty or None
        Where the quantity lies with the confidence that was asked for.
    comparison : Comparison or None
        With the baseline, of a verdict on regression.
    """

    check: str
    precision: str
    limit: Decimal
    measured: Fraction | None
    baseline: Fraction | None
    outcome: Outcome
    lowest: int | None
    highest: int | None
    reasons: tuple[str, ...]
    fault: Fault | None = None
    certainty: "Certainty | None" = None
    comparison: Comparison | None = None

    @property
    def is_partial(self) -> bool:
        """Whether the value is that of the groups that can be judged, and there are others."""
        return self.measured is not None and bool(self.reasons) and self.fault not in OF_CERTAINTY


def judge_audit(
    audit: Audit,
    limits: Limits,
    *,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    confidence: Decimal | None = None,
) -> tuple[Verdict, ...]:
    """Judge every limit at every precision where it binds; fp32 is never judged.

    A value equal to its limit passes. A group that is empty, under `min_group_size` or without a defined
    value makes the verdict INSUFFICIENT, unless the other groups alone already break the limit. With a confidence, a
    rate passes or fails only where bounds of that confidence lie on one side of the limit (`certified`).

    Parameters
    ----------
    audit : Audit
    limits : mapping of str to Limit
        By name of the check.
    min_group_size : int
        Samples, at least 1.
    confidence : Decimal, optional
        Such as 0.95.

    Raises
    ------
    OptionError
        If `min_group_size` makes no sense.
    """
    return tuple(
        judge_one(audit, CHECKS[name], bound, result.precision, min_group_size=min_group_size, confidence=confidence)
        for result in audit.quantized
        for name, limit in limits.items()
        if (bound := limit.bound(result.precision)) is not None
    )


def judge_one(
    audit: Audit,
    check: Check,
    limit: Decimal,
    precision: str | int | Precision,
    *,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    confidence: Decimal | None = None,
) -> Verdict:
    """Judge one limit at one precision.

    Raises
    ------
    OptionError
        If the audit does not hold the precision, or `min_group_size` makes no sense.
    """
    finding, result = find(audit, check, precision, min_group_size=min_group_size), audit.at(precision)
    measured, reasons, certainty = finding.measured, finding.reasons, None
    is_beyond = measured is not None and _breaks(measured, limit, check)
    if measured is not None and confidence is not None:
        from qfair_check.judge.certify import certified  # needs scipy, which takes long to import

        if found := certified(audit, check, result, finding, limit, confidence, min_group_size):
            is_beyond, certainty = found.is_beyond, found.certainty
            reasons += (found.doubt,) if found.doubt and not reasons else ()
    if is_beyond:
        outcome = Outcome.FAIL
    elif measured is None or reasons:
        outcome = Outcome.INSUFFICIENT
    else:
        outcome = Outcome.PASS
    return Verdict(
        check.name,
        result.precision,
        limit,
        measured,
        finding.baseline,
        outcome,
        finding.lowest,
        finding.highest,
        tuple(reason.told for reason in reasons),
        first_fault(reasons),
        certainty,
    )


def _breaks(measured: Fraction, limit: Decimal, check: Check) -> bool:
    bound = Fraction(limit)
    return measured > bound if check.is_ceiling else measured < bound

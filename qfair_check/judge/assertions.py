"""Assertions on an audit: the last step, which raises."""

import itertools
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from decimal import Decimal

from qfair_check.errors import FairnessError, OptionError
from qfair_check.judge.checks import CHECKS, DEFAULT_MIN_GROUP_SIZE, Insufficient
from qfair_check.judge.limits import Limit, check_limits_bind, parse_confidence
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Outcome, Verdict, judge_one
from qfair_check.precision import Precision, parse_precisions
from qfair_check.record import Audit

Bits = str | int | Precision | Iterable[str | int | Precision]
Number = float | str | Decimal


class InsufficientDataWarning(UserWarning):
    """A limit could not be judged, and the caller asked for a warning."""


def enforce(verdicts: Iterable[Verdict], audit: Audit, insufficient: Insufficient = "fail") -> None:
    """Raise for verdicts that fail, and for those that cannot be judged unless told otherwise.

    Raises
    ------
    FairnessError
        With the description of each such verdict; it also holds all verdicts and the audit.
    OptionError
        If `insufficient` is none of its three values.
    """
    __tracebackhide__ = True
    judged = tuple(verdicts)
    try:
        enforce_outcomes([(verdict.outcome, describe(verdict, audit)) for verdict in judged], insufficient)
    except FairnessError as error:
        error.verdicts, error.audit = judged, audit
        raise


def enforce_outcomes(told: Sequence[tuple[Outcome, str]], insufficient: Insufficient) -> None:
    """Do what `enforce` promises for outcomes and what they say."""
    __tracebackhide__ = True
    if insufficient not in ("fail", "warn", "pass"):
        raise OptionError(f"insufficient is {insufficient!r}: it is fail, warn or pass")
    unjudged = [text for outcome, text in told if outcome is Outcome.INSUFFICIENT]
    failed = [text for outcome, text in told if outcome is Outcome.FAIL]
    if insufficient == "fail":
        failed += unjudged
    elif insufficient == "warn" and unjudged:
        warnings.warn("\n".join(unjudged), InsufficientDataWarning, stacklevel=_frames_of_ours() + 1)
    if failed:
        raise FairnessError("\n".join(failed))


def _frames_of_ours() -> int:
    """Return how many calls up from the caller are of this package, so that a warning points to the user's line."""
    callers = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(sys._getframe(1)))
    return sum(1 for _ in itertools.takewhile(lambda name: name.startswith("qfair_check."), callers))


def assert_fvo_below(
    audit: Audit,
    max_fvo: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that FVO, max over pairs of groups of abs(acc_g - acc_g'), is at most the limit.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (2).
    """
    __tracebackhide__ = True
    assert_check("fvo", audit, max_fvo, bits, min_group_size, insufficient, confidence)


def assert_fvo_increase_below(
    audit: Audit,
    max_fvo_increase: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that FVO at the precision minus FVO at fp32 is at most the limit.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.

    Source: Bellam & Kim, arXiv 2509.07222, Fig. 1.
    """
    __tracebackhide__ = True
    assert_check("fvo-increase", audit, max_fvo_increase, bits, min_group_size, insufficient, confidence)


def assert_overall_accuracy_above(
    audit: Audit,
    min_accuracy: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that overall accuracy, correct / samples over all groups, is at least the limit.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.
    """
    __tracebackhide__ = True
    assert_check("accuracy", audit, min_accuracy, bits, min_group_size, insufficient, confidence)


def assert_accuracy_drop_below(
    audit: Audit,
    max_accuracy_drop: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that overall accuracy at fp32 minus that at the precision is at most the limit.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.
    """
    __tracebackhide__ = True
    assert_check("accuracy-drop", audit, max_accuracy_drop, bits, min_group_size, insufficient, confidence)


def assert_group_accuracy_drop_below(
    audit: Audit,
    max_group_drop: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that no group's accuracy falls by more than the limit from fp32 to the precision.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.
    """
    __tracebackhide__ = True
    assert_check("group-drop", audit, max_group_drop, bits, min_group_size, insufficient, confidence)


def assert_worst_group_accuracy_above(
    audit: Audit,
    min_worst_group_accuracy: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that no group's accuracy is under the limit.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.
    """
    __tracebackhide__ = True
    assert_check(
        "worst-group-accuracy", audit, min_worst_group_accuracy, bits, min_group_size, insufficient, confidence
    )


def assert_flip_rate_below(
    audit: Audit,
    max_flip_rate: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that in no group more than this share of predictions differs from fp32, right or wrong.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.
    """
    __tracebackhide__ = True
    assert_check("flip-rate", audit, max_flip_rate, bits, min_group_size, insufficient, confidence)


def assert_sparsity_below(
    audit: Audit,
    max_sparsity: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that the share of exactly zero weights among all quantized weights is at most the limit.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (6).
    """
    __tracebackhide__ = True
    assert_check("sparsity", audit, max_sparsity, bits, min_group_size, insufficient, confidence)


def assert_cosine_distance_below(
    audit: Audit,
    max_cosine_distance: Number,
    *,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
    confidence: Number | None = None,
) -> None:
    """Assert that no group's mean of 1 - cos(f_q(x), f_o(x)) is above the limit, from 0 to 2.

    A value equal to the limit passes. `bits` defaults to every quantized precision of the audit.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.

    Source: Bellam & Kim, arXiv 2509.07222, eqs. (7) and (8).
    """
    __tracebackhide__ = True
    assert_check("cosine-distance", audit, max_cosine_distance, bits, min_group_size, insufficient, confidence)


def judged_precisions(audit: Audit, bits: Bits | None) -> list[str]:
    """Return the names of the precisions to judge: those given, or all but fp32 that the audit holds.

    Raises
    ------
    OptionError
        If there is none, or one makes no sense or is not in the audit.
    """
    named = [result.precision for result in audit.quantized] if bits is None else parse_precisions(bits)
    names = [audit.at(precision).precision for precision in named]
    if not names:
        raise OptionError("there is nothing to judge: fp32 is the baseline, and no other precision is named")
    return names


def assert_check(
    check: str,
    audit: Audit,
    limit: Number,
    bits: Bits | None,
    min_group_size: int,
    insufficient: Insufficient,
    confidence: Number | None = None,
) -> None:
    """Assert that a quantity, by the name of its check, keeps its limit at these precisions.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit or a precision makes no sense, or the audit does not hold the precision.
    """
    __tracebackhide__ = True
    bound, certain = Limit.parse(limit, CHECKS[check]), parse_confidence(confidence)
    names = judged_precisions(audit, bits)
    check_limits_bind({check: bound}, names)
    unbound = [name for name in names if bound.bound(name) is None]
    if unbound:
        raise OptionError(f"{CHECKS[check].keyword} is {limit!r}: it sets no limit for {', '.join(unbound)}")
    verdicts = [
        judge_one(audit, CHECKS[check], value, name, min_group_size=min_group_size, confidence=certain)
        for name in names
        if (value := bound.bound(name)) is not None
    ]
    enforce(verdicts, audit, insufficient)

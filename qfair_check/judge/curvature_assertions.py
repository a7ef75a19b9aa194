"""Assertions on ratios of what the backward pass tells."""

from typing import Literal

from qfair_check.errors import OptionError
from qfair_check.judge.assertions import Bits, Number, assert_check
from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE, Insufficient
from qfair_check.record import Audit

Between = Literal["groups", "precisions"]


def assert_lambda_max_ratio(
    audit: Audit,
    max_ratio: Number,
    *,
    bits: Bits | None = None,
    between: Between = "groups",
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
) -> None:
    """Assert that the largest Hessian eigenvalue of the loss differs by at most this factor.

    Between groups: max_g lambda_max_g / min_g lambda_max_g at the precision. Between precisions: the largest over
    groups of lambda_max_g at the precision / lambda_max_g at fp32. A value equal to the limit passes. `bits` defaults
    to every quantized precision of the audit, which was made with curvature. A group cannot be judged if its value has
    not converged, if it was measured on fewer than `min_group_size` samples, or where it divides by 0 or less.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit, `between` or a precision makes no sense, or the audit does not hold the precision.

    Source: Bellam & Kim, arXiv 2509.07222, section 4.5.
    """
    __tracebackhide__ = True
    assert_check(check_between("lambda-max", between), audit, max_ratio, bits, min_group_size, insufficient)


def assert_gradient_norm_ratio(
    audit: Audit,
    max_ratio: Number,
    *,
    bits: Bits | None = None,
    between: Between = "groups",
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
) -> None:
    """Assert that the l2 norm of the gradient of the loss differs by at most this factor.

    Between groups: max_g norm_g / min_g norm_g at the precision. Between precisions: the largest over groups of norm_g
    at the precision / norm_g at fp32. A value equal to the limit passes. `bits` defaults to every quantized precision
    of the audit, which was made with curvature. A group cannot be judged if it was measured on fewer than
    `min_group_size` samples, or where it divides by 0.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    OptionError
        If the limit, `between` or a precision makes no sense, or the audit does not hold the precision.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (10).
    """
    __tracebackhide__ = True
    assert_check(check_between("gradient-norm", between), audit, max_ratio, bits, min_group_size, insufficient)


def check_between(name: str, between: Between) -> str:
    """Return the name of the check of a ratio between groups, or between a precision and fp32.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if between not in ("groups", "precisions"):
        raise OptionError(f"between is {between!r}: it is groups or precisions")
    return name if between == "groups" else f"{name}-to-fp32"

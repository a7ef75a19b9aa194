"""Which groups can be judged on their curvature, and why the others cannot."""

import sys
from fractions import Fraction
from math import isfinite

from qfair_check.curvature_record import GroupCurvature
from qfair_check.judge.reasons import Fault, Reason, fault_of_undefined
from qfair_check.record import Audit, PrecisionResult

_LARGEST = Fraction(sys.float_info.max)
METRIC_NAMES = {"lambda_max": "λmax", "gradient_norm": "gradient norm"}

_PYHESSIAN = "pyhessian"

Values = dict[int, Fraction]


def values_by_group(
    audit: Audit, result: PrecisionResult, metric: str, least: int
) -> tuple[Values, tuple[Reason, ...]]:
    """Return the exact value of every group that a ratio can be made of, and why the others have none.

    A group is left out where the value is undefined, not converged, of fewer than `least` samples, or not above 0.
    """
    if not result.curvature:
        return {}, (_unmeasured(metric),)
    values, reasons = {}, []
    for index, name in enumerate(audit.groups):
        reason = _fault(audit, result, index, metric, least) or _no_divisor(audit, result.curvature[index], metric)
        if reason:
            reasons.append(Reason(reason.fault, f"group {name}{reason.told}"))
        else:
            values[index] = _exact(result.curvature[index], metric)
    return values, tuple(reasons)


def ratios_to_fp32(audit: Audit, result: PrecisionResult, metric: str, least: int) -> tuple[Values, tuple[Reason, ...]]:
    """Return value / value at fp32 of every group for which both can be judged, and why the others have none.

    The value at the precision may be 0 or less; that at fp32 may not.
    """
    before = audit.fp32
    if not result.curvature or not before.curvature:
        return {}, (_unmeasured(metric),)
    ratios, reasons = {}, []
    for index, name in enumerate(audit.groups):
        reason = _fault(audit, result, index, metric, least)
        at_fp32 = _fault(audit, before, index, metric, least) or _no_divisor(audit, before.curvature[index], metric)
        if reason:
            reasons.append(Reason(reason.fault, f"group {name}{reason.told}"))
        elif at_fp32:
            reasons.append(Reason(at_fp32.fault, f"group {name} at fp32{at_fp32.told}"))
        else:
            ratios[index] = ratio(_exact(result.curvature[index], metric), _exact(before.curvature[index], metric))
    return ratios, tuple(reasons)


def ratio(one: Fraction, other: Fraction) -> Fraction:
    """Return one / other, or the largest float of that sign where no float is as large.

    Examples
    --------
    >>> ratio(Fraction(3), Fraction(2))
    Fraction(3, 2)
    >>> float(ratio(Fraction(10) ** 200, Fraction(10) ** -200))
    1.7976931348623157e+308
    >>> float(ratio(Fraction(-(10**200)), Fraction(10) ** -200))
    -1.7976931348623157e+308
    """
    return max(-_LARGEST, min(one / other, _LARGEST))


def _unmeasured(metric: str) -> Reason:
    return Reason(Fault.NO_CURVATURE, f"the audit holds no {metric}, since it was made without curvature")


def _exact(group: GroupCurvature, metric: str) -> Fraction:
    return Fraction(getattr(group, metric))


def _fault(audit: Audit, result: PrecisionResult, index: int, metric: str, least: int) -> Reason | None:
    """Return why a value cannot be judged, as what follows the name of the group; None if it can."""
    group, total = result.curvature[index], result.groups[index].samples
    value = getattr(group, metric)
    if metric in group.undefined:
        return Reason(fault_of_undefined(group.undefined[metric]), f": {group.undefined[metric]}")
    if value is None:
        return Reason(Fault.NOT_HELD, f": the audit holds no {metric}")
    if not isfinite(value):
        return Reason(Fault.NO_VALUE, f": {METRIC_NAMES[metric]} is {value}")
    if group.samples < least <= total:
        told = f" was measured on {group.samples} of its {total} samples, and judging needs {least}"
        return Reason(Fault.SMALL_SUBSAMPLE, told)
    if group.samples < least:
        return Reason(Fault.SMALL_GROUP, f" has {total} samples, and judging needs {least}")
    if metric == "lambda_max" and not group.converged:
        return _unconverged(audit, group)
    return None


def _unconverged(audit: Audit, group: GroupCurvature) -> Reason:
    settings = audit.settings.curvature
    method = f" of {settings.method}" if settings else ""
    residual = "no residual" if group.residual is None else f"a residual of {group.residual:.3g}"
    is_by_pyhessian = settings is not None and settings.method == _PYHESSIAN
    return Reason(
        Fault.NOT_CONVERGED_BY_PYHESSIAN if is_by_pyhessian else Fault.NO_VALUE,
        f": λmax has not converged, with {residual} after {group.hvps} Hessian-vector products{method}",
    )


def _no_divisor(audit: Audit, group: GroupCurvature, metric: str) -> Reason | None:
    value, settings = getattr(group, metric), audit.settings.curvature
    if value <= 0:
        return Reason(Fault.NO_VALUE, f": {METRIC_NAMES[metric]} is {value:.3g}, and a ratio needs one above 0")
    if metric == "lambda_max" and settings and (group.residual or 0.0) > settings.tolerance:
        near = f": λmax is {value:.3g} with a residual of {group.residual:.3g}, which is too near 0 to divide by"
        return Reason(Fault.NO_VALUE, near)
    return None

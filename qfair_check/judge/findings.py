"""What a limit is compared with: the quantity of each check, over the groups that can be judged."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from qfair_check.errors import OptionError
from qfair_check.gaps import accuracy_gap
from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE, Check
from qfair_check.judge.curvature import ratio, ratios_to_fp32, values_by_group
from qfair_check.judge.reasons import Fault, Reason, fault_of_undefined
from qfair_check.precision import Precision
from qfair_check.record import Audit, Measures, PrecisionResult


@dataclass(frozen=True, slots=True)
class Finding:
    """What a verdict rests on, before there is a limit; fields as those of `Verdict`, but for the reasons."""

    measured: Fraction | None
    baseline: Fraction | None = None
    lowest: int | None = None
    highest: int | None = None
    reasons: tuple[Reason, ...] = ()

    @property
    def told(self) -> tuple[str, ...]:
        """How the reasons read."""
        return tuple(reason.told for reason in self.reasons)


def find(
    audit: Audit, check: Check, precision: str | int | Precision, *, min_group_size: int = DEFAULT_MIN_GROUP_SIZE
) -> Finding:
    """Return the quantity of a check at one precision, over the groups that can be judged.

    Raises
    ------
    OptionError
        If the audit does not hold the precision, or `min_group_size` makes no sense.
    """
    if min_group_size < 1:
        raise OptionError(f"the smallest group size is {min_group_size}: it is at least 1")
    result = audit.at(precision)
    if unknown := _want_of_reference(audit, check, result):
        return Finding(None, reasons=(unknown,))
    return _FINDINGS[check.name](audit, result, min_group_size)


def _want_of_reference(audit: Audit, check: Check, result: PrecisionResult) -> Reason | None:
    """Return why no group has the quantity, told once, where the audit does not know the model at fp32."""
    if metric := _RELATIVE.get(check.name):
        whys = [group.undefined.get(metric, "") for group in result.groups if group.samples]
    elif check.name in _RATIOS_TO_FP32:
        whys = [group.undefined.get(check.ratio_of, "") for group in audit.fp32.curvature if group.samples]
    else:
        return None
    if whys and len(set(whys)) == 1 and fault_of_undefined(whys[0]) is Fault.NO_REFERENCE:
        return Reason(Fault.NO_REFERENCE, whys[0])
    return None


def _gap(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    held, reasons = judgeable(audit, result, "accuracy", least)
    if len(held) < 2:
        return Finding(None, None, reasons=(*reasons, _too_few_groups(held)))
    after = {group: _accuracy(result.groups[group]) for group in held}
    before = [audit.fp32.groups[group].exact_accuracy for group in held]
    known = [accuracy for accuracy in before if accuracy is not None]
    baseline = accuracy_gap(known) if len(known) == len(held) else None
    lowest, highest = min(held, key=after.__getitem__), max(held, key=after.__getitem__)
    return Finding(after[highest] - after[lowest], baseline, lowest, highest, reasons)


def _gap_increase(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    held, reasons = judgeable(audit, result, "accuracy_drop", least)
    if len(held) < 2:
        return Finding(None, None, reasons=(*reasons, _too_few_groups(held)))
    after = {group: _accuracy(result.groups[group]) for group in held}
    before = accuracy_gap([_accuracy(audit.fp32.groups[group]) for group in held])
    lowest, highest = min(held, key=after.__getitem__), max(held, key=after.__getitem__)
    return Finding(after[highest] - after[lowest] - before, before, lowest, highest, reasons)


def _worst_drop(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    held, reasons = judgeable(audit, result, "accuracy_drop", least)
    drops = {group: _drop(audit, result, group) for group in held}
    return _largest(drops, reasons)


def _worst_accuracy(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    held, reasons = judgeable(audit, result, "accuracy", least)
    if not held:
        return Finding(None, reasons=reasons)
    lowest = min(held, key=lambda group: _accuracy(result.groups[group]))
    return Finding(
        _accuracy(result.groups[lowest]),
        audit.fp32.groups[lowest].exact_accuracy,
        lowest,
        reasons=reasons,
    )


def _worst_flip_rate(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    held, reasons = judgeable(audit, result, "flip_rate", least)
    groups = result.groups
    return _largest({group: Fraction(groups[group].flips or 0, groups[group].samples) for group in held}, reasons)


def _worst_cosine_distance(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    held, reasons = judgeable(audit, result, "cosine_distance", least)
    return _largest({group: Fraction(result.groups[group].cosine_distance or 0) for group in held}, reasons)


def _overall_accuracy(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    reasons = _overall_reasons(result, "accuracy", least)
    before = audit.fp32.overall.exact_accuracy
    return Finding(None if reasons else result.overall.exact_accuracy, before, reasons=reasons)


def _overall_drop(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    reasons = _overall_reasons(result, "accuracy_drop", least)
    after, before = result.overall.exact_accuracy, audit.fp32.overall.exact_accuracy
    if reasons or after is None or before is None:
        return Finding(None, before, reasons=reasons)
    return Finding(before - after, before)


def _sparsity(audit: Audit, result: PrecisionResult, least: int) -> Finding:
    before = audit.fp32.weights
    if not result.weights.elements:
        return Finding(None, reasons=(Reason(Fault.NO_QUANTIZED_WEIGHTS, "the model has no quantized weights"),))
    return Finding(
        Fraction(result.weights.zeros, result.weights.elements),
        Fraction(before.zeros, before.elements) if before.elements else None,
    )


def _ratio_between_groups(audit: Audit, result: PrecisionResult, least: int, *, metric: str) -> Finding:
    values, reasons = values_by_group(audit, result, metric, least)
    if len(values) < 2:
        few = (_too_few_groups(values, "ratio"),) if result.curvature else ()
        return Finding(None, reasons=(*reasons, *few))
    lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    before, _ = values_by_group(audit, audit.fp32, metric, least)
    known = [before[group] for group in values if group in before]
    baseline = ratio(max(known), min(known)) if len(known) == len(values) else None
    return Finding(ratio(values[highest], values[lowest]), baseline, lowest, highest, reasons)


def _ratio_to_fp32(audit: Audit, result: PrecisionResult, least: int, *, metric: str) -> Finding:
    return _largest(*ratios_to_fp32(audit, result, metric, least))


_RELATIVE = {
    "fvo-increase": "accuracy_drop",
    "group-drop": "accuracy_drop",
    "accuracy-drop": "accuracy_drop",
    "flip-rate": "flip_rate",
    "cosine-distance": "cosine_distance",
}
_RATIOS_TO_FP32 = ("lambda-max-to-fp32", "gradient-norm-to-fp32")
_FINDINGS: dict[str, Callable[[Audit, PrecisionResult, int], Finding]] = {
    "fvo": _gap,
    "fvo-increase": _gap_increase,
    "group-drop": _worst_drop,
    "accuracy": _overall_accuracy,
    "accuracy-drop": _overall_drop,
    "worst-group-accuracy": _worst_accuracy,
    "flip-rate": _worst_flip_rate,
    "cosine-distance": _worst_cosine_distance,
    "sparsity": _sparsity,
    "lambda-max": partial(_ratio_between_groups, metric="lambda_max"),
    "gradient-norm": partial(_ratio_between_groups, metric="gradient_norm"),
    "lambda-max-to-fp32": partial(_ratio_to_fp32, metric="lambda_max"),
    "gradient-norm-to-fp32": partial(_ratio_to_fp32, metric="gradient_norm"),
}


def judgeable(audit: Audit, result: PrecisionResult, metric: str, least: int) -> tuple[list[int], tuple[Reason, ...]]:
    """Return the groups that can be judged on a metric, and why the others cannot."""
    held, reasons = [], []
    for index, (name, group) in enumerate(zip(audit.groups, result.groups, strict=True)):
        if why := group.undefined.get(metric):
            reasons.append(Reason(fault_of_undefined(why), f"group {name}: {why}"))
        elif getattr(group, metric) is None:
            reasons.append(Reason(Fault.NOT_HELD, f"group {name}: the audit holds no {metric}"))
        elif group.samples < least:
            told = f"group {name} has {group.samples} samples, and judging needs {least}"
            reasons.append(Reason(Fault.SMALL_GROUP, told))
        else:
            held.append(index)
    return held, tuple(reasons)


def _overall_reasons(result: PrecisionResult, metric: str, least: int) -> tuple[Reason, ...]:
    overall = result.overall
    if why := overall.undefined.get(metric):
        return (Reason(fault_of_undefined(why), why),)
    if getattr(overall, metric) is None:
        return (Reason(Fault.NOT_HELD, f"the audit holds no {metric}"),)
    if overall.samples < least:
        told = f"there are {overall.samples} samples, and judging needs {least}"
        return (Reason(Fault.SMALL_GROUP, told),)
    return ()


def _too_few_groups(held: Collection[int], quantity: str = "gap") -> Reason:
    told = f"a {quantity} needs two groups, and there is only one to judge" if held else "there is no group to judge"
    return Reason(Fault.FEW_GROUPS, told)


def _largest(values: dict[int, Fraction], reasons: tuple[Reason, ...]) -> Finding:
    if not values:
        return Finding(None, reasons=reasons)
    worst = max(values, key=values.__getitem__)
    return Finding(values[worst], None, worst, reasons=reasons)


def _accuracy(group: Measures) -> Fraction:
    accuracy = group.exact_accuracy
    if accuracy is None:
        raise OptionError("a group without samples has no accuracy")
    return accuracy


def _drop(audit: Audit, result: PrecisionResult, group: int) -> Fraction:
    return _accuracy(audit.fp32.groups[group]) - _accuracy(result.groups[group])

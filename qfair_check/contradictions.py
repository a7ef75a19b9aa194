"""What an audit says that cannot be true beside the rest of it."""

from math import isclose

import numpy as np

from qfair_check.curvature_record import GroupCurvature
from qfair_check.errors import OptionError
from qfair_check.gaps import fvo, fvo_increase
from qfair_check.precision import AS_IS, FP32, Precision
from qfair_check.record import Audit, Measures, PrecisionResult, Weights
from qfair_check.training_record import contradiction_in

_LARGEST_COSINE_DISTANCE = 2 + 1e-9
_COUNTS = (
    "correct",
    "flips",
    "nonfinite",
    "null_logits",
    "both_right",
    "right_to_wrong",
    "wrong_to_right",
    "both_wrong",
)


def contradiction(audit: Audit) -> str | None:
    """Return what an audit says that cannot be true beside the rest of it; None if nothing does."""
    names = [result.precision for result in audit.precisions]
    if not names or names[0] != FP32.name or len(set(names)) != len(names):
        return f"precisions are {', '.join(names) or 'absent'}; they start with fp32 and differ"
    if not audit.groups:
        return "there is no group"
    if problem := _in_reference(audit, names):
        return problem
    if audit.training and (problem := contradiction_in(audit.training)):
        return problem
    if len(set(audit.groups)) != len(audit.groups):
        return "two groups have the same name"
    for result in audit.precisions:
        try:
            Precision(result.precision)
        except OptionError as error:
            return str(error)
        if len(result.groups) != len(audit.groups):
            return f"{result.precision} has {len(result.groups)} groups, not {len(audit.groups)}"
        problem = _at(result, audit)
        if problem:
            return f"{result.precision}: {problem}"
    return None


def contradiction_in_outcomes(audit: Audit) -> str | None:
    """Return how outcomes of samples differ from their audit; None where they agree, or no groups are known."""
    groups = audit.sample_groups()
    if groups is None:
        return None
    sizes = [measures.samples for measures in audit.fp32.groups]
    if np.bincount(groups, minlength=len(sizes)).tolist() != sizes:
        return "the groups of samples are of other sizes"
    for precision in audit.outcomes:
        right = np.bincount(groups[audit.right(precision)], minlength=len(sizes)).tolist()
        for name, counted, measures in zip(audit.groups, right, audit.at(precision).groups, strict=True):
            if measures.correct not in (None, counted):
                return f"{counted} samples of {name} are right at {precision}, not {measures.correct}"
    return None


def _in_reference(audit: Audit, names: list[str]) -> str | None:
    is_as_is = AS_IS.name in names
    if is_as_is and len(names) > 2:
        return "asis stands beside other precisions"
    if audit.reference is None:
        return "fp32 has values, and there is no reference" if is_as_is and audit.has_baseline else None
    if not is_as_is:
        return "there is a reference, and no precision asis"
    if audit.reference.sha256 is not None and audit.reference.sha256 == audit.model.sha256:
        return "the model is its own reference"
    return None


def _at(result: PrecisionResult, audit: Audit) -> str | None:
    samples = audit.data.samples
    if result.overall.samples != samples or sum(group.samples for group in result.groups) != samples:
        return f"the groups do not add up to {samples} samples"
    baseline = (audit.fp32.overall, *audit.fp32.groups)
    for measures, fp32 in zip((result.overall, *result.groups), baseline, strict=True):
        if measures.samples != fp32.samples:
            return "a group has other samples than at fp32"
        problem = _in_measures(measures, fp32)
        if problem:
            return problem
    for name in _COUNTS:
        by_group = [getattr(group, name) for group in result.groups]
        whole = getattr(result.overall, name)
        if whole is not None and None not in by_group and whole != sum(by_group):
            return f"{name} of the groups does not add up to that of all"
    if result.fvo not in (None, fvo(result.groups)):
        return "the FVO is not that of the groups"
    if result.fvo_increase not in (None, fvo_increase(result.groups, audit.fp32.groups)):
        return "the FVO increase is not that of the groups"
    return _in_weights(result.weights) or _in_curvature(result, audit)


def _in_weights(weights: Weights) -> str | None:
    if weights.zeros > weights.elements:
        return "more weights are zero than there are"
    if weights.sparsity != (weights.zeros / weights.elements if weights.elements else None):
        return "the sparsity is not zeros / elements"
    layers = weights.layers
    if any(max(layer.zeros, layer.clipped) > layer.elements for layer in layers):
        return "more weights of a layer are counted than there are"
    counted = sum(layer.elements for layer in layers), sum(layer.zeros for layer in layers)
    if counted != (weights.elements, weights.zeros):
        return "the layers do not add up to the weights"
    moved = [layer.weight_difference for layer in layers]
    known = [difference for difference in moved if difference is not None]
    total = weights.weight_difference
    if (total is None) != (len(known) < len(moved)) or (total is not None and not isclose(sum(known), total)):
        return "the layers do not add up to the weights"
    return None


def _in_measures(measures: Measures, fp32: Measures) -> str | None:
    for name in _COUNTS:
        count = getattr(measures, name)
        if count is not None and count > measures.samples:
            return "more is counted than there are samples"
    if defined := _defined_and_undefined(measures):
        return f"{defined} has a value and is said to be undefined"
    if not 0 <= (measures.cosine_distance or 0.0) <= _LARGEST_COSINE_DISTANCE:
        return "a cosine distance is not from 0 to 2"
    accuracy, before = measures.exact_accuracy, fp32.exact_accuracy
    if measures.accuracy != (None if accuracy is None else float(accuracy)):
        return "an accuracy is not correct / samples"
    drop = None if accuracy is None or before is None else float(before - accuracy)
    if measures.accuracy_drop != drop:
        return "an accuracy drop is not the difference from fp32"
    flips, rate = measures.flips, measures.flip_rate
    if flips is not None and rate is not None and rate != flips / measures.samples:
        return "a flip rate is not flips / samples"
    return _in_pairs(measures, fp32)


def _in_pairs(measures: Measures, fp32: Measures) -> str | None:
    both, lost = measures.both_right, measures.right_to_wrong
    gained, neither = measures.wrong_to_right, measures.both_wrong
    if both is None or lost is None or gained is None or neither is None:
        return None
    if both + lost + gained + neither != measures.samples:
        return "the paired counts do not add up to the samples"
    if both + gained != measures.correct or both + lost != fp32.correct:
        return "the paired counts are not those of the accuracies"
    return None


def _defined_and_undefined(values: Measures | GroupCurvature) -> str | None:
    return next((name for name in values.undefined if getattr(values, name, None) is not None), None)


def _in_curvature(result: PrecisionResult, audit: Audit) -> str | None:
    settings = audit.settings.curvature
    if settings is None:
        return "no settings say how curvature was measured" if result.curvature else None
    if len(result.curvature) != len(audit.groups):
        return f"curvature is of {len(result.curvature)} groups, not {len(audit.groups)}"
    for group, measures in zip(result.curvature, result.groups, strict=True):
        drawn = measures.samples if settings.samples is None else min(settings.samples, measures.samples)
        if group.samples != drawn:
            return f"curvature is of {group.samples} samples, and {drawn} were drawn"
        problem = _in_group_curvature(group, result)
        if problem:
            return problem
    return None


def _in_group_curvature(group: GroupCurvature, result: PrecisionResult) -> str | None:
    if defined := _defined_and_undefined(group):
        return f"{defined} of the curvature has a value and is said to be undefined"
    if min(group.loss or 0.0, group.gradient_norm or 0.0, group.residual or 0.0) < 0:
        return "a loss, a gradient norm or a residual is below 0"
    if group.lambda_max is None:
        if group.converged:
            return "a lambda_max converged, and is absent"
    elif group.lambda_min is not None and group.lambda_min > group.lambda_max:
        return "lambda_min is above lambda_max"
    account = group.account
    if account is None:
        return None
    if result.precision == FP32.name:
        return "fp32 is the baseline, and has an account of what changed its loss"
    if {len(account.first_order), len(account.second_order)} != {len(result.moved)}:
        return "an account does not tell of the tensors that moved, one by one"
    return "a bound is below 0" if (account.bound or 0.0) < 0 else None

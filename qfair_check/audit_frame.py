"""An audit as a tidy pandas frame."""

from collections.abc import Iterator

import pandas as pd

from qfair_check.curvature_record import GroupCurvature
from qfair_check.record import Audit

_GROUP_METRICS = (
    "accuracy",
    "accuracy_drop",
    "loss",
    "cosine_distance",
    "l1_distance",
    "l2_distance",
    "logit_variance",
    "softmax_variance",
    "prediction_probability",
    "flip_rate",
)
_CURVATURE_METRICS = ("gradient_norm", "lambda_max", "lambda_min")


def audit_frame(audit: Audit) -> pd.DataFrame:
    """Return what `Audit.to_frame` promises."""
    frame = pd.DataFrame(list(_rows(audit)), columns=["precision", "group", "metric", "value", "n"])
    return frame.astype({"group": "string", "value": "float64"})


def _rows(audit: Audit) -> Iterator[tuple[str, str | None, str, float | None, int]]:
    for result in audit.precisions:
        for group, measures in zip(audit.groups, result.groups, strict=True):
            for metric in _GROUP_METRICS:
                yield result.precision, group, metric, getattr(measures, metric), measures.samples
        for group, curvature in zip(audit.groups, result.curvature, strict=False):  # empty if it was not asked for
            for metric, value in _of_curvature(curvature, is_baseline=result is audit.fp32):
                yield result.precision, group, metric, value, curvature.samples
        n = result.overall.samples
        yield result.precision, None, "overall_accuracy", result.overall.accuracy, n
        yield result.precision, None, "fvo", result.fvo, n
        yield result.precision, None, "fvo_increase", result.fvo_increase, n
        for metric in _GROUP_METRICS[1:]:
            yield result.precision, None, metric, getattr(result.overall, metric), n
        yield result.precision, None, "sparsity", result.weights.sparsity, result.weights.elements
        yield (
            result.precision,
            None,
            "weight_difference",
            result.weights.weight_difference,
            result.weights.elements,
        )


def _of_curvature(curvature: GroupCurvature, *, is_baseline: bool) -> Iterator[tuple[str, float | None]]:
    for metric in _CURVATURE_METRICS:
        yield metric, getattr(curvature, metric)
    if not is_baseline:
        account = curvature.account
        yield "predicted_loss_change", None if account is None else account.predicted
        yield "measured_loss_change", None if account is None else account.measured

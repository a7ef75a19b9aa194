"""Exhibits of what the backward pass tells of each group: gradient norm and the largest Hessian eigenvalue."""

from collections.abc import Sequence

from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.curvature import on_samples
from qfair_check.report.figures.dots import Panel, dot_plot
from qfair_check.report.figures.exhibit import Absent, Exhibit
from qfair_check.report.figures.scatter import Scatter, scatter_of, scatter_plot
from qfair_check.report.figures.values import (
    MOST_DRAWN,
    NO_CURVATURE,
    Quantity,
    Value,
    below_log_notes,
    curved,
    drawn_note,
    long_table,
    measured,
    results_of,
    undefined_notes,
    wide_table,
)

_GRADIENT, _LAMBDA = "gradient norm", "λmax"


def gradient_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "gradient") -> Exhibit | Absent:
    """Return the gradient norm of every group against its size and its accuracy.

    Parameters
    ----------
    audit : Audit
    precisions : sequence of str, optional
        Such as ``["fp32", "int4"]``; all by default.
    key : str
        Distinct within a page: ids begin with it.

    Raises
    ------
    OptionError
        If the audit does not hold one of the precisions.
    """
    title, source = "Gradient norm against group size and accuracy", "Fig. 8"
    results = results_of(audit, precisions)
    norm = curved(_GRADIENT, "gradient_norm", results)
    if reason := _why_absent(audit, norm):
        return Absent(title, source, reason)
    accuracy = measured("accuracy", "accuracy", results)
    panels = [scatter_of(_sizes(results), norm), scatter_of(accuracy, norm)]
    return Exhibit(
        key,
        title,
        source,
        "Points high on the left are small or badly classified groups whose loss would still change fast with the "
        "weights: the model has not settled for them.",
        _scatter_notes(audit, [norm, accuracy], panels),
        (scatter_plot(audit, panels, key),),
        long_table(audit, [accuracy, norm], on_subsample=True),
    )


def lambda_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "lambda") -> Exhibit | Absent:
    """Return λmax of every group against accuracy, prediction probability and gradient norm; as `gradient_exhibit`."""
    title, source = "λmax against accuracy, prediction probability and gradient norm", "Fig. 9"
    results = results_of(audit, precisions)
    steepest = curved(_LAMBDA, "lambda_max", results)
    if reason := _why_absent(audit, steepest):
        return Absent(title, source, reason)
    others = [
        measured("accuracy", "accuracy", results),
        measured("mean top probability", "prediction_probability", results),
        curved(_GRADIENT, "gradient_norm", results),
    ]
    panels = [Scatter(panel.x, panel.y, panel.log_x, log_y=True) for panel in (scatter_of(x, steepest) for x in others)]
    return Exhibit(
        key,
        title,
        source,
        "λmax is how sharply the loss of a group bends around the weights: the higher a point, the more a small change "
        "of the weights, such as rounding, can cost this group.",
        _scatter_notes(audit, [steepest, *others], panels),
        (scatter_plot(audit, panels, key),),
        long_table(audit, [steepest, *others], on_subsample=True),
    )


def log_lambda_exhibit(
    audit: Audit, precisions: Sequence[str] | None = None, key: str = "log-lambda"
) -> Exhibit | Absent:
    """Return λmax by group and precision on a logarithmic axis; parameters as in `gradient_exhibit`."""
    title, source = "λmax by group and precision", "Fig. 10"
    results = results_of(audit, precisions)
    steepest = curved(_LAMBDA, "lambda_max", results)
    if reason := _why_absent(audit, steepest):
        return Absent(title, source, reason)
    samples = [group.samples for group in audit.fp32.curvature]
    notes = (
        _on_samples(audit),
        *drawn_note(audit),
        *undefined_notes(audit, [steepest]),
        *below_log_notes(audit, steepest),
    )
    return Exhibit(
        key,
        title,
        source,
        "Compare rows: a group whose marks lie further right than the others' stands on a steeper spot of its loss, "
        "and compare marks within a row: where narrow precisions lie right of fp32, quantization made it steeper.",
        notes,
        (dot_plot(audit, [Panel(steepest, log=True)], key, samples),),
        wide_table(audit, steepest, samples),
    )


def _why_absent(audit: Audit, quantity: Quantity) -> str:
    if audit.settings.curvature is None:
        return NO_CURVATURE
    return f"no group has a {quantity.name}: {quantity.why_nothing}" if quantity.why_nothing else ""


def _sizes(results: Sequence[PrecisionResult]) -> Quantity:
    return Quantity(
        "group size", {result.precision: tuple(Value(group.samples) for group in result.groups) for result in results}
    )


def _on_samples(audit: Audit) -> str:
    return f"Gradient and curvature were measured {on_samples(audit)}."


def _scatter_notes(audit: Audit, quantities: Sequence[Quantity], panels: Sequence[Scatter]) -> tuple[str, ...]:
    notes = [_on_samples(audit)]
    unnumbered = len(audit.groups) - MOST_DRAWN
    if unnumbered > 0:
        notes.append(
            f"All groups are drawn; {unnumbered:,} have no number: numbered are the {MOST_DRAWN - 1} with the lowest "
            f"accuracy at {audit.precisions[-1].precision}, and the one with the highest."
        )
    notes += undefined_notes(audit, quantities)
    logs = {quantity.name: quantity for panel in panels for quantity in _logarithmic(panel)}
    for quantity in logs.values():
        notes += below_log_notes(audit, quantity)
    return tuple(notes)


def _logarithmic(panel: Scatter) -> list[Quantity]:
    return [*([panel.x] if panel.log_x else []), *([panel.y] if panel.log_y else [])]

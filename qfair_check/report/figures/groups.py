"""Exhibits of what the forward pass tells of each group."""

from collections.abc import Sequence

from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.figures.dots import Panel, dot_plot, panel_of
from qfair_check.report.figures.exhibit import Absent, Exhibit
from qfair_check.report.figures.values import (
    below_log_notes,
    drawn_note,
    long_table,
    measured,
    results_of,
    undefined_notes,
    wide_table,
)


def accuracy_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "accuracy") -> Exhibit | Absent:
    """Return the accuracy of every group at each precision, with Wilson's 95% intervals.

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
    results = results_of(audit, precisions)
    return _exhibit(
        audit,
        results,
        {"accuracy": "accuracy"},
        key,
        "Accuracy by group and precision",
        "Fig. 1",
        "In each row, the further a precision's mark lies to the left of fp32's, the more this group lost by "
        "quantization; lines are 95% intervals (Wilson), and where they are long the group is small and its accuracy "
        "uncertain.",
    )


def distance_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "distance") -> Exhibit | Absent:
    """Return cosine, L1 and L2 distance of the logits from those of fp32; parameters as in `accuracy_exhibit`."""
    results = [result for result in results_of(audit, precisions) if result is not audit.fp32]
    title, source = "Distance of the logits from those of fp32", "Fig. 5a to 5c"
    if not results:
        return Absent(title, source, "the audit holds no quantized precision: name one with --bits")
    return _exhibit(
        audit,
        results,
        {"cosine_distance": "cosine distance", "l1_distance": "L1 distance", "l2_distance": "L2 distance"},
        key,
        title,
        source,
        "The further to the right, the more the model's output for this group's samples changed, whether or not the "
        "prediction did; a group that lies further right than the others is disturbed more.",
    )


def logit_variance_exhibit(
    audit: Audit, precisions: Sequence[str] | None = None, key: str = "logit-variance"
) -> Exhibit | Absent:
    """Return the mean variance of the logits; parameters as in `accuracy_exhibit`."""
    return _exhibit(
        audit,
        results_of(audit, precisions),
        {"logit_variance": "variance of logits"},
        key,
        "Variance of the logits",
        "Fig. 5d",
        "A small variance means that the logits of the classes are close together, so that a small disturbance can "
        "change the prediction.",
    )


def softmax_variance_exhibit(
    audit: Audit, precisions: Sequence[str] | None = None, key: str = "softmax-variance"
) -> Exhibit | Absent:
    """Return the mean variance of the softmax probabilities; parameters as in `accuracy_exhibit`."""
    return _exhibit(
        audit,
        results_of(audit, precisions),
        {"softmax_variance": "variance of softmax"},
        key,
        "Variance of the softmax probabilities",
        "Fig. 6a",
        "The further to the left, the more evenly the model spreads its probability over the classes, that is the less "
        "sure it is of this group's samples.",
    )


def loss_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "loss") -> Exhibit | Absent:
    """Return the mean cross-entropy of every group; parameters as in `accuracy_exhibit`."""
    return _exhibit(
        audit,
        results_of(audit, precisions),
        {"loss": "loss"},
        key,
        "Group loss",
        "Fig. 7",
        "Mean cross-entropy in nats: the further to the right, the less probability the model gives to the true class; "
        "compare how far each group moved from its fp32 mark.",
    )


def _exhibit(
    audit: Audit,
    results: Sequence[PrecisionResult],
    metrics: dict[str, str],
    key: str,
    title: str,
    source: str,
    reading: str,
) -> Exhibit | Absent:
    quantities = [measured(name, metric, results) for metric, name in metrics.items()]
    reasons = [quantity.why_nothing for quantity in quantities]
    if all(reasons):
        return Absent(title, source, f"no group has it: {reasons[0]}")
    panels = [Panel(quantity) if quantity.name == "accuracy" else panel_of(quantity) for quantity in quantities]
    notes = [*drawn_note(audit), *undefined_notes(audit, quantities)]
    for panel in panels:
        notes += below_log_notes(audit, panel.quantity) if panel.log else ()
    samples = [group.samples for group in audit.fp32.groups]
    table = wide_table(audit, quantities[0], samples) if len(quantities) == 1 else long_table(audit, quantities)
    return Exhibit(key, title, source, reading, tuple(notes), (dot_plot(audit, panels, key, samples),), table)

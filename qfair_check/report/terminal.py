"""The audit as a table for a terminal: groups as rows, precisions as columns."""

from collections.abc import Sequence

from qfair_check.judge.statistics import wilson_interval
from qfair_check.judge.text import printable, shown_name
from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.precision import FP32
from qfair_check.record import Audit, Measures, PrecisionResult
from qfair_check.report.curvature import curvature_lines
from qfair_check.report.table import MOST_GROUPS, NAME_WIDTH, Cell, aligned, in_blocks, wrapped

_LEAST_COLUMN = len("0.000 +0.000 *")
_LEAST_SHARE = 0.9
_UNDEFINED = "undefined"
_GROUP_CHECKS = ("fvo", "fvo-increase", "group-drop")


def render(audit: Audit, verdicts: Sequence[Verdict], *, width: int = 80, colour: bool = False) -> str:
    """Return the table, with what a reader must know about the data above it.

    Each cell holds the accuracy and its change from fp32; the worst group at each precision is marked with
    an asterisk. Columns that do not fit the width go into further tables below; with more than 30 groups,
    those with the lowest accuracy at the narrowest precision are shown. Curvature has a table of its own below.

    Parameters
    ----------
    audit : Audit
    verdicts : sequence of Verdict
        May be empty; otherwise a last row says how each precision fared.
    width : int
        Terminal columns.
    colour : bool
        Whether to use ANSI colours.
    """
    shown, left_out = shown_groups(audit)
    lines = [*wrapped([*_preamble(audit), *notes_of(audit, verdicts)], width), ""]
    left = [
        ["group", "n"],
        *([shown_name(audit.groups[index], NAME_WIDTH), str(audit.fp32.groups[index].samples)] for index in shown),
        ["overall", str(audit.data.samples)],
        ["FVO", ""],
    ]
    if verdicts:
        left.append(["gate", ""])
    columns = [_column(result, shown, verdicts) for result in audit.precisions]
    lines += in_blocks(aligned(left, right=[1]), columns, width=width, least=_LEAST_COLUMN, colour=colour)
    legend = ["accuracy and its change from fp32; * marks the worst group; FVO is the largest gap between groups"]
    if left_out:
        legend.append(f"{left_out} groups with higher accuracy are not shown; the audit holds them all")
    lines += ["", *wrapped(legend, width)]
    if curvature := curvature_lines(audit, width=width, colour=colour):
        lines += ["", *curvature]
    return "\n".join(lines) + "\n"


def _preamble(audit: Audit) -> list[str]:
    inputs = audit.inputs
    architecture = f" ({printable(inputs.architecture)})" if inputs.architecture else ""
    by = "by " + " × ".join(map(printable, inputs.group_by)) if inputs.group_by else "by class"
    split = f", split {printable(inputs.split)}" if inputs.split else ""
    share = audit.model.quantized_share
    origin = [f"fp32    of {printable(audit.reference.source)}, the reference"] if audit.reference else []
    return [
        f"model   {printable(inputs.model)}{architecture}, {audit.model.parameters:,} parameters, "
        f"{share:.1%} of them quantized, {printable(audit.settings.scheme)}",
        f"data    {printable(inputs.data)}{split}, {audit.data.samples:,} samples, {len(audit.groups)} groups {by}",
        *origin,
    ]


def notes_of(audit: Audit, verdicts: Sequence[Verdict]) -> list[str]:
    """Return what a reader must know before the numbers, as lines that begin with ``warning`` or ``note``."""
    inputs, share, lines = audit.inputs, audit.model.quantized_share, []
    if audit.model.parameters and share < _LEAST_SHARE:
        lines.append(f"warning only {share:.1%} of the parameters lie in layers that are quantized")
    lines += _guessing(audit)
    lines += [f"note    {printable(notice)}" for notice in inputs.notices]
    lines += [
        f"note    FVO at {result.precision} is not defined: {printable(result.undefined['fvo'])}"
        for result in audit.precisions
        if "fvo" in result.undefined
    ]
    emulated = [result.computation for result in audit.quantized if "emulated" in result.computation]
    lines += [f"note    {printable(computation)}" for computation in emulated]
    return lines + _resolution(audit, verdicts)


def _guessing(audit: Audit) -> list[str]:
    """Warn of a baseline that is worse than a constant answer: most often the class order is wrong."""
    baseline = audit.fp32
    by_class = [sum(recall.samples) for recall in baseline.recalls] or [group.samples for group in baseline.groups]
    constant = max(by_class) / max(audit.data.samples, 1)
    accuracy = baseline.overall.accuracy
    if accuracy is None or accuracy >= constant:
        return []
    return [
        f"warning at fp32 the accuracy is {accuracy:.3f}, and always answering the commonest class gives "
        f"{constant:.3f}: are the classes in the order of the model's outputs (--qfair-classes)?"
    ]


def _resolution(audit: Audit, verdicts: Sequence[Verdict]) -> list[str]:
    """Warn where a limit on groups is finer than the group that is known least can tell."""
    limits = [verdict.limit for verdict in verdicts if verdict.check in _GROUP_CHECKS]
    known = {
        index: (high - low) / 2
        for index, group in enumerate(audit.fp32.groups)
        if group.correct is not None and group.samples
        for low, high in [wilson_interval(group.correct, group.samples)]
    }
    if not limits or not known:
        return []
    vaguest = max(known, key=known.__getitem__)
    if float(min(limits)) >= known[vaguest]:
        return []
    group = f"{shown_name(audit.groups[vaguest])} (n={audit.fp32.groups[vaguest].samples})"
    return [
        f"note    the accuracy of {group} is known to ±{known[vaguest]:.3f} only (95%): "
        f"a limit of {min(limits)} is finer than the data"
    ]


def shown_groups(audit: Audit) -> tuple[list[int], int]:
    """Return which groups to show, lowest accuracy first where there are too many, and how many are left out."""
    indices = list(range(len(audit.groups)))
    if len(indices) <= MOST_GROUPS:
        return indices, 0
    narrowest = audit.precisions[-1].groups

    def by_accuracy(index: int) -> float:
        accuracy = narrowest[index].accuracy
        return -1.0 if accuracy is None else accuracy

    return sorted(indices, key=by_accuracy)[:MOST_GROUPS], len(indices) - MOST_GROUPS


def _column(result: PrecisionResult, shown: Sequence[int], verdicts: Sequence[Verdict]) -> list[Cell]:
    worst = _worst(result)
    cells = [Cell(result.precision, "head")]
    cells += [_cell(result.groups[index], result, index == worst) for index in shown]
    cells += [_cell(result.overall, result, False), _fvo_cell(result)]
    if verdicts:
        cells.append(_gate_cell([verdict for verdict in verdicts if verdict.precision == result.precision]))
    return cells


def _fvo_cell(result: PrecisionResult) -> Cell:
    if result.fvo is None:
        return Cell(_UNDEFINED, "unsure")
    is_baseline = result.precision == FP32.name
    change = "" if is_baseline or result.fvo_increase is None else f" {_signed(result.fvo_increase)}"
    return Cell(f"{result.fvo:.3f}{change}")


def _gate_cell(verdicts: Sequence[Verdict]) -> Cell:
    if not verdicts:
        return Cell("-")
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAIL in outcomes:
        return Cell("FAIL", "bad")
    if Outcome.INSUFFICIENT in outcomes:
        return Cell("insufficient", "unsure")
    return Cell("pass", "good")


def _worst(result: PrecisionResult) -> int | None:
    known = [(group.exact_accuracy, index) for index, group in enumerate(result.groups)]
    defined = [(accuracy, index) for accuracy, index in known if accuracy is not None]
    return min(defined)[1] if len({accuracy for accuracy, _ in defined}) > 1 else None


def _cell(measures: Measures, result: PrecisionResult, is_worst: bool) -> Cell:
    if measures.accuracy is None:
        return Cell("no samples" if not measures.samples else _UNDEFINED, "unsure")
    change = ""
    if result.precision != FP32.name and measures.accuracy_drop is not None:
        change = f" {_signed(-measures.accuracy_drop)}"
    return Cell(f"{measures.accuracy:.3f}{change}{' *' if is_worst else ''}", "bad" if is_worst else "")


def _signed(value: float) -> str:
    return f"{value + 0.0:+.3f}"

"""Gradient norm and largest Hessian eigenvalue of each group, as a table for a terminal, and why one is missing."""

from collections.abc import Sequence

from qfair_check.curvature_record import GroupCurvature
from qfair_check.judge.text import MOST_REASONS, compact, printable, shown_name
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.table import MOST_GROUPS, NAME_WIDTH, Cell, aligned, in_blocks, right_aligned, wrapped

_SHOWN = {"gradient_norm": "gradient norm", "lambda_max": "λmax"}
_NOTHING = "-"
_FEW = 3
_NO_REASON = "the audit gives no reason"


def curvature_lines(audit: Audit, *, width: int = 80, colour: bool = False) -> list[str]:
    """Return notes, the table and its legend; nothing if the audit holds no curvature.

    Each cell holds gradient norm and λmax; the group with the largest λmax at each precision is marked with an
    asterisk, and a λmax that did not converge with a tilde. With more than 30 groups, those with the largest λmax at
    the narrowest precision are shown.

    Parameters
    ----------
    audit : Audit
    width : int
        Terminal columns.
    colour : bool
        Whether to use ANSI colours.
    """
    if audit.settings.curvature is None:
        return []
    indices = sorted(range(len(audit.groups)), key=lambda index: _steepness(audit.precisions[-1].curvature[index]))
    shown = indices[-MOST_GROUPS:][::-1] if len(indices) > MOST_GROUPS else sorted(indices)
    left = [
        ["", ""],
        ["group", "n"],
        *([shown_name(audit.groups[index], NAME_WIDTH), str(audit.fp32.curvature[index].samples)] for index in shown),
    ]
    columns = [_column(result, shown) for result in audit.precisions]
    legend = [
        f"gradient norm and largest Hessian eigenvalue (λmax) of the loss, {on_samples(audit)}; * marks the largest "
        "λmax"
    ]
    if any(group.lambda_max is not None and not group.converged for at in audit.precisions for group in at.curvature):
        legend[0] += "; ~ marks a λmax that did not converge: the true one may be larger"
    if len(indices) > len(shown):
        legend.append(f"{len(indices) - len(shown)} groups with a smaller λmax are not shown; the audit holds them all")
    notes = undefined_notes(audit, audit.precisions, _SHOWN)
    return [
        *wrapped(notes, width),
        *([""] if notes else []),
        *in_blocks(aligned(left, right=[1]), columns, width=width, colour=colour),
        "",
        *wrapped(legend, width),
    ]


def on_samples(audit: Audit) -> str:
    """Return what curvature was measured on, in words."""
    most = audit.settings.curvature.samples if audit.settings.curvature else None
    if most is None or all(group.samples <= most for group in audit.fp32.groups):
        return "on all samples of each group"
    return f"on a subsample of at most {most:,} samples of each group"


def undefined_notes(audit: Audit, results: Sequence[PrecisionResult], shown: dict[str, str]) -> list[str]:
    """Return a line for each reason why values are not defined, with the groups and precisions that it holds for.

    Parameters
    ----------
    audit : Audit
    results : sequence of PrecisionResult
        Precisions of this audit.
    shown : dict of str to str
        The words for each metric that is told of.
    """
    places: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for result in results:
        for name, group in zip(audit.groups, result.curvature, strict=True):
            for metric in shown:
                if getattr(group, metric) is None:
                    reason = group.undefined.get(metric, _NO_REASON)
                    places.setdefault((reason, name), {}).setdefault(shown[metric], {})[result.precision] = None
    found: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (reason, name), by_metric in places.items():
        metrics_at: dict[tuple[str, ...], list[str]] = {}
        for metric, held in by_metric.items():
            metrics_at.setdefault(tuple(held), []).append(metric)
        for at, metrics in metrics_at.items():
            found.setdefault((reason, tuple(metrics), at), []).append(name)
    notes = []
    for (reason, names, precisions), groups in list(found.items())[:MOST_REASONS]:
        whose = "every group" if len(groups) == len(audit.groups) else _few([shown_name(name) for name in groups])
        where = "every precision" if len(precisions) == len(results) > 1 else ", ".join(precisions)
        verb = "is" if len(names) == 1 else "are"
        notes.append(f"note    {' and '.join(names)} of {whose} {verb} not defined at {where}: {printable(reason)}")
    more = len(found) - len(notes)
    return [*notes, f"note    {more:,} more reasons like these"] if more else notes


def _few(names: Sequence[str]) -> str:
    more = len(names) - _FEW
    return ", ".join([*names[:_FEW], *([f"{more:,} more"] if more > 0 else [])])


def _steepness(group: GroupCurvature) -> float:
    return float("inf") if group.lambda_max is None else group.lambda_max


def _column(result: PrecisionResult, shown: Sequence[int]) -> list[Cell]:
    known = {index: group.lambda_max for index, group in enumerate(result.curvature) if group.lambda_max is not None}
    steepest = max(known, key=known.__getitem__) if len(set(known.values())) > 1 else None
    groups = [result.curvature[index] for index in shown]
    norms = right_aligned(["gradient", *(_number(group.gradient_norm) for group in groups)])
    eigenvalues = right_aligned(["λmax", *(_number(group.lambda_max) for group in groups)])
    cells = [Cell(result.precision, "head"), Cell(f"{norms[0]}  {eigenvalues[0]}")]
    for index, group, norm, eigenvalue in zip(shown, groups, norms[1:], eigenvalues[1:], strict=True):
        mark = "" if group.lambda_max is None or group.converged else "~"
        worst = " *" if index == steepest else ""
        style = "bad" if worst else "unsure" if mark or group.lambda_max is None else ""
        cells.append(Cell(f"{norm}  {eigenvalue}{mark}{worst}", style))
    return cells


def _number(value: float | None) -> str:
    return _NOTHING if value is None else compact(value)

"""DTDB: how the probability of the true class is distributed over the samples of each group."""

from collections.abc import Sequence

import numpy as np

from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.figures.canvas import (
    LINE,
    SMALL,
    WIDTH,
    Canvas,
    dashes,
    legend_lines,
    painted,
    precision_legend,
    shown_names,
    text_width,
)
from qfair_check.report.figures.exhibit import Absent, Drawing, Exhibit, Table
from qfair_check.report.figures.palette import MARKS
from qfair_check.report.figures.values import (
    NOT_DEFINED,
    NOT_HELD,
    Quantity,
    Value,
    drawn_groups,
    drawn_note,
    results_of,
    table_names,
    undefined_notes,
)

BINS = 10
_COLUMNS = 4
_PANEL, _TITLE = 92, 24
_LEFT, _BETWEEN, _AXIS = 40.0, 14.0, 40.0


def dtdb_exhibit(audit: Audit, precisions: Sequence[str] | None = None, key: str = "dtdb") -> Exhibit | Absent:
    """Return a histogram of the true class's probability for each group, a line for each precision."""
    title, source = "Probability of the true class (DTDB)", "Fig. 6b"
    results = results_of(audit, precisions)
    quantity = _existence(results)
    if quantity.why_nothing:
        return Absent(title, source, f"no group has it: {quantity.why_nothing}")
    groups = drawn_groups(audit)
    rows = [
        [name, f"{at.groups[index].samples:,}", at.precision, *_cells(at.groups[index].dtdb)]
        for index, name in enumerate(table_names(audit))
        for at in results
    ]
    head = ["group", "n", "precision", *(f"{bin_ / BINS:g} to {(bin_ + 1) / BINS:g}" for bin_ in range(BINS))]
    drawing = Drawing(
        _svg(audit, results, groups, key),
        "Small histograms, one for each group, of the softmax probability of the true class; a line for each precision "
        f"of {', '.join(result.precision for result in results)}.",
    )
    return Exhibit(
        key,
        title,
        source,
        "Samples at the right edge are classified with certainty; a group whose line sinks there and rises towards the "
        "left, past 0.5, has moved across the decision boundary.",
        ("The audit's 50 bins are merged by fives.", *drawn_note(audit), *undefined_notes(audit, [quantity])),
        (drawing,),
        Table(head, rows),
    )


def merged(counts: Sequence[int]) -> list[int]:
    """Return the counts of 10 bins.

    Examples
    --------
    >>> merged([1] * 50)
    [5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    """
    step = len(counts) // BINS
    return [sum(counts[first : first + step]) for first in range(0, len(counts), step)]


def _cells(counts: Sequence[int]) -> list[str]:
    return [str(count) for count in merged(counts)] if counts else [NOT_DEFINED] * BINS


def _existence(results: Sequence[PrecisionResult]) -> Quantity:
    name = "probability of the true class"
    return Quantity(
        name,
        {
            result.precision: tuple(
                Value(1.0) if group.dtdb else Value(None, group.undefined.get("loss", NOT_HELD))
                for group in result.groups
            )
            for result in results
        },
    )


def _svg(audit: Audit, results: Sequence[PrecisionResult], groups: Sequence[int], key: str) -> str:
    precisions = [result.precision for result in results]
    top = LINE * legend_lines(precisions, lines=True) + 8
    columns = min(_COLUMNS, max(2, len(groups)))
    rows = -(-len(groups) // columns)
    width = (WIDTH - _LEFT - 10 - _BETWEEN * (columns - 1)) / columns
    sizes = [f"n={audit.fp32.groups[index].samples:,}" for index in groups]
    room = width - max(text_width(size, SMALL) for size in sizes) - 8
    names = shown_names([audit.groups[index] for index in groups], room, SMALL, bold=True)
    height = top + rows * (_TITLE + _PANEL + 10) + _AXIS

    def paint(canvas: Canvas) -> None:
        canvas.legend(precision_legend(precisions), LINE / 2, lines=True)
        for place, (index, name, size) in enumerate(zip(groups, names, sizes, strict=True)):
            down, right = divmod(place, columns)
            x, y = _LEFT + right * (width + _BETWEEN), top + down * (_TITLE + _PANEL + 10) + _TITLE
            canvas.text(x, y - 11, name, size=SMALL, bold=True)
            canvas.text(x + width, y - 11, size, "right", size=SMALL, muted=True)
            axes = canvas.axes((x, y, width, _PANEL))
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_ylim(0, 1.05)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_xlim(0, 1)
            if right:
                axes.set_yticklabels([])
            if place + columns < len(groups):
                axes.set_xticklabels([])
            for result in results:
                counts = result.groups[index].dtdb
                if counts:
                    mark = MARKS[result.precision]
                    shares = np.array(merged(counts)) / max(1, sum(counts))
                    edges = np.repeat(np.linspace(0, 1, BINS + 1), 2)[1:-1]
                    axes.plot(edges, np.repeat(shares, 2), color=mark.colour, linewidth=1.4, **dashes(mark))
        below = "softmax probability of the true class; height: share of the group's samples"
        canvas.text(_LEFT + (WIDTH - _LEFT) / 2, height - 10, below, "center")

    return painted(height, key, paint)

"""The dot plot: a row for each group, its values at every precision side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from qfair_check.judge.text import compact, shown_name
from qfair_check.record import Audit
from qfair_check.report.figures.canvas import (
    LINE,
    NAME_ROOM,
    SMALL,
    WIDTH,
    Box,
    Canvas,
    legend_lines,
    painted,
    points,
    precision_legend,
    shown_names,
    text_width,
)
from qfair_check.report.figures.exhibit import Drawing
from qfair_check.report.figures.palette import INK, MARKS
from qfair_check.report.figures.scales import axis_name, limits, set_scale, spans_magnitudes
from qfair_check.report.figures.values import Quantity, drawn_groups

_STEP = 6.2
_LEAST_ROW = 24
_BAND = 0.05
_AXIS, _RIGHT = 44, 12
_BETWEEN = 22


@dataclass(frozen=True, slots=True)
class Panel:
    """One column of a dot plot.

    Parameters
    ----------
    quantity : Quantity
    log : bool
        Whether its axis is logarithmic: values of 0 or less are not drawn.
    """

    quantity: Quantity
    log: bool = False

    def shown(self, groups: Sequence[int]) -> list[float]:
        """Return every number that is drawn, ends of intervals included."""
        found = []
        for values in self.quantity.by_precision.values():
            for index in groups:
                value = values[index]
                if value.number is not None and (value.number > 0 or not self.log):
                    found += [value.number, *(value.interval or ())]
        return found


def panel_of(quantity: Quantity) -> Panel:
    """Return the quantity on a logarithmic axis where its positive values differ by more than a factor of 100."""
    numbers = [
        value.number for values in quantity.by_precision.values() for value in values if value.number is not None
    ]
    return Panel(quantity, log=spans_magnitudes(numbers) and min(numbers) >= 0)


def dot_plot(audit: Audit, panels: Sequence[Panel], prefix: str, samples: Sequence[int]) -> Drawing:
    """Return the drawn groups as rows, and the quantities as columns.

    Parameters
    ----------
    audit : Audit
    panels : sequence of Panel
        All with the same precisions.
    prefix : str
        What ids begin with.
    samples : sequence of int
        What n is, by group.
    """
    groups = drawn_groups(audit)
    names = shown_names([audit.groups[index] for index in groups], NAME_ROOM)
    precisions = list(panels[0].quantity.by_precision)
    sizes = [f"n={samples[index]:,}" for index in groups]
    widest_size = max(text_width(size, SMALL) for size in sizes)
    gutter = max(map(text_width, names)) + widest_size + 28
    top = LINE * legend_lines(precisions) + 14
    row = max(_LEAST_ROW, _STEP * len(precisions) + 8)
    bottom = top + row * len(groups)

    def paint(canvas: Canvas) -> None:
        canvas.legend(precision_legend(precisions), LINE / 2)
        for place, (name, size) in enumerate(zip(names, sizes, strict=True)):
            y = top + row * (place + 0.5)
            if place % 2 == 0:
                canvas.box((0, y - row / 2, WIDTH - _RIGHT, row), INK, alpha=_BAND, below=True)
            canvas.text(gutter - 20 - widest_size, y, name, "right")
            canvas.text(gutter - 8, y, size, "right", size=SMALL, muted=True)
        width = (WIDTH - gutter - _RIGHT - _BETWEEN * (len(panels) - 1)) / len(panels)
        for place, panel in enumerate(panels):
            left = gutter + place * (width + _BETWEEN)
            _paint_panel(canvas, panel, groups, (left, top, width, bottom - top))

    return Drawing(painted(bottom + _AXIS, prefix, paint), _alt(audit, panels))


def _paint_panel(canvas: Canvas, panel: Panel, groups: Sequence[int], box: Box) -> None:
    left, top, width, height = box
    axes = canvas.axes(box)
    ends = limits(panel.shown(groups), log=panel.log)
    axes.grid(visible=False, axis="y")
    axes.set(ylim=(len(groups), 0), yticks=[])
    set_scale(axes.xaxis, ends, log=panel.log, most=max(3, int(width / 60)))
    canvas.text(left + width / 2, top + height + 32, axis_name(panel.quantity.name, width, log=panel.log), "center")
    row = height / len(groups)
    count = len(panel.quantity.by_precision)
    step = min(_STEP / row, 0.25)
    for series, (precision, values) in enumerate(panel.quantity.by_precision.items()):
        mark = MARKS[precision]
        offset = 0.5 + (series - (count - 1) / 2) * step
        drawn = [
            (values[index], place + offset)
            for place, index in enumerate(groups)
            if values[index].number is not None and ((values[index].number or 0) > 0 or not panel.log)
        ]
        spans = [(y, value.interval) for value, y in drawn if value.interval is not None]
        if spans:
            axes.hlines(
                [y for y, _ in spans],
                [low for _, (low, _) in spans],
                [high for _, (_, high) in spans],
                colors=mark.colour,
                linewidth=1.2,
                alpha=0.7,
            )
        for is_settled in (True, False):
            chosen = [(value.number or 0.0, y) for value, y in drawn if value.is_settled is is_settled]
            if chosen:
                look = points(mark) | ({} if is_settled else {"markerfacecolor": "none"})
                axes.plot([x for x, _ in chosen], [y for _, y in chosen], **look)


def _alt(audit: Audit, panels: Sequence[Panel]) -> str:
    told = []
    for panel in panels:
        precision, values = list(panel.quantity.by_precision.items())[-1]
        known = {index: value.number for index, value in enumerate(values) if value.number is not None}
        if known:
            least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            told.append(
                f"{panel.quantity.name} at {precision} runs from {compact(known[least])} "
                f"({shown_name(audit.groups[least])}) to {compact(known[most])} ({shown_name(audit.groups[most])})"
            )
    return f"Dot plot with a row for each group: {'; '.join(told) or 'no value is defined'}."

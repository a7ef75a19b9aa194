"""The scatter plot: a point for each group and precision; numbers tell which group it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qfair_check.record import Audit
from qfair_check.report.figures.canvas import (
    LINE,
    NAME_ROOM,
    SMALL,
    WIDTH,
    Canvas,
    legend_lines,
    painted,
    points,
    precision_legend,
    shown_names,
    text_width,
)
from qfair_check.report.figures.exhibit import Drawing
from qfair_check.report.figures.labels import Point, paint_labels, placed
from qfair_check.report.figures.palette import MARKS
from qfair_check.report.figures.scales import axis_name, limits, set_scale, spans_magnitudes
from qfair_check.report.figures.values import Quantity, drawn_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 270
_LEFT, _BETWEEN, _AXIS = 72, 24, 48
_NUMBER_SIZE = 10
_CROWD = 200


@dataclass(frozen=True, slots=True)
class Scatter:
    """One panel: a quantity against another.

    Parameters
    ----------
    x, y : Quantity
        With the same precisions.
    log_x, log_y : bool
        Whether an axis is logarithmic: points at 0 or less are not drawn.
    """

    x: Quantity
    y: Quantity
    log_x: bool = False
    log_y: bool = False

    def at(self, precision: str) -> dict[int, Point]:
        """Return the points that can be drawn, by position of the group."""
        found = {}
        pairs = zip(self.x.by_precision[precision], self.y.by_precision[precision], strict=True)
        for index, (one, other) in enumerate(pairs):
            x, y = one.number, other.number
            if x is not None and y is not None and (x > 0 or not self.log_x) and (y > 0 or not self.log_y):
                found[index] = (x, y)
        return found

    def unsettled(self, precision: str) -> set[int]:
        """Return the positions of the groups whose point has a value that did not converge."""
        pairs = zip(self.x.by_precision[precision], self.y.by_precision[precision], strict=True)
        return {index for index, (x, y) in enumerate(pairs) if not (x.is_settled and y.is_settled)}


def scatter_of(x: Quantity, y: Quantity) -> Scatter:
    """Return a panel whose axes are logarithmic where positive values differ by more than a factor of 100."""
    return Scatter(x, y, _is_log(x), _is_log(y))


def _is_log(quantity: Quantity) -> bool:
    numbers = [value.number for group in quantity.by_precision.values() for value in group if value.number is not None]
    return spans_magnitudes(numbers) and min(numbers) >= 0


def scatter_plot(audit: Audit, panels: Sequence[Scatter], prefix: str) -> Drawing:
    """Return panels side by side that share the vertical axis, and what group each number is.

    Parameters
    ----------
    audit : Audit
    panels : sequence of Scatter
        All with the same y.
    prefix : str
        What ids begin with.
    """
    precisions = list(panels[0].y.by_precision)
    groups = drawn_groups(audit)
    names = numbered_names(audit, [group.samples for group in audit.fp32.groups])
    top = LINE * legend_lines(precisions) + 14
    key_top = top + _HEIGHT + _AXIS + LINE

    def paint(canvas: Canvas) -> None:
        canvas.legend(precision_legend(precisions), LINE / 2)
        width = (WIDTH - _LEFT - 12 - _BETWEEN * (len(panels) - 1)) / len(panels)
        y_ends = limits(
            [y for panel in panels for precision in precisions for _, y in panel.at(precision).values()],
            log=panels[0].log_y,
        )
        canvas.upright(12, top + _HEIGHT / 2, axis_name(panels[0].y.name, _HEIGHT, log=panels[0].log_y))
        for place, panel in enumerate(panels):
            left = _LEFT + place * (width + _BETWEEN)
            axes = canvas.axes((left, top, width, _HEIGHT))
            _paint_panel(canvas, axes, panel, groups, y_ends)
            if place:
                axes.set_yticklabels([])
            canvas.text(left + width / 2, top + _HEIGHT + 34, axis_name(panel.x.name, width, log=panel.log_x), "center")
        paint_key(canvas, names, key_top, f"numbers: groups at {precisions[-1]}")

    told = ", ".join(panel.x.name for panel in panels)
    alt = f"Scatter plot of {panels[0].y.name} against {told}: a point for each group and precision."
    return Drawing(painted(key_top + LINE * key_lines(names) + 4, prefix, paint), alt)


def _paint_panel(
    canvas: Canvas, axes: "Axes", panel: Scatter, groups: Sequence[int], y_ends: tuple[float, float]
) -> None:
    by_precision = {precision: panel.at(precision) for precision in panel.y.by_precision}
    everything = [point for found in by_precision.values() for point in found.values()]
    set_scale(axes.xaxis, limits([x for x, _ in everything], log=panel.log_x), log=panel.log_x, most=5)
    set_scale(axes.yaxis, y_ends, log=panel.log_y, most=6)
    alpha, size = (0.6, 4.5) if len(everything) > _CROWD else (0.9, 5.5)
    for precision, found in by_precision.items():
        look = points(MARKS[precision], 1.4 * size if precision == "fp32" else size) | {"alpha": alpha}
        hollow = panel.unsettled(precision)
        for is_hollow in (False, True):
            chosen = [point for index, point in found.items() if (index in hollow) is is_hollow]
            if chosen:
                xs, ys = zip(*chosen, strict=True)
                axes.plot(xs, ys, **look | ({"markerfacecolor": "none"} if is_hollow else {}))
    narrowest = list(by_precision.values())[-1]
    at = dict(zip(narrowest, canvas.pixels(axes, list(narrowest.values())), strict=True))
    labelled = [(str(place + 1), at[index]) for place, index in enumerate(groups) if index in at]
    frame = axes.get_position()
    box = (frame.x0 * WIDTH, (1 - frame.y1) * canvas.height, frame.x1 * WIDTH, (1 - frame.y0) * canvas.height)
    paint_labels(
        canvas, placed(labelled, canvas.pixels(axes, everything), box, _NUMBER_SIZE), size=_NUMBER_SIZE, bold=True
    )


def numbered_names(audit: Audit, samples: Sequence[int]) -> list[tuple[str, str, str]]:
    """Return number, name and n of every drawn group; `samples` holds n of every group."""
    groups = drawn_groups(audit)
    names = shown_names([audit.groups[index] for index in groups], NAME_ROOM, SMALL)
    return [
        (str(place), name, f"n={samples[index]:,}")
        for place, (name, index) in enumerate(zip(names, groups, strict=True), 1)
    ]


def key_lines(names: Sequence[tuple[str, str, str]]) -> int:
    """Return how many lines the key takes, its heading included."""
    columns, _ = _key_shape(names)
    return 1 + -(-len(names) // columns)


def paint_key(canvas: Canvas, names: Sequence[tuple[str, str, str]], top: float, heading: str) -> None:
    """Write what group each number is, in columns."""
    columns, width = _key_shape(names)
    lines = -(-len(names) // columns)
    canvas.text(0, top, heading, size=SMALL, muted=True)
    for place, (number, name, size) in enumerate(names):
        x = (place // lines) * width
        y = top + LINE * (1 + place % lines)
        canvas.text(x + 16, y, number, "right", size=SMALL, bold=True)
        canvas.text(x + 24, y, name, size=SMALL)
        canvas.text(x + 24 + text_width(name, SMALL) + 8, y, size, size=SMALL, muted=True)


def _key_shape(names: Sequence[tuple[str, str, str]]) -> tuple[int, float]:
    width = 24 + 24 + max(text_width(name, SMALL) + text_width(size, SMALL) for _, name, size in names)
    columns = max(1, min(4, int(WIDTH // width)))
    return columns, WIDTH / columns

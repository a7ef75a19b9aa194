"""Where the labels of points go, so that they can be read."""

from collections.abc import Iterable, Sequence
from math import hypot

from qfair_check.report.figures.canvas import Canvas, text_width
from qfair_check.report.figures.palette import INK

Point = tuple[float, float]

_DIRECTIONS = ((1, 0), (0, -1), (-1, 0), (0, 1), (0.9, -0.9), (-0.9, -0.9), (-0.9, 0.9), (0.9, 0.9))
_DISTANCES = (1.0, 1.5, 2.0, 2.8, 3.6)
_POINT = 5
_SIGHT = 120
_LEADER = 9


def placed(
    labels: Iterable[tuple[str, Point]],
    obstacles: Sequence[Point],
    box: tuple[float, float, float, float],
    size: float,
    radius: float = _POINT,
) -> list[tuple[str, Point, Point]]:
    """Return each label, where its middle goes, and its point: in the box, as free of others and of points as can be.

    Parameters
    ----------
    labels : iterable of (str, (float, float))
        With the point that each belongs to.
    obstacles : sequence of (float, float)
        What labels should not cover.
    box : tuple of float
        Left, top, right, bottom.
    size : float
        Of the letters, in pixels.
    radius : float
        Of the points, in pixels.

    Examples
    --------
    >>> [(text, round(x), round(y)) for text, (x, y), _ in placed([("a", (50, 50))], [(62, 50)], (0, 0, 99, 99), 10)]
    [('a', 50, 40)]
    """
    done: list[tuple[str, Point, Point]] = []
    taken: list[tuple[Point, float]] = []
    for text, (x, y) in labels:
        half, rise = text_width(text, size, bold=True) / 2, size * 0.5
        near = [(a, b) for a, b in obstacles if abs(a - x) < _SIGHT + half and abs(b - y) < _SIGHT]
        spots = [
            (x + right * (half + far * radius), y + far * (rise + radius) * down, far)
            for far in _DISTANCES
            for right, down in _DIRECTIONS
        ]
        inside = [
            (left, top, far)
            for left, top, far in spots
            if box[0] + half < left < box[2] - half and box[1] + rise < top < box[3] - rise
        ]
        costs = [
            far
            + sum(_overlap(left - a, top - b, half + 4, rise + 4) for a, b in near)
            + 3 * sum(_overlap(left - a, top - b, half + other + 2, 2 * rise + 1) for (a, b), other in taken)
            for left, top, far in inside or spots
        ]
        left, top, _ = (inside or spots)[costs.index(min(costs))]
        done.append((text, (left, top), (x, y)))
        taken.append(((left, top), half))
    return done


def paint_labels(canvas: Canvas, labels: Iterable[tuple[str, Point, Point]], *, size: float, bold: bool) -> None:
    """Write labels where `placed` put them, with a thin line to a point that is far."""
    for text, (x, y), (to_x, to_y) in labels:
        half = text_width(text, size, bold=bold) / 2
        from_x = min(max(to_x, x - half), x + half)
        from_y = y + (0.6 * size if to_y > y else -0.6 * size) * (abs(to_y - y) > size)
        gap = hypot(from_x - to_x, from_y - to_y)
        if gap > _LEADER + _POINT:
            end = 1 - _POINT / gap
            canvas.plot(
                [from_x, from_x + (to_x - from_x) * end],
                [from_y, from_y + (to_y - from_y) * end],
                color=INK,
                alpha=0.5,
                linewidth=0.7,
            )
        canvas.text(x, y, text, "center", size=size, bold=bold)


def _overlap(right: float, down: float, width: float, height: float) -> float:
    """Return how deep something lies in a rectangle of these half sides around it, from 0 to 10."""
    depth = min(1 - abs(right) / width, 1 - abs(down) / height)
    return 2 + 8 * depth if depth > 0 else 0.0

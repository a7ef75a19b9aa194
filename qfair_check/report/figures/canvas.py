"""What figures are drawn on: pixels from the upper left corner, and axes of one look."""

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wcwidth import wcwidth

from qfair_check.judge.text import shown_middle, shown_name
from qfair_check.report.figures.palette import INK, MARKS, Mark
from qfair_check.report.figures.svg import inlined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

WIDTH = 720
TEXT, SMALL = 12, 11
LINE = 18
NAME_WIDTH, NAME_ROOM = 24, 190
_GAP = 16
_FAINT, _MUTED = 0.16, 0.75
_WIDE, _CAPITAL, _PLAIN, _BOLD = 1.05, 0.8, 0.63, 1.12
_KEPT = {"backend", "backend_fallback"}
_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qfair_check",
    "text.parse_math": False,
    "font.size": SMALL,
    "axes.linewidth": 0.8,
}


Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True, slots=True)
class Canvas:
    """A figure of `WIDTH` pixels, and the transform of pixels from its upper left corner."""

    figure: "Figure"
    height: float
    to_figure: "Transform"

    def axes(self, box: Box) -> "Axes":
        """Return new axes: a faint frame, no tick marks."""
        left, top, width, height = box
        place = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(place)
        axes.patch.set_visible(False)
        axes.tick_params(length=0, labelsize=SMALL, pad=4)
        axes.grid(visible=True, color=INK, alpha=_FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_alpha(2 * _FAINT)
        return axes

    def pixels(self, axes: "Axes", points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return where points of the axes are."""
        if not points:
            return []
        found = (axes.transData + self.to_figure.inverted()).transform(points)
        return [(float(x), float(y)) for x, y in found]

    def plot(self, xs: Sequence[float], ys: Sequence[float], **look: Any) -> None:
        """Draw a line, or points."""
        from matplotlib.lines import Line2D

        self.figure.add_artist(Line2D(xs, ys, transform=self.to_figure, **look))

    def box(self, box: Box, colour: str, *, alpha: float = 1, below: bool = False) -> None:
        """Fill a rectangle; one `below` lies under the axes."""
        from matplotlib.patches import Rectangle

        look: dict[str, Any] = {"color": colour, "alpha": alpha, "linewidth": 0, "zorder": -1 if below else 1}
        self.figure.add_artist(Rectangle(box[:2], *box[2:], transform=self.to_figure, **look))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        anchor: Literal["left", "center", "right"] = "left",
        *,
        size: float = TEXT,
        muted: bool = False,
        bold: bool = False,
    ) -> None:
        """Write text whose middle is at the height y; it is never read as mathematics."""
        look: dict[str, Any] = {"alpha": _MUTED if muted else None, "weight": "bold" if bold else "normal"}
        y += 0.36 * size
        self.figure.text(x, y, text, transform=self.to_figure, ha=anchor, va="baseline", fontsize=size, **look)

    def upright(self, x: float, y: float, text: str) -> None:
        """Write text from below upwards; its middle is at x and y."""
        look: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": TEXT}
        self.figure.text(x, y, text, transform=self.to_figure, **look)

    def legend(self, entries: Iterable[tuple[str, Mark]], y: float, *, left: float = 0, lines: bool = False) -> None:
        """Draw the marks with their names side by side; those that do not fit go to the next line."""
        x = left
        for name, mark in entries:
            sample = 30 if lines else 12
            taken = sample + 6 + text_width(name) + _GAP
            if x + taken - _GAP > WIDTH and x > left:
                x, y = left, y + LINE
            if lines:
                self.plot([x + 1, x + sample - 1], [y, y], color=mark.colour, linewidth=1.8, **dashes(mark))
            else:
                self.plot([x + sample / 2], [y], **points(mark, 7))
            self.text(x + sample + 6, y, name)
            x += taken


def painted(height: float, prefix: str, paint: Callable[[Canvas], None]) -> str:
    """Return what `paint` draws as an ``<svg>`` element; the same drawing gives the same text.

    Settings of the user's matplotlib neither count nor change.

    Parameters
    ----------
    height : float
        Pixels.
    prefix : str
        What ids begin with.
    paint : callable
    """
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2D

    settings: dict[Any, Any] = {name: mpl.rcParamsDefault[name] for name in mpl.rcParamsDefault if name not in _KEPT}
    settings |= _RC
    stream = io.StringIO()
    # ticks beyond the largest float are not drawn
    with mpl.rc_context(settings), warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        to_figure = Affine2D().scale(1 / WIDTH, -1 / height).translate(0, 1) + figure.transFigure
        paint(Canvas(figure, height, to_figure))
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return inlined(stream.getvalue(), prefix)


def legend_lines(names: Sequence[str], *, left: float = 0, lines: bool = False) -> int:
    """Return how many lines a legend takes."""
    x, taken = left, 1
    for name in names:
        width = (30 if lines else 12) + 6 + text_width(name) + _GAP
        if x + width - _GAP > WIDTH and x > left:
            x, taken = left, taken + 1
        x += width
    return taken


def precision_legend(precisions: Iterable[str]) -> list[tuple[str, Mark]]:
    """Return the entries of a legend of precisions."""
    return [(precision, MARKS[precision]) for precision in precisions]


def points(mark: Mark, size: float = 6) -> dict[str, Any]:
    """Return how a plot draws the points of a series."""
    return {
        "linestyle": "none",
        "marker": mark.marker,
        "markersize": size,
        "markerfacecolor": mark.colour,
        "markeredgecolor": mark.colour,
        "markeredgewidth": 0.8,
        "clip_on": False,
    }


def dashes(mark: Mark) -> dict[str, Any]:
    """Return how a plot draws the line of a series."""
    return {"dashes": mark.dashes} if mark.dashes else {"linestyle": "-"}


def text_width(text: str, size: float = TEXT, *, bold: bool = False) -> float:
    """Return about how many pixels a line takes in whatever font a browser has, rather too many than too few."""
    ems = 0.0
    for character in text:
        columns = wcwidth(character)
        if columns == 2:
            ems += _WIDE
        elif columns == 1:
            ems += _CAPITAL if character.isupper() or character in "mw@%" else _PLAIN
    return ems * size * (_BOLD if bold else 1)


def shown_names(names: Sequence[str], room: float, size: float = TEXT, *, bold: bool = False) -> list[str]:
    """Return names that fit a figure: at most `room` pixels wide; those that look alike are numbered.

    Examples
    --------
    >>> shown_names(["White", "women, 30 to 39 years", "women, 30 to 49 years"], 100)
    ['White', 'wo…years', 'wo…years (2)']
    """

    def within(width: float) -> list[str]:
        return apart(names, lambda name, shorten: _fitted(name, shorten, width, size, bold=bold))

    shown = within(room)
    if all(text_width(name, size, bold=bold) <= room for name in shown):
        return shown
    return within(room - text_width(f" ({len(names)})", size, bold=bold))


def apart(names: Sequence[str], fitted: Callable[[str, Callable[[str, int], str]], str]) -> list[str]:
    """Return names as `fitted` shortens them, at their end or in their middle; those that look alike are numbered.

    Parameters
    ----------
    names : sequence of str
    fitted : callable
        Takes a name, and what shortens it to a number of columns.
    """
    for shorten in (shown_name, shown_middle):
        shown = [fitted(name, shorten) for name in names]
        if len(set(shown)) == len(set(names)):
            return shown
    seen: dict[str, int] = {}
    numbered = []
    for name in shown:
        seen[name] = seen.get(name, 0) + 1
        numbered.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return numbered


def _fitted(name: str, shorten: Callable[[str, int], str], room: float, size: float, *, bold: bool) -> str:
    for width in range(NAME_WIDTH, 4, -1):
        shown = shorten(name, width)
        if text_width(shown, size, bold=bold) <= room:
            break
    return shown

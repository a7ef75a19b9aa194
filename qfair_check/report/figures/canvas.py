"""The sheet that figures are drawn on: pixels from the upper left corner, and axes of one look."""

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

WIDTH = 720
TEXT, SMALL = 12, 11
LINE = 18
NAME_WIDTH, NAME_ROOM = 24, 190
_GAP = 16
_FAINT, _MUTED = 0.16, 0.75
_WIDE, _CAPITAL, _PLAIN, _BOLD = 1.05, 0.8, 0.63, 1.12
_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qfair_check",
    "text.parse_math": False,
    "font.size": SMALL,
    "axes.linewidth": 0.8,
}


@dataclass(frozen=True, slots=True)
class Canvas:
    """A figure of `WIDTH` pixels, and axes over all of it whose units are pixels from the upper left corner."""

    figure: "Figure"
    sheet: "Axes"
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Return new axes: a faint frame, no tick marks."""
        box = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(box)
        axes.patch.set_visible(False)
        axes.tick_params(length=0, labelsize=SMALL, pad=4)
        axes.grid(visible=True, color=INK, alpha=_FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_alpha(2 * _FAINT)
        return axes

    def pixels(self, axes: "Axes", point: tuple[float, float]) -> tuple[float, float]:
        """Return where a point of the axes is."""
        x, y = (axes.transData + self.sheet.transData.inverted()).transform(point)
        return float(x), float(y)

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
        self.sheet.text(
            x,
            y + 0.36 * size,
            text,
            ha=anchor,
            va="baseline",
            fontsize=size,
            alpha=_MUTED if muted else None,
            weight="bold" if bold else "normal",
        )

    def legend(self, entries: Iterable[tuple[str, Mark]], y: float, *, left: float = 0, lines: bool = False) -> None:
        """Draw the marks with their names side by side; those that do not fit go to the next line."""
        x = left
        for name, mark in entries:
            sample = 30 if lines else 12
            taken = sample + 6 + text_width(name) + _GAP
            if x + taken - _GAP > WIDTH and x > left:
                x, y = left, y + LINE
            if lines:
                self.sheet.plot([x + 1, x + sample - 1], [y, y], color=mark.colour, linewidth=1.8, **dashes(mark))
            else:
                self.sheet.plot([x + sample / 2], [y], **points(mark, 7))
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
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")
    }
    settings |= _RC
    stream = io.StringIO()
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        sheet = figure.add_axes((0, 0, 1, 1))
        sheet.set_axis_off()
        sheet.set(xlim=(0, WIDTH), ylim=(height, 0))
        paint(Canvas(figure, sheet, height))
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
    """Return names that fit a figure: at most `room` pixels wide; those that would look alike are numbered.

    Examples
    --------
    >>> shown_names(["White", "women, 30 to 39 years", "women, 40 to 49 years"], 90)
    ['White', 'wom…years', 'wom…years (2)']
    """
    for shorten in (shown_name, shown_middle):
        shown = [_fitted(name, shorten, room, size, bold=bold) for name in names]
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

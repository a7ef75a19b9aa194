"""Limits and ticks of an axis."""

from collections.abc import Sequence
from math import exp, floor, isfinite, log10
from math import log as log_of
from sys import float_info
from typing import TYPE_CHECKING

from qfair_check.report.figures.canvas import text_width

if TYPE_CHECKING:
    from matplotlib.axis import Axis

_WIDE_RANGE = 100
_LARGEST = 1e100  # beyond it a linear axis would end at infinity
_SHORT_RANGE, _FLAT = 100, 5
_STEPS = (1, 2, 5, 10)
_TICK_DIGITS = 9  # ticks are round numbers: few are written, unless fewer would write another number


def spans_magnitudes(values: Sequence[float]) -> bool:
    """Return whether the positive ones among the values differ by more than a factor of 100."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) / _WIDE_RANGE > min(positive)


def limits(values: Sequence[float], *, log: bool, margin: float = 0.05) -> tuple[float, float]:
    """Return the ends of an axis that holds all values, with some room on both sides.

    Parameters
    ----------
    values : sequence of float
        Positive if `log`.
    log : bool
    margin : float
        Share of the range that is added on each side.
    """
    if not values:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        room = max(exp(margin * (log_of(high) - log_of(low))), 1.15)
        return low / room or low, min(high * room, float_info.max)
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    room = (high - low) * margin or abs(low) * 0.1 or 0.1
    return low - room, high + room


def set_scale(axis: "Axis", ends: tuple[float, float], *, log: bool, most: int = 5) -> None:
    """Give an axis its limits and at most about `most` ticks, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    is_x = axis is axis.axes.xaxis
    if log:
        (axis.axes.set_xscale if is_x else axis.axes.set_yscale)("log")
        ratio = ends[1] / ends[0]
        subs = (1, 2, 5) if ratio < _SHORT_RANGE else (1,)
        axis.set_major_locator(
            MaxNLocator(most, steps=_STEPS) if ratio < _FLAT else LogLocator(subs=subs, numticks=most + 2)
        )
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(most, steps=_STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value) if isfinite(value) else ""))
    (axis.axes.set_xlim if is_x else axis.axes.set_ylim)(*ends)


def axis_name(name: str, room: float, *, log: bool) -> str:
    """Return what is written beside an axis: that it is logarithmic is told in short where there is little room."""
    if not log:
        return name
    told = f"{name}, log scale"
    return told if text_width(told) <= room else f"{name} (log)"


def plain(value: float) -> str:
    """Return a tick's number.

    Examples
    --------
    >>> [plain(value) for value in (1e-06, 0.001, 0.5, 20, 100000, 100050)]
    ['1e-6', '0.001', '0.5', '20', '1e5', '1.0005e5']
    """
    sign = "−" if value < 0 else ""
    value = abs(value)
    if value and not -3 <= floor(log10(value)) < 5:
        mantissa, exponent = f"{value:.{_TICK_DIGITS - 1}e}".split("e")
        return f"{sign}{float(mantissa):.{_TICK_DIGITS}g}e{int(exponent)}"
    return f"{sign}{value:.{_TICK_DIGITS}g}"

"""Colours and marks of the figures: they tell apart for colour-blind readers, in grey, in light and in dark."""

from dataclasses import dataclass

INK = "#000000"  # becomes currentColor


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour that a page can set.

    Parameters
    ----------
    variable : str
        Name of the CSS custom property, such as ``--s1``.
    light, dark : str
        Its values on a light and on a dark page, as ``#rrggbb``. Drawings fall back on `light`.
    """

    variable: str
    light: str
    dark: str


COLOURS = (
    Colour("--s1", "#0072b2", "#56b4e9"),
    Colour("--s2", "#4a6fa5", "#9db7e0"),
    Colour("--s3", "#00815e", "#2cc295"),
    Colour("--s4", "#66720a", "#c2cc4a"),
    Colour("--s5", "#8a5a14", "#d6a95c"),
    Colour("--s6", "#7a4fb5", "#c9a6f0"),
    Colour("--s7", "#a8447f", "#e59ac8"),
    Colour("--s8", "#a66a00", "#f0b429"),
    Colour("--s9", "#c8401a", "#ff8a5c"),
    Colour("--s10", "#9a1f4e", "#ff86ac"),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """How a series is drawn.

    Parameters
    ----------
    colour : str
        As ``#rrggbb``: `INK`, or the light value of one of `COLOURS`.
    marker : str
        Matplotlib's code of its shape.
    dashes : tuple of float
        Lengths of dash and gap in turn, in line widths; empty for a solid line.
    """

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()


_ORDER = ("fp16", "bf16", "int8", "int7", "int6", "int5", "int4", "int3", "int2", "asis")
_MARKERS = ("s", "p", "^", "<", ">", "h", "D", "v", "X", "P")
_DASHES = (
    (6.0, 2.0),
    (6.0, 1.0, 1.0, 1.0),
    (4.0, 1.5),
    (3.0, 3.0),
    (2.0, 2.0),
    (8.0, 2.0, 2.0, 2.0),
    (3.0, 1.0, 1.0, 1.0),
    (1.0, 1.0),
    (),
    (),
)
_OF_AUDITS = ("fp16", "int2", "int8", "int4", "int3", "int5", "int7", "int6", "bf16")
MARKS = {"fp32": Mark(INK, "o")} | {
    name: Mark(colour.light, marker, dashes)
    for name, colour, marker, dashes in zip(_ORDER, COLOURS, _MARKERS, _DASHES, strict=True)
}
HOT, COLD = COLOURS[8].light, COLOURS[0].light


def audit_mark(index: int) -> Mark:
    """Return how the points of one audit among several are drawn; after nine they repeat."""
    return MARKS[_OF_AUDITS[index % len(_OF_AUDITS)]]

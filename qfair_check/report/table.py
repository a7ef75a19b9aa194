"""Lines for a terminal: columns that stay aligned whatever the text, and notes that wrap."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from textwrap import TextWrapper

from wcwidth import wcswidth

from qfair_check.judge.text import padded, shown_middle

MOST_GROUPS = 30
NAME_WIDTH = 28
_GAP = "  "
_MOST_NAME = 100
_LEAST_WIDTH = 40
_STYLES = {"": "", "bad": "\x1b[31m", "good": "\x1b[32m", "unsure": "\x1b[33m", "head": "\x1b[1m"}
_RESET = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Cell:
    """Text and how to colour it: ``bad``, ``good``, ``unsure``, ``head`` or not at all."""

    text: str
    style: str = ""


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return the rows as lines whose columns start, or end, at the same place.

    Parameters
    ----------
    rows : sequence of sequence of str
        Printable cells, as many in every row.
    right : collection of int
        Columns that are aligned on their right.

    Examples
    --------
    >>> aligned([["layer", "zeros"], ["名前.weight", "7"]], right=[1])
    ['layer        zeros', '名前.weight      7']
    """
    widths = [max(map(wcswidth, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            " " * (width - wcswidth(cell)) + cell if column in right else padded(cell, width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def right_aligned(texts: Sequence[str]) -> list[str]:
    """Return the texts with blanks before them, so that they end at the same place.

    Examples
    --------
    >>> right_aligned(["n", "100"])
    ['  n', '100']
    """
    widest = max(map(wcswidth, texts))
    return [" " * (widest - wcswidth(text)) + text for text in texts]


def in_blocks(
    left: Sequence[str], columns: Sequence[Sequence[Cell]], *, width: int, least: int = 0, colour: bool = False
) -> list[str]:
    """Return the lines of tables with the same left column, each with as many columns as fit, and a blank one between.

    Parameters
    ----------
    left : sequence of str
        Printable.
    columns : sequence of sequence of Cell
        As many cells in each as `left` has; printable.
    width : int
        Terminal columns.
    least : int
        What a column takes at least when it is asked whether it fits.
    colour : bool
        Whether to use ANSI colours.

    Examples
    --------
    >>> in_blocks(["", "A"], [[Cell("int4"), Cell("7")], [Cell("int2"), Cell("9")]], width=10)
    ['   int4', 'A  7', '', '   int2', 'A  9']
    """
    widths = [max(wcswidth(cell.text) for cell in column) for column in columns]
    own = max(map(wcswidth, left))
    blocks: list[list[int]] = []
    room = 0
    for index, column in enumerate(widths):
        taken = max(column, least) + len(_GAP)
        if room < taken:
            blocks.append([])
            room = width - own - len(_GAP)
        blocks[-1].append(index)
        room -= taken
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        for row, label in enumerate(left):
            cells = (_styled(columns[index][row], widths[index], colour) for index in block)
            lines.append(_GAP.join([padded(label, own), *cells]).rstrip())
    return lines


def _styled(cell: Cell, width: int, colour: bool) -> str:
    text = padded(cell.text, width)
    return f"{_STYLES[cell.style]}{text}{_RESET}" if colour and cell.style else text


def shown_apart(names: Sequence[str], width: int) -> list[str]:
    """Return names fit for a terminal, their middle left out where they are wider than `width` columns.

    Names that would look alike get more columns, up to 100.

    Examples
    --------
    >>> shown_apart(["encoder.layers.1.attention.out", "encoder.layers.12.attention.out"], 16)
    ['encoder…1.attention.out', 'encoder…2.attention.out']
    """
    for room in range(min(width, _MOST_NAME), _MOST_NAME):
        shown = [shown_middle(name, room) for name in names]
        if len(set(shown)) == len(set(names)):
            return shown
    return [shown_middle(name, _MOST_NAME) for name in names]


def wrapped(lines: Sequence[str], width: int) -> list[str]:
    """Return the lines wrapped to the width, those that go on indented."""
    wrapper = TextWrapper(
        max(width, _LEAST_WIDTH), subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )
    return [part for line in lines for part in wrapper.wrap(line)]

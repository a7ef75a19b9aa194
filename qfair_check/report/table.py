"""Lines for a terminal: columns that stay aligned whatever the text, and notes that wrap."""

from collections.abc import Collection, Sequence
from textwrap import TextWrapper

from wcwidth import wcswidth

from qfair_check.judge.text import padded, shown_middle

_GAP = "  "
_MOST_NAME = 100
_LEAST_WIDTH = 40


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

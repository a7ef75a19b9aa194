"""One section of a report: drawings, how to read them, and the numbers behind them as a table."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture.

    Parameters
    ----------
    svg : str
        An ``<svg>`` element to be put into HTML as it is: text is escaped, there are no scripts, no style attributes,
        and no ids that another drawing of the page has.
    alt : str
        What it shows, for who cannot see it; plain text.
    """

    svg: str
    alt: str


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers as text. The first column names the row; all cells are plain text, not HTML.

    Parameters
    ----------
    head : sequence of str
    rows : sequence of sequence of str
        As many cells in each as `head` has.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What a report shows of one question.

    Parameters
    ----------
    key : str
        Letters, digits and hyphens; distinct within a page.
    title : str
        Plain text, such as ``Accuracy by group and precision``.
    source : str
        The figure of the paper, such as ``Fig. 1``; may be empty.
    reading : str
        How to read it, in one sentence; plain text.
    notes : tuple of str
        What was left out, or is not defined, and why; plain text.
    drawings : tuple of Drawing
    table : Table
    """

    key: str
    title: str
    source: str
    reading: str
    notes: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    table: Table


@dataclass(frozen=True, slots=True)
class Absent:
    """A section that a report lacks, since the audit does not hold what it takes.

    Parameters
    ----------
    title, source : str
        As in `Exhibit`.
    reason : str
        Why, and which option brings it; plain text.
    """

    title: str
    source: str
    reason: str

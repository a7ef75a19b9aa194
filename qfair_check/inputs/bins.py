"""Numbers of a column become the names of bins."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from qfair_check.errors import OptionError


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of the numbers in a column: each holds its lower edge and not its upper one; the last holds both.

    So do those of numpy.histogram. The first edge may be -inf and the last inf.

    Parameters
    ----------
    column : str
    edges : tuple of float
        Rising; one more than there are bins.
    names : tuple of str
        One for each bin.
    """

    column: str
    edges: tuple[float, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: str, edges: Iterable[Any]) -> "Bins":
        """Make bins from their edges.

        Raises
        ------
        OptionError
            If there are fewer than two, one is no number, or they do not rise.

        Examples
        --------
        >>> Bins.of("age", [0, 18, float("inf")]).names
        ('[0, 18)', '[18, inf)')
        """
        try:
            values = tuple(map(float, edges))
        except (TypeError, ValueError, OverflowError) as error:
            raise OptionError(f"the bins of {column!r} are {edges!r}: give edges such as 0,18,40,65") from error
        told = ",".join(map(_text, values))
        if len(values) < 2:
            raise OptionError(f"the bins of {column!r} have the edges {told or 'none'}: give at least two")
        if not all(low < high for low, high in pairwise(values)):  # also where one is NaN
            raise OptionError(f"the bins of {column!r} have the edges {told}: give numbers that rise, each once")
        names = [f"{'(' if low == -math.inf else '['}{_text(low)}, {_text(high)})" for low, high in pairwise(values)]
        if values[-1] != math.inf:
            names[-1] = f"{names[-1][:-1]}]"
        return cls(column, values, tuple(names))

    def name(self, text: str) -> str:
        """Return the name of the bin that holds a number; what is in no bin, or no number, stays as it is.

        Examples
        --------
        >>> bins = Bins.of("age", [0, 18, 65])
        >>> [bins.name(text) for text in ("0", "17.9", "18", "65", "66", "old", "")]
        ['[0, 18)', '[0, 18)', '[18, 65]', '[18, 65]', '66', 'old', '']
        """
        value = number(text)
        if not math.isfinite(value) or not self.edges[0] <= value <= self.edges[-1]:
            return text
        return self.names[min(bisect_right(self.edges, value), len(self.names)) - 1]

    def __str__(self) -> str:
        return f"{self.column}={','.join(map(_text, self.edges))}"


def parse_bins(text: str) -> tuple[Bins, ...]:
    """Read bins of columns, separated by semicolons.

    Raises
    ------
    OptionError
        If they are not written so, or make no sense.

    Examples
    --------
    >>> print(*parse_bins("age=0,18,40,65; income=-inf,0,1e3"), sep="; ")
    age=0,18,40,65; income=-inf,0,1000
    """
    parts = [part.rpartition("=") for part in text.split(";")]
    if not all(column.strip() and edges.strip() for column, _, edges in parts):
        raise OptionError(f"bin is {text!r}: give a column and edges such as age=0,18,40,65, separated by semicolons")
    return _distinct([Bins.of(column.strip(), edges.split(",")) for column, _, edges in parts])


def bins_of(given: Mapping[str, Iterable[float]]) -> tuple[Bins, ...]:
    """Take a mapping from columns to edges.

    Raises
    ------
    OptionError
        If it is none, or the edges make no sense.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"bins is {given!r}: give a mapping such as {{'age': [0, 18, 40, 65]}}")
    return tuple(Bins.of(str(column), edges) for column, edges in given.items())


def number(text: str) -> float:
    """Return the number that a text is; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _distinct(bins: list[Bins]) -> tuple[Bins, ...]:
    columns = [held.column for held in bins]
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice:
        raise OptionError(f"bin names the column {twice} twice: give its edges once")
    return tuple(bins)


def _text(edge: float) -> str:
    return str(int(edge)) if edge.is_integer() and abs(edge) < 1e16 else repr(edge)

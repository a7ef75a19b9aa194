"""Samples as the rows of a table, wherever it is stored."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qfair_check.errors import InputError
from qfair_check.inputs.arrays import ArraySamples, array_digest
from qfair_check.inputs.bins import number
from qfair_check.inputs.grouped import Blocks
from qfair_check.inputs.labels import Names
from qfair_check.inputs.options import Preprocessing
from qfair_check.inputs.wording import counted

Kept = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Names sample i by its row in the file and by its image; rows without numbers by their image alone."""

    numbers: NDArray[np.int64] | None
    images: Sequence[str] = ()

    def __call__(self, index: int) -> str:
        """Name sample `index`."""
        image = self.images[index] if self.images else ""
        if self.numbers is None:
            return image
        return f"row {self.numbers[index]}" + (f" ({image})" if image else "")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table(ABC):
    """Columns that hold labels, groups, splits, and image paths or features; a row for each sample.

    Parameters
    ----------
    source : str
        The file or folder as the user named it.
    folder : Path
        Where image paths start.
    size : int
        How many rows there are.
    columns : tuple of str
        Names of the columns in order.
    numbers : int64 array, shape (rows,), or None
        What each row is called in a message; None if its image says enough.
    classes : tuple of str
        Classes in order, also those without samples, if the source lists them.
    notices : tuple of str
        What the user must see, one sentence each.
    """

    source: str
    folder: Path
    size: int
    columns: tuple[str, ...]
    numbers: NDArray[np.int64] | None
    classes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @abstractmethod
    def names(self, column: str, rename: Callable[[str], str] | None = None) -> Names:
        """Return the names in a column, each of them renamed."""

    @abstractmethod
    def texts(self, column: str, kept: Kept) -> list[str]:
        """Return the text of the rows that are kept."""

    @abstractmethod
    def features(self, columns: Sequence[str], kept: Kept, where: Rows, cure: str) -> tuple[Blocks, str]:
        """Return columns of numbers as float32 inputs, for the rows that are kept, and a digest of them."""

    def require(self, names: Iterable[str], cure: str) -> None:
        """Check that columns are there.

        Raises
        ------
        InputError
            If one is not.
        """
        for name in names:
            if name not in self.columns:
                raise InputError(
                    f"{self.source} has no column {name}: {cure}; its columns are {', '.join(self.columns)}"
                )

    def name_of(self, column: str) -> str:
        """Name a column in a message."""
        return f"column {column} of {self.source}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TextTable(Table):
    """Columns of stripped text, in memory."""

    cells: Mapping[str, Sequence[str]]

    def names(self, column: str, rename: Callable[[str], str] | None = None) -> Names:
        """Return the names in a column, each of them renamed."""
        names = Names.of(self.cells[column])
        return Names.sorted_by_name(names.codes, [rename(value) for value in names.values]) if rename else names

    def texts(self, column: str, kept: Kept) -> list[str]:
        """Return the text of the rows that are kept."""
        return list(compress(self.cells[column], kept))

    def features(self, columns: Sequence[str], kept: Kept, where: Rows, cure: str) -> tuple[Blocks, str]:
        """Return columns of numbers as inputs; as `Table.features`.

        Raises
        ------
        InputError
            If a cell is no finite number.
        """
        matrix = np.empty((int(kept.sum()), len(columns)), np.float32)
        for position, name in enumerate(columns):
            texts = self.texts(name, kept)
            with np.errstate(over="ignore"):
                matrix[:, position] = [number(text) for text in texts]
            bad = np.flatnonzero(~np.isfinite(matrix[:, position]))
            if len(bad):
                raise InputError(
                    f"{self.name_of(name)} holds {texts[bad[0]]!r} in {where(int(bad[0]))}, which is no finite number "
                    f"({counted(len(bad), 'such row')}): {cure}"
                )
        return ArraySamples(matrix, Preprocessing()), array_digest(matrix)


def require_distinct(columns: Iterable[str], source: str) -> None:
    """Check that no two columns have one name.

    Raises
    ------
    InputError
        If two have.
    """
    twice = [name for name, count in Counter(filter(None, columns)).items() if count > 1]
    if twice:
        raise InputError(f"{source} has more than one column named {', '.join(twice)}: rename or remove them")

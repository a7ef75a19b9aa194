"""A ``.parquet`` file becomes a table that is read column by column, one row group at a time."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyarrow import types
from torch import Tensor

from qfair_check.errors import InputError
from qfair_check.inputs.grouped import Blocks
from qfair_check.inputs.labels import Names
from qfair_check.inputs.table import Kept, Rows, Table, require_distinct

_DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)
_INDEX_OF_PANDAS = "__index_level_"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ParquetTable(Table):
    """Columns that stay in their file; row group i starts at row `starts[i]`, counted from 0."""

    path: Path
    schema: Any
    starts: NDArray[np.int64]

    def names(self, column: str, rename: Callable[[str], str] | None = None) -> Names:
        """Return the names in a column, each of them renamed; numbers with a fraction are no names by themselves.

        Raises
        ------
        InputError
            If the column is of another type.
        """
        kind = self.schema.field(column).type
        if not (_holds_names(kind) or (rename and _holds_numbers(kind))):
            floats = " (whole numbers with missing values become floats in pandas: store them as Int64)"
            raise InputError(
                f"{self.name_of(column)} is of type {kind}, which names no class or group: store text or whole numbers"
                + (f"{floats}, or make bins of a group with --qfair-bin" if _holds_numbers(kind) else "")
            )
        found: dict[str, int] = {}
        codes = []
        for array in self._arrays(column):
            encoded = array if types.is_dictionary(array.type) else array.dictionary_encode()
            places = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
            local = np.full(len(encoded.dictionary) + 1, -1, np.int64)
            texts = _texts(encoded.dictionary)
            for place in np.unique(places[places >= 0]):
                text = rename(texts[place]) if rename else texts[place]
                local[place] = found.setdefault(text, len(found))
            codes.append(local[places])
        return Names.sorted_by_name(np.concatenate(codes), tuple(found))

    def texts(self, column: str, kept: Kept) -> list[str]:
        """Return the text of the rows that are kept.

        Raises
        ------
        InputError
            If the column holds no text.
        """
        kind = self.schema.field(column).type
        if not _is_text(_value_type(kind)):
            raise InputError(f"{self.name_of(column)} is of type {kind}: store the paths of images as text")
        found: list[str] = []
        start = 0
        for array in self._arrays(column):
            chosen = np.flatnonzero(kept[start : start + len(array)])
            found += ["" if text is None else text.strip() for text in array.take(pa.array(chosen)).to_pylist()]
            start += len(array)
        return found

    def features(self, columns: Sequence[str], kept: Kept, where: Rows, cure: str) -> tuple[Blocks, str]:
        """Return columns of numbers as inputs that are read when they are asked for; as `Table.features`.

        Raises
        ------
        InputError
            If a column holds no numbers.
        """
        widths = []
        for column in columns:
            kind = self.schema.field(column).type
            inner = kind.value_type if types.is_fixed_size_list(kind) else kind
            widths.append(kind.list_size if types.is_fixed_size_list(kind) else 1)
            if not (_holds_numbers(inner) or types.is_boolean(inner)):
                raise InputError(f"{self.name_of(column)} is of type {kind}, which holds no numbers: {cure}")
        found = self.path.stat()
        described = f"{self.path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0{columns!r}"
        digest = hashlib.sha256(described.encode("utf-8", "surrogatepass"))
        digest.update(np.packbits(kept).tobytes())
        samples = ParquetSamples(self, columns, np.repeat(columns, widths).tolist(), np.flatnonzero(kept), where)
        return samples, digest.hexdigest()

    def _arrays(self, column: str) -> Iterator[Any]:
        for group in range(len(self.starts) - 1):
            yield from self.row_group(group, [column]).column(column).chunks

    def row_group(self, group: int, columns: Sequence[str]) -> Any:
        """Read some columns of a row group.

        Raises
        ------
        InputError
            If the file is damaged, or cannot be read any more.
        """
        with _opened(self.path, self.source) as file:
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
            table.validate(full=True)
            if len(table) != self.starts[group + 1] - self.starts[group]:
                raise ValueError(f"row group {group} has {len(table)} rows")
            return table


class ParquetSamples(Blocks):
    """Rows of columns of numbers as float32 vectors; the row group that was read last is held.

    Parameters
    ----------
    table : ParquetTable
    columns : sequence of str
    names : sequence of str
        The column of each number: one of lists gives several.
    rows : int64 array, shape (samples,)
        The row of each sample in the file, counted from 0; rising.
    where : callable
        Names sample i in a message.
    """

    def __init__(
        self,
        table: ParquetTable,
        columns: Sequence[str],
        names: Sequence[str],
        rows: NDArray[np.int64],
        where: Callable[[int], str],
    ) -> None:
        self._table = table
        self._columns = columns
        self._names = names
        self._rows = rows
        self._where = where
        self._held: tuple[int, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_held": None}

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the samples from `start` to before `stop`, stacked.

        Raises
        ------
        InputError
            If a number is missing or not finite, or the file cannot be read any more.
        """
        wanted = self._rows[start:stop]
        starts = self._table.starts
        groups = np.searchsorted(starts, wanted, side="right") - 1
        values = np.concatenate(
            [self._matrix(group)[wanted[groups == group] - starts[group]] for group in np.unique(groups)]
        )
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, place = bad[0]
            raise InputError(
                f"{self._table.name_of(self._names[place])} holds a value that is not finite (missing, NaN, infinite, "
                f"or too large for float32) in {self._where(start + row)}: correct it, or leave that sample out"
            )
        return torch.from_numpy(values)

    def _matrix(self, group: int) -> NDArray[np.float32]:
        if self._held is None or self._held[0] != group:
            self._held = None  # let go of it before the next is read
            table = self._table.row_group(group, self._columns)
            blocks = [_numbers(table.column(name).combine_chunks()) for name in self._columns]
            self._held = group, np.concatenate(blocks, axis=1)
        return self._held[1]


def read_parquet(path: Path, source: str) -> ParquetTable:
    """Open a Parquet file; a row is called by its number, from 1. The index of a pandas frame is left out.

    Raises
    ------
    InputError
        If it is damaged, no Parquet, or has no rows.
    """
    with _opened(path, source) as file:
        schema, stored = file.schema_arrow, file.metadata
        sizes = [stored.row_group(group).num_rows for group in range(stored.num_row_groups)]
        starts = np.cumsum([0, *sizes], dtype=np.int64)
        numbers = np.arange(1, starts[-1] + 1, dtype=np.int64)
    require_distinct(schema.names, source)
    if not len(numbers):
        raise InputError(f"{source} has no rows: give one row for each sample")
    return ParquetTable(
        source=source,
        folder=path.parent,
        size=len(numbers),
        columns=tuple(name for name in schema.names if name and not name.startswith(_INDEX_OF_PANDAS)),
        numbers=numbers,
        path=path,
        schema=schema,
        starts=starts,
    )


@contextmanager
def _opened(path: Path, source: str) -> Iterator[Any]:
    """Open a file for a moment, so that it can be read in every process, and without threads, which do not fork."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except _DAMAGE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"cannot read {source} as Parquet (truncated or damaged?): {lines[0]}") from error


def _numbers(array: Any) -> NDArray[np.float32]:
    """Return one column for each number in a row, NaN where it is missing."""
    plain = array
    if types.is_fixed_size_list(array.type):
        width = array.type.list_size
        inner = array.values.slice(array.offset * width, len(array) * width)
        matrix = _numbers(inner).reshape(len(array), width)
        matrix[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return matrix
    if types.is_decimal(array.type):
        plain = array.cast(pa.string()).cast(pa.float64())  # rounded once, as text is
    elif types.is_boolean(array.type):
        plain = array.cast(pa.uint8())
    values = np.asarray(plain.to_numpy(zero_copy_only=False), np.float64)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)[:, None]


def _texts(dictionary: Any) -> list[str]:
    if types.is_floating(dictionary.type):
        return [str(text) for text in dictionary.to_numpy(zero_copy_only=False).astype(str)]
    return ["" if value is None else str(value).strip() for value in dictionary.to_pylist()]


def _value_type(kind: Any) -> Any:
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    views = getattr(types, "is_string_view", types.is_large_string)  # newer than the oldest pyarrow that serves
    return bool(types.is_string(kind) or types.is_large_string(kind) or views(kind))


def _holds_names(kind: Any) -> bool:
    inner = _value_type(kind)
    return bool(_is_text(inner) or types.is_integer(inner) or types.is_boolean(inner))


def _holds_numbers(kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))

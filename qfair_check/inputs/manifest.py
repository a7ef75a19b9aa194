"""A ``.csv`` manifest, with image paths or feature columns, becomes grouped data."""

import csv
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.arrays import ArraySamples, array_digest
from qfair_check.inputs.grouped import GroupedData, Inputs
from qfair_check.inputs.images import ImageFiles, check_preprocessing
from qfair_check.inputs.labels import Names, assign_classes, intersect
from qfair_check.inputs.options import DataOptions, Preprocessing
from qfair_check.inputs.wording import counted, listed, located

IMAGE_COLUMNS = ("path", "image", "file", "filename", "filepath", "image_path")
_LABEL, _GROUP, _SPLIT = "label", "group", "split"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A CSV file as columns of stripped text; row i starts on line `lines[i]` of the file."""

    source: str
    columns: Mapping[str, Sequence[str]]
    lines: NDArray[np.int64]

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


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Names sample i by its row in the file, counted as an editor does, and by its image."""

    lines: NDArray[np.int64]
    images: Sequence[str] = ()

    def __call__(self, index: int) -> str:
        """Name sample `index`."""
        image = self.images[index] if self.images else ""
        return f"row {self.lines[index]}" + (f" ({image})" if image else "")


def read_table(path: Path, source: str) -> Table:
    """Read a CSV file as text; unnamed columns are left out.

    Raises
    ------
    InputError
        If it is no UTF-8 text, has no rows, or rows differ in length from the header.
    """
    rows: list[list[str]] = []
    lines: list[int] = []
    end = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            for row in reader:
                start, end = end + 1, reader.line_num
                if len(row) > 1 or "".join(row).strip():
                    rows.append([cell.strip() for cell in row])
                    lines.append(start)
                    if len(row) != len(rows[0]):
                        raise InputError(
                            f"row {start} of {source} has {counted(len(row), 'field')} and the header "
                            f"{len(rows[0])}: quote fields that hold a comma"
                        )
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{source} is damaged in the record that starts in row {end + 1}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error
    if not rows:
        raise InputError(f"{source} is empty: give a header, and one row for each sample")
    header = rows[0]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise InputError(f"{source} has no commas in its header ({header[0]!r}): separate columns by commas")
    twice = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if twice:
        raise InputError(f"{source} has more than one column named {', '.join(twice)}: rename or remove them")
    if len(rows) == 1:
        raise InputError(f"{source} has a header and no rows: give one row for each sample")
    columns = dict(zip(header, zip(*rows[1:], strict=True), strict=True))
    columns.pop("", None)
    return Table(source, columns, np.array(lines[1:], np.int64))


def read_manifest(
    path: Path, options: DataOptions, model_classes: tuple[str, ...], model_preprocessing: Preprocessing | None
) -> GroupedData:
    """Read a CSV manifest: a row for each sample, with its label, and an image path or feature columns.

    Class and group names are those of the whole file, so that they do not depend on the split that is kept.

    Raises
    ------
    InputError
        If the file, a column, a value or an image that it names is missing or cannot be used.
    OptionError
        If an option makes no sense.
    """
    table = read_table(path, options.path)
    label = options.label or _LABEL
    table.require([label], "name the column that holds the true class with --qfair-label")
    group_by = options.group_by or ((_GROUP,) if _GROUP in table.columns and label != _GROUP else ())
    if len(set(group_by)) < len(group_by):
        raise OptionError(f"--qfair-group-by is {', '.join(group_by)}: name every column once")
    table.require(group_by, "name the columns that make the groups with --qfair-group-by")
    table.require(options.features, "name the columns that are the model's input with --qfair-features")
    kept, split_notices = _split_rows(table, options, {label, *group_by, *options.features})
    image_column = None if options.features else _image_column(table, {label, *group_by})
    images = [] if image_column is None else list(compress(table.columns[image_column], kept))
    where = Rows(table.lines[kept], images)
    labels = Names.of(table.columns[label]).take(kept)
    labels.require(table.name_of(label), where)
    classes = assign_classes(labels, given=options.classes, model=model_classes, what=table.name_of(label), where=where)
    groups = Names(classes.indices, classes.names)
    group_notices: tuple[str, ...] = ()
    if group_by:
        by_column = [Names.of(table.columns[name]) for name in group_by]
        for name, column in zip(group_by, by_column, strict=True):
            column.take(kept).require(table.name_of(name), where)
        crossed, group_notices = intersect(by_column)
        groups = crossed.take(kept)
    if image_column is None:
        inputs = _features(table, options, kept, where, {label, *group_by})
    else:
        inputs = _images(path.parent, table.name_of(image_column), where, options, model_preprocessing)
    return GroupedData(
        inputs=inputs.samples,
        labels=classes.indices,
        groups=groups.codes,
        classes=classes.names,
        group_names=groups.values,
        content=inputs.content,
        source=options.path,
        label=label,
        group_by=group_by,
        split=options.split or None,
        class_order=classes.order,
        preprocessing=inputs.preprocessing,
        notices=(*split_notices, *classes.notices, *group_notices, *inputs.notices),
        where=where,
    )


def _split_rows(table: Table, options: DataOptions, used: set[str]) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    everything = np.ones(len(table.lines), np.bool_)
    if not options.split and (_SPLIT not in table.columns or _SPLIT in used):
        return everything, ()
    table.require([_SPLIT], "leave out --qfair-split, or add the column")
    column = table.columns[_SPLIT]
    counts = listed(f"{value or 'empty'} {count}" for value, count in Counter(column).items())
    if not options.split:
        return everything, (f"column {_SPLIT} is there ({counts}) and is not used: pass --qfair-split to pick one",)
    kept = np.fromiter((value == options.split for value in column), np.bool_, len(column))
    if not kept.any():
        raise InputError(
            f"no row of {table.source} has {options.split!r} in column {_SPLIT}: it holds {counts}; pass one of them "
            "with --qfair-split"
        )
    return kept, ()


def _image_column(table: Table, used: set[str]) -> str | None:
    return next((name for name in IMAGE_COLUMNS if name in table.columns and name not in used), None)


def _images(folder: Path, what: str, where: Rows, options: DataOptions, model: Preprocessing | None) -> Inputs:
    known = model or Preprocessing()
    chosen = check_preprocessing(
        Preprocessing(options.image_size or known.image_size, options.mean or known.mean, options.std or known.std),
        channels=3,
    )
    digest = hashlib.sha256(os.fsencode(folder.absolute()))
    missing = []
    for index, name in enumerate(where.images):
        try:
            found = (folder / name).stat()
            is_file = stat.S_ISREG(found.st_mode)
            digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        except (OSError, ValueError):  # a path with a NUL byte is a ValueError
            is_file = False
        if not is_file:
            missing.append(index)
    if missing:
        raise InputError(
            f"{what} names {counted(len(missing), 'image')} that cannot be found: {located(missing, where)}; paths "
            f"are relative to the folder of the manifest, {folder}"
        )
    notice = (
        "images are scaled to [0, 1] and not normalized: pass --qfair-mean and --qfair-std if the model was "
        "trained with them"
    )
    samples = ImageFiles(folder, where.images, chosen, where)
    return Inputs(samples, len(samples), digest.hexdigest(), chosen, () if chosen.mean else (notice,))


def _features(table: Table, options: DataOptions, kept: NDArray[np.bool_], where: Rows, used: set[str]) -> Inputs:
    for name, value in (("image-size", options.image_size), ("mean", options.mean), ("std", options.std)):
        if value:
            raise OptionError(
                f"--qfair-{name} is for images, and {table.source} is read as feature columns: leave it out, or name "
                f"images in a column {' or '.join(IMAGE_COLUMNS)}"
            )
    names = options.features or tuple(name for name in table.columns if name not in used | {_LABEL, _GROUP, _SPLIT})
    if not names:
        raise InputError(
            f"{table.source} has neither images (a column {' or '.join(IMAGE_COLUMNS)}) nor feature columns; its "
            f"columns are {', '.join(table.columns)}"
        )
    matrix = np.empty((int(kept.sum()), len(names)), np.float32)
    for position, name in enumerate(names):
        with np.errstate(over="ignore"):
            matrix[:, position] = [_number(value) for value in compress(table.columns[name], kept)]
        bad = np.flatnonzero(~np.isfinite(matrix[:, position]))
        if len(bad):
            value = list(compress(table.columns[name], kept))[bad[0]]
            raise InputError(
                f"{table.name_of(name)} holds {value!r} in {where(int(bad[0]))}, which is no finite number "
                f"({counted(len(bad), 'such row')}): name the columns that are the model's input with --qfair-features"
                + ("" if options.features else f", or images in a column {' or '.join(IMAGE_COLUMNS)}")
            )
    notices = () if options.features else (f"features: {listed(names)}; pass --qfair-features to choose",)
    return Inputs(ArraySamples(matrix, Preprocessing()), len(matrix), array_digest(matrix), None, notices)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

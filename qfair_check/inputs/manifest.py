"""A table, with image paths or feature columns, becomes grouped data."""

import hashlib
import math
import os
import stat
from collections.abc import Mapping

import numpy as np

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.bins import Bins, number
from qfair_check.inputs.grouped import GroupedData, Inputs
from qfair_check.inputs.images import ImageFiles, choose_preprocessing
from qfair_check.inputs.labels import Names, assign_classes, intersect
from qfair_check.inputs.options import IMAGE_COLUMNS, DataOptions, Preprocessing
from qfair_check.inputs.paths import Inside
from qfair_check.inputs.table import Kept, Rows, Table
from qfair_check.inputs.wording import counted, listed, located

_LABEL, _GROUP, _SPLIT = "label", "group", "split"


def grouped_table(
    table: Table, options: DataOptions, model_classes: tuple[str, ...], model_preprocessing: Preprocessing | None
) -> GroupedData:
    """Take each row as a sample, with its label, its groups, and an image path or feature columns.

    Class and group names are those of the whole table, so that they do not depend on the split that is kept.

    Raises
    ------
    InputError
        If a column, a value or an image that it names is missing or cannot be used.
    OptionError
        If an option makes no sense.
    """
    label = options.label or _LABEL
    table.require([label], "name the column that holds the true class with --qfair-label")
    group_by = options.group_by or ((_GROUP,) if _GROUP in table.columns and label != _GROUP else ())
    if len(set(group_by)) < len(group_by):
        raise OptionError(f"--qfair-group-by is {', '.join(group_by)}: name every column once")
    table.require(group_by, "name the columns that make the groups with --qfair-group-by")
    table.require(options.features, "name the columns that are the model's input with --qfair-features")
    bins = _bins(options, label, group_by)
    kept, split_notices = _split_rows(table, options, {label, *group_by, *options.features})
    image_column = None if options.features else _image_column(table, {label, *group_by})
    images = [] if image_column is None else table.texts(image_column, kept)
    where = Rows(None if table.numbers is None else table.numbers[kept], images)
    labels = _names(table, label, bins, kept, where).take(kept)
    classes = assign_classes(
        labels,
        given=options.classes,
        model=model_classes,
        data=labels.values if label in bins else table.classes if label == _LABEL else (),
        what=table.name_of(label),
        where=where,
    )
    groups = Names(classes.indices, classes.names)
    group_notices: tuple[str, ...] = ()
    if group_by:
        crossed, group_notices = intersect([_names(table, name, bins, kept, where) for name in group_by])
        groups = crossed.take(kept)
    if image_column is None:
        inputs = _features(table, options, kept, where, {label, *group_by})
    else:
        inputs = _images(table, image_column, where, options, model_preprocessing)
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
        bins=";".join(map(str, options.bins)) or None,
        split=options.split or None,
        class_order=classes.order,
        preprocessing=inputs.preprocessing,
        notices=(*table.notices, *split_notices, *classes.notices, *group_notices, *inputs.notices),
        where=where,
        features=options.features,
    )


def _bins(options: DataOptions, label: str, group_by: tuple[str, ...]) -> Mapping[str, Bins]:
    for bins in options.bins:
        if bins.column not in (label, *group_by):
            grouped = f"a column of --qfair-group-by ({', '.join(group_by) or 'none is given'})"
            raise OptionError(
                f"--qfair-bin is {bins}, and {bins.column} is neither {grouped} nor the label ({label}): name it there"
            )
    return {bins.column: bins for bins in options.bins}


def _names(table: Table, column: str, bins: Mapping[str, Bins], kept: Kept, where: Rows) -> Names:
    """Return the names in a column of the whole table; a kept row without one, or outside all bins, is an error."""
    used = bins.get(column)
    names = table.names(column, used.name if used else None)
    taken = names.take(kept)
    taken.require(table.name_of(column), where)
    if used is None:
        return names
    values = np.array(names.values, object)
    is_word = np.array([math.isnan(number(value)) for value in names.values], np.bool_)
    is_outside = np.array([value not in used.names for value in names.values], np.bool_)
    faults = (
        (is_outside & is_word, "no number", "correct them"),
        (is_outside, f"in no bin of {used}", "widen the bins, by -inf or inf for an open end"),
    )
    for is_bad, what, cure in faults:
        bad = np.flatnonzero(is_bad[taken.codes])
        if len(bad):
            raise InputError(
                f"{table.name_of(column)} holds {listed(values[np.unique(taken.codes[bad])])}, {what}, for "
                f"{counted(len(bad), 'sample')}: {located(bad.tolist(), where)}; {cure}, or leave {column} out of "
                "--qfair-bin"
            )
    return names.ordered_as(used.names)


def _split_rows(table: Table, options: DataOptions, used: set[str]) -> tuple[Kept, tuple[str, ...]]:
    everything = np.ones(table.size, np.bool_)
    if not options.split and (_SPLIT not in table.columns or _SPLIT in used):
        return everything, ()
    table.require([_SPLIT], "leave out --qfair-split, or add the column")
    names = table.names(_SPLIT)
    codes, first, sizes = np.unique(names.codes, return_index=True, return_counts=True)
    values = (*names.values, "empty")
    counts = listed(f"{values[codes[place]]} {sizes[place]}" for place in np.argsort(first))
    if not options.split:
        return everything, (f"column {_SPLIT} is there ({counts}) and is not used: pass --qfair-split to pick one",)
    if options.split not in names.values:
        raise InputError(
            f"no row of {table.source} has {options.split!r} in column {_SPLIT}: it holds {counts}; pass one of them "
            "with --qfair-split"
        )
    return names.codes == names.values.index(options.split), ()


def _image_column(table: Table, used: set[str]) -> str | None:
    return next((name for name in IMAGE_COLUMNS if name in table.columns and name not in used), None)


def _images(table: Table, column: str, where: Rows, options: DataOptions, model: Preprocessing | None) -> Inputs:
    chosen, notices = choose_preprocessing(options, model)
    folder = table.folder
    if table.numbers is not None and not options.allow_outside:  # without numbers it is a folder, which names no paths
        _refuse_outside(table, column, where)
    digest = hashlib.sha256(os.fsencode(folder.absolute()))
    missing = []
    for index, name in enumerate(where.images):
        try:
            found = (folder / name).stat()
            is_file = stat.S_ISREG(found.st_mode)
            digest.update(os.fsencode(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0"))
        except (OSError, ValueError):  # a path with a NUL byte is a ValueError
            is_file = False
        if not is_file:
            missing.append(index)
    if missing:
        raise InputError(
            f"{table.name_of(column)} names {counted(len(missing), 'image')} that cannot be found: "
            f"{located(missing, where)}; paths are relative to the folder of the manifest, {folder}"
        )
    samples = ImageFiles(folder, where.images, chosen, where)
    return Inputs(samples, len(samples), digest.hexdigest(), chosen, notices)


def _refuse_outside(table: Table, column: str, where: Rows) -> None:
    """Refuse images outside the folder: who wrote the manifest need not be who may read them."""
    inside = Inside(table.folder)
    outside = [index for index, name in enumerate(where.images) if not inside.holds(name)]
    if outside:
        raise InputError(
            f"{table.name_of(column)} names {counted(len(outside), 'image')} outside the folder {table.folder}: "
            f"{located(outside, where)}; if you trust where it comes from, pass --qfair-allow-outside"
        )


def _features(table: Table, options: DataOptions, kept: Kept, where: Rows, used: set[str]) -> Inputs:
    for_images = {
        "image-size": options.image_size,
        "mean": options.mean,
        "std": options.std,
        "transforms": options.transforms,
    }
    for name, value in for_images.items():
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
    cure = "name the columns that are the model's input with --qfair-features" + (
        "" if options.features else f", or images in a column {' or '.join(IMAGE_COLUMNS)}"
    )
    samples, content = table.features(names, kept, where, cure)
    notices = () if options.features else (f"features: {listed(names)}; pass --qfair-features to choose",)
    return Inputs(samples, len(samples), content, None, notices)

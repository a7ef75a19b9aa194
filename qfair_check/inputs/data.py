"""Grouped data from a file, from Python objects, or from the embedded demo."""

import os
import secrets
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from qfair_check.errors import InputError
from qfair_check.inputs.arrays import ArraySamples as ArraySamples
from qfair_check.inputs.arrays import grouped_data as grouped_data
from qfair_check.inputs.arrays import read_arrays
from qfair_check.inputs.factory import read_factory
from qfair_check.inputs.grouped import GroupedData as GroupedData
from qfair_check.inputs.labelled import LabelledData as LabelledData
from qfair_check.inputs.labelled import labelled
from qfair_check.inputs.manifest import read_manifest
from qfair_check.inputs.options import DataOptions, Preprocessing, channel_values, class_names
from qfair_check.inputs.paths import is_factory, require_file

if TYPE_CHECKING:
    from qfair_check.inputs.model import Model

DEMO = "demo"
_ACCEPTED = "give a .csv manifest, an .npz with arrays x and y, package.module:function, or demo"
_READERS = {".csv": read_manifest, ".npz": read_arrays}


def load_data(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    group_by: str | Sequence[str] = (),
    split: str | None = None,
    classes: Sequence[str] = (),
    features: str | Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    model: "Model | None" = None,
) -> GroupedData | LabelledData:
    r"""Load grouped data from a file, or the embedded demo for the path ``demo``.

    Parameters
    ----------
    path : path-like
        A ``.csv`` manifest (a row for each sample, with an image path or feature columns) or an ``.npz`` with
        the arrays x, y and optionally group.
    label : str, optional
        Column that holds the true class; ``label`` by default.
    group_by : str or sequence of str
        Columns that make the groups; by default ``group`` if there is one, else the class is the group.
    split : str, optional
        Keep the rows that hold this in the column ``split``.
    classes : sequence of str
        Class names in the order of the logits.
    features : str or sequence of str
        Columns that are the model's input.
    image_size : (int, int), optional
        Height and width in pixels that images are resized to.
    mean, std : sequence of float
        Normalization by channel of values in [0, 1].
    model : Model, optional
        Its class names and preprocessing hold where none are given here.

    Raises
    ------
    InputError
        If the file cannot be read, or lacks what is needed.
    OptionError
        If an option makes no sense.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder, "loans.csv")
    ...     _ = table.write_text("income,label,sex\n1.5,paid,f\n0.5,not,m\n2,paid,m\n")
    ...     data = load_data(table, group_by="sex", classes=["not", "paid"])
    >>> data.labels.tolist(), data.group_names, data.groups.tolist(), data.inputs[0].tolist()
    ([1, 0, 1], ('f', 'm'), [0, 1, 1], [1.5])
    """
    options = DataOptions(
        path=os.fspath(path),
        label=label,
        group_by=_tuple(group_by),
        split=split,
        classes=class_names(classes),
        features=_tuple(features),
        image_size=image_size,
        mean=channel_values("mean", mean),
        std=channel_values("std", std),
    )
    return read_data(
        options,
        model_classes=model.classes if model else (),
        model_preprocessing=model.preprocessing if model else None,
    )


def read_data(
    options: DataOptions,
    *,
    model_classes: tuple[str, ...] = (),
    model_preprocessing: Preprocessing | None = None,
) -> GroupedData | LabelledData:
    """Load the data that the options name; as `load_data`."""
    if options.path == DEMO:
        with as_file(files("qfair_check") / "demo" / "digits.npz") as path:
            return read_arrays(path, options, model_classes, model_preprocessing)
    if is_factory(options.path):
        return read_factory(options, model_classes)
    path = Path(options.path)
    require_file(path, "data", _ACCEPTED)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is of a kind that cannot be read: {_ACCEPTED}")
    return reader(path, options, model_classes, model_preprocessing)


def as_samples(given: object) -> GroupedData | LabelledData:
    """Take a `GroupedData`, a torch Dataset of labelled samples, a tuple (x, y[, group]), or a mapping of these keys.

    Raises
    ------
    InputError
        If it is none of these, or the arrays cannot be used.

    Examples
    --------
    >>> as_samples(([[0.5], [1.0]], [1, 0])).group_names
    ('0', '1')
    """
    if isinstance(given, GroupedData | LabelledData):
        return given
    if isinstance(given, Dataset):
        return labelled(given, "python", secrets.token_hex(32))
    if isinstance(given, tuple) and len(given) in (2, 3):
        return grouped_data(*given)
    if isinstance(given, Mapping) and {"x", "y"} <= set(given) <= {"x", "y", "group"}:
        return grouped_data(given["x"], given["y"], given.get("group"))
    hint = "; of a file, give qfair_check.load_data(path)" if isinstance(given, str | Path) else ""
    keys = f" with the keys {', '.join(map(str, given))}" if isinstance(given, Mapping) else ""
    raise InputError(
        f"grouped data is a GroupedData, a torch Dataset of (x, y) or (x, y, group), a tuple of such arrays, or a "
        f"mapping with the keys x, y and optionally group, not a {type(given).__name__}{keys}{hint}"
    )


def _tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)

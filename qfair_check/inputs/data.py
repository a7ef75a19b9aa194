"""Grouped data from a file, from Python objects, or from the embedded demo."""

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from qfair_check.errors import InputError
from qfair_check.inputs.arrays import arrays_in, read_arrays
from qfair_check.inputs.arrays import grouped_data as grouped_data
from qfair_check.inputs.bins import bins_of
from qfair_check.inputs.csv_table import read_csv
from qfair_check.inputs.factory import read_factory
from qfair_check.inputs.grouped import Blocks as Blocks
from qfair_check.inputs.grouped import GroupedData as GroupedData
from qfair_check.inputs.identity import token
from qfair_check.inputs.labelled import LabelledData as LabelledData
from qfair_check.inputs.labelled import labelled
from qfair_check.inputs.manifest import grouped_table
from qfair_check.inputs.options import DataOptions, Preprocessing, channel_values, class_names
from qfair_check.inputs.paths import is_factory, require_file
from qfair_check.inputs.table import Table

if TYPE_CHECKING:
    from qfair_check.inputs.model import Model

DEMO = "demo"
_ACCEPTED = (
    "give a .csv or .parquet manifest, an .npz or .safetensors file with x and y, a folder of images, "
    "package.module:function, or demo"
)


def load_data(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    group_by: str | Sequence[str] = (),
    bins: Mapping[str, Iterable[float]] | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    features: str | Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    transforms: str | None = None,
    allow_outside: bool = False,
    model: "Model | None" = None,
) -> GroupedData | LabelledData:
    r"""Load grouped data from a file, or the embedded demo for the path ``demo``.

    Parameters
    ----------
    path : path-like
        A ``.csv`` or ``.parquet`` manifest (a row for each sample, with an image path or feature columns), an
        ``.npz`` or ``.safetensors`` file with x, y and optionally group, a folder of images, by class or named
        as UTKFace names them, or ``package.module:function``, which gives a torch Dataset of labelled samples.
    label : str, optional
        Column that holds the true class; ``label`` by default.
    group_by : str or sequence of str
        Columns that make the groups; by default ``group`` if there is one, else the class is the group.
    bins : mapping from str to edges, optional
        Bins of group columns of numbers, such as ``{"age": [0, 18, 40, 65]}``. A bin holds its lower edge, and
        the last one its upper edge too; -inf and inf leave an end open.
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
    transforms : str, optional
        Name of torchvision weights whose transforms prepare the images, in place of size, mean and std.
    allow_outside : bool
        Whether to read images that lie outside the folder of the manifest that names them.
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
        bins=bins_of(bins or {}),
        split=split,
        classes=class_names(classes),
        features=_tuple(features),
        image_size=image_size,
        mean=channel_values("mean", mean),
        std=channel_values("std", std),
        transforms=transforms,
        allow_outside=allow_outside,
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
    if not path.is_dir():
        require_file(path, "data", _ACCEPTED)
        if path.suffix.lower() in (".npz", ".safetensors"):
            return read_arrays(path, options, model_classes, model_preprocessing)
    return grouped_table(_table(path, options.path), options, model_classes, model_preprocessing)


def _table(path: Path, source: str) -> Table:
    if path.is_dir():
        from qfair_check.inputs.folders import read_folder

        return read_folder(path, source)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from qfair_check.inputs.parquet import read_parquet

        return read_parquet(path, source)
    if suffix == ".csv":
        return read_csv(path, source)
    raise InputError(f"{path} is of a kind that cannot be read: {_ACCEPTED}")


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
        return labelled(given, "python", token(given))
    arrays = arrays_in(given)
    if arrays is not None:
        return grouped_data(*arrays)
    hint = "; of a file, give qfair_check.load_data(path)" if isinstance(given, str | Path) else ""
    keys = f" with the keys {', '.join(map(str, given))}" if isinstance(given, Mapping) else ""
    raise InputError(
        f"grouped data is a GroupedData, a torch Dataset of (x, y) or (x, y, group), a tuple of such arrays, or a "
        f"mapping with the keys x, y and optionally group, not a {type(given).__name__}{keys}{hint}"
    )


def _tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)

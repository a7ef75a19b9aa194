"""Arrays, or a file of arrays, become grouped data."""

import hashlib
import math
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.array_files import ArrayFile, read_array_file
from qfair_check.inputs.grouped import Blocks, GroupedData, Inputs
from qfair_check.inputs.identity import token
from qfair_check.inputs.images import check_preprocessing, normalized
from qfair_check.inputs.labels import Names, assign_classes
from qfair_check.inputs.options import DataOptions, Preprocessing, channel_values, class_names
from qfair_check.inputs.sample import Sample
from qfair_check.inputs.wording import counted, listed, located

_PYTHON = "python"
_BLOCK_VALUES = 2**24


class ArraySamples(Blocks):
    """The rows of an array as inputs; bytes are scaled to [0, 1] when they are asked for."""

    def __init__(self, x: NDArray[Any], preprocessing: Preprocessing) -> None:
        self._x = torch.from_numpy(x)
        self._preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self._x)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return new tensors for the samples from `start` to before `stop`, stacked."""
        values = self._x[start:stop]
        values = values.to(torch.float32) / 255 if values.dtype == torch.uint8 else values.clone()
        return normalized(values, self._preprocessing, axis=1)


class NamedArrays(Blocks):
    """Several arrays of the same samples, by the name under which the model takes them."""

    def __init__(self, parts: Mapping[str, Blocks]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return min(map(len, self._parts.values()))

    def rows(self, start: int, stop: int) -> Sample:
        """Return new tensors for the samples from `start` to before `stop`, stacked, by name."""
        return {name: cast(Tensor, part.rows(start, stop)) for name, part in self._parts.items()}


def array_digest(x: NDArray[Any]) -> str:
    """Return the sha256 of a contiguous array: of its type, shape and values."""
    digest = hashlib.sha256(f"{x.dtype}{x.shape}".encode())
    digest.update(x.data)
    return digest.hexdigest()


def grouped_data(
    x: object,
    y: object,
    group: object = None,
    *,
    classes: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> GroupedData:
    """Take inputs, labels and groups as Python objects.

    Parameters
    ----------
    x : array, tensor, mapping of these, or torch.utils.data.Dataset, (samples, ...)
        Floats become float32, bytes (uint8) float32 in [0, 1], other integers int64. A map-style Dataset
        gives the model's input for each sample (a tensor, a tuple of tensors, or tensors by name), as it is.
        A mapping holds arrays by the names under which the model takes them.
    y : array, tensor or sequence, (samples,)
        Class indices, or label names.
    group : array, tensor or sequence, (samples,), optional
        Group names or numbers; by default the class is the group.
    classes : sequence of str
        Class names in the order of the logits.
    mean, std : sequence of float
        ``(x - mean) / std`` by channel (axis 1), after scaling.

    Raises
    ------
    InputError
        If an array has the wrong shape, type or length, or holds values that cannot be used.
    OptionError
        If class names, mean or std make no sense.

    Examples
    --------
    >>> data = grouped_data([[0.5], [1.0], [2.0]], ["cat", "dog", "cat"], group=["home", "home", "park"])
    >>> data.classes, data.labels.tolist(), data.group_names, data.groups.tolist()
    (('cat', 'dog'), [0, 1, 0], ('home', 'park'), [0, 0, 1])
    """
    options = DataOptions(
        _PYTHON, classes=class_names(classes), mean=channel_values("mean", mean), std=channel_values("std", std)
    )
    arrays = {"x": x, "y": y} | ({} if group is None else {"group": group})
    return _assembled(ArrayFile(arrays), options, (), None)


def arrays_in(given: object) -> tuple[Any, ...] | None:
    """Return what `grouped_data` takes of a tuple (x, y[, group]) or a mapping with these keys; None if it is neither.

    Examples
    --------
    >>> arrays_in({"x": [0.5], "y": [1]}), arrays_in([1])
    (([0.5], [1], None), None)
    """
    if isinstance(given, tuple) and len(given) in (2, 3):
        return given
    if isinstance(given, Mapping) and {"x", "y"} <= set(given) <= {"x", "y", "group"}:
        return given["x"], given["y"], given.get("group")
    return None


def read_arrays(
    path: Path, options: DataOptions, model_classes: tuple[str, ...], model_preprocessing: Preprocessing | None
) -> GroupedData:
    """Read an ``.npz`` or ``.safetensors`` file with the arrays x, y and optionally group.

    Raises
    ------
    InputError
        If the file is damaged, lacks an array, or an array cannot be used.
    OptionError
        If an option does not fit arrays.
    """
    for_columns = {
        "label": options.label,
        "group-by": options.group_by,
        "bin": options.bins,
        "split": options.split,
        "features": options.features,
    }
    for name, value in for_columns.items():
        if value:
            raise OptionError(
                f"--qfair-{name} is for the columns of a manifest, and {options.path} has none: it holds the "
                "arrays x, y and optionally group"
            )
    if options.image_size:
        raise OptionError(f"--qfair-image-size is for image files: the arrays of {options.path} keep their size")
    if options.transforms:
        raise OptionError(f"--qfair-transforms is for image files: normalize the arrays of {options.path} beforehand")
    return _assembled(read_array_file(path, options.path), options, model_classes, model_preprocessing)


def _assembled(
    held: ArrayFile,
    options: DataOptions,
    model_classes: tuple[str, ...],
    model_preprocessing: Preprocessing | None,
) -> GroupedData:
    source = options.path
    where = "sample {}".format
    inputs = _inputs(held.arrays["x"], options, model_preprocessing)
    listed_names = {"y": held.classes, "group": held.groups}
    columns = {
        name: _names(held.arrays[name], name, source, listed_names[name])
        for name in ("y", "group")
        if name in held.arrays
    }
    for name, column in columns.items():
        if len(column.codes) != inputs.size:
            raise InputError(
                f"{_of('x', source)} has {counted(inputs.size, 'sample')} and {name} has {len(column.codes):,}: give "
                f"one {'label' if name == 'y' else 'group'} for each"
            )
        column.require(_of(name, source), where)
    classes = assign_classes(
        columns["y"],
        given=options.classes,
        model=model_classes,
        data=held.classes,
        what=_of("y", source),
        where=where,
        option=_option("classes", source),
    )
    groups = columns.get("group", Names(classes.indices, classes.names))
    return GroupedData(
        inputs=inputs.samples,
        labels=classes.indices,
        groups=groups.codes,
        classes=classes.names,
        group_names=groups.values,
        content=inputs.content,
        source=source,
        group_by=tuple(columns)[1:],
        class_order=classes.order,
        preprocessing=inputs.preprocessing,
        notices=(*classes.notices, *inputs.notices),
        where=where,
    )


def _inputs(x: object, options: DataOptions, model: Preprocessing | None) -> Inputs:
    if isinstance(x, Dataset):
        return _dataset(x, options)
    return _by_name(x, options) if isinstance(x, Mapping) else _array_inputs(x, "x", options, model)


def _array_inputs(x: object, name: str, options: DataOptions, model: Preprocessing | None) -> Inputs:
    what = _of(name, options.path)
    array = _array(x, what)
    if not array.ndim:
        raise InputError(f"{what} is a {type(x).__name__}: give an array whose first axis is the samples")
    if not len(array):
        raise InputError(f"{what} has no samples")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} holds values of type {array.dtype}: give numbers")
    if array.dtype == np.uint8:
        return _bytes(array, what, options, model)
    given = Preprocessing(mean=options.mean, std=options.std)
    if array.dtype.kind in "iu":
        if given != Preprocessing():
            raise OptionError(f"{what} holds integers, which are not normalized: give no mean and std, or floats")
        return _samples(array.astype(np.int64, copy=False), None)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    _check_finite(values, what)
    notices: tuple[str, ...] = ()
    if model and model.transforms and not given.mean:
        notices = (f"{what} holds floats and is used as it is, without {_transforms(model)}",)
    elif model and model.mean and not given.mean:
        notices = (
            f"{what} holds floats and is used as it is, without the mean and std of the model file: pass "
            "--qfair-mean and --qfair-std to apply them",
        )
    return _samples(values, None if given == Preprocessing() else given, notices)


def _by_name(x: Mapping[Any, object], options: DataOptions) -> Inputs:
    if options.mean or options.std:
        raise OptionError("mean and std are for one array, and x holds several by name: normalize them beforehand")
    parts = {str(name): _array_inputs(part, f"x[{name!r}]", options, None) for name, part in x.items()}
    sizes = {name: part.size for name, part in parts.items()}
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise InputError(f"the arrays of x differ in their number of samples ({told or 'there is none'})")
    samples = NamedArrays({name: cast(Blocks, part.samples) for name, part in parts.items()})
    content = hashlib.sha256(repr([(name, part.content) for name, part in parts.items()]).encode()).hexdigest()
    notices = tuple(notice for part in parts.values() for notice in part.notices)
    return Inputs(samples, len(samples), content, None, notices)


def _bytes(array: NDArray[Any], what: str, options: DataOptions, model: Preprocessing | None) -> Inputs:
    known = model or Preprocessing()
    chosen = Preprocessing(mean=options.mean or known.mean, std=options.std or known.std)
    notice = f"{what} holds bytes (uint8): scaled to [0, 1]"
    if known.transforms:
        notice += f", without {_transforms(known)}"
    if not chosen.mean:
        mean, std = (_option(name, options.path) for name in ("mean", "std"))
        notice += f" and not normalized; pass {mean} and {std} if the model was trained with them"
    return _samples(array, chosen, (notice,))


def _transforms(model: Preprocessing) -> str:
    return f"the transforms {model.transforms} of the model file, which are for image files"


def _samples(values: NDArray[Any], preprocessing: Preprocessing | None, notices: tuple[str, ...] = ()) -> Inputs:
    used = preprocessing or Preprocessing()
    check_preprocessing(used, channels=values.shape[1] if values.ndim > 1 else 1)
    plain = np.require(values, requirements=["C", "W"])
    return Inputs(ArraySamples(plain, used), len(plain), array_digest(plain), preprocessing, notices)


def _dataset(x: Dataset[Any], options: DataOptions) -> Inputs:
    if isinstance(x, IterableDataset) or not isinstance(x, Sized):
        raise InputError(
            f"x is a dataset without a length ({type(x).__name__}): give a map-style torch Dataset, or an array"
        )
    if options.mean or options.std:
        raise OptionError("mean and std are for arrays: let the Dataset x normalize what it gives")
    if not len(x):
        raise InputError("x has no samples")
    try:
        first = x[0]
    except Exception as error:  # the user's dataset may raise anything
        raise InputError(f"the Dataset x failed on sample 0: {type(error).__name__}: {error}") from error
    if not isinstance(first, Tensor | np.ndarray | Mapping | tuple) or _holds_a_label(first):
        raise InputError(
            f"the Dataset x gives a {type(first).__name__} for each sample: let it give the model's input alone, and "
            "pass the labels as y; or pass a Dataset of (x, y) or (x, y, group) alone"
        )
    return Inputs(x, len(x), token(x))


def _holds_a_label(sample: object) -> bool:
    """Whether a tuple has parts that are no tensors, or single values, as (image, label) has."""
    if not isinstance(sample, tuple):
        return False
    return not all(isinstance(part, Tensor | np.ndarray) and part.ndim for part in sample)


def _names(column: object, name: str, source: str, listed_names: tuple[str, ...] = ()) -> Names:
    names = _indexed(column, name, source)
    if not listed_names:
        return names
    indices = names.ordered_as(tuple(map(str, range(len(listed_names)))))
    beyond = np.flatnonzero((indices.codes < 0) & (names.codes >= 0))
    if len(beyond):
        raise InputError(
            f"{_of(name, source)} holds {names.values[names.codes[beyond[0]]]} at sample {beyond[0]}, and the metadata "
            f"names {len(listed_names)} ({listed(listed_names)}): give indices from 0 to {len(listed_names) - 1}"
        )
    return Names(indices.codes, listed_names)


def _indexed(column: object, name: str, source: str) -> Names:
    what = _of(name, source)
    array = _array(column, what)
    if array.ndim != 1:
        hint = "; of one-hot labels, give y.argmax(axis=1)" if name == "y" and array.ndim == 2 else ""
        raise InputError(f"{what} has shape {array.shape}: give one value for each sample{hint}")
    kind = array.dtype.kind
    if kind == "b" and name == "y":
        array, kind = array.astype(np.int64), "i"
    if kind in "iu":
        values, codes = np.unique(array, return_inverse=True)
        return Names(codes.astype(np.int64), tuple(map(str, values.tolist())))
    if kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{what} holds bytes that are not UTF-8 text ({error.reason}): give text") from error
    if kind not in "bSUTO":
        raise InputError(f"{what} holds values of type {array.dtype}: give whole numbers or names")
    return Names.of([_name(value, what, index) for index, value in enumerate(array.tolist())])


def _name(value: object, what: str, index: int) -> str:
    if isinstance(value, str | int | np.integer):
        return str(value).strip()
    if (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and math.isnan(value))
    ):
        return ""
    raise InputError(f"{what} holds a {type(value).__name__} at sample {index}: give whole numbers or names")


def _array(values: object, what: str) -> NDArray[Any]:
    try:
        if isinstance(values, Tensor):
            plain = values.detach().cpu()
            return (plain.to(torch.float32) if plain.is_floating_point() else plain).numpy()
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what} cannot be made an array: {error}") from error
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(f"{what} has masked values: fill them in, or leave those samples out")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{what} holds {array.max()}, beyond the largest 64-bit integer")
    return array


def _check_finite(values: NDArray[np.float32], what: str) -> None:
    rows = max(1, _BLOCK_VALUES // max(1, values[0].size))
    axes = tuple(range(1, values.ndim))
    finite = np.concatenate(
        [np.isfinite(values[start : start + rows]).all(axis=axes) for start in range(0, len(values), rows)]
    )
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise InputError(
            f"{what} holds values that are not finite (NaN, infinite, or too large for float32) in "
            f"{counted(len(bad), 'sample')}: {located(bad.tolist(), 'sample {}'.format)}; correct or leave them out"
        )


def _of(name: str, source: str) -> str:
    return name if source == _PYTHON else f"{name} of {source}"


def _option(name: str, source: str) -> str:
    return f"{name}=" if source == _PYTHON else f"--qfair-{name}"

"""A data set whose samples bring class and groups with them, read in one pass: names become indices as they come."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from qfair_check.errors import InputError
from qfair_check.inputs.grouped import GroupedData, Said
from qfair_check.inputs.labels import Classes, Names, assign_classes, intersect
from qfair_check.inputs.sample import Sample, SampleError, plain_sample
from qfair_check.inputs.wording import listed

_LABELS = ("label", "labels", "y")
_GROUP = "group"
_INPUT = "x"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledData:
    """Samples (x, y), (x, y, group), or mappings, from a torch data set; `load_data` and `as_samples` make it.

    In a mapping, `label` names the class (``label``, ``labels`` or ``y`` by default) and `group_by` what makes the
    groups (``group`` by default, if it is there); the rest is the model's input, by name, or ``x`` alone.

    Parameters
    ----------
    inputs : torch.utils.data.Dataset or iterable
        Map-style, with a length, or iterable; an iterable is read once, in the main process.
    size : int or None
        Number of samples, if the data set tells.
    source : str
        Its name, or "python".
    key : str
        Equal keys mean equal audits.
    label, group_by
        Keys of samples that are mappings.
    classes, model_classes, listed_classes : tuple of str
        Names in the order of the logits, from the user, from the model file, and from the data set; empty if unknown.
    where : callable
        Names sample i.
    """

    inputs: Any
    size: int | None
    source: str
    key: str
    label: str | None = None
    group_by: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    model_classes: tuple[str, ...] = ()
    listed_classes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    where: Callable[[int], str] = field(default="sample {}".format, repr=False)

    @property
    def decodes(self) -> bool:
        """Whether worker processes are used unless the user says otherwise: what a data set does is not known."""
        return False

    @property
    def is_iterable(self) -> bool:
        """Whether samples come one after the other, rather than by index."""
        is_indexed = hasattr(self.inputs, "__getitem__") and not isinstance(self.inputs, IterableDataset)
        return self.size is None or not is_indexed

    def take_apart(self, value: object) -> tuple[Sample, Said]:
        """Take a sample apart: its input, and the names of its class and groups.

        Raises
        ------
        SampleError
            If it is not of the form that is expected.
        """
        if isinstance(value, Mapping):
            return self._take_mapping_apart(value)
        if not isinstance(value, tuple | list) or len(value) not in (2, 3):
            raise SampleError(
                f"it is a {type(value).__name__}{f' of {len(value)}' if isinstance(value, tuple | list) else ''}, not "
                "(input, label), (input, label, group) or a mapping with a label"
            )
        if self.label or self.group_by:
            raise SampleError(
                "it is a tuple, and --qfair-label and --qfair-group-by name keys of samples that are mappings: leave "
                "them out"
            )
        groups = tuple(_name(group, _GROUP) for group in value[2:])
        return plain_sample(value[0]), (_label(value[1], "label"), groups)

    def _take_mapping_apart(self, value: Mapping[Any, object]) -> tuple[Sample, Said]:
        label = self.label or next((name for name in _LABELS if name in value), _LABELS[0])
        group_by = self.group_by or ((_GROUP,) if _GROUP in value else ())
        for option, name in (("label", label), *(("group-by", name) for name in group_by)):
            if name not in value:
                raise SampleError(
                    f"it has no {name}: its keys are {listed(map(str, value))}; name the right one with "
                    f"--qfair-{option}"
                )
        rest = {name: part for name, part in value.items() if name not in (label, *group_by)}
        if not rest:
            raise SampleError("it holds no input beside label and groups")
        given = rest[_INPUT] if set(rest) == {_INPUT} else rest
        groups = tuple(_name(value[name], name) for name in group_by)
        return plain_sample(given), (_label(value[label], label), groups)

    def roster(self) -> "GrowingRoster":
        """Return what takes note of classes and groups while samples are read."""
        return GrowingRoster(self)


class GrowingRoster:
    """Classes and groups of the samples read so far; groups are numbered in the order in which they come."""

    def __init__(self, data: LabelledData) -> None:
        self._data = data
        self._labels = _Column()
        self._groups = _Column()
        self._classes: Classes | None = None

    @property
    def n_groups(self) -> int:
        """Number of groups so far."""
        if self._is_grouped:
            return len(self._groups.first)
        return len(self._classes.names) if self._classes else 0

    def take(self, start: int, said: Sequence[Said | None]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return class and group indices of the samples from `start` on, which said these names.

        Raises
        ------
        InputError
            If a class is unknown, or a sample has other groups than those before.
        """
        told = [entry for entry in said if entry is not None]
        labels = self._labels.add(start, [label for label, _ in told])
        groups = self._groups.add(start, [names for _, names in told])
        self._classes = self._resolved()
        indices = self._classes.indices[labels]
        widths = {len(groups): first for groups, first in reversed(self._groups.first.items())}
        if len(widths) > 1:
            odd = max(widths.values())
            raise InputError(f"{self._data.where(odd)} has a group, or none, unlike the samples before: give each one")
        return indices, groups if self._is_grouped else indices

    def finish(self) -> tuple[GroupedData, NDArray[np.int64]]:
        """Return all that is known now, and for each group the position of its name among the sorted names."""
        data, classes = self._data, self._classes
        if classes is None:
            raise InputError(f"{data.source} holds no samples")
        labels = classes.indices[self._labels.codes()]
        notices = (*classes.notices, *self._other_order(classes))
        position, names = np.arange(len(classes.names)), classes.names
        groups = labels
        if self._is_grouped:
            by_column = [Names.of(column) for column in zip(*self._groups.first, strict=True)]
            crossed, absent = intersect(by_column)
            position, names, notices = crossed.codes, crossed.values, (*notices, *absent)
            groups = position[self._groups.codes()]
        grouped = GroupedData(
            inputs=data.inputs,
            labels=labels,
            groups=groups,
            classes=classes.names,
            group_names=names,
            content=data.key,
            source=data.source,
            label=data.label,
            group_by=(data.group_by or (_GROUP,)) if self._is_grouped else (),
            class_order=classes.order,
            notices=(*data.notices, *notices),
            where=data.where,
        )
        return grouped, position

    def _other_order(self, classes: Classes) -> tuple[str, ...]:
        own = self._data.listed_classes
        if classes.order != "indices" or own in ((), classes.names):
            return ()
        return (
            f"class indices are those of {listed(classes.names)}, and the data set lists {listed(own)}: let it give "
            "names",
        )

    @property
    def _is_grouped(self) -> bool:
        return any(self._groups.first)

    def _resolved(self) -> Classes:
        """Give every label so far its class index; those of earlier labels must not change."""
        data, before = self._data, self._classes
        first = list(self._labels.first.items())
        if before is not None and len(before.indices) == len(first):
            return before
        found = assign_classes(
            Names(np.arange(len(first)), tuple(label for label, _ in first)),
            given=data.classes,
            model=data.model_classes,
            data=data.listed_classes,
            what=f"the label of samples of {data.source}",
            where=lambda code: data.where(first[code][1]),
        )
        if found.order == "sorted":
            raise InputError(
                f"{data.source} gives names as labels ({listed(label for label, _ in first)}) and is read in one pass: "
                "pass --qfair-classes with all names in the order of the model's outputs"
            )
        if before is not None and found.indices[: len(before.indices)].tolist() != before.indices.tolist():
            raise InputError(
                f"{data.where(first[-1][1])} has the label {first[-1][0]!r}, which is an index, and those before are "
                "class names: give one or the other"
            )
        return found


class _Column:
    """Values by number, in the order in which they first came, and each sample's number."""

    def __init__(self) -> None:
        self.first: dict[Any, int] = {}
        self._numbers: dict[Any, int] = {}
        self._codes: list[NDArray[np.int64]] = []

    def add(self, start: int, values: Sequence[Any]) -> NDArray[np.int64]:
        for offset, value in enumerate(values):
            self.first.setdefault(value, start + offset)
            self._numbers.setdefault(value, len(self._numbers))
        codes = np.fromiter(map(self._numbers.__getitem__, values), np.int64, len(values))
        self._codes.append(codes)
        return codes

    def codes(self) -> NDArray[np.int64]:
        return np.concatenate(self._codes)


def _label(value: object, what: str) -> str:
    """Return a label as text: a name, or the index of a class; truth values are indices."""
    single = _single(value, what)
    return _name(int(single) if isinstance(single, bool) else single, what)


def _single(value: object, what: str) -> object:
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        return value
    if value.size != 1 if not isinstance(value, Tensor) else value.numel() != 1:
        raise SampleError(f"its {what} has shape {tuple(value.shape)}: give one index or name (of one-hot: argmax)")
    return value.item()


def _name(given: object, what: str) -> str:
    """Return a label or group as text: a name, or a whole number."""
    value = _single(given, what)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int) and str(value).strip():
        return str(value).strip()
    if value is None or isinstance(value, str) or type(value).__name__ in ("NAType", "NaTType") or value != value:
        raise SampleError(f"its {what} is missing")
    raise SampleError(f"its {what} is {value!r}: give a whole number or a name")


def labelled(
    dataset: object,
    source: str,
    key: str,
    *,
    label: str | None = None,
    group_by: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    model_classes: tuple[str, ...] = (),
) -> LabelledData:
    """Take a torch data set, or anything with samples by index or one after the other.

    Raises
    ------
    InputError
        If it is neither.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, Iterator) and not isinstance(dataset, Dataset):
        raise InputError(
            f"{source} gives a {kind}, which can be read only once: give an IterableDataset, whose __iter__ starts anew"
        )
    if isinstance(dataset, DataLoader):
        raise InputError(f"{source} gives a {kind}, whose samples come in batches: give the data set that it loads")
    size = _length(dataset, source)
    is_iterable, is_indexed = isinstance(dataset, Iterable), hasattr(dataset, "__getitem__")
    if isinstance(dataset, Mapping | str) or not (is_iterable or is_indexed):
        raise InputError(
            f"{source} gives a {kind}, not a torch Dataset: give one of samples (x, y), (x, y, group), or mappings "
            "with a label"
        )
    if size is None and not is_iterable:
        raise InputError(f"{source} gives a {kind} without a length: give it a __len__, or make it iterable")
    named = getattr(dataset, "classes", ())
    return LabelledData(
        dataset,
        size,
        source,
        key,
        label,
        group_by,
        classes=classes,
        model_classes=model_classes,
        listed_classes=tuple(map(str, named)) if isinstance(named, list | tuple) else (),
    )


def _length(dataset: Any, source: str) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None
    except Exception as error:  # the user's data set may raise anything
        raise InputError(f"the length of {source} cannot be told: {type(error).__name__}: {error}") from error

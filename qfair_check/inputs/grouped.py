"""Samples that each have a class and a group: what an audit measures a model on."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from qfair_check.inputs.images import ImageFiles
from qfair_check.inputs.labels import ClassOrder
from qfair_check.inputs.options import Preprocessing
from qfair_check.inputs.sample import Sample, mapped, plain_sample

Said = tuple[str, tuple[str, ...]]


class Blocks(Dataset[Sample]):
    """Inputs that come quicker by the block than one by one."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many samples there are."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Sample:
        """Return new tensors for the samples from `start` to before `stop`, stacked."""

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return mapped(lambda part: part[0], self.rows(index, index + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The input tensors of all samples, a digest of them, and what is done to them."""

    samples: Dataset[Sample]
    size: int
    content: str
    preprocessing: Preprocessing | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class GroupedData:
    """Inputs with a class and a group each, and how they were read; `grouped_data` and `load_data` make it.

    Parameters
    ----------
    inputs : torch.utils.data.Dataset
        Map-style: the input of each sample, a tensor, a tuple of tensors, or tensors by name.
    labels : int64 array, shape (samples,)
        Index of the true class in `classes`.
    groups : int64 array, shape (samples,)
        Index into `group_names`; a group may have no samples.
    classes, group_names : tuple of str
        Names in the order of the indices.
    content : str
        Digest of the inputs.
    source : str
        The file as the user named it, or "python".
    label : str or None
        Column that held the classes.
    group_by : tuple of str
        Columns or array that held the groups; empty if the class is the group.
    bins : str or None
        Bins of columns of numbers, such as "age=0,18,40,65".
    split : str or None
        The part of the file that was kept.
    class_order : str
        Where the order of `classes` comes from: "given", "model", "data" that lists them, "sorted", or "indices"
        where the labels themselves are indices.
    preprocessing : Preprocessing or None
        What is done to the inputs; None if they are used as they are.
    notices : tuple of str
        What the user must see, one sentence each.
    where : callable
        Names sample i for a message, such as "row 17 (images/a.jpg)".
    features : tuple of str
        Columns that the user named as the input; empty if none were named.
    """

    inputs: Dataset[Sample]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    content: str
    source: str = "python"
    label: str | None = None
    group_by: tuple[str, ...] = ()
    bins: str | None = None
    split: str | None = None
    class_order: ClassOrder = "given"
    preprocessing: Preprocessing | None = None
    notices: tuple[str, ...] = ()
    where: Callable[[int], str] = field(default="sample {}".format, repr=False)
    features: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def is_iterable(self) -> bool:
        """Whether samples come one after the other, rather than by index."""
        return False

    @property
    def decodes(self) -> bool:
        """Whether a sample is decoded from a file each time it is read, which is worth worker processes."""
        return isinstance(self.inputs, ImageFiles)

    @property
    def key(self) -> str:
        """Hash of inputs, labels, groups and how they were read; equal keys mean equal audits."""
        described = (
            self.content,
            self.classes,
            self.group_names,
            self.source,
            self.label,
            self.group_by,
            self.bins,
            self.split,
            self.class_order,
            self.preprocessing,
        )
        digest = hashlib.sha256(repr(described).encode())
        digest.update(self.labels.tobytes())
        digest.update(self.groups.tobytes())
        return digest.hexdigest()

    def take_apart(self, value: object) -> tuple[Sample, None]:
        """Take a sample as it is: its class and group are known."""
        return plain_sample(value), None

    def roster(self) -> "KnownRoster":
        """Return what tells classes and groups while samples are read."""
        return KnownRoster(self)


class Roster(Protocol):
    """Classes and groups of samples, told while they are read in order."""

    @property
    def n_groups(self) -> int:
        """Number of groups so far."""

    def take(self, start: int, said: Sequence[Said | None]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return class and group indices of the samples from `start` on."""

    def finish(self) -> tuple[GroupedData, NDArray[np.int64]]:
        """Return the data with all names, and for each group so far its position among them."""


@dataclass(frozen=True, slots=True)
class KnownRoster:
    """The roster of data whose classes and groups are known before it is read."""

    data: GroupedData

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.data.group_names)

    def take(self, start: int, said: Sequence[Said | None]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return class and group indices of the samples from `start` on."""
        where = slice(start, start + len(said))
        return self.data.labels[where], self.data.groups[where]

    def finish(self) -> tuple[GroupedData, NDArray[np.int64]]:
        """Return the data, and each group's own position."""
        return self.data, np.arange(self.n_groups)

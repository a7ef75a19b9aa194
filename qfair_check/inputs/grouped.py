"""Samples that each have a class and a group: what an audit measures a model on."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from qfair_check.inputs.images import ImageFiles
from qfair_check.inputs.labels import ClassOrder
from qfair_check.inputs.options import Preprocessing


class Blocks(Dataset[Tensor]):
    """Inputs that come quicker by the block than one by one."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many samples there are."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Return new tensors for the samples from `start` to before `stop`, stacked."""

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows(index, index + 1)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The input tensors of all samples, a digest of them, and what is done to them."""

    samples: Dataset[Tensor]
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
        Map-style: one input tensor for each sample.
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
    """

    inputs: Dataset[Tensor]
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

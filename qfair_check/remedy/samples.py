"""Training data in memory: read once in a fixed order, then drawn from in any order."""

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qfair_check.errors import InputError
from qfair_check.inputs.grouped import GroupedData, Roster
from qfair_check.inputs.sample import Sample, mapped, parts
from qfair_check.measure.chunks import CHUNK, Chunk, Samples, chunks, data_sha256

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs of some samples, with their classes and groups, on one device."""

    inputs: Sample
    labels: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSamples:
    """All samples of a data set in memory; `read_samples` makes it.

    Parameters
    ----------
    inputs : tensor, tuple or dict of tensors
        As the model takes them, on the CPU.
    labels, groups : int64 array, shape (samples,)
        Indices into `classes` and `group_names`.
    classes, group_names : tuple of str
    digests : tuple of bytes
        The sha256 of each sample's input.
    sha256 : str
        Of all inputs, labels and groups.
    source : str
        The file as the user named it, or "python".
    notices : tuple of str
        What the user must see.
    """

    inputs: Sample
    labels: Integers
    groups: Integers
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    digests: tuple[bytes, ...]
    sha256: str
    source: str = "python"
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Memory that the inputs take, in bytes."""
        return sum(part.nbytes for _, part in parts(self.inputs))

    def take(self, indices: Integers, device: torch.device) -> Batch:
        """Return the samples at these places, in this order, on a device."""
        where = torch.from_numpy(indices)
        return Batch(
            mapped(lambda part: part[where].to(device), self.inputs),
            torch.from_numpy(self.labels[indices]).to(device),
            torch.from_numpy(self.groups[indices]).to(device),
        )

    def batches(self, order: Integers, size: int, device: torch.device) -> Iterator[Batch]:
        """Yield the samples in this order, so many at a time; the last batch may be smaller."""
        for start in range(0, len(order), size):
            yield self.take(order[start : start + size], device)


def read_samples(
    data: Samples, *, seed: int = 0, progress: Callable[[str, int, int | None], object] | None = None
) -> TrainingSamples:
    """Read every sample once, in the order of the data set, and keep it in memory.

    Parameters
    ----------
    data : GroupedData or LabelledData
    seed : int
        For data sets that draw torch's random numbers, which start anew at each sample; the caller's global state is
        changed by them.
    progress : callable, optional
        Called with "samples", how many are read, and how many there are if that is known.

    Raises
    ------
    InputError
        If there are none, or one cannot be loaded or differs from the others in shape or type.

    Examples
    --------
    >>> from qfair_check.inputs.data import grouped_data
    >>> held = read_samples(grouped_data([[0.5], [1.0], [2.0]], [0, 1, 0]))
    >>> len(held), held.nbytes, held.take(np.array([2, 0]), torch.device("cpu")).inputs.tolist()
    (3, 12, [[2.0], [0.5]])
    """
    roster = data.roster()
    store = _Store(data.size)
    with closing(_stream(data, roster, seed)) as stream:
        for chunk in stream:
            store.add(chunk)
            if progress:
                progress("samples", chunk.start + chunk.size, data.size)
    if not store.chunk_digests:
        raise InputError(f"{data.source} holds no samples")
    known, _ = roster.finish()
    return TrainingSamples(
        store.inputs(),
        np.asarray(known.labels, np.int64),
        np.asarray(known.groups, np.int64),
        known.classes,
        known.group_names,
        tuple(store.digests),
        data_sha256(known, store.chunk_digests),
        known.source,
        known.notices,
    )


def digests_of(data: Samples, *, seed: int = 0) -> tuple[tuple[bytes, ...], GroupedData]:
    """Return the sha256 of each sample's input, and the data with the names of all groups; no sample is kept.

    Raises
    ------
    InputError
        If a sample cannot be loaded.
    """
    roster = data.roster()
    found: list[bytes] = []
    with closing(_stream(data, roster, seed)) as stream:
        for chunk in stream:
            found += _digests(chunk)
    return tuple(found), roster.finish()[0]


def _stream(data: Samples, roster: Roster, seed: int) -> Generator[Chunk]:
    return chunks(data, roster, batch_size=CHUNK, workers=0, seed=seed)


class _Store:
    """Room for all samples, taken at once if their number is known: joining chunks at the end would take it twice."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._whole: Sample | None = None
        self._pieces: list[Sample] = []
        self.digests: list[bytes] = []
        self.chunk_digests: list[bytes] = []

    def add(self, chunk: Chunk) -> None:
        """Take in a chunk."""
        held = mapped(lambda part: part[: chunk.size], chunk.batch)
        if self._size is None:
            self._pieces.append(held)
        else:
            if self._whole is None:
                self._whole = mapped(lambda part: part.new_empty(self._size, *part.shape[1:]), held)
            mapped(lambda room, part: room[chunk.start : chunk.start + chunk.size].copy_(part), self._whole, held)
        self.digests += _digests(chunk)
        self.chunk_digests.append(chunk.digest)

    def inputs(self) -> Sample:
        """Return all samples as one batch."""
        return self._whole if self._whole is not None else mapped(lambda *pieces: torch.cat(pieces), *self._pieces)


def _digests(chunk: Chunk) -> list[bytes]:
    named = [(name, part.contiguous().numpy()) for name, part in parts(chunk.batch)]
    found = []
    for row in range(chunk.size):
        digest = hashlib.sha256()
        for name, values in named:
            digest.update(f"{name}\0{values.dtype}\0{values.shape[1:]}\0".encode())
            digest.update(values[row].tobytes())
        found.append(digest.digest())
    return found

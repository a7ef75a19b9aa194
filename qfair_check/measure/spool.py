"""Samples of every group, kept on disk while curvature is measured, which passes over them many times."""

import hashlib
import heapq
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qfair_check.errors import InputError
from qfair_check.inputs.sample import Sample, mapped, parts
from qfair_check.measure.chunks import Chunk


@dataclass(frozen=True, slots=True, order=True)
class _Held:
    """A sample: its rank in the draw, its position in the data set, its class, and its row in the file."""

    rank: int
    index: int
    label: int
    row: int


class Spool:
    """Takes chunks in dataset order and keeps all samples of each group, or at most `most` of them, drawn at random.

    A sample's place in the draw is a hash of the seed and its position, so that who is drawn depends neither on how
    the data is loaded nor on the other groups (bottom-k sampling without replacement, one stratum for each group).
    The inputs lie in a file without a name, which is gone with the process.

    Parameters
    ----------
    most : int or None
        Samples of each group.
    seed : int
        Of the draw, and of models that draw.

    Raises
    ------
    InputError
        If there is no folder for temporary files.

    Source: Cohen & Kaplan 2007, Summarizing data using bottom-k sketches.
    """

    def __init__(self, most: int | None, seed: int) -> None:
        self._most = most
        self.seed = seed
        with _told():
            self._file: IO[bytes] = tempfile.TemporaryFile(prefix="qfair-")  # noqa: SIM115 (`close` does)
        self._template: Sample | None = None
        self._row_bytes = 0
        self._rows = 0
        self._drawn: dict[int, list[_Held]] = {}

    def close(self) -> None:
        """Forget all samples."""
        with suppress(OSError):  # what a full disk could not take is not needed any more
            self._file.close()

    def add(self, chunk: Chunk) -> None:
        """Take what is drawn of a chunk.

        Raises
        ------
        InputError
            If the disk is full.
        """
        if self._template is None:
            self._template = mapped(lambda part: part[:0].clone(), chunk.batch)
            self._row_bytes = sum(_row_bytes(part) for _, part in parts(chunk.batch))
        rows = _as_bytes(chunk.batch)
        with _told():
            for offset in np.flatnonzero(~chunk.is_unread).tolist():
                row = self._place(int(chunk.groups[offset]), chunk.start + offset, int(chunk.labels[offset]))
                if row is not None:
                    self._file.seek(row * self._row_bytes)
                    self._file.write(rows[offset].tobytes())

    def groups(self, position: NDArray[np.int64], n_groups: int) -> list["SpooledGroup"]:
        """Return the samples of each group, in dataset order.

        Parameters
        ----------
        position : int64 array
            Final position of each group, in the order in which chunks numbered them.
        n_groups : int

        Raises
        ------
        InputError
            If the disk is full.
        """
        with _told():
            self._file.flush()
        held: list[list[_Held]] = [[] for _ in range(n_groups)]
        for group, drawn in self._drawn.items():
            held[int(position[group])] = sorted(drawn, key=lambda sample: sample.index)
        return [SpooledGroup(self, samples) for samples in held]

    def read(self, rows: list[int]) -> Sample:
        """Return the samples of these rows of the file, as a batch."""
        if self._template is None:
            raise InputError("there are no samples")
        raw = np.empty((len(rows), self._row_bytes), np.uint8)
        for place, row in enumerate(rows):
            self._file.seek(row * self._row_bytes)
            raw[place] = np.frombuffer(self._file.read(self._row_bytes), np.uint8)
        start = 0

        def cut(part: Tensor) -> Tensor:
            nonlocal start
            stop = start + _row_bytes(part)
            block = part.new_empty((len(rows), *part.shape[1:]))
            block.view(-1).view(torch.uint8).copy_(torch.from_numpy(raw[:, start:stop].flatten()))
            start = stop
            return block

        return mapped(cut, self._template)

    def _place(self, group: int, index: int, label: int) -> int | None:
        """Return the row for a sample; None if it is not drawn."""
        drawn, rank = self._drawn.setdefault(group, []), -_key(self.seed, index)
        if self._most is None or len(drawn) < self._most:
            heapq.heappush(drawn, _Held(rank, index, label, self._rows))
            self._rows += 1
            return self._rows - 1
        if rank < drawn[0].rank:
            return None
        return heapq.heapreplace(drawn, _Held(rank, index, label, drawn[0].row)).row


@dataclass(frozen=True, slots=True)
class SpooledGroup:
    """The samples of one group."""

    spool: Spool
    samples: list[_Held]

    def __len__(self) -> int:
        return len(self.samples)

    def chunks(self, chunk: int) -> int:
        """Return how many times `batches` yields."""
        return max((len(self) + chunk // 2) // chunk, min(len(self), 1))

    def batches(self, chunk: int) -> Iterator[tuple[int, Sample, Tensor]]:
        """Yield the seed for a model that draws, inputs and classes, `chunk` samples at a time.

        What is left at the end joins the last ones where it is less than half a chunk, since a short chunk costs more
        by sample.
        """
        starts = [index * chunk for index in range(self.chunks(chunk))]
        for start, stop in pairwise([*starts, len(self)]):
            held = self.samples[start:stop]
            labels = torch.tensor([sample.label for sample in held])
            yield self.spool.seed + held[0].index, self.spool.read([sample.row for sample in held]), labels


def _key(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big")


def _row_bytes(part: Tensor) -> int:
    return part.element_size() * int(np.prod(part.shape[1:], dtype=np.int64))


def _as_bytes(batch: Sample) -> NDArray[np.uint8]:
    columns = [
        part.reshape(-1).view(torch.uint8).reshape(len(part), _row_bytes(part)).numpy() for _, part in parts(batch)
    ]
    return np.concatenate(columns, axis=1)


@contextmanager
def _told() -> Iterator[None]:
    """Say how to cure what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot keep the samples in {tempfile.tempdir or 'a temporary folder'} while curvature is measured: "
            f"{error.strerror or error}; --qfair-curvature-samples keeps fewer, and TMPDIR names another folder"
        ) from error

"""Samples in dataset order as chunks of one fixed size, however they are batched and loaded."""

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qfair_check.errors import InputError, QFairError
from qfair_check.inputs.data import Blocks, GroupedData, LabelledData
from qfair_check.inputs.grouped import Roster, Said
from qfair_check.inputs.sample import Kind, Sample, SampleError, described, kind, mapped, parts, stacked
from qfair_check.inputs.sample import size as size_of

CHUNK = 64

Samples = GroupedData | LabelledData


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Samples `start` to `start + size`, with their class and group; `batch` has `CHUNK` rows, the first repeated.

    `unread` tells of each sample why it could not be read, or None; it is empty where all could be.
    """

    start: int
    size: int
    batch: Sample
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    digest: bytes
    unread: tuple[str | None, ...] = ()

    @property
    def is_unread(self) -> NDArray[np.bool_]:
        """Which samples could not be read; another sample stands in the batch for each."""
        return np.array([why is not None for why in self.unread] or [False] * self.size, np.bool_)


def chunks(
    data: Samples, roster: Roster, *, batch_size: int, workers: int, seed: int, keeps_unread: bool = False
) -> Generator[Chunk]:
    """Load every sample once, in dataset order.

    Float convolutions differ in the last bits with the batch size, so the model always sees `CHUNK` samples:
    the numbers depend neither on `batch_size` nor on `workers`. With `keeps_unread`, a sample of known class and group
    that cannot be loaded is part of its chunk all the same, and told.

    Raises
    ------
    InputError
        If a sample cannot be loaded, or differs from the others in shape or type.
    """
    start = 0
    pending: _Loaded | None = None
    for loaded in _loaded(data, batch_size, workers, seed, keeps_unread and isinstance(data, GroupedData)):
        held = loaded if pending is None else pending + loaded
        whole = len(held) // CHUNK * CHUNK
        for offset in range(0, whole, CHUNK):
            yield _chunk(start, held.cut(offset, offset + CHUNK), roster)
            start += CHUNK
        pending = held.cut(whole, len(held)) if whole < len(held) else None
    if pending is not None:
        yield _chunk(start, pending, roster)


def data_sha256(data: GroupedData, digests: list[bytes]) -> str:
    """Return the sha256 of all inputs as the model got them (by chunk), of labels and of groups."""
    whole = hashlib.sha256(b"".join(digests))
    whole.update(data.labels.tobytes())
    whole.update(data.groups.tobytes())
    whole.update("\0".join(data.group_names).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """Some samples as one batch, and what each said of its class and groups."""

    batch: Sample
    said: list[Said | None]
    unread: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.said)

    def __add__(self, other: "_Loaded") -> "_Loaded":
        batch = mapped(lambda *both: torch.cat(both), self.batch, other.batch)
        return _Loaded(batch, self.said + other.said, self._whys() + other._whys())

    def cut(self, start: int, stop: int) -> "_Loaded":
        """Return the samples from `start` to before `stop`."""
        batch = mapped(lambda part: part[start:stop], self.batch)
        return _Loaded(batch, self.said[start:stop], self._whys()[start:stop])

    def _whys(self) -> list[str | None]:
        return self.unread or [None] * len(self.said)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a sample could not be loaded; it travels from a worker as data."""

    index: int
    reason: str
    names_sample: bool = False

    @property
    def told(self) -> str:
        """The reason with the sample that it is of."""
        return self.reason if self.names_sample else f"sample {self.index}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Unread:
    """A batch of which no sample could be loaded, and why."""

    whys: list[str | None]


@dataclass(frozen=True, slots=True)
class _Ragged:
    """Two samples of one batch that cannot be stacked, by index."""

    kinds: tuple[tuple[int, Kind], tuple[int, Kind]]


_Read = tuple[int, tuple[Sample, Said | None] | _Failure]


class _Indexed(Dataset[_Read]):
    """Gives each index with its sample, or with why there is none; arrays give a whole batch at once.

    torch's random numbers start anew at each sample, so that a data set which draws some gives the same
    samples however it is loaded.
    """

    def __init__(self, data: Samples, seed: int) -> None:
        self._inputs: Any = data.inputs
        self._blocks = data.inputs if isinstance(data.inputs, Blocks) else None
        self._data = data
        self._seed = seed

    def __len__(self) -> int:
        return self._data.size or 0

    def __getitem__(self, index: int) -> _Read:
        return _read(self._data, index, self._seed, lambda: self._inputs[index])

    def __getitems__(self, indices: list[int]) -> Sample | list[_Read]:
        if self._blocks is not None:
            try:
                return self._blocks.rows(indices[0], indices[-1] + 1)
            except QFairError as error:
                return [(indices[0], _Failure(indices[0], str(error), names_sample=True))]
        return [self[index] for index in indices]


def _read(data: Samples, index: int, seed: int, ask: Callable[[], object]) -> _Read:
    torch.default_generator.manual_seed(seed + index)
    try:
        return index, data.take_apart(ask())
    except QFairError as error:
        return index, _Failure(index, str(error), names_sample=True)
    except SampleError as error:
        return index, _Failure(index, str(error))
    except _EndError:
        raise
    except (Exception, SystemExit) as error:  # the user's dataset may raise anything
        return index, _Failure(index, f"{type(error).__name__}: {error}")


def _collate(samples: Sample | list[_Read], *, keeps_unread: bool = False) -> _Loaded | _Failure | _Ragged | _Unread:
    if not isinstance(samples, list):
        return _Loaded(samples, [None] * size_of(samples))
    good = next((read for _, read in samples if not isinstance(read, _Failure)), None)
    values: list[Sample] = []
    said: list[Said | None] = []
    whys: list[str | None] = []
    for index, read in samples:
        if isinstance(read, _Failure) and not keeps_unread:
            return read
        value, told = (good or (None, None)) if isinstance(read, _Failure) else read
        if value is not None and good and kind(value) != kind(good[0]):
            return _Ragged(((samples[0][0], kind(good[0])), (index, kind(value))))
        values += [] if value is None else [value]
        said.append(told)
        whys.append(read.told if isinstance(read, _Failure) else None)
    if good is None:
        return _Unread(whys)
    return _Loaded(stacked(values), said, whys if any(whys) else [])


def _mismatch(data: Samples, found: Kind, expected: Kind) -> str:
    preprocessing = data.preprocessing if isinstance(data, GroupedData) else None
    transforms = preprocessing.transforms if preprocessing else None
    cure = (
        f"the transforms {transforms} keep images of several sizes: name others with --qfair-transforms"
        if transforms
        else "for images of several sizes pass --qfair-image-size, and pad texts to one length"
    )
    return f"its shape is {described(found)}, and that of the samples before is {described(expected)}; {cure}"


def _loaded(data: Samples, batch_size: int, workers: int, seed: int, keeps_unread: bool) -> Iterator[_Loaded]:
    expected: Kind | None = None
    seen = 0
    batches = (
        _one_by_one(data, batch_size, seed)
        if data.is_iterable
        else _loader(data, batch_size, workers, seed, keeps_unread)
    )
    try:
        for loaded in _stood_in(batches, data.source):
            if isinstance(loaded, _Failure):
                where = "" if loaded.names_sample else f"{data.where(loaded.index)} cannot be used: "
                raise InputError(where + loaded.reason)
            if isinstance(loaded, _Ragged):
                expected = expected or loaded.kinds[0][1]
                index, found = next(pair for pair in loaded.kinds if pair[1] != expected)
                raise InputError(f"{data.where(index)} cannot be used: {_mismatch(data, found, expected)}")
            first = kind(mapped(lambda part: part[0], loaded.batch))
            expected = expected or first
            if first != expected:
                raise InputError(f"{data.where(seen)} cannot be used: {_mismatch(data, first, expected)}")
            seen += len(loaded)
            yield loaded
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(f"loading {data.source} failed: {reason}; try --qfair-workers 0") from error


def _stood_in(
    batches: Iterable[_Loaded | _Failure | _Ragged | _Unread], source: str
) -> Iterator[_Loaded | _Failure | _Ragged]:
    """Put a sample that could be loaded in place of batches of which none could."""
    example: Sample | None = None
    held: list[_Unread] = []
    for batch in batches:
        if isinstance(batch, _Unread):
            held.append(batch)
        elif isinstance(batch, _Loaded):
            example = mapped(lambda part: part[:1], batch.batch)
        if example is not None:
            for unread in held:
                size = len(unread.whys)
                filled = mapped(lambda part, size=size: part.expand(size, *part.shape[1:]).clone(), example)
                yield _Loaded(filled, [None] * size, unread.whys)
            held.clear()
        if not isinstance(batch, _Unread):
            yield batch
    if held:
        raise InputError(f"no sample of {source} could be read: {held[0].whys[0]}")


def _loader(
    data: Samples, batch_size: int, workers: int, seed: int, keeps_unread: bool
) -> Iterable[_Loaded | _Failure | _Ragged | _Unread]:
    return DataLoader(
        _Indexed(data, seed),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=partial(_collate, keeps_unread=keeps_unread),
        generator=torch.Generator().manual_seed(seed),
    )


class _EndError(Exception):
    """An iterable has no further sample; StopIteration would end a loop in silence, whoever raised it."""


class _Asking:
    """Gives the next sample of an iterable, which starts when the first is asked for."""

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs
        self._samples: Iterator[object] | None = None

    def __call__(self) -> object:
        self._samples = iter(self._inputs) if self._samples is None else self._samples
        try:
            return next(self._samples)
        except StopIteration:
            raise _EndError from None


def _one_by_one(data: Samples, batch_size: int, seed: int) -> Iterator[_Loaded | _Failure | _Ragged | _Unread]:
    """Read an iterable data set in this process: workers would each read it whole."""
    index = 0
    pending: list[_Read] = []
    ask = _Asking(data.inputs)
    while True:
        try:
            pending.append(_read(data, index, seed, ask))
        except _EndError:
            break
        index += 1
        if data.size is not None and index > data.size:
            raise _wrong_length(data, "more")
        if len(pending) == batch_size or isinstance(pending[-1][1], _Failure):
            yield _collate(pending)
            pending = []
    if pending:
        yield _collate(pending)
    if data.size not in (None, index):
        raise _wrong_length(data, f"{index:,}")


def _wrong_length(data: Samples, gave: str) -> InputError:
    return InputError(
        f"{data.source} says that it has {data.size:,} samples, and gave {gave}: an iterable data set gives as many as "
        "its __len__ says, or has none"
    )


def _chunk(start: int, loaded: _Loaded, roster: Roster) -> Chunk:
    size = len(loaded)
    content = mapped(lambda part: part.contiguous(), loaded.batch)
    labels, groups = roster.take(start, loaded.said)
    digest = _digest(content)
    if places := [place for place, why in enumerate(loaded.unread) if why is not None]:
        blank = _digest(mapped(lambda part: part.index_fill(0, torch.tensor(places), 0), content))
        digest = hashlib.sha256(blank + f"unread {places}".encode()).digest()
    return Chunk(start, size, mapped(_filled, content), labels, groups, digest, tuple(loaded.unread))


def _digest(batch: Sample) -> bytes:
    digest = hashlib.sha256()
    for name, part in parts(batch):
        digest.update(f"{name}{part.dtype}{tuple(part.shape)}".encode())
        digest.update(part.numpy().data if part.numel() else b"")
    return digest.digest()


def _filled(part: Tensor) -> Tensor:
    """Repeat the first row up to `CHUNK`: whatever the model takes, such as lengths of texts, this row is valid."""
    lacking = CHUNK - len(part)
    return torch.cat([part, part[:1].expand(lacking, *part.shape[1:])]) if lacking else part

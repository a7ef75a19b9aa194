"""Samples in dataset order as chunks of one fixed size, however they are batched and loaded."""

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qfair_check.errors import InputError, QFairError
from qfair_check.inputs.data import Blocks, GroupedData

CHUNK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Samples `start` to `start + size`; `batch` is zero-padded to `CHUNK` rows."""

    start: int
    size: int
    batch: Tensor
    digest: bytes


def chunks(data: GroupedData, *, batch_size: int, workers: int, seed: int) -> Generator[Chunk]:
    """Load every sample once, in dataset order.

    Float convolutions differ in the last bits with the batch size, so the model always sees `CHUNK` samples:
    the numbers depend neither on `batch_size` nor on `workers`.

    Raises
    ------
    InputError
        If a sample cannot be loaded, or differs from the others in shape or type.
    """
    start, pending = 0, torch.empty(0)
    for loaded in _loaded(data, batch_size, workers, seed):
        values = torch.cat([pending, loaded]) if len(pending) else loaded
        whole = len(values) // CHUNK * CHUNK
        for offset in range(0, whole, CHUNK):
            yield _chunk(start, values[offset : offset + CHUNK])
            start += CHUNK
        pending = values[whole:]
    if len(pending):
        yield _chunk(start, pending)


def data_sha256(data: GroupedData, digests: list[bytes]) -> str:
    """Return the sha256 of all inputs as the model got them (by chunk), of labels and of groups."""
    whole = hashlib.sha256(b"".join(digests))
    whole.update(data.labels.tobytes())
    whole.update(data.groups.tobytes())
    whole.update("\0".join(data.group_names).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a sample could not be loaded; it travels from a worker as data."""

    index: int
    reason: str
    names_sample: bool = False


_Kind = tuple[torch.Size, torch.dtype]


@dataclass(frozen=True, slots=True)
class _Ragged:
    """Two samples of one batch that cannot be stacked, by index."""

    kinds: tuple[tuple[int, _Kind], tuple[int, _Kind]]


_Sample = tuple[int, Tensor | _Failure]


class _Indexed(Dataset[_Sample]):
    """Gives each index with its tensor, or with why there is none; arrays give a whole batch at once.

    torch's random numbers start anew at each sample, so that a data set which draws some gives the same
    samples however it is loaded.
    """

    def __init__(self, inputs: Dataset[Tensor], size: int, seed: int) -> None:
        self._inputs = inputs
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> _Sample:
        torch.default_generator.manual_seed(self._seed + index)
        try:
            value = _plain(self._inputs[index])
        except QFairError as error:
            return index, _Failure(index, str(error), names_sample=True)
        except Exception as error:  # the user's dataset may raise anything
            return index, _Failure(index, f"{type(error).__name__}: {error}")
        return index, value

    def __getitems__(self, indices: list[int]) -> Tensor | list[_Sample]:
        if isinstance(self._inputs, Blocks):
            try:
                return self._inputs.rows(indices[0], indices[-1] + 1)
            except QFairError as error:
                return [(indices[0], _Failure(indices[0], str(error), names_sample=True))]
        return [self[index] for index in indices]


def _plain(value: object) -> Tensor:
    """Return a dense tensor on the CPU without gradient, float32 if it holds floats."""
    copied = np.array(value) if isinstance(value, np.ndarray) else value
    tensor = torch.as_tensor(copied).detach().cpu()
    if tensor.layout != torch.strided:
        raise TypeError(f"a tensor of layout {tensor.layout} is not dense: give value.to_dense()")
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _collate(samples: Tensor | list[_Sample]) -> Tensor | _Failure | _Ragged:
    if isinstance(samples, Tensor):
        return samples
    values: list[Tensor] = []
    for index, value in samples:
        if isinstance(value, _Failure):
            return value
        if values and _kind(value) != _kind(values[0]):
            return _Ragged(((samples[0][0], _kind(values[0])), (index, _kind(value))))
        values.append(value)
    return torch.stack(values)


def _kind(value: Tensor) -> _Kind:
    return value.shape, value.dtype


def _mismatch(data: GroupedData, kind: _Kind, expected: _Kind) -> str:
    transforms = data.preprocessing.transforms if data.preprocessing else None
    cure = (
        f"the transforms {transforms} keep images of several sizes: name others with --qfair-transforms"
        if transforms
        else "for images of several sizes pass --qfair-image-size"
    )
    return (
        f"its shape is {tuple(kind[0])} ({kind[1]}), and that of the samples before is "
        f"{tuple(expected[0])} ({expected[1]}); {cure}"
    )


def _loaded(data: GroupedData, batch_size: int, workers: int, seed: int) -> Iterator[Tensor]:
    loader = DataLoader(
        _Indexed(data.inputs, len(data.labels), seed),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(seed),
    )
    expected: _Kind | None = None
    seen = 0
    try:
        for loaded in loader:
            if isinstance(loaded, _Failure):
                where = "" if loaded.names_sample else f"{data.where(loaded.index)} cannot be used: "
                raise InputError(where + loaded.reason)
            if isinstance(loaded, _Ragged):
                expected = expected or loaded.kinds[0][1]
                index, kind = next(pair for pair in loaded.kinds if pair[1] != expected)
                raise InputError(f"{data.where(index)} cannot be used: {_mismatch(data, kind, expected)}")
            expected = expected or _kind(loaded[0])
            if _kind(loaded[0]) != expected:
                raise InputError(f"{data.where(seen)} cannot be used: {_mismatch(data, _kind(loaded[0]), expected)}")
            seen += len(loaded)
            yield loaded
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(f"loading {data.source} failed: {reason}; try --qfair-workers 0") from error


def _chunk(start: int, batch: Tensor) -> Chunk:
    size = len(batch)
    content = batch.contiguous()
    header = f"{content.dtype}{tuple(content.shape)}".encode()
    digest = hashlib.sha256(header + content.numpy().tobytes()).digest()
    if size < CHUNK:
        content = torch.cat([content, content.new_zeros((CHUNK - size, *content.shape[1:]))])
    return Chunk(start, size, content, digest)

"""Samples in dataset order as chunks of one fixed size, however they are batched and loaded."""

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qfair_check.errors import InputError, QFairError
from qfair_check.inputs.data import GroupedData

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
    whole.update("\0".join(data.group_names).encode())
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a sample could not be loaded; it travels from a worker as data."""

    index: int
    reason: str
    names_sample: bool = False


class _Indexed(Dataset[tuple[int, Tensor | _Failure]]):
    """Gives the index with the tensor, or with why there is none."""

    def __init__(self, inputs: Dataset[Tensor], size: int) -> None:
        self._inputs = inputs
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[int, Tensor | _Failure]:
        try:
            value = torch.as_tensor(self._inputs[index])
        except QFairError as error:
            return index, _Failure(index, str(error), names_sample=True)
        except Exception as error:  # the user's dataset may raise anything
            return index, _Failure(index, f"{type(error).__name__}: {error}")
        return index, value.to(torch.float32) if value.is_floating_point() else value


def _collate(samples: list[tuple[int, Tensor | _Failure]]) -> Tensor | _Failure:
    values: list[Tensor] = []
    for index, value in samples:
        if isinstance(value, _Failure):
            return value
        if values and (value.shape != values[0].shape or value.dtype != values[0].dtype):
            return _Failure(index, _mismatch(value, values[0]))
        values.append(value)
    return torch.stack(values)


def _mismatch(value: Tensor, expected: Tensor) -> str:
    return (
        f"its shape is {tuple(value.shape)} ({value.dtype}), and that of the samples before is "
        f"{tuple(expected.shape)} ({expected.dtype}); for images of several sizes pass --qfair-image-size"
    )


def _loaded(data: GroupedData, batch_size: int, workers: int, seed: int) -> Iterator[Tensor]:
    loader = DataLoader(
        _Indexed(data.inputs, len(data.labels)),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(seed),
    )
    first: Tensor | None = None
    seen = 0
    try:
        for loaded in loader:
            if isinstance(loaded, _Failure):
                where = "" if loaded.names_sample else f"{data.where(loaded.index)} cannot be used: "
                raise InputError(where + loaded.reason)
            if first is None:
                first = loaded[0]
            elif loaded[0].shape != first.shape or loaded.dtype != first.dtype:
                raise InputError(f"{data.where(seen)} cannot be used: {_mismatch(loaded[0], first)}")
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

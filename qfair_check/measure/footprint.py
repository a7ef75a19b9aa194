"""How much memory differentiating twice takes, and what fits into the memory that the user allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from qfair_check.errors import OptionError
from qfair_check.inputs.sample import Sample, mapped, size
from qfair_check.measure.chunks import CHUNK
from qfair_check.measure.group_loss import Point, differentiating

MOST_VECTORS = 32
LEAST_VECTORS = 8

_WORKING_VECTORS = 12
_TRANSIENT = 1.25
_PROBED = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What measuring curvature may hold at a time.

    Parameters
    ----------
    chunk : int
        Samples that go through the model at a time; up to half as many more in the last chunk of a group.
    vectors : int
        Lanczos vectors.
    kept : int
        Chunks of a group whose graphs stay between products, where that is all of them; else none do.
    """

    chunk: int
    vectors: int
    kept: int


def plan(points: Sequence[Point], batch: Sample, memory: int, extra_vectors: int) -> Plan:
    """Return what fits into `memory` bytes.

    The graph of a gradient is measured on a few samples. In the first place come vectors of the length of all
    parameters, then one chunk of at most 64 samples and a half more, halved until it fits, then the graphs of further
    chunks. Chunk and vectors do not depend on `extra_vectors`.

    Parameters
    ----------
    points : sequence of Point
        Those that are measured at; what the most demanding one takes counts.
    batch : tensor, tuple of tensors, or dict of tensors
        At least four samples.
    memory : int
        Bytes.
    extra_vectors : int
        Vectors that are held besides.

    Raises
    ------
    OptionError
        If the memory does not hold one sample.
    """
    vector = 4 * max(1, *(point.dimension for point in points))
    fixed, by_sample = map(max, zip(*(_graph_bytes(point, batch) for point in points), strict=True))
    needed = (LEAST_VECTORS + _WORKING_VECTORS) * vector + fixed + (1 + _TRANSIENT) * by_sample
    if memory < needed:
        raise OptionError(
            f"measuring curvature of this model takes {_size(needed, ceil)} for one sample, and "
            f"--qfair-curvature-memory allows {_size(memory, floor)}: allow more"
        )
    more = int(min(memory / 4 / vector - LEAST_VECTORS, (memory - needed) / vector, MOST_VECTORS - LEAST_VECTORS))
    vectors = LEAST_VECTORS + max(more, 0)
    left = memory - (vectors + _WORKING_VECTORS) * vector - fixed
    chunk = CHUNK
    while (1 + _TRANSIENT) * _longest(chunk) * by_sample > left:
        chunk //= 2
    passing = (_longest(chunk) - chunk + _TRANSIENT * _longest(chunk)) * by_sample
    kept = (left - extra_vectors * vector - passing) / (chunk * by_sample + fixed)
    return Plan(chunk, vectors, max(int(kept), 0))


def _longest(chunk: int) -> int:
    """Return the most samples that go through the model at a time: the last chunk may be longer by under a half."""
    return chunk + max(chunk // 2 - 1, 0)


def _size(size_in_bytes: float, to_whole: Callable[[float], int]) -> str:
    power, unit = (10, "KiB") if size_in_bytes < 2**24 else (20, "MiB")
    return f"{to_whole(size_in_bytes / 2**power):,} {unit}"


def _graph_bytes(point: Point, batch: Sample) -> tuple[float, float]:
    """Return the bytes that the graph of a gradient holds, whatever the samples, and for each sample."""
    few = [_saved_bytes(point, mapped(lambda part, n=n: part[:n], batch)) for n in (_PROBED, 2 * _PROBED)]
    by_sample = max((few[1] - few[0]) / _PROBED, 1.0)
    return max(few[0] - _PROBED * by_sample, 0.0), by_sample


def _saved_bytes(point: Point, batch: Sample) -> int:
    held: dict[int, int] = {}
    own = {leaf.untyped_storage().data_ptr() for leaf in point.leaves}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    labels = torch.zeros(size(batch), dtype=torch.int64)
    with differentiating(0, point.device), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = point.loss(mapped(torch.clone, batch), labels, size(batch))
        graph = torch.autograd.grad(loss, point.leaves, create_graph=True, allow_unused=True)
    total = sum(held.values())
    del graph
    return total

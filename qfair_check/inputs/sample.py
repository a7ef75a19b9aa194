"""What a model takes for one sample, or for a batch of them: a tensor, a tuple of tensors, or tensors by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

Sample = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Kind = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]


def plain_sample(value: object) -> Sample:
    """Return dense tensors on the CPU without gradient, float32 where they hold floats.

    A tuple stays a tuple, and a mapping becomes a dict; anything else becomes one tensor.

    Raises
    ------
    SampleError
        If there is nothing, or a part cannot be made a dense tensor.

    Examples
    --------
    >>> plain_sample({"ids": [1, 2], "mask": np.array([1.0, 0.0])})
    {'ids': tensor([1, 2]), 'mask': tensor([1., 0.])}
    """
    if isinstance(value, Mapping | tuple) and not value:
        raise SampleError("it holds no input")
    if isinstance(value, Mapping):
        return {str(name): _plain(part, f"its {name}") for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(part, f"its input {position}") for position, part in enumerate(value))
    return _plain(value, "its input")


def called(model: Callable[..., Any], batch: Sample) -> Any:
    """Call a model with a batch: a tuple as its arguments, a dict as its keywords."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def mapped(function: Callable[..., Tensor], *batches: Sample) -> Sample:
    """Apply a function to every tensor, or to the tensors in the same place of several batches.

    Examples
    --------
    >>> mapped(torch.add, (torch.tensor(1), torch.tensor(2)), (torch.tensor(3), torch.tensor(4)))
    (tensor(4), tensor(6))
    """
    first = batches[0]
    if isinstance(first, dict):
        return {name: function(*(cast(dict[str, Tensor], batch)[name] for batch in batches)) for name in first}
    if isinstance(first, tuple):
        return tuple(function(*parts) for parts in zip(*batches, strict=True))
    return function(*batches)


def stacked(samples: Sequence[Sample]) -> Sample:
    """Join samples of one kind to a batch."""
    return mapped(lambda *parts: torch.stack(parts), *samples)


def parts(batch: Sample) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor with its name: empty for the only one, its position in a tuple."""
    if isinstance(batch, dict):
        yield from batch.items()
    elif isinstance(batch, tuple):
        yield from ((str(position), part) for position, part in enumerate(batch))
    else:
        yield "", batch


def size(batch: Sample) -> int:
    """Return how many samples a batch holds."""
    return min(len(part) for _, part in parts(batch))


def kind(sample: Sample) -> Kind:
    """Return the name, shape and type of every part: samples that differ in it make no batch."""
    return tuple((name, tuple(part.shape), part.dtype) for name, part in parts(sample))


def described(sort: Kind) -> str:
    """Say the shapes and types of a kind.

    Examples
    --------
    >>> described(kind(torch.zeros(3, 4))), described(kind({"ids": torch.tensor([1, 2])}))
    ('(3, 4) (torch.float32)', 'ids (2,) (torch.int64)')
    """
    return ", ".join(f"{f'{name} ' if name else ''}{shape} ({dtype})" for name, shape, dtype in sort)


def _plain(value: object, what: str) -> Tensor:
    """Return a copy: a data set may fill one buffer anew for each sample."""
    if type(value).__module__.startswith("PIL."):
        raise SampleError(f"{what} is a PIL image: let the data set make it a tensor, such as by a transform")
    try:
        owned = np.array(value) if isinstance(value, np.ndarray) else value
        tensor = torch.as_tensor(owned.detach().clone() if isinstance(owned, Tensor) else owned).cpu()
    except Exception as error:  # what is no array fails in many ways
        raise SampleError(f"{what} is a {type(value).__name__}, and no tensor can be made of it ({error})") from error
    if tensor.layout != torch.strided:
        raise SampleError(f"{what} is a tensor of layout {tensor.layout}, which is not dense: give value.to_dense()")
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


class SampleError(Exception):
    """What is wrong with a sample; the message does not name it."""

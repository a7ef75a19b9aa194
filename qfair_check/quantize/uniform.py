"""A tensor on a uniform grid: round half to even of w / s, clamp, and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qfair_check.quantize.scale_rules import clipping_range
from qfair_check.quantize.spec import Scheme, integer_range


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Integer codes and the grid they lie on.

    Parameters
    ----------
    codes : int16 tensor
        Of the shape of the weights.
    scale : tensor, shape (channels,)
        Step; one channel when per tensor. In the type of the weights.
    zero_point : int64 tensor, shape (channels,)
        The code of real 0.
    clipped : int
        Weights that fell outside the grid.
    channel_axis : int or None
        None when per tensor.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    clipped: int
    channel_axis: int | None

    def dequantize(self) -> Tensor:
        """Return S * (codes - zero point), in the type of the weights."""
        shape = _broadcast(self.codes.ndim, self.channel_axis)
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        return (self.codes - zero_point).to(scale.dtype) * scale


def quantize_tensor(values: Tensor, bits: int, scheme: Scheme, *, channel_axis: int = 0) -> QuantizedTensor:
    """Map a tensor to the grid of a scheme.

    q = clamp(round(w / s) + z, lowest, highest), rounding half to even, by a true division in the type of
    the weights (float32; float64 stays).

    Parameters
    ----------
    values : floating tensor
        Finite.
    bits : int
        2 to 8.
    scheme : Scheme
    channel_axis : int
        The axis of output channels; used when the scheme is per channel.

    Source: Nagel et al., arXiv 2106.08295, section 2.

    Examples
    --------
    >>> quantize_tensor(torch.tensor([-1.0, -0.2, 0.0, 0.6]), 2, Scheme()).dequantize()
    tensor([-1.,  0.,  0.,  1.])
    """
    weights = values.detach()
    if weights.dtype != torch.float64:
        weights = weights.to(torch.float32)
    axis = channel_axis if scheme.granularity == "per-channel" else None
    rows = weights.reshape(1, -1) if axis is None else weights.movedim(axis, 0).flatten(1)
    scale, zero_point = _grid(rows, bits, scheme)
    shape = _broadcast(weights.ndim, axis)
    lowest, highest = integer_range(bits, scheme.grid)
    levels = torch.round(weights / scale.reshape(shape)) + zero_point.reshape(shape)
    codes = levels.clamp(lowest, highest)
    clipped = int((levels != codes).sum())
    return QuantizedTensor(codes.to(torch.int16), scale, zero_point, clipped, axis)


def _grid(rows: Tensor, bits: int, scheme: Scheme) -> tuple[Tensor, Tensor]:
    lowest, highest = integer_range(bits, scheme.grid)
    low, high = clipping_range(rows, bits, scheme)
    if scheme.grid == "asymmetric":
        scale = _usable((high.clamp(min=0) - low.clamp(max=0)) / (highest - lowest))
        zero_point = torch.round(-low.clamp(max=0) / scale).clamp(lowest, highest)
        return scale, zero_point.to(torch.int64)
    scale = _usable(high / (highest if scheme.grid == "symmetric" else -lowest))
    return scale, torch.zeros_like(scale, dtype=torch.int64)


def _usable(scale: Tensor) -> Tensor:
    """Return 1 for an all-zero channel, and at least the smallest normal number, which still divides."""
    tiny = torch.finfo(scale.dtype).tiny
    return torch.where(scale == 0, 1.0, scale.clamp(min=tiny))


def _broadcast(ndim: int, axis: int | None) -> list[int]:
    return [1] * ndim if axis is None else [-1 if dim == axis else 1 for dim in range(ndim)]

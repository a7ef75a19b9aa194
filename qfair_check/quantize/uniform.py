"""A tensor on a uniform grid: round half to even of w / s, clamp, and back."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qfair_check.quantize.grid import step
from qfair_check.quantize.scale_rules import clipping_range
from qfair_check.quantize.spec import Scheme, integer_range


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Integer codes, and the grid that gives them values.

    Parameters
    ----------
    codes : int16 tensor
        In the shape of the weights.
    scale : tensor in the type of the weights
        The step: one value, or one per channel, in a shape that broadcasts with `codes`.
    zero_point : int16 tensor
        The code of real 0, in the shape of `scale`.
    clipped : int
        How many weights fell beyond the ends of the grid.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    clipped: int

    def dequantize(self) -> Tensor:
        """Return S (q - z), in the type of the weights."""
        return self.scale * (self.codes - self.zero_point).to(self.scale.dtype)

    def levels(self) -> int:
        """Return how many distinct codes are in use: in the channel with the most, if there are several scales."""
        channels = self.scale.numel()
        if not self.codes.numel():
            return 0
        above = self.codes - self.codes.min()
        if channels == 1:
            return int(torch.count_nonzero(torch.bincount(above.to(torch.uint8).flatten())))
        offset = above.to(torch.int64)
        width = int(offset.max()) + 1
        channel = torch.arange(channels, device=self.codes.device).reshape(self.scale.shape)
        counts = torch.bincount((channel * width + offset).flatten(), minlength=channels * width)
        return int((counts.reshape(channels, width) > 0).sum(dim=1).max())


def quantize_tensor(values: Tensor, bits: int, scheme: Scheme, *, channel_axis: int = 0) -> QuantizedTensor:
    """Map weights to the grid of a scheme: q = clamp(round(w / s) + z, lowest, highest), half to even.

    w / s is a true division, in float32 for weights of that type or narrower, in float64 for float64.

    Parameters
    ----------
    values : floating tensor
        Finite weights, of any shape; with `channel_axis` among its axes if the scheme is per channel.
    bits : int
        2 to 8.
    scheme : Scheme
    channel_axis : int
        The axis of output channels; each gets a scale of its own if the scheme is per channel.

    Raises
    ------
    OptionError
        If there is no integer grid of so many bits.

    Source: Nagel et al. 2021, arXiv 2106.08295, section 2.2.

    Examples
    --------
    >>> quantized = quantize_tensor(torch.tensor([-1.0, -0.2, 0.5, 0.7]), 3, Scheme())
    >>> quantized.codes.tolist(), quantized.dequantize()
    ([-3, -1, 2, 2], tensor([-1.0000, -0.3333,  0.6667,  0.6667]))
    """
    weights = values.detach()
    weights = weights if weights.dtype == torch.float64 else weights.float()
    per_channel = scheme.granularity == "per-channel"
    channels = weights.movedim(channel_axis, 0).flatten(1) if per_channel else weights.reshape(1, -1)
    rows = channels.cpu().numpy()
    clips = np.array([clipping_range(row, bits, scheme) for row in rows], dtype=np.float64).reshape(-1, 2)
    steps, zeros = step(clips[:, 0], clips[:, 1], bits, scheme.grid, rows.dtype)
    shape = [1] * weights.ndim
    if per_channel:
        shape[channel_axis] = -1
    scale = torch.from_numpy(steps).to(weights.device).reshape(shape)
    zero_point = torch.from_numpy(zeros.astype(np.int16)).to(weights.device).reshape(shape)
    lowest, highest = integer_range(bits, scheme.grid)
    rounded = torch.round(weights / scale) + zero_point
    codes = rounded.clamp(lowest, highest)
    return QuantizedTensor(codes.to(torch.int16), scale, zero_point, int(torch.count_nonzero(codes != rounded)))

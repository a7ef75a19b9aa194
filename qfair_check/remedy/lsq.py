"""Learned step size quantization of weights (LSQ), on the grid that the audit measures."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from qfair_check.errors import OptionError
from qfair_check.quantize.spec import Grid, Scheme, integer_range
from qfair_check.quantize.uniform import QuantizedTensor, quantize_tensor
from qfair_check.remedy.blocks import blocks

InitialStep = Literal["rule", "lsq"]

# A step that crosses 0 blows up what comes after it; sound training keeps above half of the first (ADR 18).
_LEAST_STEP = 0.25


def lsq_quantize(
    weight: Tensor, step: Tensor, bits: int, grid: Grid = "symmetric", zero_point: Tensor | int = 0
) -> Tensor:
    """Return weights on a grid, w~ = s clamp(round(w / s), -Q_N, Q_P), with gradients for the weights and the step.

    Rounding is half to even, of a true division, as in `quantize_tensor`; with zero point z and the codes of the grid,
    -Q_N is its lowest code less z, Q_P its highest less z. A weight is clipped where w / s <= -Q_N or w / s >= Q_P.
    The gradients, summed over weights for all but the first:

    - dw~/dw = 1, and 0 where clipped;
    - dw~/ds = round(w / s) - w / s, and -Q_N or Q_P where clipped;
    - dw~/dz = 0, and -s where clipped, if z is a tensor that requires a gradient.

    Those of s and z are scaled by 1 / sqrt(N Q), with N weights and Q the highest code of the grid.

    Parameters
    ----------
    weight : floating tensor
    step : floating tensor without axes
        s, above 0.
    bits : int
        2 to 8.
    grid : str
    zero_point : tensor without axes, or int
        z, a whole number; 0 on symmetric grids.

    Raises
    ------
    OptionError
        If there is no integer grid of so many bits.

    Source: Esser et al. 2020, arXiv 1902.08153, eq. (1) to (3) and section 2.2.

    Examples
    --------
    >>> weight, step = torch.tensor([-0.75, 0.25, 0.875]), torch.tensor(0.5, requires_grad=True)
    >>> lsq_quantize(weight.requires_grad_(), step, bits=2).sum().backward()
    >>> lsq_quantize(weight, step, bits=2).tolist(), weight.grad.tolist()
    ([-0.5, 0.0, 0.5], [0.0, 1.0, 0.0])
    >>> round(step.grad.item() * 3**0.5, 4)  # -1 + (0 - 0.5) + 1
    -0.5
    """
    lowest, highest = integer_range(bits, grid)
    factor = 1 / math.sqrt(max(weight.numel(), 1) * highest)
    zero = int(zero_point)
    quantized: Tensor = _Quantize.apply(weight, step, zero_point, lowest - zero, highest - zero, factor)
    return quantized


# The first argument where low < the second < high, else 0, in one sweep; masks of bool take five times as long.
_between = torch.ops.aten.hardtanh_backward


class _Quantize(Function):
    """Keeps no more than its arguments for the backward pass, and computes the rest anew."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, step: Tensor, zero_point: Tensor | int, low: int, high: int, factor: float
    ) -> Tensor:
        ctx.save_for_backward(weight, step)
        ctx.low, ctx.high, ctx.factor = low, high, factor
        return (weight / step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, step = ctx.saved_tensors
        ends = ctx.low, ctx.high
        of_weight, of_step, of_zero = torch.empty_like(weight), torch.zeros_like(step), torch.zeros_like(step)
        for part, upstream, target in blocks(weight, gradient, of_weight):
            steps = part / step
            _between.grad_input(upstream, steps, *ends, grad_input=target)
            if ctx.needs_input_grad[2]:
                of_zero += (target - upstream).sum()
            if ctx.needs_input_grad[1]:
                level = steps.round().clamp_(*ends)
                inside = _between.grad_input(steps, steps, *ends, grad_input=steps)
                of_step += level.sub_(inside).mul_(upstream).sum()
        learned = of_zero * step * ctx.factor if ctx.needs_input_grad[2] else None
        return of_weight, of_step * ctx.factor, learned, None, None, None


class _AtLeast(Function):
    """The larger of a value and a bound; at the bound, a gradient that descends below it is held back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(value, bound)
        return torch.maximum(value, bound)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        value, bound = ctx.saved_tensors
        return torch.where((value > bound) | (gradient < 0), gradient, 0), None


class _Code(Function):
    """Round half to even and clamp to codes of a grid; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, lowest: int, highest: int) -> Tensor:
        return value.round().clamp_(lowest, highest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


class LSQ(nn.Module):
    """A parametrization that puts a weight on a grid whose step is learned.

    The step stays positive by projection: where an optimizer has taken `step` below the least step, a quarter of the
    first one or of the one with the least mean squared error, the next forward pass in training puts it back there,
    and passes on only a gradient that leads up again. Above it the gradient is that of LSQ, which learning a logarithm
    of the step would change.

    With `learn_offset`, an asymmetric grid also learns where it lies: z = clamp(round(-beta / s)), whose gradient
    passes straight through, so that dw~/dbeta = 1 where clipped and 0 elsewhere. Unlike in LSQ+, beta counts in whole
    steps: a weight of 0 stays on the grid.

    Parameters
    ----------
    weight : floating tensor
        Finite; gives the first step and zero point, and is not kept.
    bits : int
        2 to 8.
    scheme : str or Scheme
        The grid, per tensor, and the rule for the first step.
    initial_step : str
        ``rule``: that of the scheme; ``lsq``: 2 mean|w| / sqrt(Q), with Q the highest code of the grid.
    learn_offset : bool
    channel_axis : int
        The axis of output channels, for `dampening_loss`.

    Attributes
    ----------
    step : Parameter without axes
        What the optimizer changes.
    offset : Parameter without axes, or None
        beta, in the units of the weights.

    Raises
    ------
    OptionError
        If the scheme is per channel, there is no integer grid of so many bits, the first step has no such name, or a
        symmetric grid is to learn an offset.

    Source: Esser et al. 2020, arXiv 1902.08153; Bhalgat et al. 2020, arXiv 2004.09576, eq. (2) to (6), for the offset.

    Examples
    --------
    >>> from torch.nn.utils import parametrize
    >>> layer = nn.Linear(4, 1, bias=False)
    >>> layer.weight = nn.Parameter(torch.tensor([[-0.9, 0.1, 0.4, 1.0]]))
    >>> lsq = LSQ(layer.weight, bits=2, scheme="absmax")
    >>> layer = parametrize.register_parametrization(layer, "weight", lsq)
    >>> layer.weight.tolist(), lsq.codes(layer.parametrizations.weight.original).tolist()
    ([[-1.0, 0.0, 0.0, 1.0]], [[-1, 0, 0, 1]])
    """

    step: nn.Parameter
    offset: nn.Parameter | None
    least_step: Tensor
    fixed_zero_point: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        scheme: str | Scheme = "mse",
        *,
        initial_step: InitialStep = "rule",
        learn_offset: bool = False,
        channel_axis: int = 0,
    ) -> None:
        super().__init__()
        wanted = Scheme.parse(scheme)
        if wanted.granularity != "per-tensor":
            raise OptionError(f"LSQ learns one step for a tensor, and the scheme {wanted} has one for each channel")
        if initial_step not in get_args(InitialStep):
            raise OptionError(f"{initial_step!r} is no first step of LSQ: known are {', '.join(get_args(InitialStep))}")
        if learn_offset and wanted.grid != "asymmetric":
            raise OptionError(f"the grid {wanted.grid} has no offset to learn: take the asymmetric one")
        self.bits = bits
        self.grid = wanted.grid
        self.channel_axis = channel_axis
        start = quantize_tensor(weight, bits, wanted)
        step = start.scale.reshape(())
        if initial_step == "lsq":
            step = _published_step(weight, bits, wanted.grid, step)
        best = start if wanted.rule == "mse" else quantize_tensor(weight, bits, Scheme("mse", wanted.grid))
        zero_point = start.zero_point.reshape(()).to(step.dtype)
        trained = weight.requires_grad
        self.step = nn.Parameter(step.clone(), requires_grad=trained)
        self.offset = nn.Parameter(-zero_point * step, requires_grad=trained) if learn_offset else None
        self.register_buffer("least_step", torch.minimum(step, best.scale.reshape(())) * _LEAST_STEP)
        self.register_buffer("fixed_zero_point", zero_point)

    @property
    def scale(self) -> Tensor:
        """The step in use, s: `step`, or the least one; without axes."""
        least: Tensor = _AtLeast.apply(self.step, self.least_step)
        return least

    @property
    def zero_point(self) -> Tensor:
        """The code of real 0, z, a whole number without axes."""
        if self.offset is None:
            return self.fixed_zero_point
        code: Tensor = _Code.apply(-self.offset / self.scale, *integer_range(self.bits, self.grid))
        return code

    @property
    def ends(self) -> tuple[int, int]:
        """-Q_N and Q_P: the ends of the grid in steps from real 0."""
        lowest, highest = integer_range(self.bits, self.grid)
        zero_point = int(self.zero_point) if self.grid == "asymmetric" else 0
        return lowest - zero_point, highest - zero_point

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on the grid, differentiable by it and by what is learned of the grid.

        In training, `step` is put back to the least step if it is below.
        """
        if self.training:
            torch.maximum(self.step.data, self.least_step, out=self.step.data)
        zero_point = self.zero_point if self.grid == "asymmetric" else 0  # a tensor on a GPU would be waited for
        return lsq_quantize(weight, self.scale, self.bits, self.grid, zero_point)

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes q = clamp(round(w / s) + z) of a weight, int16."""
        return self._rounded(weight).clamp_(*integer_range(self.bits, self.grid)).to(torch.int16)

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedTensor:
        """Return the codes of a weight and the grid of now; it dequantizes to what `forward` returns."""
        codes, rounded = self.codes(weight), self._rounded(weight)
        shape = [1] * weight.ndim
        return QuantizedTensor(
            codes,
            self.scale.detach().reshape(shape).clone(),
            self.zero_point.detach().reshape(shape).to(torch.int16),
            int(torch.count_nonzero(codes != rounded)),
        )

    def _rounded(self, weight: Tensor) -> Tensor:
        return (weight / self.scale).round_().add_(self.zero_point)

    def extra_repr(self) -> str:
        """Say bits and grid."""
        return f"bits={self.bits}, grid={self.grid}"


def _published_step(weight: Tensor, bits: int, grid: Grid, otherwise: Tensor) -> Tensor:
    """Return 2 mean|w| / sqrt(Q); the other step for weights that are all zero."""
    step = 2 * weight.detach().abs().mean() / math.sqrt(integer_range(bits, grid)[1])
    return torch.where(step > 0, step, otherwise).to(otherwise.dtype)

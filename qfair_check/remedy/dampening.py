"""Weights that flip between two codes: pull them to the middle of a bin, and count them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from qfair_check.errors import OptionError
from qfair_check.remedy.attach import LSQLayer, lsq_layers
from qfair_check.remedy.blocks import blocks

_QUIET_SHARE = 0.25
_FOLLOWED = 4096


def dampening_coefficient(passed: float, end: float = 0.1) -> float:
    """Return lambda(r), the weight of `dampening_loss`: 0 for the first quarter, then a half cosine up to its end.

    end * (1 - cos(pi s)) / 2, with s the fraction of the last three quarters that has passed.

    Parameters
    ----------
    passed : float
        r, the fraction of the whole training that has passed, in [0, 1].
    end : float

    Raises
    ------
    OptionError
        If the fraction is out of range, or the end is negative or not finite.

    Source: Nagel et al. 2022, arXiv 2203.11086, section 4.1; 0.1 is what the authors used at 3 and 4 bits.

    Examples
    --------
    >>> [round(dampening_coefficient(t / 8), 4) for t in range(0, 9)]
    [0.0, 0.0, 0.0, 0.0067, 0.025, 0.05, 0.075, 0.0933, 0.1]
    """
    if not 0 <= passed <= 1:
        raise OptionError(f"a fraction of the training is {passed:g}: give a number from 0 to 1")
    if not (math.isfinite(end) and end >= 0):
        raise OptionError(f"the end of the dampening coefficient is {end:g}: give a number that is not negative")
    late = max(0.0, (passed - _QUIET_SHARE) / (1 - _QUIET_SHARE))
    return end * (1 - math.cos(math.pi * late)) / 2


def dampening_loss(module: nn.Module) -> Tensor:
    """Return how far the weights lie from the levels they round to, sum over layers of A((sg[q(w)] - clip(w))^2).

    The target q(w), dequantized, counts as a constant, and so does the step: the gradient reaches weights alone,
    2 (w - q(w)) / (weights of an output channel). clip(w) cuts at the ends of the grid, where q(w) lies too, so that
    clipped weights have neither loss nor gradient. A sums over output channels and averages within each.

    Parameters
    ----------
    module : torch.nn.Module
        With parametrizations by `attach_lsq`; a tied weight counts once.

    Returns
    -------
    tensor without axes
        0 without such layers.

    Source: Nagel et al. 2022, arXiv 2203.11086, section 4.1.

    Examples
    --------
    >>> from qfair_check.quantize.allocation import Allocation
    >>> from qfair_check.remedy.attach import attach_lsq
    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight = nn.Parameter(torch.tensor([[1.0, 0.25], [-1.0, 1.0]]))
    >>> round(dampening_loss(attach_lsq(net, 2, "absmax", allocation=Allocation())).item(), 5)  # 0.25^2 / 2
    0.03125
    """
    layers = list(lsq_layers(module))
    total = torch.zeros((), device=layers[0].weight.device if layers else None)
    for layer in layers:
        total = total + _Distance.apply(layer.weight, *_grid_of(layer))
    return total


@torch.no_grad()
def dampen(module: nn.Module, coefficient: float) -> Tensor:
    """Add the gradient of coefficient * `dampening_loss` to that of each weight, and return the product.

    After the backward pass of another loss this is the sum of both, for one sweep over weights and gradients in place
    of three and a copy.

    Parameters
    ----------
    module : torch.nn.Module
        With parametrizations by `attach_lsq`; gradients of its weights are changed.
    coefficient : float

    Returns
    -------
    tensor without axes

    Examples
    --------
    >>> from qfair_check.quantize.allocation import Allocation
    >>> from qfair_check.remedy.attach import attach_lsq
    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight = nn.Parameter(torch.tensor([[1.0, 0.25], [-1.0, 1.0]]))
    >>> net = attach_lsq(net, 2, "absmax", allocation=Allocation())
    >>> round(dampen(net, 10.0).item(), 5), net.parametrizations.weight.original.grad.tolist()
    (0.3125, [[0.0, 2.5], [0.0, 0.0]])
    """
    layers = list(lsq_layers(module))
    total = torch.zeros((), device=layers[0].weight.device if layers else None)
    for layer in layers:
        weight, (scale, low, high, share) = layer.weight, _grid_of(layer)
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        squares, factor = torch.zeros_like(scale), 2 * share * coefficient * scale
        for part, target in blocks(weight, gradient):
            residual = _residual(part, scale, low, high)
            target.addcmul_(residual, factor)
            squares += torch.linalg.vector_norm(residual).square()
        if weight.requires_grad:
            weight.grad = gradient
        total = total + share * coefficient * scale.square() * squares
    return total


@torch.no_grad()
def _grid_of(layer: LSQLayer) -> tuple[Tensor, int, int, float]:
    """Return the scale, the ends in steps from real 0, and one over the weights of an output channel."""
    share = layer.weight.shape[layer.lsq.channel_axis] / max(layer.weight.numel(), 1)
    return layer.lsq.scale, *layer.lsq.ends, share


class _Distance(Function):
    """share * sum (clip(w) - q(w))^2; what is summed is computed anew for the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, low: int, high: int, share: float) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.low, ctx.high, ctx.share = low, high, share
        total = torch.zeros_like(scale)
        for (part,) in blocks(weight):
            total += torch.linalg.vector_norm(_residual(part, scale, low, high)).square()
        return share * scale.square() * total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, scale = ctx.saved_tensors
        of_weight, factor = torch.empty_like(weight), 2 * ctx.share * gradient * scale
        for part, target in blocks(weight, of_weight):
            torch.mul(_residual(part, scale, ctx.low, ctx.high), factor, out=target)
        return of_weight, None, None, None, None


def _residual(weight: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Return (clip(w) - q(w)) / s, which is 0 where a weight is clipped."""
    clipped = (weight / scale).clamp_(low, high)
    return clipped.sub_(clipped.round())


@dataclass(slots=True, eq=False)
class _Trace:
    """What is remembered of some weights of a layer: codes, the direction of the last change, how often it turned."""

    places: Tensor
    codes: Tensor
    direction: Tensor
    frequency: Tensor


class OscillationTracker:
    """Follow how often codes flip back and forth while training, by an exponential moving average.

    A weight oscillates at an iteration if its code changes, and in the other direction than when it last changed.
    Its frequency is f <- m o + (1 - m) f, with o = 1 where it oscillates and 0 elsewhere.

    Of a layer with more than 4,096 weights so many are followed, drawn evenly with a fixed seed: all would take two
    copies of the weights. A share of them has a standard error of at most 0.008.

    Parameters
    ----------
    module : torch.nn.Module
        With parametrizations by `attach_lsq`. Its codes of now are the first.
    momentum : float
        m, in (0, 1].

    Raises
    ------
    OptionError
        If the momentum is out of range.

    Source: Nagel et al. 2022, arXiv 2203.11086, section 3.2, eq. (6).

    Examples
    --------
    >>> from qfair_check.quantize.allocation import Allocation
    >>> from qfair_check.remedy.attach import attach_lsq
    >>> net = nn.Linear(2, 1, bias=False)
    >>> net.weight = nn.Parameter(torch.tensor([[1.0, 0.25]]))
    >>> net = attach_lsq(net, 2, "absmax", allocation=Allocation())
    >>> tracker = OscillationTracker(net)
    >>> for value in (0.75, 0.25, 0.75):
    ...     net.parametrizations.weight.original.data[0, 1] = value
    ...     tracker.update()
    >>> tracker.shares()
    {'weight': 0.5}
    """

    def __init__(self, module: nn.Module, momentum: float = 0.01) -> None:
        if not 0 < momentum <= 1:
            raise OptionError(f"the momentum of an oscillation is {momentum:g}: it is above 0 and at most 1")
        self._module = module
        self._momentum = momentum
        self._traces = {layer.name: _start(layer) for layer in lsq_layers(module)}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the codes after a step of the optimizer."""
        for layer in lsq_layers(self._module):
            trace = self._traces[layer.name]
            codes = layer.lsq.codes(layer.weight.take(trace.places))
            change = torch.sign(codes - trace.codes)
            turned = (change != 0) & (change == -trace.direction)
            trace.frequency.mul_(1 - self._momentum).add_(turned, alpha=self._momentum)
            trace.direction = torch.where(change != 0, change, trace.direction)
            trace.codes = codes

    def shares(self, threshold: float = 0.005) -> dict[str, float]:
        """Return, for each layer, the share of weights followed that oscillate more often than the threshold.

        0 of a layer without weights.

        Parameters
        ----------
        threshold : float
            Oscillations per iteration; 0.005 is the authors'.
        """
        return {
            name: int((trace.frequency > threshold).sum()) / max(len(trace.frequency), 1)
            for name, trace in self._traces.items()
        }

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return copies of what is remembered of each layer, to go on from later."""
        return {
            name: {
                "codes": trace.codes.clone(),
                "direction": trace.direction.clone(),
                "frequency": trace.frequency.clone(),
            }
            for name, trace in self._traces.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from what `state_dict` returned for the same layers.

        Raises
        ------
        OptionError
            If the layers differ.
        """
        sizes = {name: len(trace.codes) for name, trace in self._traces.items()}
        if {name: values["codes"].numel() for name, values in state.items()} != sizes:
            raise OptionError("the oscillations to go on from are those of other layers: give the state of this model")
        for name, trace in self._traces.items():
            trace.codes = state[name]["codes"].clone()
            trace.direction = state[name]["direction"].clone()
            trace.frequency = state[name]["frequency"].clone()


def _start(layer: LSQLayer) -> _Trace:
    weight = layer.weight.detach()
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
    places = order[:_FOLLOWED].sort().values.to(weight.device)
    codes = layer.lsq.codes(weight.take(places))
    return _Trace(places, codes, torch.zeros_like(codes), torch.zeros_like(codes, dtype=torch.float32))

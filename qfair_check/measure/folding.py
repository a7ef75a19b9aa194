"""Derivatives through a folded BatchNorm: what a loss says of a convolution's folded weights, said of its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Named = Mapping[str, Tensor]
Parts = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Pair:
    """The names of a convolution's weight and bias, and of a BatchNorm's gain and shift (empty where absent).

    Folded, W' = W gain / deviation and b' = (b - mean) gain / deviation + shift.
    """

    weight: str
    bias: str
    gain: str
    shift: str
    mean: Tensor
    deviation: Tensor

    def push(self, values: Named, direction: Named) -> tuple[Tensor, Tensor]:
        """Return how W' and b' change along a direction."""
        weight, tangent = values[self.weight], direction[self.weight]
        factor, bend = self._factor(values), self._slope(direction)
        bias = (self._bias(values) - self.mean) * bend
        if self.bias:
            bias += direction[self.bias] * factor
        if self.shift:
            bias += direction[self.shift]
        return tangent * _rows(factor, weight) + weight * _rows(bend, weight), bias

    def pull(self, values: Named, weight: Tensor, bias: Tensor) -> Parts:
        """Return the gradient in each parameter, given that in W' and b'; tied ones come twice."""
        factor = self._factor(values)
        gain = (weight * values[self.weight]).flatten(1).sum(1) + bias * (self._bias(values) - self.mean)
        yield self.weight, weight * _rows(factor, weight)
        yield self.bias, bias * factor
        yield self.gain, gain / self.deviation
        yield self.shift, bias

    def bend(self, direction: Named, weight: Tensor, bias: Tensor) -> Parts:
        """Return how the gradient in each parameter changes along a direction while that in W' and b' is constant."""
        slope = self._slope(direction)
        gain = (weight * direction[self.weight]).flatten(1).sum(1)
        if self.bias:
            gain = gain + bias * direction[self.bias]
        yield self.weight, weight * _rows(slope, weight)
        yield self.bias, bias * slope
        yield self.gain, gain / self.deviation

    def _factor(self, values: Named) -> Tensor:
        return values[self.gain] / self.deviation if self.gain else 1 / self.deviation

    def _slope(self, direction: Named) -> Tensor:
        return direction[self.gain] / self.deviation if self.gain else torch.zeros_like(self.deviation)

    def _bias(self, values: Named) -> Tensor:
        return values[self.bias] if self.bias else torch.zeros_like(self.mean)


def pairs_of(module: nn.Module, folds: Sequence[tuple[str, str]], device: torch.device) -> dict[str, Pair]:
    """Return, by name of the convolution, the tensors of a module that folding joins; a tied one has its first name.

    Parameters
    ----------
    module : torch.nn.Module
        As it was before folding.
    folds : sequence of (str, str)
        Names of convolutions and of their BatchNorm, as in `SpeedUp`.
    device : torch.device
        Where the statistics go.
    """
    first = {id(value): name for name, value in module.named_parameters()}

    def named(layer: nn.Module, name: str) -> str:
        value = getattr(layer, name)
        return "" if value is None else first[id(value)]

    made = {}
    for convolution, norm in folds:
        conv, bn = module.get_submodule(convolution), module.get_submodule(norm)
        made[convolution] = Pair(
            named(conv, "weight"),
            named(conv, "bias"),
            named(bn, "weight"),
            named(bn, "bias"),
            bn.get_buffer("running_mean").detach().to(device),
            torch.sqrt(bn.get_buffer("running_var").detach() + float(bn.eps)).to(device),  # type: ignore[arg-type]
        )
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Folding:
    """The map J from a module's parameters to those of its folded copy, with its derivatives.

    With w(t) the parameters of the copy as a function of those of the module, L the loss and v a direction,

        dL/dt = Jᵀ dL/dw,    d²L/dt² v = Jᵀ (d²L/dw²) J v + d/dt <dL/dw, J(t) v> at constant dL/dw.

    Parameters
    ----------
    values : mapping of str to Tensor
        The parameters of the module.
    pairs : mapping of str to Pair
        As `pairs_of` returns them.
    plain : mapping of str to str
        Every other parameter of the copy that the loss depends on, and its name in the module: a tied one may have
        another name there.
    """

    values: Named
    pairs: Mapping[str, Pair]
    plain: Mapping[str, str]

    def push(self, direction: Named) -> dict[str, Tensor]:
        """Return J v, by name of the copy's parameter."""
        pushed = {leaf: direction[name] for leaf, name in self.plain.items()}
        for convolution, pair in self.pairs.items():
            pushed |= zip(_names(convolution), pair.push(self.values, direction), strict=True)
        return pushed

    def pull(self, gradient: Named) -> dict[str, Tensor]:
        """Return Jᵀ u for u by name of the copy's parameter."""
        pulled: dict[str, Tensor] = {}
        _add(pulled, ((name, gradient[leaf]) for leaf, name in self.plain.items()))
        for convolution, pair in self.pairs.items():
            weight, bias = _names(convolution)
            _add(pulled, pair.pull(self.values, gradient[weight], gradient[bias]))
        return pulled

    def bend(self, gradient: Named, direction: Named) -> dict[str, Tensor]:
        """Return d/dt <gradient, J(t) v>, the part of the second derivative that the map itself makes."""
        bent: dict[str, Tensor] = {}
        for convolution, pair in self.pairs.items():
            weight, bias = _names(convolution)
            _add(bent, pair.bend(direction, gradient[weight], gradient[bias]))
        return bent


def _names(convolution: str) -> tuple[str, str]:
    return f"{convolution}.weight", f"{convolution}.bias"


def _rows(factors: Tensor, like: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (like.ndim - 1))


def _add(whole: dict[str, Tensor], parts: Parts) -> None:
    for name, part in parts:
        if name:
            whole[name] = whole[name] + part if name in whole else part

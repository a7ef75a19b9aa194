"""Derivatives through a folded BatchNorm: what a loss says of a convolution's folded weights, said of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Named = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """The names of a convolution's weight and bias, and of a BatchNorm's gain and shift (empty where absent)."""

    weight: str
    bias: str
    gain: str
    shift: str
    mean: Tensor
    deviation: Tensor

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the parameters that are there."""
        return tuple(name for name in (self.weight, self.bias, self.gain, self.shift) if name)

    def folded(self, values: Named) -> tuple[Tensor, Tensor]:
        """Return W' = W gain / deviation and b' = (b - mean) gain / deviation + shift."""
        weight = values[self.weight]
        bias = values[self.bias] if self.bias else torch.zeros_like(self.mean)
        factor = values[self.gain] / self.deviation if self.gain else 1 / self.deviation
        shifted = (bias - self.mean) * factor
        if self.shift:
            shifted = shifted + values[self.shift]
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), shifted


def pairs_of(module: nn.Module, folds: Sequence[tuple[str, str]]) -> dict[str, Pair]:
    """Return, by name of the convolution, the tensors of a module that folding joins; a tied one has its first name.

    Parameters
    ----------
    module : torch.nn.Module
        As it was before folding.
    folds : sequence of (str, str)
        Names of convolutions and of their BatchNorm, as in `SpeedUp`.
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
            bn.get_buffer("running_mean").detach(),
            torch.sqrt(bn.get_buffer("running_var").detach() + float(bn.eps)),  # type: ignore[arg-type]
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
            tangents = _pushed(pair, self._inputs(pair, self.values), self._inputs(pair, direction))
            pushed |= _both(convolution, tangents)
        return pushed

    def pull(self, gradient: Named) -> dict[str, Tensor]:
        """Return Jᵀ u for u by name of the copy's parameter."""
        pulled: dict[str, Tensor] = {}
        for leaf, name in self.plain.items():
            _add(pulled, {name: gradient[leaf]})
        for convolution, pair in self.pairs.items():
            _add(pulled, _pulled(pair, self._inputs(pair, self.values), _of(convolution, gradient)))
        return pulled

    def bend(self, gradient: Named, direction: Named) -> dict[str, Tensor]:
        """Return d/dt <gradient, J(t) v>, the part of the second derivative that the map itself makes."""
        bent: dict[str, Tensor] = {}
        for convolution, pair in self.pairs.items():
            tangent, given = self._inputs(pair, direction), _of(convolution, gradient)

            def along(
                values: dict[str, Tensor],
                pair: Pair = pair,
                tangent: dict[str, Tensor] = tangent,
                given: tuple[Tensor, Tensor] = given,
            ) -> Tensor:
                pulled = _pulled(pair, values, given)
                return torch.stack([(pulled[name] * tangent[name]).sum() for name in tangent]).sum()

            _add(bent, torch.func.grad(along)(self._inputs(pair, self.values)))
        return bent

    @staticmethod
    def _inputs(pair: Pair, values: Named) -> dict[str, Tensor]:
        return {name: values[name] for name in pair.inputs}


def _pulled(pair: Pair, values: dict[str, Tensor], given: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = torch.func.vjp(pair.folded, values)[1](given)[0]
    return parts


def _pushed(pair: Pair, values: dict[str, Tensor], tangent: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return J v as the transpose of u -> Jᵀu: the first use of torch's own forward mode gives a FutureWarning."""
    anywhere = pair.folded(values)
    back = torch.func.vjp(lambda *given: _pulled(pair, values, given), *anywhere)[1]
    weight, bias = back(tangent)
    return weight, bias


def _names(convolution: str) -> tuple[str, str]:
    return f"{convolution}.weight", f"{convolution}.bias"


def _both(convolution: str, values: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return dict(zip(_names(convolution), values, strict=True))


def _of(convolution: str, values: Named) -> tuple[Tensor, Tensor]:
    weight, bias = _names(convolution)
    return values[weight], values[bias]


def _add(whole: dict[str, Tensor], parts: Named) -> None:
    for name, part in parts.items():
        whole[name] = whole[name] + part if name in whole else part

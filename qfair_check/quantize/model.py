"""A module becomes a new module whose weights lie on a grid."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError, OptionError, QFairError
from qfair_check.precision import AS_IS, Precision
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import quantizable_weights, tied_names
from qfair_check.quantize.spec import Grid, Scheme
from qfair_check.quantize.uniform import QuantizedTensor, quantize_tensor
from qfair_check.record import LayerWeights

_STATISTICS = ("running_mean", "running_var")
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, eq=False)
class WeightGrid:
    """The grid of one weight, and its codes."""

    bits: int
    grid: Grid
    tensor: QuantizedTensor


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """A new module, in float32 and eval mode, whose weights have the values of one precision."""

    module: nn.Module
    precision: Precision
    scheme: Scheme
    allocation: Allocation
    layers: tuple[LayerWeights, ...]

    @property
    def grids(self) -> dict[str, WeightGrid]:
        """The codes of each weight that lies on an integer grid, by name, and the grid.

        Examples
        --------
        >>> quantize_model(nn.Linear(3, 2), "int4").grids["weight"].bits
        4
        """
        on_grid = {layer.name: layer for layer in self.layers if layer.scale}
        return {
            name: WeightGrid(on_grid[name].bits, self.scheme.grid, _codes(weight.detach(), axis, on_grid[name]))
            for name, weight, axis in quantizable_weights(self.module)
            if name in on_grid
        }


def quantize_model(
    module: nn.Module,
    precision: str | int | Precision,
    scheme: str | Scheme = "absmax",
    *,
    allocation: Allocation = Allocation(),  # noqa: B008 (frozen)
    ends: tuple[str, str] | None = None,
) -> QuantizedModel:
    """Return a copy of a module with its weights rounded to a precision, w~ = S (q - z), without retraining.

    An integer precision rounds the weights of `quantizable_weights`; biases, norms and buffers stay. fp16 and
    bf16 round every floating-point parameter and buffer. fp32 changes nothing.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is: weights, mode, hooks and gradients.
    precision : str, int or Precision
        Such as ``4``, ``"int4"``, ``"fp16"``.
    scheme : str or Scheme
        How a tensor is mapped to an integer grid, such as ``"mse/per-channel"``.
    allocation : Allocation
        Layers that have other bits at integer precisions, or are left out.
    ends : (str, str), optional
        The weights used first and last (`first_and_last`), which `Allocation.first_last` needs.

    Raises
    ------
    OptionError
        If the precision, the scheme or the allocation makes no sense.
    InputError
        If a weight is NaN, infinite or beyond the largest half-precision number, if there is nothing to
        quantize, or if the module cannot be copied.

    Source: Bellam & Kim, arXiv 2509.07222, section 3.

    Examples
    --------
    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight = nn.Parameter(torch.tensor([[0.6, -0.1], [0.4, -0.2]]))
    >>> quantized = quantize_model(net, "int2")
    >>> quantized.module.weight.tolist() == [[net.weight.max(), 0], [net.weight.max(), 0]]
    True
    >>> quantized.layers[0].levels, quantized.layers[0].zeros, round(quantized.layers[0].weight_difference, 6)
    (2, 2, 0.5)
    """
    wanted, grid = Precision.parse(precision), Scheme.parse(scheme)
    if wanted == AS_IS:
        raise OptionError("asis leaves every weight as it is, and is nothing to quantize to: name a number of bits")
    if not list(quantizable_weights(module)) and wanted.is_integer:
        raise InputError(
            f"{type(module).__name__} has no weights to quantize to {wanted}: it holds no convolution, linear, "
            "embedding, attention or recurrent layer of torch.nn; audit it with bits=32 or 16"
        )
    plan = allocation.plan([name for name, _, _ in quantizable_weights(module)], wanted, ends, tied_names(module))
    quantized = copy_of(module).float().eval()
    check_finite(quantized)
    half = _HALVES.get(wanted.name)
    if half:
        _check_reach(_learned(quantized), half)
    with torch.no_grad():
        layers = tuple(
            _quantize_weight(name, weight, axis, plan[name], grid)
            for name, weight, axis in quantizable_weights(quantized)
            if name in plan
        )
        if half:
            for _, value in _floats(quantized):
                value.copy_(value.to(half))
    return QuantizedModel(quantized, wanted, grid, allocation, layers)


def _codes(weight: Tensor, axis: int, layer: LayerWeights) -> QuantizedTensor:
    """Return the codes of a weight that lies on a grid; each is nearest to w / s by far."""
    shape = [1] * weight.ndim
    if len(layer.scale) > 1:
        shape[axis] = -1
    scale = torch.tensor(layer.scale, dtype=weight.dtype, device=weight.device).reshape(shape)
    zero_point = torch.tensor(layer.zero_point, dtype=torch.int16, device=weight.device).reshape(shape)
    return QuantizedTensor((weight / scale).round().to(torch.int16) + zero_point, scale, zero_point, layer.clipped)


def copy_of(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module.

    Raises
    ------
    InputError
        If it holds what cannot be copied.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> copy_of(layer).weight is layer.weight
    False
    """
    # A recurrent layer keeps the weights it last ran with, which cannot be copied if they were computed (parametrized)
    memo = {
        id(weight): weight.detach()
        for part in module.modules()
        if isinstance(part, nn.RNNBase)
        for weight in part._flat_weights
        if isinstance(weight, Tensor) and not weight.is_leaf
    }
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # a module may hold anything
        raise InputError(
            f"{type(module).__name__} cannot be copied, and is never changed in place ({type(error).__name__}: "
            f"{error}): keep out of its attributes what copy.deepcopy cannot copy"
        ) from error


def quantized_share(module: nn.Module, allocation: Allocation = Allocation()) -> tuple[int, int]:  # noqa: B008 (frozen)
    """Return how many parameters are quantized and how many there are; tied ones count once.

    Parameters
    ----------
    module : torch.nn.Module
    allocation : Allocation
        Layers that are left out.

    Raises
    ------
    InputError
        If a weight is not a plain floating-point parameter.

    Examples
    --------
    >>> quantized_share(nn.Linear(10, 2))
    (20, 22)
    """
    sizes = {name: weight.numel() for name, weight, _ in quantizable_weights(module)}
    quantized = sum(sizes[name] for name in allocation.included(sizes))
    return quantized, sum(parameter.numel() for parameter in module.parameters())


def _floats(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point():
            yield name, value


def _learned(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and running statistics; other buffers, such as a mask of -inf, may hold anything."""
    for name, value in _floats(module):
        if isinstance(value, nn.Parameter) or name.rpartition(".")[2] in _STATISTICS:
            yield name, value


def check_finite(module: nn.Module) -> None:
    """Refuse a module that holds NaN or infinity.

    Raises
    ------
    InputError
        Naming the first parameters or running statistics that do.
    """
    found = [
        f"{name} ({int((~torch.isfinite(value)).sum())})"
        for name, value in _learned(module)
        if value.numel() and not torch.isfinite(torch.stack(value.aminmax())).all()
    ]
    if found:
        raise InputError(
            f"the model holds NaN or infinite values, in {_first(found)}: give a checkpoint from before they arose"
        )


def _check_reach(values: Iterable[tuple[str, Tensor]], half: torch.dtype) -> None:
    found = [
        f"{name} ({float(value.abs().max()):g})" for name, value in values if not torch.isfinite(value.to(half)).all()
    ]
    if found:
        kind = str(half).removeprefix("torch.")
        raise InputError(
            f"the model holds values beyond the largest {kind} number, {torch.finfo(half).max:g}, in {_first(found)}: "
            "audit it at another precision"
        )


def _first(found: list[str], most: int = 5) -> str:
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _quantize_weight(name: str, weight: nn.Parameter, axis: int, precision: Precision, scheme: Scheme) -> LayerWeights:
    before = weight.detach()
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    levels = clipped = 0
    after = before
    if precision.is_integer:
        tensor = quantize_tensor(before, precision.bits, scheme, channel_axis=axis)
        after, levels, clipped = tensor.dequantize(), tensor.levels(), tensor.clipped
        scale, zero_point = tuple(tensor.scale.flatten().tolist()), tuple(tensor.zero_point.flatten().tolist())
        if levels > 2**precision.bits:
            raise QFairError(f"{name} uses {levels} levels at {precision}, more than {2**precision.bits}: report this")
    elif precision.name in _HALVES:
        _check_reach([(name, before)], _HALVES[precision.name])
        after = before.to(_HALVES[precision.name]).float()
    layer = LayerWeights(
        name=name,
        shape=tuple(before.shape),
        bits=precision.bits,
        rule=scheme.rule if precision.is_integer else "round",
        scale=scale,
        zero_point=zero_point,
        levels=levels,
        zeros=after.numel() - int(torch.count_nonzero(after)),
        weight_difference=_distance(after, before),
        clipped=clipped,
    )
    weight.copy_(after)
    return layer


def _distance(after: Tensor, before: Tensor) -> float:
    """Sum the differences in float64; each is exact in float32 but for clipped weights.

    A weight and the level nearest to it differ by a factor of at most two, or the level is 0 (Sterbenz's lemma).
    """
    return 0.0 if after is before else float((after - before).abs_().double().sum())

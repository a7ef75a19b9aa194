"""A module becomes a new module whose weights lie on a grid."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.precision import Precision
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.spec import Scheme
from qfair_check.quantize.uniform import QuantizedTensor, quantize_tensor

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """One tensor: its grid, and what the grid did to it.

    `levels` counts the distinct codes in use (the most of any channel), `zeros` the exactly zero weights,
    `clipped` the weights outside the grid; `difference` is sum abs(w~ - w).
    """

    name: str
    shape: tuple[int, ...]
    elements: int
    bits: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    levels: int
    zeros: int
    clipped: int
    difference: float


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """A new module in eval mode, in float32, its weights at one precision, and an account of each tensor."""

    module: nn.Module
    precision: Precision
    scheme: Scheme
    layers: tuple[QuantizedLayer, ...]


def quantize_model(
    module: nn.Module, precision: str | int | Precision, scheme: str | Scheme = "absmax"
) -> QuantizedModel:
    """Quantize the weights of a copy of a module, without retraining.

    Integer precisions put each quantizable tensor on its grid and back (w~ = S * q); biases and norms stay.
    fp16 and bf16 round every parameter and buffer. fp32 changes nothing.

    Parameters
    ----------
    module : torch.nn.Module
        Is not changed.
    precision : str, int or Precision
    scheme : str or Scheme

    Raises
    ------
    InputError
        If a weight is NaN or infinite, there is nothing to quantize, or the module cannot be copied.
    OptionError
        If the precision or the scheme makes no sense.

    Examples
    --------
    >>> quantized = quantize_model(nn.Linear(8, 4), "int2")
    >>> quantized.layers[0].levels <= 4
    True
    """
    wanted, grid = Precision.parse(precision), Scheme.parse(scheme)
    duplicate = _copied(module)
    _check_finite(duplicate)
    weights = list(quantizable_weights(duplicate))
    if wanted.is_integer and not weights:
        raise InputError(
            f"the model has no weights to quantize: {type(module).__name__} holds no convolution, linear, embedding, "
            "attention or recurrent layer"
        )
    before = [parameter.detach().clone() for _, parameter, _ in weights]
    with torch.no_grad():
        grids = [
            _quantized_in_place(parameter, wanted, grid, axis) if wanted.is_integer else None
            for _, parameter, axis in weights
        ]
        if wanted.name in _HALF:
            _round_to(duplicate, _HALF[wanted.name])
    layers = tuple(
        _account(name, original, parameter.detach(), wanted, quantized)
        for (name, parameter, _), original, quantized in zip(weights, before, grids, strict=True)
    )
    return QuantizedModel(duplicate, wanted, grid, layers)


def quantized_share(module: nn.Module) -> tuple[int, int]:
    """Return how many parameters lie in quantizable tensors, and how many there are; tied ones count once."""
    quantized = sum(parameter.numel() for _, parameter, _ in quantizable_weights(module))
    return quantized, sum(parameter.numel() for parameter in module.parameters())


def _copied(module: nn.Module) -> nn.Module:
    try:
        duplicate = copy.deepcopy(module)
    except Exception as error:  # modules may hold anything
        raise InputError(
            f"the model cannot be copied, and is never changed in place: {type(error).__name__}: {error}"
        ) from error
    for parameter in duplicate.parameters():
        parameter.grad = None
    return duplicate.float().eval()


def _check_finite(module: nn.Module) -> None:
    tensors: Iterable[tuple[str, Tensor]] = (*module.named_parameters(), *module.named_buffers())
    bad = {
        name: count
        for name, value in tensors
        if value.is_floating_point() and (count := int((~torch.isfinite(value.detach())).sum()))
    }
    if bad:
        named = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:5])
        more = f" and {len(bad) - 5} more tensors" if len(bad) > 5 else ""
        raise InputError(f"the model has NaN or infinite weights in {named}{more}: train or export it again")


def _quantized_in_place(parameter: nn.Parameter, precision: Precision, scheme: Scheme, axis: int) -> QuantizedTensor:
    quantized = quantize_tensor(parameter, precision.bits, scheme, channel_axis=axis)
    parameter.copy_(quantized.dequantize())
    return quantized


def _round_to(module: nn.Module, half: torch.dtype) -> None:
    for value in (*module.parameters(), *module.buffers()):
        if value.is_floating_point():
            value.copy_(value.to(half))


def _account(
    name: str, before: Tensor, after: Tensor, precision: Precision, quantized: QuantizedTensor | None
) -> QuantizedLayer:
    return QuantizedLayer(
        name=name,
        shape=tuple(after.shape),
        elements=after.numel(),
        bits=precision.bits,
        scale=() if quantized is None else tuple(quantized.scale.tolist()),
        zero_point=() if quantized is None else tuple(quantized.zero_point.tolist()),
        levels=0 if quantized is None else _levels(quantized, precision),
        zeros=int((after == 0).sum()),
        clipped=0 if quantized is None else quantized.clipped,
        difference=float((after.double() - before.double()).abs().sum()),
    )


def _levels(quantized: QuantizedTensor, precision: Precision) -> int:
    codes, axis = quantized.codes, quantized.channel_axis
    rows = codes.reshape(1, -1) if axis is None else codes.movedim(axis, 0).flatten(1)
    if not rows.numel():
        return 0
    positions = rows.to(torch.int64) - int(rows.min())
    used = torch.zeros(len(rows), int(positions.max()) + 1, dtype=torch.bool, device=rows.device)
    most = int(used.scatter_(1, positions, value=True).sum(1).max())
    if most > 2**precision.bits:
        raise AssertionError(f"{most} distinct codes at {precision}: a bug in qfair_check")
    return most

"""Which tensors of a module are quantized."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from qfair_check.errors import InputError
from qfair_check.quantize.graph import graph_weights

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ONE_WEIGHT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear, nn.Embedding, nn.EmbeddingBag)
_CONV1D = "transformers.pytorch_utils.Conv1D"  # a linear layer, its weight transposed, as in GPT-2
_PACKED = ("_packed_params", "_all_weight_values")  # where quantized layers of torch.ao.nn hold their integers
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def quantizable_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yield the name, the parameter and the axis of output channels of each tensor that is quantized.

    These are the weights of convolutions, linear layers, embeddings, attention projections and recurrent
    layers, in the order of `named_modules`; then, of modules that run a graph of operators, the parameters that
    feed such operations. Layers of TorchScript count as what they were. Biases and norms are not quantized. A
    tied tensor comes once.

    Parameters
    ----------
    module : torch.nn.Module

    Raises
    ------
    InputError
        If a weight is not a plain floating-point parameter (it is pruned or parametrized), or a layer is quantized
        already.

    Examples
    --------
    >>> net = nn.Sequential(nn.ConvTranspose2d(3, 8, 1), nn.BatchNorm2d(8), nn.LSTM(8, 4))
    >>> [(name, axis) for name, _, axis in quantizable_weights(net)]
    [('0.weight', 1), ('2.weight_ih_l0', 0), ('2.weight_hh_l0', 0)]
    """
    seen: set[int] = set()
    for prefix, layer in module.named_modules():
        if any(hasattr(layer, name) for name in _PACKED):
            raise InputError(f"{prefix or 'the model'} is quantized already: give the model as it was trained")
        kind = _kind(layer)
        axis = 1 if issubclass(kind, _TRANSPOSED) or _is_conv1d(kind) else 0
        for name in _weight_names(layer, kind):
            weight = getattr(layer, name)
            full_name = f"{prefix}.{name}" if prefix else name
            _check_plain(weight, full_name)
            if id(weight) not in seen:
                seen.add(id(weight))
                yield full_name, weight, axis
    for full_name, weight, axis in graph_weights(module):
        _check_plain(weight, full_name)
        if id(weight) not in seen:
            seen.add(id(weight))
            yield full_name, weight, axis


def tied_names(module: nn.Module) -> dict[str, str]:
    """Return the other names of tied weights, each with the name under which the weight is quantized.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    >>> net[1].weight = net[0].weight
    >>> tied_names(net)
    {'1.weight': '0.weight'}
    """
    weights = {id(weight): name for name, weight, _ in quantizable_weights(module)}
    every = module.named_parameters(remove_duplicate=False)
    return {name: weights[id(value)] for name, value in every if weights.get(id(value), name) != name}


def _is_conv1d(kind: type) -> bool:
    return f"{kind.__module__}.{kind.__qualname__}" == _CONV1D


def _kind(layer: nn.Module) -> type:
    """Return the class of a layer; that of the layer it was made from for TorchScript."""
    if not isinstance(layer, torch.jit.ScriptModule):
        return type(layer)
    name = layer._c._type().qualified_name()
    found = getattr(nn, name.rpartition(".")[2], None) if name.startswith("__torch__.torch.nn.") else None
    if name.endswith(".NonDynamicallyQuantizableLinear"):
        return nn.Linear
    return found if isinstance(found, type) else type(layer)


def _weight_names(layer: nn.Module, kind: type) -> list[str]:
    if issubclass(kind, _ONE_WEIGHT) or _is_conv1d(kind):
        return ["weight"]
    if issubclass(kind, nn.MultiheadAttention):
        return [name for name in _ATTENTION_WEIGHTS if getattr(layer, name, None) is not None]
    if issubclass(kind, nn.RNNBase):
        # TorchScript of a trace keeps parameters alone, and a pruned layer has a name that is no parameter
        names: Any = getattr(layer, "_flat_weights_names", None) or dict(layer.named_parameters(recurse=False))
        return [name for name in names if name.startswith("weight_")]
    return ["weight_ih", "weight_hh"] if issubclass(kind, nn.RNNCellBase) else []


def _check_plain(weight: object, name: str) -> None:
    if not isinstance(weight, nn.Parameter):
        raise InputError(
            f"{name} is not a parameter but computed from others (pruning, weight_norm or a parametrization): make "
            "it one, such as by torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
        )
    if isinstance(weight, nn.UninitializedParameter):
        raise InputError(f"{name} has no shape yet: run one batch through the model first")
    if not weight.is_floating_point():
        kind = str(weight.dtype).removeprefix("torch.")
        raise InputError(f"{name} holds {kind}, not floating-point weights: give the model as it was trained")

"""A model that is audited as it is: its weights are left alone, and its own grids are told."""

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.inputs.model import Model
from qfair_check.inputs.quantized_file import StoredGrid
from qfair_check.precision import AS_IS
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import QuantizedModel, check_finite, copy_of
from qfair_check.quantize.spec import Scheme
from qfair_check.quantize.uniform import QuantizedTensor
from qfair_check.record import LayerWeights

RULE = "as is"

_FULL_BITS = 32


def as_is(model: Model, origin: nn.Module | None = None) -> QuantizedModel:
    """Return a copy of a model in float32 and eval mode with its weights as they are.

    The layers told of are those that lie on a grid of their own; where no grid is known, every weight that could be
    quantized, at 32 bits: what it takes to keep it as it came.

    Parameters
    ----------
    model : Model
        With weights.
    origin : torch.nn.Module, optional
        The model that it was made from, in float32; tells how far each weight is from what it was.

    Raises
    ------
    InputError
        If the model has no weights, they are not finite, or a grid is of no weight that is quantized.

    Examples
    --------
    >>> layer = as_is(Model(nn.Linear(3, 2))).layers[0]
    >>> layer.bits, layer.rule, layer.weight_difference
    (32, 'as is', None)
    """
    if model.module is None:
        raise InputError("the model is a plain callable and has no weights")
    grids = grids_by_weight(model)
    module = copy_of(model.module).float().eval()
    check_finite(module)
    before = {} if origin is None else {name: weight.detach() for name, weight, _ in quantizable_weights(origin)}
    layers = tuple(
        _layer(name, weight.detach(), grids.get(name), before.get(name))
        for name, weight, _ in quantizable_weights(module)
        if name in grids or not grids
    )
    return QuantizedModel(module, AS_IS, Scheme(), Allocation(), layers)


def grids_by_weight(model: Model) -> dict[str, StoredGrid]:
    """Return the grids of a model under the names that its weights are quantized by; a tied weight has several names.

    Raises
    ------
    InputError
        If a grid is of no weight that is quantized.
    """
    if model.module is None:
        return {}
    names = {id(weight): name for name, weight, _ in quantizable_weights(model.module)}
    every = dict(model.module.named_parameters(remove_duplicate=False))
    found = {}
    for name, grid in model.grids.items():
        own = names.get(id(every.get(name)))
        if own is None:
            raise InputError(f"{model.source} has a grid for {name}, which is no weight that is quantized")
        found[own] = grid
    return found


def _layer(name: str, weight: Tensor, grid: StoredGrid | None, before: Tensor | None) -> LayerWeights:
    is_known = before is not None and before.shape == weight.shape
    return LayerWeights(
        name=name,
        shape=tuple(weight.shape),
        bits=grid.bits if grid else _FULL_BITS,
        rule=RULE,
        scale=tuple(grid.scale.flatten().tolist()) if grid else (),
        zero_point=tuple(grid.zero_point.flatten().tolist()) if grid else (),
        levels=QuantizedTensor(grid.codes.to(torch.int16), grid.scale, grid.zero_point, 0).levels() if grid else 0,
        zeros=weight.numel() - int(torch.count_nonzero(weight)),
        clipped=0,
        weight_difference=float((weight - before).abs_().double().sum()) if before is not None and is_known else None,
    )

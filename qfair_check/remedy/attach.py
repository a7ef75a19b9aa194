"""A model whose layers learn their grid, and the plain model that comes out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, jit, nn
from torch.nn.utils import parametrize

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.sample import Sample
from qfair_check.precision import FP32, Precision
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import quantizable_weights, tied_names
from qfair_check.quantize.model import check_finite, copy_of
from qfair_check.quantize.order import first_and_last
from qfair_check.quantize.spec import Grid, Scheme
from qfair_check.quantize.uniform import QuantizedTensor
from qfair_check.remedy.lsq import LSQ, InitialStep

FIRST_LAST_8 = Allocation(first_last=Precision("int8"))


@dataclass(frozen=True, slots=True, eq=False)
class LSQLayer:
    """A weight that lies on a learned grid: its name, what the optimizer changes, and the grid."""

    name: str
    weight: nn.Parameter
    lsq: LSQ


@dataclass(frozen=True, slots=True, eq=False)
class LearnedGrid:
    """The grid of one weight after training, and its codes."""

    bits: int
    grid: Grid
    tensor: QuantizedTensor


@dataclass(frozen=True, slots=True, eq=False)
class FrozenModel:
    """A plain module in eval mode, and by name of each quantized weight the codes and the grid it lies on."""

    module: nn.Module
    grids: Mapping[str, LearnedGrid]


def attach_lsq(
    module: nn.Module,
    bits: str | int | Precision,
    scheme: str | Scheme = "mse",
    *,
    allocation: Allocation = FIRST_LAST_8,
    batch: Sample | None = None,
    initial_step: InitialStep = "rule",
    learn_offset: bool = False,
) -> nn.Module:
    """Return a copy of a module whose weights lie on grids with learned steps, for quantization-aware training.

    Each weight of `quantizable_weights` gets an `LSQ` parametrization; biases, norms and activations stay. The
    optimizer finds the steps among `parameters` (`step_parameters` lists them). A tied weight stays tied: all its
    places share one parametrization.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is. The copy is in float32, and in the same mode.
    bits : int, str or Precision
        2 to 8, such as ``4`` or ``"int4"``.
    scheme : str or Scheme
        The grid, per tensor, and the rule for the first step: by default the one with the least mean squared error.
    allocation : Allocation
        Layers that have other bits, or are left out. By default the first and the last one have 8.
    batch : tensor, tuple or dict of tensors, optional
        An example, which tells the first and the last layer in the order of execution; on the device of the module.
    initial_step : str
        ``rule`` or ``lsq``, as in `LSQ`.
    learn_offset : bool
        Whether asymmetric grids learn their offset too.

    Raises
    ------
    OptionError
        If the bits, the scheme or the allocation makes no sense, or the batch is needed and missing.
    InputError
        If there is nothing to quantize, a weight is NaN, infinite or computed from others, or the module is
        TorchScript, a graph of operators, or cannot be copied.

    Source: Bellam & Kim, arXiv 2509.07222, section 5.2; Esser et al. 2020, arXiv 1902.08153.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    >>> trained = attach_lsq(net, 4, batch=torch.zeros(1, 1, 8, 8))
    >>> {layer.name: layer.lsq.bits for layer in lsq_layers(trained)}
    {'0.weight': 8, '2.weight': 4, '4.weight': 8}
    """
    wanted, grid = Precision.parse(bits), Scheme.parse(scheme)
    if not wanted.is_integer:
        raise OptionError(f"LSQ learns integer grids of 2 to 8 bits, not {wanted}")
    if any(isinstance(part, jit.ScriptModule | fx.GraphModule) for part in module.modules()):
        raise InputError(
            f"{type(module).__name__} runs TorchScript or a graph of operators, whose weights cannot learn a grid: "
            "give the Python module that it was made from"
        )
    names = [name for name, _, _ in quantizable_weights(module)]
    if not names:
        raise InputError(
            f"{type(module).__name__} has no weights to quantize to {wanted}, so that no grid can be learned"
        )
    tied = tied_names(module)
    ends = None if batch is None or allocation.first_last is None else _ends(module, batch)
    plan = allocation.plan(names, wanted, ends, tied)
    if halves := [name for name, precision in plan.items() if not precision.is_integer]:
        raise OptionError(
            f"{halves[0]} is to have {plan[halves[0]]}, and LSQ learns integer grids: give it 2 to 8 bits, or {FP32} "
            "to leave it out"
        )
    attached = copy_of(module).float()
    check_finite(attached)
    learned = {
        name: LSQ(
            weight,
            plan[name].bits,
            grid,
            initial_step=initial_step,
            learn_offset=learn_offset,
            channel_axis=axis,
        ).train(attached.training)
        for name, weight, axis in quantizable_weights(attached)
        if name in plan
    }
    places = [(name, name) for name in learned] + [(name, first) for name, first in tied.items() if first in learned]
    for name, first in places:
        owner, _, attribute = name.rpartition(".")
        layer = attached.get_submodule(owner)
        if not parametrize.is_parametrized(layer, attribute):  # one layer may have two names
            _unshare_class(layer)
            parametrize.register_parametrization(layer, attribute, learned[first])
    return attached


def freeze_lsq(module: nn.Module) -> FrozenModel:
    """Return a plain copy, without parametrizations, whose weights have the values that they were trained to have.

    Its predictions are those of the module in eval mode, bit for bit: each weight is scale * (codes - zero_point).

    Parameters
    ----------
    module : torch.nn.Module
        As `attach_lsq` returned it, after training; left as it is.

    Raises
    ------
    InputError
        If no weight of it lies on a learned grid.

    Examples
    --------
    >>> net = attach_lsq(nn.Linear(3, 2), 4, allocation=Allocation())
    >>> frozen = freeze_lsq(net)
    >>> bool((frozen.module.weight == net.weight).all()), frozen.grids["weight"].bits
    (True, 4)
    """
    if not list(lsq_layers(module)):
        raise InputError(f"{type(module).__name__} has no weight on a learned grid: give what attach_lsq returned")
    plain = copy_of(module).eval()
    grids = {
        id(layer.weight): LearnedGrid(layer.lsq.bits, layer.lsq.grid, layer.lsq.quantized(layer.weight))
        for layer in lsq_layers(plain)
    }
    for place in list(_places(plain)):
        _unshare_class(place.layer)
        parametrize.remove_parametrizations(place.layer, place.attribute, leave_parametrized=False)
    named = {name: grids[id(weight)] for name, weight, _ in quantizable_weights(plain) if id(weight) in grids}
    for name, weight, _ in quantizable_weights(plain):
        if name in named:
            weight.data.copy_(named[name].tensor.dequantize())
    return FrozenModel(plain, named)


def lsq_layers(module: nn.Module) -> Iterator[LSQLayer]:
    """Yield each weight that lies on a learned grid, a tied one once, under its first name.

    Examples
    --------
    >>> [(layer.name, layer.lsq.bits) for layer in lsq_layers(attach_lsq(nn.Linear(3, 2), 3, allocation=Allocation()))]
    [('weight', 3)]
    """
    seen: set[int] = set()
    for place in _places(module):
        if id(place.lsq) not in seen:
            seen.add(id(place.lsq))
            name = f"{place.prefix}.{place.attribute}" if place.prefix else place.attribute
            yield LSQLayer(name, place.weight, place.lsq)


def step_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the steps and offsets that grids learn, for a learning rate of their own and no weight decay.

    Examples
    --------
    >>> len(step_parameters(attach_lsq(nn.Linear(3, 2), 4, allocation=Allocation())))
    1
    """
    return [parameter for layer in lsq_layers(module) for parameter in layer.lsq.parameters()]


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """An attribute of a layer that a learned grid parametrizes."""

    prefix: str
    layer: nn.Module
    attribute: str
    weight: nn.Parameter
    lsq: LSQ


def _places(module: nn.Module) -> Iterator[_Place]:
    for prefix, layer in module.named_modules():
        if parametrize.is_parametrized(layer):
            chains: Any = layer.parametrizations
            for attribute, chain in chains.items():
                if isinstance(chain[0], LSQ):
                    yield _Place(prefix, layer, attribute, chain.original, chain[0])


def _unshare_class(layer: nn.Module) -> None:
    """Give a layer its own class if it is parametrized: a copy shares it, and parametrizations are properties of it."""
    if parametrize.is_parametrized(layer):
        kind = type(layer)
        own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(kind.__name__, kind.__bases__, own)


def _ends(module: nn.Module, batch: Sample) -> tuple[str, str]:
    probe = copy_of(module).eval()
    weights: list[tuple[str, Tensor]] = [(name, weight) for name, weight, _ in quantizable_weights(probe)]
    return first_and_last(probe, weights, batch)

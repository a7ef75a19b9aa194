"""Which parameters of a graph of operators are the weights of its layers, and where their output channels lie."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qfair_check.errors import InputError

_PRIMES = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079)  # larger than a step of a slice

# Of each operation, which arguments may be weights: place, names, and the axis of output channels.
_Slot = tuple[int, tuple[str, ...], int]
_LAYERS: Mapping[str, tuple[_Slot, ...]] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "_convolution_mode", "convolution", "_convolution", "linear"),
        ((1, ("weight",), 0),),
    ),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), ((1, ("weight",), 1),)),
    **dict.fromkeys(
        ("embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"), ((0, ("weight",), 0),)
    ),
    **dict.fromkeys(
        ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), ((2, ("w_ih",), 0), (3, ("w_hh",), 0))
    ),
    "multi_head_attention_forward": (
        (5, ("in_proj_weight",), 0),
        (11, ("out_proj_weight",), 0),
        (18, ("q_proj_weight",), 0),
        (19, ("k_proj_weight",), 0),
        (20, ("v_proj_weight",), 0),
    ),
    "_native_multi_head_attention": ((5, ("qkv_weight",), 0), (7, ("proj_weight",), 0)),
    "_transformer_encoder_layer_fwd": (
        (3, ("qkv_weight",), 0),
        (5, ("proj_weight",), 0),
        (14, ("ffn_weight_1",), 0),
        (16, ("ffn_weight_2",), 0),
    ),
}
_INDICES_FIRST: Mapping[Any, tuple[_Slot, ...]] = {
    functional.embedding: ((1, ("weight",), 0),),
    functional.embedding_bag: ((1, ("weight",), 0),),
}
_PRODUCTS: Mapping[str, tuple[_Slot, _Slot]] = {
    **dict.fromkeys(("mm", "bmm", "matmul"), ((0, ("self", "input"), -2), (1, ("mat2", "other"), -1))),
    **dict.fromkeys(("addmm", "baddbmm"), ((1, ("mat1", "batch1"), -2), (2, ("mat2", "batch2"), -1))),
}
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_SAME = (
    *("detach", "alias", "contiguous", "to", "_to_copy", "clone", "float", "half", "bfloat16", "double", "type_as"),
    *("lift_fresh_copy", "requires_grad", "cpu", "cuda", "convert_element_type"),
)
_VIEWS = (
    *("t", "transpose", "permute", "numpy_T", "movedim", "moveaxis", "swapaxes", "swapdims", "getattr"),
    *("slice", "narrow", "select", "unsqueeze", "squeeze", "expand", "unbind", "getitem"),
    *("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk"),
)
_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")


def graph_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yield the name, the parameter and the axis of output channels of each weight that a graph inside a module uses.

    A graph is that of a `torch.fx.GraphModule` or of an exported program. A parameter is followed through views
    of it (transposes, casts, splits) to the convolution, linear, embedding, matrix product, attention or recurrent
    operation that it feeds. They come in the order of `named_parameters`, each once.

    Parameters
    ----------
    module : torch.nn.Module

    Raises
    ------
    InputError
        If a weight is computed from parameters (pruning, weight_norm or a parametrization).

    Examples
    --------
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mix = nn.Parameter(torch.ones(3, 5))
    ...
    ...     def forward(self, x):
    ...         return x @ self.mix
    >>> [(name, axis) for name, _, axis in graph_weights(fx.symbolic_trace(Net()))]
    [('mix', 1)]
    """
    axes: dict[int, int] = {}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for inner in module.modules():
        if _graph(inner) is not None:
            for parameter, axis in _Walk(inner, names).weights():
                axes.setdefault(id(parameter), axis)
    for name, parameter in module.named_parameters():
        if id(parameter) in axes:
            yield name, parameter, axes[id(parameter)]


@dataclass(frozen=True, slots=True, eq=False)
class _Weight:
    """A parameter, and a view of it without values whose strides are multiples of a prime number for each axis."""

    parameter: nn.Parameter
    view: Any

    @classmethod
    def of(cls, parameter: nn.Parameter) -> "_Weight":
        strides = _PRIMES[: parameter.ndim]
        return cls(parameter, torch.empty_strided(parameter.shape, strides, device="meta"))

    def axis(self, dim: int) -> int:
        """Return which axis of the parameter a dimension of the view is."""
        stride = self.view.stride(dim)
        primes = _PRIMES[: self.parameter.ndim]
        return next((axis for axis, prime in enumerate(primes) if stride and stride % prime == 0), 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Fixed:
    """A value that does not depend on the inputs, and the first parameter that it is computed from."""

    parameter: nn.Parameter | None = None


_Origin = _Weight | _Fixed | None


class _Walk:
    """Follows parameters through one graph."""

    def __init__(self, module: nn.Module, names: Mapping[int, str]) -> None:
        self._module = module
        self._names = names

    def weights(self, given: tuple[_Origin, ...] = ()) -> Iterator[tuple[nn.Parameter, int]]:
        """Yield each weight that is used, with its axis of output channels; `given` is where the inputs come from."""
        origins: dict[fx.Node, _Origin] = {}
        waiting = iter(given)
        graph = _graph(self._module)
        for node in graph.nodes if graph else ():
            if node.op == "placeholder":
                origins[node] = next(waiting, None)
            elif node.op == "get_attr":
                origins[node] = self._held(node)
            elif node.op in ("call_function", "call_method"):
                yield from self._used(node, origins)
                yield from self._inside(node, origins)
                origins[node] = _result(node, origins)
            else:
                origins[node] = None

    def _held(self, node: fx.Node) -> _Origin:
        value = _attribute(self._module, node)
        if isinstance(value, nn.Parameter) and id(value) in self._names and value.ndim <= len(_PRIMES):
            return _Weight.of(value)
        return _Fixed() if isinstance(value, Tensor) else None

    def _used(self, node: fx.Node, origins: Mapping[fx.Node, _Origin]) -> Iterator[tuple[nn.Parameter, int]]:
        name = _name(node)
        layer = _INDICES_FIRST.get(node.target, _LAYERS.get(name, ()))
        for slot in (*layer, *_PRODUCTS.get(name, ())):
            origin = _origin(_argument(node, slot), origins)
            dim = 1 if name in ("convolution", "_convolution") and _argument(node, _TRANSPOSED) is True else slot[2]
            if isinstance(origin, _Weight) and origin.parameter.ndim > 1 and origin.view.ndim > 1:
                yield origin.parameter, origin.axis(dim)
            elif isinstance(origin, _Fixed) and origin.parameter is not None and layer:
                raise InputError(
                    f"a weight of {name} is computed from {self._names[id(origin.parameter)]} and others (pruning, "
                    "weight_norm or a parametrization): make it a parameter before the model is exported or traced"
                )
        if name in _RECURRENT:
            for value in (*node.args, *node.kwargs.values()):
                for item in value if isinstance(value, list | tuple) else ():
                    origin = _origin(item, origins)
                    if isinstance(origin, _Weight) and origin.parameter.ndim > 1:
                        yield origin.parameter, origin.axis(0)

    def _inside(self, node: fx.Node, origins: Mapping[fx.Node, _Origin]) -> Iterator[tuple[nn.Parameter, int]]:
        """Follow operands into graphs that an operator such as torch.cond runs."""
        held = [_attribute(self._module, item) for item in node.args]
        places = [place for place, value in enumerate(held) if _graph(value) is not None]
        if places:
            rest = [item for value in node.args[places[-1] + 1 :] for item in _listed(value)]
            for place in places:
                inner: Any = held[place]
                yield from _Walk(inner, self._names).weights(tuple(_origin(item, origins) for item in rest))


_TRANSPOSED: _Slot = (6, ("transposed",), 0)


def _graph(module: object) -> fx.Graph | None:
    """Return the graph of operators that a module runs, if it runs one; it may have a layer called graph."""
    graph = module.__dict__.get("_graph") if isinstance(module, nn.Module) else None
    return graph if isinstance(graph, fx.Graph) else None


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _origin(value: object, origins: Mapping[fx.Node, _Origin]) -> _Origin:
    return origins.get(value) if isinstance(value, fx.Node) else None


def _attribute(module: nn.Module, node: object) -> object:
    """Return what a node fetches from its module, or None if it is another kind of node."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: object = module
    for part in str(node.target).split("."):
        found = getattr(found, part, None)
    return found


def _name(node: fx.Node) -> str:
    """Return the name of an operation, without the underscores of operators that work in place."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2].removesuffix("_")
    return str(target if isinstance(target, str) else getattr(target, "__name__", "")).removesuffix("_")


def _argument(node: fx.Node, slot: _Slot) -> object:
    place, names, _ = slot
    if place < len(node.args):
        return node.args[place]
    return next((node.kwargs[name] for name in names if name in node.kwargs), None)


def _result(node: fx.Node, origins: Mapping[fx.Node, _Origin]) -> _Origin:
    name = _name(node)
    source = _origin(node.args[0], origins) if node.args else None
    if isinstance(source, _Weight):
        if name in _SAME:
            return source
        if name in _VIEWS or name in _RESHAPES:
            view = _viewed(node, source.view, name)
            return None if view is None else _Weight(source.parameter, view)
    inputs = [origins.get(item) for item in node.all_input_nodes]
    if any(item is None for item in inputs):
        return None
    parameters = [item.parameter for item in inputs if item is not None and item.parameter is not None]
    return _Fixed(parameters[0] if parameters else None)


def _viewed(node: fx.Node, view: Any, name: str) -> Any:
    """Apply a node to a view; a size that is only known when the graph runs is 1, and keeps what is there."""
    for unknown in (-1, 1):
        args, kwargs = fx.node.map_arg((node.args[1:], node.kwargs), lambda _, size=unknown: size)  # type: ignore[misc]
        try:
            if node.op == "call_method":
                made = getattr(view, str(node.target))(*args, **kwargs)
            else:
                made = node.target(view, *args, **kwargs)  # type: ignore[operator]
        except Exception:  # sizes that cannot be known, or what is no view
            continue
        if not (isinstance(made, Tensor) or _is_parts(made)):
            return None
        return _reshaped(view, made) if name in _RESHAPES else made
    return _reshaped(view, view.reshape(-1)) if name in _RESHAPES else None


def _is_parts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(part, Tensor) for part in value)


def _reshaped(before: Tensor, after: Tensor) -> Tensor:
    """Keep the strides of axes that a reshape leaves alone: the first ones and the last ones."""
    strides = [0] * after.ndim
    for ends in (range(min(before.ndim, after.ndim)), range(-1, -min(before.ndim, after.ndim) - 1, -1)):
        for dim in ends:
            if before.shape[dim] != after.shape[dim]:
                break
            strides[dim] = before.stride(dim)
    return torch.empty_strided(after.shape, strides, device="meta")

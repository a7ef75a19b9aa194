"""A program's graph is checked and made independent of the device and the type of floats it was exported with."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from qfair_check.errors import InputError

_BATCH_NORMS = ("batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "native_batch_norm")
_DROPOUTS = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "native_dropout")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_FLOATS = (torch.float16, torch.bfloat16, torch.float64)


def adapt(module: nn.Module, source: str) -> None:
    """Prepare the graphs of a program, in place.

    Whatever a graph makes on a device of its own is made on that of its inputs. Weights that are all of one other
    type of floats are going to be float32, so that this type becomes float32 in the graph.

    Raises
    ------
    InputError
        If the program was exported in training mode.
    """
    kinds = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    narrow = kinds.pop() if len(kinds) == 1 else torch.float32
    for inner in module.modules():
        graph = inner.__dict__.get("_graph")
        if isinstance(graph, fx.Graph):
            active = next(_active_in_training(graph), None)
            if active:
                raise InputError(f"{source} was exported in training mode ({active} is active): export model.eval()")
            _follow_inputs(graph, narrow if narrow in _FLOATS else None)
    module.eval()


def _active_in_training(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = node.target._schema.name.rpartition("::")[2].removesuffix("_")
            given = _by_name(node)
            if name in _BATCH_NORMS:
                active = given.get("training") is True and given.get("running_mean") is not None
            elif name in _DROPOUTS:
                active = given.get("train") is True and given.get("p") != 0
            elif name in _RECURRENT:
                active = given.get("train") is True and given.get("dropout", 0) != 0
            elif name == "scaled_dot_product_attention":
                active = given.get("dropout_p", 0) != 0
            else:
                active = name == "rrelu" and given.get("training") is True
            if active:
                yield name


def _by_name(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return {**{item.name: value for item, value in zip(schema, node.args, strict=False)}, **node.kwargs}


def _follow_inputs(graph: fx.Graph, narrow: torch.dtype | None) -> None:
    first = next((node for node in graph.nodes if node.op == "placeholder" and node.meta.get("is_tensor")), None)
    device: fx.Node | None = None

    def changed(value: Any) -> Any:
        nonlocal device
        if narrow is not None and value is narrow:
            return torch.float32
        if isinstance(value, torch.device) and first is not None:
            if device is None:
                last = [node for node in graph.nodes if node.op == "placeholder"][-1]
                with graph.inserting_after(last):
                    device = graph.call_function(getattr, (first, "device"))
            return device
        return value

    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # of the type and device at export
            continue
        node.args = fx.node.map_aggregate(node.args, changed)
        node.kwargs = fx.node.map_aggregate(node.kwargs, changed)
    _drop_unused(graph)


def _drop_unused(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)

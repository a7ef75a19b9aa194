"""The JSON of an exported program becomes a module: known operators alone, nothing evaluated, compiled or imported."""

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from qfair_check.errors import InputError
from qfair_check.inputs.exported import ExportedModule, GraphRunner, ProgramInput, Signature, rebuilt
from qfair_check.inputs.program_graph import adapt
from qfair_check.inputs.pt2_scan import DTYPES, ProgramFile, damaged, read_program_file, refused

_MAJOR = 8
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.(_?[A-Za-z]\w*)\.([A-Za-z]\w*)")
_PLAIN = re.compile(r"(?:Tensor|Device|Generator|bool|complex|float|int|number|str|Optional|List|[\[\], ])+")
_UNSAFE = {
    *("from_file", "save", "warn", "_print"),
    *("set_grad_enabled", "manual_seed", "seed"),  # change torch itself
    *("_reshape_alias", "segment_reduce"),  # do not check their arguments, and reach beyond the memory of a tensor
}
_UNCHECKED = re.compile(r"_?(sparse|nested)_.*|.*_unsafe")  # nor do these
_HIGHER_ORDER = {
    f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond")
}
_NUMBERS = (
    *("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "mod", "pow", "truediv"),
    *("and_", "or_", "lshift", "rshift"),
)
_SYMBOLIC = ("sym_not", "sym_int", "sym_float", "sym_ite", "sym_max", "sym_min", "sym_sqrt")
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _NUMBERS},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC if hasattr(torch, name)},
    "math.trunc": math.trunc,
}
_SYMBOL = re.compile(r"Symbol\('(\w+)'")
_PART = re.compile(r"[\w\-+/: ]+")
_LAYOUTS = {1: torch.sparse_coo, 2: torch.sparse_csr, 7: torch.strided}
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_Json = Mapping[str, Any]


def load_program(path: Path) -> nn.Module:
    """Load an exported program without torch.export.load: that evaluates and imports what the file names.

    Raises
    ------
    UntrustedPickleError
        If the file brings code, or calls something that is not a known operator.
    InputError
        If it is damaged, of an unknown version, or was exported in training mode.
    """
    file = read_program_file(path)
    try:
        return _Reader(file, path).module()
    except InputError:
        raise
    except (
        ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, StopIteration, OverflowError,
    ) as error:  # fmt: skip
        raise damaged(path, error) from error


class _Reader:
    """Reads one program; names of the file serve as keys only, and nodes get names of their own."""

    def __init__(self, file: ProgramFile, path: Path) -> None:
        self._file = file
        self._path = path
        major = file.program["schema_version"]["major"]
        if major != _MAJOR:
            raise InputError(
                f"{path} is of schema version {major}, and {_MAJOR} is known: export the model again with a torch "
                "that writes it"
            )
        self._program: _Json = file.program["graph_module"]

    def module(self) -> ExportedModule:
        call = self._program["module_call_graph"][0]["signature"]
        graph, inputs, values = self._inputs(call)
        module = ExportedModule(graph, Signature(inputs, self._ranges(), partial(rebuilt, _tree(call["out_spec"]))))
        self._hold_tensors(module)
        self._nodes(self._program["graph"], graph, values, module)
        graph.output(tuple(self._outputs(graph, values)))
        adapt(module, str(self._path))
        return module

    def _inputs(self, call: _Json) -> tuple[fx.Graph, tuple[ProgramInput, ...], dict[str, Any]]:
        graph = fx.Graph()
        values: dict[str, Any] = {}
        sizes: list[tuple[int | str, ...] | None] = []
        specs = self._program["signature"]["input_specs"]
        for given, spec in zip(self._program["graph"]["inputs"], specs, strict=True):
            kind, what = _only(spec)
            if kind == "user_input":
                form, value = _only(given)
                if form == "as_tensor":
                    values[value["name"]] = placeholder(graph, len(sizes))
                    sizes.append(self._sizes(value["name"]))
                else:
                    raise InputError(f"{self._path} takes an input that is no tensor: export it with tensors alone")
            elif kind in _TARGETS:
                values[what["arg"]["name"]] = graph.get_attr(_checked_name(what[_TARGETS[kind]]))
            elif kind == "constant_input":
                sizes.append(None)
            else:
                raise refused(self._path, f"takes a {kind} as an input")
        names = _input_names(call, self._path)
        inputs = [ProgramInput(name, size) for name, size in zip(names, sizes, strict=True) if size is not None]
        if not inputs:
            raise InputError(f"{self._path} takes no inputs: export the model with a batch of samples")
        return graph, tuple(inputs), values

    def _sizes(self, name: str) -> tuple[int | str, ...]:
        return tuple(_size(size) for size in self._program["graph"]["tensor_values"][name]["sizes"])

    def _ranges(self) -> dict[str, tuple[int, int | None]]:
        found: dict[str, tuple[int, int | None]] = {}
        for name, ends in self._file.program["range_constraints"].items():
            low, high = ends["min_val"], ends["max_val"]
            found[name] = max(int(low or 0), 0), None if high is None else int(high)
        return found

    def _hold_tensors(self, module: nn.Module) -> None:
        """Give the module its weights and constants under the names that they had in the model."""
        persistent: dict[str, bool] = {}
        for spec in self._program["signature"]["input_specs"]:
            kind, what = _only(spec)
            if kind in _TARGETS:
                persistent[what[_TARGETS[kind]]] = bool(what.get("persistent", kind == "parameter"))
        held = {**self._file.constants, **self._file.weights}
        for name in dict.fromkeys([*persistent, *self._file.weights, *self._file.constants]):
            *folders, last = _checked_name(name).split(".")
            place = module
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place.get_submodule(folder)
            value = held[name]
            if isinstance(value, nn.Parameter):
                place.register_parameter(last, value)
            else:
                place.register_buffer(last, value, persistent=persistent.get(name, name in self._file.weights))

    def _nodes(self, source: _Json, graph: fx.Graph, values: dict[str, Any], module: nn.Module) -> None:
        for given in source["nodes"]:
            target = self._target(given["target"])
            arguments = [(item["name"], item.get("kind"), self._value(item["arg"], graph, values, module))
                         for item in given["inputs"]]  # fmt: skip
            args, kwargs = _called(target, arguments)
            self._results(given, graph, graph.call_function(target, args, kwargs), values)

    def _target(self, name: str) -> Callable[..., Any]:
        if name in _FUNCTIONS:
            return _FUNCTIONS[name]
        if name in _HIGHER_ORDER:
            found: Any = getattr(torch.ops.higher_order, name.rpartition(".")[2])
            return found  # type: ignore[no-any-return]
        parts = _OPERATOR.fullmatch(name)
        if parts is None or parts[2] in _UNSAFE or _UNCHECKED.fullmatch(parts[2]):
            raise refused(
                self._path, f"calls {name[:200]}, which is not one of the operators that are known to be safe"
            )
        if parts[1] == "torchvision":
            import torchvision  # noqa: F401 (registers its operators)
        packet = getattr(getattr(torch.ops, parts[1]), parts[2], None)
        overload = getattr(packet, parts[3], None)
        if not isinstance(overload, torch._ops.OpOverload) or not _is_plain(overload):
            raise refused(
                self._path, f"calls {name[:200]}, which is not one of the operators that are known to be safe"
            )
        return overload

    def _value(self, given: _Json, graph: fx.Graph, values: Mapping[str, Any], module: nn.Module) -> Any:
        kind, value = _only(given)
        if kind in _CONSTANTS:
            return _CONSTANTS[kind](value)
        if kind == "as_tensor":
            return values[value["name"]]
        if kind == "as_tensors":
            return [values[item["name"]] for item in value]
        if kind == "as_nested_tensors":
            return [[values[item["name"]] for item in inner] for inner in value]
        if kind == "as_optional_tensor":
            return _optional(value, values)
        if kind == "as_optional_tensors":
            return [_optional(item, values) for item in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return _symbolic(value, values)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [_symbolic(item, values) for item in value]
        if kind == "as_graph":
            return self._subgraph(value["graph"], graph, module)
        raise refused(self._path, f"passes {kind.removeprefix('as_')} to an operator")

    def _subgraph(self, source: _Json, graph: fx.Graph, module: nn.Module) -> fx.Node:
        inner = fx.Graph()
        runner = GraphRunner(inner)
        values: dict[str, Any] = {}
        for index, given in enumerate(source["inputs"]):
            kind, value = _only(given)
            node = placeholder(inner, index, is_tensor=kind == "as_tensor")
            values[value["name"] if kind == "as_tensor" else value["as_name"]] = node
        self._nodes(source, inner, values, runner)
        outputs = [self._value(given, inner, values, runner) for given in source["outputs"]]
        inner.output(outputs[0] if source.get("is_single_tensor_return") else tuple(outputs))
        name = f"_graph_{sum(key.startswith('_graph_') for key in module._modules)}"
        module.add_module(name, runner)
        return graph.get_attr(name)

    def _results(self, given: _Json, graph: fx.Graph, node: fx.Node, values: dict[str, Any]) -> None:
        outputs = [_only(output) for output in given["outputs"]]
        in_tuple = given["target"] in _HIGHER_ORDER and given.get("is_hop_single_tensor_return") is False
        if len(outputs) == 1 and not in_tuple:
            kind, value = outputs[0]
            if kind == "as_tensors":
                outputs = [("as_tensor", item) for item in value]
            else:
                _name_results(graph, node, kind, value, values)
                return
        for index, (kind, value) in enumerate(outputs):
            _name_results(graph, graph.call_function(operator.getitem, (node, index)), kind, value, values)

    def _outputs(self, graph: fx.Graph, values: Mapping[str, Any]) -> list[Any]:
        """Return what the model returns; buffers that it changes are changed."""
        returned: list[Any] = []
        for given, spec in zip(
            self._program["graph"]["outputs"], self._program["signature"]["output_specs"], strict=True
        ):
            kind, what = _only(spec)
            value = self._value(given, graph, values, nn.Module())
            if kind == "user_output":
                returned.append(value)
            elif kind == "buffer_mutation" and what["buffer_name"] in self._file.weights | self._file.constants:
                held = graph.get_attr(_checked_name(what["buffer_name"]))
                graph.call_function(torch.ops.aten.copy_.default, (held, value))
            else:
                raise InputError(
                    f"{self._path} has an output of kind {kind}: export the model in eval mode for inference"
                )
        return returned


def placeholder(graph: fx.Graph, index: int, *, is_tensor: bool = True) -> fx.Node:
    """Add an input to a graph."""
    node = graph.placeholder(f"input_{index}")
    node.meta["is_tensor"] = is_tensor
    return node


_TARGETS = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}
_CONSTANTS: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    "as_int": int,
    "as_ints": lambda values: [int(value) for value in values],
    "as_float": float,
    "as_floats": lambda values: [float(value) for value in values],
    "as_bool": bool,
    "as_bools": lambda values: [bool(value) for value in values],
    "as_string": str,
    "as_strings": lambda values: [str(value) for value in values],
    "as_complex": lambda value: complex(value["real"], value["imag"]),
    "as_scalar_type": lambda value: DTYPES[value],
    "as_layout": lambda value: _LAYOUTS[value],
    "as_memory_format": lambda value: _FORMATS[value],
    "as_device": lambda value: torch.device(str(value["type"])),
}


def _only(union: _Json) -> tuple[str, Any]:
    """Return the one member of a union: its kind and its value."""
    ((kind, value),) = union.items()
    return kind, value


def _size(given: _Json) -> int | str:
    kind, value = _only(given)
    if kind == "as_int":
        return int(value)
    text = str(value["expr_str"])
    named = _SYMBOL.match(text)
    return named[1] if named and text.count("(") == 1 else text


def _tree(text: str) -> _Json:
    protocol, tree = json.loads(text)
    if protocol != 1:
        raise ValueError(f"tree protocol {protocol}")
    found: _Json = tree
    return found


def _input_names(call: _Json, path: Path) -> list[str]:
    args, kwargs = _tree(call["in_spec"])["children_spec"]
    leaves = [*args["children_spec"], *kwargs["children_spec"]]
    if any(leaf["type"] is not None for leaf in leaves):
        raise InputError(
            f"{path} takes inputs that are nested in lists or mappings: export a module whose forward takes tensors"
        )
    keys = json.loads(kwargs["context"])
    named = call.get("forward_arg_names") or []
    positional = len(args["children_spec"])
    given = named[:positional] if len(named) == len(leaves) else [f"input_{index}" for index in range(positional)]
    return [*map(str, given), *map(str, keys)]


def _checked_name(name: str) -> str:
    if not all(_PART.fullmatch(part) and not part.startswith("__") for part in name.split(".")):
        raise ValueError(f"a tensor has the name {name[:200]!r}")
    return name


def _is_plain(overload: torch._ops.OpOverload) -> bool:
    """Whether an operator takes and gives tensors, numbers and texts alone, and opens no file."""
    schema = overload._schema
    types = [item.type.annotation_str for item in (*schema.arguments, *schema.returns)]
    return all(map(_PLAIN.fullmatch, types)) and not any(item.name == "filename" for item in schema.arguments)


def _called(
    target: Callable[..., Any], given: Sequence[tuple[str, Any, Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments by position and by name."""
    if not isinstance(target, torch._ops.OpOverload):
        by_name = isinstance(target, torch._ops.HigherOrderOperator)
        positional = [value for name, kind, value in given if not by_name or kind != 2 or not name]
        return tuple(positional), {name: value for name, kind, value in given if by_name and kind == 2 and name}
    values = {name: value for name, _, value in given}
    schema = target._schema.arguments
    if values.keys() - {item.name for item in schema}:
        raise ValueError(f"{target} has no such arguments: {', '.join(values)}")
    args: list[Any] = []
    for item in schema:
        if item.kwarg_only or item.name not in values:
            break
        args.append(values.pop(item.name))
    return tuple(args), values


def _optional(given: _Json, values: Mapping[str, Any]) -> Any:
    kind, value = _only(given)
    return values[value["name"]] if kind == "as_tensor" else None


def _symbolic(given: _Json, values: Mapping[str, Any]) -> Any:
    kind, value = _only(given)
    return values[value] if kind == "as_name" else {"as_int": int, "as_float": float, "as_bool": bool}[kind](value)


def _name_results(graph: fx.Graph, node: fx.Node, kind: str, value: Any, values: dict[str, Any]) -> None:
    if kind == "as_tensor":
        values[value["name"]] = node
    elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        values[value["as_name"]] = node
    elif kind == "as_tensors":
        for index, item in enumerate(value):
            values[item["name"]] = graph.call_function(operator.getitem, (node, index))
    elif kind != "as_none":
        raise ValueError(f"an operator returns {kind}")

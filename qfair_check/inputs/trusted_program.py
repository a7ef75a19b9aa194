"""An exported program that torch itself loads, of a file that the user trusts."""

import copy
import io
import warnings
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qfair_check.errors import InputError
from qfair_check.inputs.exported import ExportedModule, ProgramInput, Signature
from qfair_check.inputs.program_graph import adapt


def load_trusted_program(path: Path) -> nn.Module:
    """Load an exported program by torch.export.load, which may run code of the file.

    Raises
    ------
    InputError
        If torch cannot load it, or it takes anything but tensors.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.export.load(io.BytesIO(path.read_bytes()))
    except Exception as error:  # trusted code in the file may raise anything
        raise InputError(
            f"torch.export.load cannot load {path}: {type(error).__name__}: {str(error).strip()[:300]}"
        ) from error
    return program_module(program, str(path))


def program_module(program: torch.export.ExportedProgram, source: str = "the exported program") -> nn.Module:
    """Return an exported program as a module of its own.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Left as it is.
    source : str
        What it is called in errors.

    Raises
    ------
    InputError
        If it takes anything but tensors, or was exported in training mode.
    """
    has_guards = "check_guards" in signature(program.module).parameters  # torch 2.6 makes a module without
    made = program.module(check_guards=False) if has_guards else program.module()
    _tie(made)
    inner = copy.deepcopy(made)
    graph, taken = fx.Graph(), dict[fx.Node, Any]()
    kept: list[tuple[int | str, ...] | None] = []
    for node in inner.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and not isinstance(value, Tensor):
            taken[node] = value
            kept.append(None)
            continue
        taken[node] = graph.node_copy(node, taken.__getitem__)
        if node.op == "placeholder":
            taken[node].meta["is_tensor"] = True
            kept.append(tuple(size if isinstance(size, int) else str(size) for size in value.shape))
    spec = program.call_spec.in_spec
    args, kwargs = _children(spec)
    if not all(leaf.is_leaf() for leaf in (*_children(args), *_children(kwargs))) or len(kept) != spec.num_leaves:
        raise InputError(
            f"{source} takes inputs that are nested in lists or mappings: export a module whose forward takes tensors"
        )
    positional = [f"input_{index}" for index in range(args.num_children)]
    call = program.module_call_graph[0].signature
    if call is not None and call.forward_arg_names and len(call.forward_arg_names) == len(kept):
        positional = list(call.forward_arg_names[: len(positional)])
    names = [*positional, *kwargs.context]
    inputs = tuple(ProgramInput(name, size) for name, size in zip(names, kept, strict=True) if size is not None)
    ranges = {str(symbol): _ends(found) for symbol, found in program.range_constraints.items()}
    out_spec = program.call_spec.out_spec
    module = ExportedModule(graph, Signature(inputs, ranges, partial(_unflattened, out_spec)))
    module._parameters, module._buffers = inner._parameters, inner._buffers
    module._modules = inner._modules
    module._non_persistent_buffers_set = inner._non_persistent_buffers_set
    _register_constants(module, inner)
    for name, _ in list(module.named_buffers()):
        if name not in program.state_dict:  # a constant, which the state dict of the model does not have
            folder, _, last = name.rpartition(".")
            module.get_submodule(folder)._non_persistent_buffers_set.add(last)
    adapt(module, source)
    return module


def _children(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    return spec.children() if hasattr(spec, "children") else spec.children_specs  # the second in torch 2.6


def _register_constants(module: ExportedModule, inner: fx.GraphModule) -> None:
    """Make buffers of tensors that are mere attributes, so that they are copied and moved with the module."""
    for node in module._graph.find_nodes(op="get_attr"):
        folder, _, last = str(node.target).rpartition(".")
        owner = inner.get_submodule(folder)
        value = getattr(owner, last)
        if isinstance(value, Tensor) and last in owner.__dict__:
            delattr(owner, last)
            (module if owner is inner else owner).register_buffer(last, value, persistent=False)


def _tie(module: nn.Module) -> None:
    """Make one parameter of those that share their memory, as they did in the model."""
    first: dict[tuple[object, ...], nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        folder, _, last = name.rpartition(".")
        key = (parameter.data_ptr(), parameter.shape, parameter.stride()) if parameter.numel() else (name,)
        module.get_submodule(folder).register_parameter(last, first.setdefault(key, parameter))


def _unflattened(spec: pytree.TreeSpec, leaves: Any) -> Any:
    return pytree.tree_unflatten(list(leaves), spec)


def _ends(found: Any) -> tuple[int, int | None]:
    low = int(found.lower) if found.lower.is_Integer else 0
    return max(low, 0), int(found.upper) if found.upper.is_Integer else None

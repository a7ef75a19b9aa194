"""An exported program as a module: a graph of operators over named weights, run in parts that fit its batch size."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfair_check.errors import MeasureError


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """One input: whole numbers are sizes that it must have, texts are sizes that may vary."""

    name: str
    sizes: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a program takes and returns.

    Parameters
    ----------
    inputs : tuple of ProgramInput
        In the order of the graph's placeholders: positional ones first.
    ranges : mapping of str to (int, int or None)
        The least and the largest value of a size that may vary; None for no end.
    rebuild : callable
        Turns the flat outputs of the graph into what the model returned.
    """

    inputs: tuple[ProgramInput, ...]
    ranges: Mapping[str, tuple[int, int | None]]
    rebuild: Callable[[Sequence[Any]], Any]


class GraphRunner(nn.Module):
    """Runs a graph on its own weights, operator by operator; no code is generated or compiled."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__()
        self._graph = graph

    def forward(self, *values: Any) -> Any:
        """Return the outputs of the graph."""
        interpreter = fx.Interpreter(self, graph=self._graph)
        interpreter.extra_traceback = False
        return interpreter.run(*values, enable_io_processing=False)


class ExportedModule(GraphRunner):
    """A program in the mode it was exported in, called as the model was: by position or by name.

    A batch that the program does not take at once is split into parts; the last one is filled up by repeating
    its last row, and these rows are dropped. Outputs are joined again where their first size is that of the part.
    """

    def __init__(self, graph: fx.Graph, signature: Signature) -> None:
        super().__init__(graph)
        self._signature = signature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returned for this batch.

        Raises
        ------
        MeasureError
            If the inputs are not those of the program, in number, name or shape.
        """
        tensors = self._ordered(args, kwargs)
        rows = tensors[0].shape[0] if tensors[0].ndim else 0
        size, least = self._part(rows)
        self._check_shapes(tensors)
        if least <= rows <= size:
            return self._signature.rebuild(super().forward(*tensors))
        parts = []
        for start in range(0, rows, size):
            part = [value[start : start + size] for value in tensors]
            count = len(part[0])
            wanted = max(count, least)
            padded = [_filled_up(value, wanted) for value in part]
            outputs = super().forward(*padded)
            parts.append([_cut(value, wanted, count) for value in outputs])
        return self._signature.rebuild([_joined(values, rows) for values in zip(*parts, strict=True)])

    def _ordered(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        names = [given.name for given in self._signature.inputs]
        found = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) > len(names) or found.keys() != set(names) or len(found) != len(args) + len(kwargs):
            given = [f"{len(args)} by position"] * bool(args) + [", ".join(kwargs)] * bool(kwargs)
            raise MeasureError(
                f"the program takes {', '.join(names)}, and the data gives {' and '.join(given) or 'none'}"
            )
        tensors = [found[name] for name in names]
        strange = next((value for value in tensors if not isinstance(value, Tensor)), None)
        if strange is not None:
            raise MeasureError(f"the program takes tensors, and the data gives a {type(strange).__name__}")
        return tensors

    def _part(self, rows: int) -> tuple[int, int]:
        """Return the most and the fewest rows that the program takes at once."""
        first = {given.sizes[:1] for given in self._signature.inputs}
        fixed = {sizes[0] for sizes in first if sizes and isinstance(sizes[0], int)}
        if len(fixed) > 1 or () in first:
            raise MeasureError(
                "the inputs of the program do not share a first size, so that it cannot be given rows: export it "
                "with the batch as the first size of every input"
            )
        if fixed:
            (size,) = fixed
            return max(size, 1), max(size, 1)
        ranges = [self._signature.ranges[str(sizes[0])] for sizes in first if sizes[0] in self._signature.ranges]
        least = max((low for low, _ in ranges), default=1)
        most = min((high for _, high in ranges if high is not None), default=max(rows, least, 1))
        return max(most, 1), least

    def _check_shapes(self, tensors: Sequence[Tensor]) -> None:
        known: dict[str, int] = {}
        for position, (given, value) in enumerate(zip(self._signature.inputs, tensors, strict=True)):
            fits = value.ndim == len(given.sizes) and (value.ndim == 0 or value.shape[0] == tensors[0].shape[0])
            for size, expected in zip(value.shape[1:], given.sizes[1:], strict=False):
                if isinstance(expected, int):
                    fits = fits and size == expected
                else:
                    low, high = self._signature.ranges.get(expected, (0, None))
                    fits = fits and known.setdefault(expected, size) == size
                    fits = fits and low <= size <= (math.inf if high is None else high)
            if not fits:
                wanted = ", ".join(["rows", *(self._size(expected) for expected in given.sizes[1:])])
                raise MeasureError(
                    f"{given.name}, input {position + 1} of the program, has shape {tuple(value.shape)}, and the "
                    f"program takes ({wanted}): export it with dynamic_shapes for sizes that vary, or give such samples"
                )

    def _size(self, expected: int | str) -> str:
        if isinstance(expected, int):
            return str(expected)
        low, high = self._signature.ranges.get(expected, (0, None))
        return f"{low} to {high}" if high is not None else f"{low} or more"

    def train(self, mode: bool = True) -> "ExportedModule":
        """Stay in eval mode: a program is what it was exported as."""
        super().train(False)
        return self


def _filled_up(value: Tensor, rows: int) -> Tensor:
    missing = rows - len(value)
    return torch.cat([value, value[-1:].expand(missing, *value.shape[1:])]) if missing else value


def _cut(value: Any, rows: int, count: int) -> Any:
    is_batch = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == rows
    return value[:count] if is_batch else value


def _joined(values: Sequence[Any], rows: int) -> Any:
    tensors = [value for value in values if isinstance(value, Tensor) and value.ndim > 0]
    whole = len(tensors) == len(values) and sum(len(value) for value in tensors) == rows
    return torch.cat(tensors) if whole else values[0]


def rebuilt(tree: Mapping[str, Any], leaves: Sequence[Any]) -> Any:
    """Return leaves in the shape of a tree, as torch writes it in JSON.

    Tuples, lists and mappings become what they were; any other container with names of its parts, such as a
    dataclass of a library that need not be there, becomes an object with these attributes.

    Examples
    --------
    >>> leaf = {"type": None, "context": None, "children_spec": []}
    >>> rebuilt({"type": "builtins.dict", "context": '["a", "b"]', "children_spec": [leaf, leaf]}, [1, 2])
    {'a': 1, 'b': 2}
    """
    return _rebuilt(tree, iter(leaves))


def _rebuilt(tree: Mapping[str, Any], leaves: Iterator[Any]) -> Any:
    kind = tree["type"]
    if kind is None:
        return next(leaves)
    parts = [_rebuilt(child, leaves) for child in tree["children_spec"]]
    if kind in ("builtins.tuple", "builtins.list"):
        return parts if kind == "builtins.list" else tuple(parts)
    context = json.loads(tree["context"]) if isinstance(tree["context"], str) else tree["context"]
    if kind == "collections.defaultdict":
        context = context["dict_context"]  # beside the name of a function, which is not looked up
    if kind in ("builtins.dict", "collections.OrderedDict", "collections.defaultdict"):
        return dict(zip(context, parts, strict=True))
    names = context[0] if context and isinstance(context, list) and isinstance(context[0], list) else context
    if isinstance(names, list) and len(names) == len(parts) and all(isinstance(name, str) for name in names):
        return SimpleNamespace(**dict(zip(names, parts, strict=True)))
    return tuple(parts)

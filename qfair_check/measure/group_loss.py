"""The mean loss of one group as a function of the model's parameters: its value, gradient and Hessian products."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, hardsigmoid, relu6
from torch.overrides import TorchFunctionMode

from qfair_check.errors import MeasureError
from qfair_check.inputs.sample import Sample, called, mapped, size
from qfair_check.measure.fast import AS_IT_IS, SpeedUp
from qfair_check.measure.folding import Folding, pairs_of
from qfair_check.measure.norms import norm
from qfair_check.measure.outputs import logits_of

Batch = tuple[int, Sample, Tensor]

_IN_PLACE = torch.ops.aten.hardsigmoid_.default
_HARDSIGMOIDS = (hardsigmoid, torch.ops.aten.hardsigmoid.default, _IN_PLACE)


class Point:
    """A model at fixed parameters, as something to differentiate at; directions are flat, in the order of `names`.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode, float32 or float64. It is left as it is, and must stay so while the point is used.
    names : sequence of str
        The parameters that count, tied ones once under their first name; the loss is a function of these.
    faster : SpeedUp
        What makes a copy of the module faster; BatchNorm is folded only where all parameters count.
    device : torch.device
    """

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        faster: SpeedUp = AS_IT_IS,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    ) -> None:
        every = dict(module.named_parameters())
        folds = faster.folds if len(names) == len(every) else ()
        self.module = module
        self.device = device
        self.values = {name: value.detach().to(device) for name, value in every.items() if name in set(names)}
        pairs = pairs_of(module, folds, device)
        self._module = SpeedUp(folds, faster.lays_out)(copy.deepcopy(module)).to(device)
        joined = {name for convolution in pairs for name in (f"{convolution}.weight", f"{convolution}.bias")}
        first = {id(value): name for name, value in every.items()}
        known = {name: first[id(value)] for name, value in module.named_parameters(remove_duplicate=False)}
        self._leaves: dict[str, nn.Parameter] = {}
        for name, parameter in self._module.named_parameters():
            is_leaf = name in joined or known[name] in self.values
            parameter.requires_grad_(is_leaf)
            if is_leaf:
                self._leaves[name] = parameter
        self._folding = Folding(self.values, pairs, {name: known[name] for name in self._leaves if name not in joined})

    @property
    def dimension(self) -> int:
        """How many numbers the parameters that count hold."""
        return sum(value.numel() for value in self.values.values())

    @property
    def leaves(self) -> list[nn.Parameter]:
        """The parameters of the copy that is run."""
        return list(self._leaves.values())

    def flat(self, named: dict[str, Tensor]) -> Tensor:
        """Join tensors by name, in the order of the parameters, to one vector; absent ones are zero."""
        dtype = next(iter(self.values.values())).dtype
        whole = torch.zeros(self.dimension, dtype=dtype, device=self.device)
        start = 0
        for name, value in self.values.items():
            stop = start + value.numel()
            if name in named:
                whole[start:stop] = named[name].reshape(-1)
            start = stop
        return whole

    def apart(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a flat vector into tensors by name."""
        sizes = [value.numel() for value in self.values.values()]
        parts = torch.split(vector, sizes)
        return {name: part.view(value.shape) for (name, value), part in zip(self.values.items(), parts, strict=True)}

    def placed(self, batch: Sample) -> Sample:
        """Return a batch on the device, floats in the type of the parameters."""
        dtype = next(iter(self.values.values())).dtype
        return mapped(lambda part: part.to(self.device, dtype if part.is_floating_point() else part.dtype), batch)

    def loss(self, batch: Sample, labels: Tensor, samples: int) -> Tensor:
        """Return the sum of the cross-entropies of a batch / `samples`."""
        logits = logits_of(called(self._module, self.placed(batch)), size(batch))
        return cross_entropy(logits, labels.to(self.device), reduction="sum") / samples

    def pulled(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return a gradient in the parameters of the copy as one in those of the module, flat."""
        return self.flat(self._folding.pull(self._by_name(gradients)))

    def pushed(self, vector: Tensor) -> list[Tensor]:
        """Return a direction in the parameters of the module as one in those of the copy."""
        pushed = self._folding.push(self.apart(vector))
        return [pushed[name] for name in self._leaves]

    def add_bent(self, whole: Tensor, gradients: Sequence[Tensor], vector: Tensor) -> None:
        """Add the part of a Hessian product that folding itself makes."""
        into = self.apart(whole)
        for name, part in self._folding.bend(self._by_name(gradients), self.apart(vector)).items():
            into[name].add_(part)

    def _by_name(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        dtype = next(iter(self.values.values())).dtype
        return {name: value.to(dtype) for name, value in zip(self._leaves, values, strict=True)}


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The gradient of a chunk, with the graph that made it."""

    gradients: list[Tensor | None]


class _Sums:
    """Sums over chunks, one for each leaf, in float64 from the second chunk on."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._leaves = leaves
        self._held: list[Tensor | None] = [None] * len(leaves)
        self._own: set[int] = set()

    def add(self, parts: Sequence[Tensor | None]) -> None:
        """Add what a chunk gives."""
        for index, part in enumerate(parts):
            if part is None:
                continue
            held = self._held[index]
            if held is None:
                self._held[index] = part.detach()
            elif index in self._own:
                held += part.detach()
            else:  # what a chunk gave is not ours to change
                self._held[index] = torch.add(held.double(), part.detach())
                self._own.add(index)

    @property
    def values(self) -> list[Tensor]:
        """The sums; zero where no chunk gave anything."""
        return [
            torch.zeros_like(leaf) if held is None else held
            for leaf, held in zip(self._leaves, self._held, strict=True)
        ]


class GroupLoss:
    """The mean cross-entropy L of one group at a point: L, dL/dt, and d²L/dt² v, exact over all its samples.

    Samples stream through in chunks, each weighted by its count; sums over chunks are in float64.

    Parameters
    ----------
    point : Point
    batches : callable
        Each call gives the group's chunks anew: a seed for models that draw, inputs, and labels.
    samples : int
        In the group, at least 1.
    kept : int
        Chunks whose graphs stay in memory between products; the numbers are the same without.
    twice : bool
        Whether the gradient is computed in a way that can itself be differentiated, as torch does for some operations
        with other last digits. An operation that has no second derivative does not survive that; without, no graph is
        kept, and only products fail.

    Raises
    ------
    MeasureError
        If the loss or its gradient is not finite, or does not depend on the parameters, or, where it is computed
        `twice`, an operation of the model cannot be differentiated twice.

    Source: Pearlmutter 1994, Neural Computation 6 (1).
    """

    def __init__(
        self,
        point: Point,
        batches: Callable[[], Iterable[Batch]],
        samples: int,
        kept: int = 0,
        *,
        twice: bool = True,
    ) -> None:
        self._point = point
        self._batches = batches
        self._samples = samples
        self._kept: list[_Kept] = []
        self.products = 0
        self.loss, self.gradient, self._leaf_gradient = self._first_pass(kept if twice else 0, twice=twice)

    def product(self, vector: Tensor) -> Tensor:
        """Return H v, flat.

        Raises
        ------
        MeasureError
            If it is not finite, or an operation of the model cannot be differentiated twice.
        """
        self.products += 1
        directions = self._point.pushed(vector)
        sums = _Sums(self._point.leaves)
        for kept in self._kept:
            self._add_product(sums, kept.gradients, directions, keep=True)
        for seed, batch, labels in self._from(len(self._kept)):
            with differentiating(seed, self._point.device):
                _, gradients = self._graph(batch, labels, create_graph=True)
                self._add_product(sums, gradients, directions, keep=False)
        found = self._point.pulled(sums.values)
        self._point.add_bent(found, self._leaf_gradient, vector)
        if not math.isfinite(norm(found)):
            raise MeasureError("the Hessian holds NaN or infinite values")
        return found

    def _first_pass(self, kept: int, *, twice: bool) -> tuple[float, Tensor, list[Tensor]]:
        sums = _Sums(self._point.leaves)
        total = 0.0
        for index, (seed, batch, labels) in enumerate(self._batches()):
            with differentiating(seed, self._point.device):
                loss, gradients = self._graph(batch, labels, create_graph=twice)
            total += float(loss.detach())
            sums.add(gradients)
            if index < kept:
                self._kept.append(_Kept(gradients))
        gradient = self._point.pulled(sums.values)
        if not (math.isfinite(total) and math.isfinite(norm(gradient))):
            raise MeasureError("the loss or its gradient is NaN or infinite")
        dtype = gradient.dtype
        return total, gradient, [value.to(dtype) for value in sums.values]

    def _from(self, first: int) -> Iterator[Batch]:
        for index, batch in enumerate(self._batches()):
            if index >= first:
                yield batch

    def _graph(self, batch: Sample, labels: Tensor, *, create_graph: bool) -> tuple[Tensor, list[Tensor | None]]:
        loss = self._point.loss(batch, labels, self._samples)
        if not loss.requires_grad:
            raise MeasureError("the loss does not depend on the model's parameters in a way that torch can follow")
        gradients = torch.autograd.grad(loss, self._point.leaves, create_graph=create_graph, allow_unused=True)
        if create_graph and self.products <= 1:  # later passes run the same operations
            _check_twice_differentiable(loss, gradients)
        return loss, list(gradients)

    def _add_product(
        self, sums: _Sums, gradients: list[Tensor | None], directions: list[Tensor], *, keep: bool
    ) -> None:
        pairs = [
            (gradient, direction)
            for gradient, direction in zip(gradients, directions, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not pairs:
            return
        parts = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            self._point.leaves,
            [direction for _, direction in pairs],
            retain_graph=keep,
            allow_unused=True,
        )
        sums.add(parts)


def _check_twice_differentiable(loss: Tensor, gradients: Sequence[Tensor | None]) -> None:
    """Find what is marked as differentiable once: torch.autograd.grad would leave it out without a word."""
    made = [gradient.grad_fn for gradient in gradients if gradient is not None]
    if any(node.name() == "torch::autograd::Error" for node in _ancestors(made)):
        custom = {
            node.name().removesuffix("Backward")
            for node in _ancestors([loss.grad_fn])
            if issubclass(type(node), torch.autograd.function.BackwardCFunction)
        }
        names = f", among {', '.join(sorted(custom))}," if custom else ""
        raise MeasureError(f"the backward pass of an operation{names} is marked as once_differentiable")


def _ancestors(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield every operation of a graph once."""
    left = list(nodes)
    seen: set[object] = set()
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [parent for parent, _ in node.next_functions]
            yield node


@contextmanager
def differentiating(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators that the caller restores, and let a model run as what torch can differentiate twice."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _Hardsigmoid():
        yield


class _Hardsigmoid(TorchFunctionMode):
    """Compute hardsigmoid, which MobileNetV3 has and torch cannot differentiate twice, from what it can."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func not in _HARDSIGMOIDS:
            return func(*args, **named)
        (given,) = args or (named["input"],)
        made = relu6(given + 3) / 6
        return given.copy_(made) if func is _IN_PLACE or named.get("inplace") else made

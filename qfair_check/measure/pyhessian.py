"""PyHessian as a second way to an eigenvalue of a group's Hessian, with its traps guarded."""

import copy
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from pyhessian import hessian
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from qfair_check.errors import MeasureError
from qfair_check.inputs.sample import Sample, called, mapped
from qfair_check.inputs.sample import size as size_of
from qfair_check.measure.outputs import logits_of

Batches = Callable[[], Iterable[tuple[Sample, Tensor]]]

_LOSS = nn.CrossEntropyLoss()
_UNTOUCHED = "no logit depends on a parameter that the model trains"


@dataclass(frozen=True, slots=True, eq=False)
class PyHessianValue:
    """What PyHessian found.

    Parameters
    ----------
    value : float
        The eigenvalue of largest magnitude, whatever its sign; how near it is, PyHessian does not say.
    vector : torch.Tensor
        Flat, of unit length, one Hessian-vector product past the one that gave `value`; zero where that vanished.
    hvps : int
        Hessian-vector products that were made, 100 at most.
    """

    value: float
    vector: Tensor
    hvps: int


def pyhessian_eigenvalue(module: nn.Module, names: Sequence[str], batches: Batches, seed: int) -> PyHessianValue:
    """Find an eigenvalue of the Hessian of the mean cross-entropy by PyHessian's power iteration at its defaults.

    The iteration is w = Hv, value = v.w, v = w / ‖w‖, until two values in succession differ by less than a
    thousandth. It runs on a copy of the module, in eval mode, and in a random state of its own. The Hessian is
    of all samples of the batches, which may differ in size and are gone through anew for each product.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is; float32 or float64, on any device.
    names : sequence of str
        The parameters that the Hessian is of, as `named_parameters` names them. Those that the loss does not touch,
        in some batches or in all, have rows of zeros.
    batches : callable
        Gives inputs, in the float type of the module, with their labels.
    seed : int
        Of the vector that the iteration starts from.

    Raises
    ------
    MeasureError
        If the loss touches none of the parameters, or the Hessian is not finite, or the model gives no logits.

    Source: Yao et al. 2020, arXiv 1912.07145.

    Examples
    --------
    >>> x, y = torch.tensor([[2.0], [4.0]]), torch.tensor([0, 1])
    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(net.weight)
    >>> round(pyhessian_eigenvalue(net, ["weight"], lambda: [(x, y)], seed=0).value, 3)  # mean of x² / 4
    2.5
    """
    if not names:
        raise MeasureError(_UNTOUCHED)
    network = _Network(module, names)
    feed = _Feed(batches)
    power = _Guarded(network, _LOSS, dataloader=feed, cuda=False)
    power.device = next(network.parameters()).device  # PyHessian knows but "cpu" and "cuda"
    with (
        torch.random.fork_rng(devices=[]),  # the start is drawn on the CPU
        sdpa_kernel(SDPBackend.MATH),  # fused attention has no second derivative
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True", UserWarning)
        torch.default_generator.manual_seed(seed)
        _differentiate_twice(network, feed, power.device)
        (value,), (parts,) = power.eigenvalues()
    part_of = dict(zip(network.trained, parts, strict=True))
    vector = torch.cat([part_of[name].reshape(-1) for name in names])
    return PyHessianValue(value, nn.functional.normalize(vector, dim=0), power.hvps)


def why_not_lambda_max(value: float) -> str | None:
    """Say why the eigenvalue of largest magnitude is not the largest eigenvalue; None if it is.

    Examples
    --------
    >>> why_not_lambda_max(-8.0)
    'PyHessian found the eigenvalue of largest magnitude, -8, which is not λmax'
    """
    if value >= 0:
        return None
    return f"PyHessian found the eigenvalue of largest magnitude, {value:.4g}, which is not λmax"


class _Network(nn.Module):
    """A copy of a module from a batch to logits, in which every parameter that is trained has a gradient.

    PyHessian fails on a parameter that a batch does not touch, so an empty slice of each is added up with the logits:
    it is exactly zero.
    """

    def __init__(self, module: nn.Module, names: Collection[str]) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in names)
        self.trained = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
        self.is_touched = False

    def forward(self, batch: Sample) -> Tensor:
        logits = logits_of(called(self.module, batch), size_of(batch))
        self.is_touched |= logits.requires_grad
        return torch.stack([weight.unsqueeze(0)[:0].sum() for weight in self.trained.values()]).sum() + logits


def _differentiate_twice(network: _Network, feed: "_Feed", device: torch.device) -> None:
    """Raise what torch says of an operation that has no second derivative.

    PyHessian asks for the derivative by the parameters alone: then torch passes over an operation that is marked as
    differentiable once, and leaves out its part of the Hessian. Here nothing is passed over, on the first batch.
    """
    inputs, labels = next(iter(feed))
    loss = _LOSS(network(inputs.to(device)), labels.to(device))
    gradients = torch.autograd.grad(loss, list(network.trained.values()), create_graph=True)
    torch.autograd.backward(gradients, [torch.ones_like(gradient) for gradient in gradients])


class _Guarded(hessian):  # type: ignore[misc]  # it has no types
    """PyHessian, counting its products, and stopped at the first that makes no sense."""

    hvps = 0

    def dataloader_hv_product(self, v: list[Tensor]) -> tuple[float, list[Tensor]]:
        value, product = super().dataloader_hv_product(v)
        self.hvps += 1
        if not self.model.is_touched:
            raise MeasureError(_UNTOUCHED)
        if not math.isfinite(value):
            raise MeasureError("a product of its Hessian with a vector holds NaN or infinite values")
        return value, product


@dataclass(frozen=True, slots=True, eq=False)
class _Feed:
    """The batches, from the first one whenever they are asked for."""

    batches: Batches

    def __iter__(self) -> Iterator[tuple["_Inputs", Tensor]]:
        return ((_Inputs(batch), labels) for batch, labels in self.batches())


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """A batch with the two methods of a tensor that PyHessian calls."""

    batch: Sample

    def size(self, _: int) -> int:
        return size_of(self.batch)

    def to(self, device: torch.device) -> Sample:
        """Return a copy: a model may change its input."""
        return mapped(lambda part: part.to(device, copy=True), self.batch)

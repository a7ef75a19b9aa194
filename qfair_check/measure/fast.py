"""A measuring copy that gives the same logits sooner: BatchNorm folded into convolutions, channels last in memory."""

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from qfair_check.inputs.sample import Sample, called, mapped, parts
from qfair_check.measure.outputs import logits_of

TOLERANCE = 1e-4

_TRIED = 4
_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """What makes a copy of a module faster, whatever its weights; called with one, it may change it.

    Parameters
    ----------
    folds : tuple of (str, str)
        Names of convolutions, and of the BatchNorm that is folded into each.
    lays_out : bool
        Whether weights and images are laid out with channels last.
    """

    folds: tuple[tuple[str, str], ...] = ()
    lays_out: bool = False

    def __call__(self, module: nn.Module) -> nn.Module:
        """Change the module, and return it."""
        for convolution, norm in self.folds:
            _fold(module.get_submodule(convolution), module.get_submodule(norm))
        if self.lays_out:
            for parameter in module.parameters():
                parameter.data = _laid_out(parameter.data)
            module.register_forward_pre_hook(_with_channels_last, with_kwargs=True)
        return module


AS_IT_IS = SpeedUp()


def speed_up(module: nn.Module, batch: Sample) -> SpeedUp:
    """Return what makes a copy of the module faster, whatever its weights.

    Each BatchNorm after a convolution is folded into it, W' = W gamma / sigma, b' = (b - mu) gamma / sigma + beta, and
    images are laid out with channels last. The module still runs its own code. It is left as it is unless it has
    a two-dimensional convolution, torch.fx can trace it, which shows that no step depends on the data, and on a
    few samples the logits before and after differ by at most `TOLERANCE` times the largest of their class, or of
    the median class where that is more: a class masked by -1e9 hides no other.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode, float32, on the CPU. It is left as it is.
    batch : tensor, tuple of tensors, or dict of tensors

    Returns
    -------
    SpeedUp
        To be called with a copy of the module, with these or other weights.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    >>> speed_up(net, torch.rand(8, 3, 4, 4))(copy.deepcopy(net))
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): Flatten(start_dim=1, end_dim=-1)
      (3): Linear(in_features=16, out_features=2, bias=True)
    )
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in module.modules()) or _has_own_forward(module):
        return AS_IT_IS
    few = mapped(lambda part: part[:_TRIED], batch)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            before = _logits(copy.deepcopy(module), few)  # first, so that what the code keeps elsewhere is no proxy
            faster = SpeedUp(tuple(_folds(copy.deepcopy(module), few)), lays_out=True)
            after = _logits(faster(copy.deepcopy(module)), few)
    except (Exception, SystemExit):  # the user's code may raise anything, and torch.fx calls it with what is no tensor
        return AS_IT_IS
    return faster if _agree(before, after) else AS_IT_IS


def _fold(convolution: Any, norm: Any) -> None:
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    convolution.weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
    norm.__class__ = nn.Identity  # the object stays, since the model may hold it under other names, or in a list


def _with_channels_last(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return tuple(map(_laid_out, args)), {name: _laid_out(value) for name, value in kwargs.items()}


def _laid_out(part: Tensor) -> Tensor:
    return part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part


def _folds(module: nn.Module, batch: Sample) -> Iterator[tuple[str, str]]:
    """Yield the names of each convolution, and of the BatchNorm that alone takes its result.

    Both are used once, and their tensors nowhere else.
    """
    graph = fx.Tracer().trace(module, _defaults(module, batch))
    layers = dict(module.named_modules())
    times = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {id(attrgetter(str(node.target))(module)) for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = str(before.target), str(node.target)
        pair = layers[convolution], layers[norm]
        is_read = any(id(value) in read for layer in pair for value in chain(layer.parameters(), layer.buffers()))
        if times[convolution] == times[norm] == 1 and not is_read and _can_fold(*pair):
            yield convolution, norm


def _defaults(module: nn.Module, batch: Sample) -> dict[str, Any] | None:
    """Return the arguments that the batch does not give: torch.fx would take each for a tensor."""
    signature = inspect.signature(module.forward)
    args, kwargs = ((), batch) if isinstance(batch, dict) else ([part for _, part in parts(batch)], {})
    given = signature.bind(*args, **kwargs).arguments
    left_out = {name: value.default for name, value in signature.parameters.items() if name not in given}
    return {name: value for name, value in left_out.items() if value is not inspect.Parameter.empty} or None


def _can_fold(convolution: Any, norm: Any) -> bool:
    if _NORM_OF.get(type(convolution)) is not type(norm) or norm.training or norm.running_var is None:
        return False
    return not any(
        layer._forward_hooks or layer._forward_pre_hooks or _has_own_forward(layer) for layer in (convolution, norm)
    )


def _has_own_forward(layer: nn.Module) -> bool:
    """Return whether its forward was replaced; torch.fx reads that of the class."""
    return "forward" in vars(layer)


def _logits(module: nn.Module, batch: Sample) -> Tensor:
    """Return the logits of two calls, since a module may take another path once it was called."""
    torch.default_generator.manual_seed(0)
    with torch.inference_mode():
        answers = [logits_of(called(module, mapped(torch.clone, batch)), _TRIED) for _ in range(2)]
        return torch.cat(answers).double()


def _agree(before: Tensor, after: Tensor) -> bool:
    """Return whether the same samples have finite logits, some at least, and these are near each other."""
    finite = before.isfinite().all(dim=1)
    if before.shape != after.shape or not torch.equal(finite, after.isfinite().all(dim=1)) or not finite.any():
        return False
    expected = before[finite]
    largest = expected.abs().amax(dim=0)
    return bool(((after[finite] - expected).abs() <= TOLERANCE * largest.clamp(min=largest.median())).all())

"""One copy of the model for each precision, on the device, as a function from a batch to float64 logits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from qfair_check.inputs.sample import Sample, called, mapped, size
from qfair_check.measure.fast import AS_IT_IS, SpeedUp
from qfair_check.measure.outputs import logits_of
from qfair_check.precision import Precision

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """A model at one precision; `computation` says in which arithmetic it runs."""

    precision: Precision
    computation: str
    device: torch.device
    run: Callable[[Sample], Any]

    def logits(self, batch: Sample) -> NDArray[np.float64]:
        """Return the logits of a batch; shape (samples, classes).

        Raises
        ------
        MeasureError
            If the model answers with anything but logits, one row per sample.
        """
        answer = logits_of(self.run(batch), size(batch))
        return np.asarray(answer.detach().to("cpu", torch.float64).numpy())


def forward_at(precision: Precision, module: nn.Module, device: torch.device, faster: SpeedUp = AS_IT_IS) -> Forward:
    """Return the forward pass of a module whose weights are already at `precision`.

    Integer precisions compute in fp32 on the dequantized weights. fp16 and bf16 compute in half precision on
    an accelerator; on a CPU, where that is slow, weights and the result of every torch operation are rounded
    to half and the arithmetic in between is fp32.

    Parameters
    ----------
    precision : Precision
    module : torch.nn.Module
        In eval mode, float32, owned by the caller; it is moved to the device, and not to be differentiated any more.
    device : torch.device
    faster : callable
        Applied to a module that computes in fp32.
    """
    module.requires_grad_(False)  # TorchScript that was differentiated fails in inference mode where something has one
    half = _HALF.get(precision.name)
    if half is None:
        placed = faster(module).to(device)
        return Forward(precision, "fp32", device, lambda batch: called(placed, _placed(batch, device)))
    if device.type == "cpu":
        return Forward(precision, f"{precision}, emulated", device, lambda batch: _emulated(module, batch, half))
    native = module.to(device, half)
    return Forward(
        precision, f"{precision}, native", device, lambda batch: called(native, _placed(batch, device, half))
    )


def _placed(batch: Sample, device: torch.device, floats: torch.dtype = torch.float32) -> Sample:
    return mapped(lambda part: part.to(device, floats if part.is_floating_point() else part.dtype), batch)


def _emulated(module: nn.Module, batch: Sample, half: torch.dtype) -> Any:
    start = mapped(lambda part: part.to(half).to(torch.float32) if part.is_floating_point() else part, batch)
    with _RoundResults(half):
        return called(module, start)


class _RoundResults(TorchFunctionMode):
    """Round the result of every torch operation to a half-precision type and back."""

    def __init__(self, half: torch.dtype) -> None:
        super().__init__()
        self._half = half

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(value) for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        if func is Tensor.__setitem__:
            self._rounded(args[0], given)
        return pytree.tree_map(lambda value: self._rounded(value, given), result)

    def _rounded(self, value: Any, given: set[int]) -> Any:
        """Return the value rounded: in place if it was given, itself if it is rounded, since it may be a view."""
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        rounded = value.to(self._half).to(torch.float32)
        if torch.equal(rounded, value) or _is_same_but_for_nan(rounded, value):
            return value
        return value.copy_(rounded) if id(value) in given else rounded


def _is_same_but_for_nan(one: Tensor, other: Tensor) -> bool:
    """Compare as torch.equal does, which finds NaN unequal to itself; the sum tells quickly that there is none."""
    return bool(other.sum().isnan()) and bool(((one == other) | other.isnan()).all())

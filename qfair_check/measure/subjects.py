"""The model at every precision that is measured: copies, their weights as a record, and their forward passes."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from qfair_check.errors import InputError, MeasureError, OptionError, QFairError
from qfair_check.inputs.model import Model
from qfair_check.inputs.sample import Sample, called, described, kind, mapped
from qfair_check.measure.as_is import as_is
from qfair_check.measure.fast import AS_IT_IS, SpeedUp, speed_up
from qfair_check.measure.forward import Forward, forward_at
from qfair_check.measure.weights import weight_reach, weights_record
from qfair_check.precision import AS_IS, FP32, Precision
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import QuantizedModel, quantize_model
from qfair_check.quantize.order import first_and_last
from qfair_check.quantize.spec import Scheme
from qfair_check.record import Histogram, Weights

NO_WEIGHTS = Weights(0, 0, None, 0.0, Histogram(0.0, 0.0, ()), ())


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The model at one precision; `module` is a copy of its own where curvature is measured."""

    forward: Forward
    weights: Weights
    module: nn.Module | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The model at every precision, and what makes its copies faster."""

    subjects: list[Subject]
    faster: SpeedUp = AS_IT_IS


def prepared(
    model: Model,
    precisions: Sequence[Precision],
    scheme: Scheme,
    allocation: Allocation,
    device: torch.device,
    batch: Sample,
    *,
    keeps: bool,
) -> Prepared:
    """Return the model at fp32 and at each precision; the batch tells its first and last layer.

    Parameters
    ----------
    model, precisions, scheme, allocation, device
        As in `audit`.
    batch : tensor, tuple of tensors, or dict of tensors
        A few samples.
    keeps : bool
        Whether each subject keeps a copy of its module.

    Raises
    ------
    InputError
        If the model has no weights to quantize, or they are not finite.
    MeasureError
        If the model fails on the batch.
    """
    if model.module is None:
        if precisions:
            raise InputError(
                "the model is a plain callable and has no weights to quantize: give a torch.nn.Module to audit it "
                f"at {', '.join(map(str, precisions))}, or audit it with bits=32"
            )
        return Prepared([_callable(model, FP32, device)])
    base = quantize_model(model.module, FP32, scheme, allocation=replace(allocation, first_last=None))
    ends = ends_of(base.module, batch) if allocation.first_last else None
    copies = [base, *(quantize_model(model.module, p, scheme, allocation=allocation, ends=ends) for p in precisions)]
    reach = weight_reach(base)
    faster = speed_up(base.module, batch) if device.type == "cpu" else AS_IT_IS
    return Prepared([_subject(quantized, reach, device, faster, keeps) for quantized in copies], faster)


def prepared_as_is(
    model: Model, reference: Model | None, device: torch.device, batch: Sample, *, keeps: bool
) -> Prepared:
    """Return the reference at fp32, if there is one, and the model as it is.

    Parameters
    ----------
    model, device, batch, keeps
        As in `prepared`.
    reference : Model or None
        The model that it was made from.

    Raises
    ------
    InputError
        If weights are not finite, or a grid is of no weight that is quantized.
    OptionError
        If curvature is to be measured, and the two have not the same parameters.
    """
    origin = None
    if reference is not None and reference.module is not None:
        origin = quantize_model(reference.module, FP32)
    if model.module is None:
        own = _callable(model, AS_IS, device)
        return Prepared([*_baselines(reference, origin, 1.0, device, AS_IT_IS, keeps), own])
    quantized = as_is(model, origin.module if origin else None)
    if keeps and origin is not None and _shapes(origin.module) != _shapes(quantized.module):
        raise OptionError(
            "curvature compares the model with its reference parameter by parameter, and theirs are not the same: "
            "leave out --qfair-curvature or --qfair-reference"
        )
    reach = max(map(weight_reach, [quantized, *([origin] if origin else [])]))
    fast = [
        speed_up(one.module, batch) if device.type == "cpu" else AS_IT_IS for one in (origin or quantized, quantized)
    ]
    own = _subject(quantized, reach, device, fast[1], keeps)
    return Prepared([*_baselines(reference, origin, reach, device, fast[0], keeps), own], fast[0])


def ends_of(module: nn.Module, batch: Sample) -> tuple[str, str] | None:
    """Run a copy, since a model may keep something of what it has seen, and return the weights used first and last."""
    probe = copy.deepcopy(module)
    weights = [(name, weight) for name, weight, _ in quantizable_weights(probe)]
    if not weights:
        return None
    try:
        return first_and_last(probe, weights, mapped(torch.clone, batch))
    except QFairError:
        raise
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        raise MeasureError(
            f"the model failed on the first samples, as a batch of shape {described(kind(batch))}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _subject(quantized: QuantizedModel, reach: float, device: torch.device, faster: SpeedUp, keeps: bool) -> Subject:
    kept = copy.deepcopy(quantized.module) if keeps else None
    weights = weights_record(quantized, reach)  # first, since what is run has BatchNorm folded into its weights
    return Subject(forward_at(quantized.precision, quantized.module, device, faster), weights, kept)


def _baselines(
    reference: Model | None,
    origin: QuantizedModel | None,
    reach: float,
    device: torch.device,
    faster: SpeedUp,
    keeps: bool,
) -> list[Subject]:
    if origin is not None:
        return [_subject(origin, reach, device, faster, keeps)]
    return [] if reference is None else [_callable(reference, FP32, device)]


def _callable(model: Model, precision: Precision, device: torch.device) -> Subject:
    return Subject(Forward(precision, "as given", device, partial(called, model.forward)), NO_WEIGHTS)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}

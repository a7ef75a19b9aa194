"""The only composer: model, grouped data and precisions in, audit out."""

import copy
import hashlib
import operator
import os
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import SupportsIndex

import torch
from torch import nn

from qfair_check import __version__
from qfair_check.audit_file import outcomes_digest
from qfair_check.errors import InputError, MeasureError, OptionError, QFairError
from qfair_check.gaps import fvo, fvo_increase
from qfair_check.inputs.data import GroupedData, as_samples, load_data
from qfair_check.inputs.model import Model, as_model, load_model
from qfair_check.inputs.sample import Sample, called, described, kind, mapped
from qfair_check.measure.backward_pass import BackwardPass, Curved
from qfair_check.measure.chunks import CHUNK, Samples, chunks, data_sha256
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.fast import AS_IT_IS, SpeedUp, speed_up
from qfair_check.measure.forward import Forward, forward_at
from qfair_check.measure.one_pass import Progress, one_pass
from qfair_check.measure.tally import Tally
from qfair_check.measure.weights import weight_reach, weights_record
from qfair_check.precision import FP32, Precision, parse_precisions
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model, quantized_share
from qfair_check.quantize.order import first_and_last
from qfair_check.quantize.spec import Scheme
from qfair_check.record import (
    SCHEMA_VERSION,
    Audit,
    DataRecord,
    Histogram,
    InputsRecord,
    Measures,
    ModelRecord,
    PrecisionResult,
    RunRecord,
    Settings,
    Weights,
)

_MOST = 2**31
_VERSIONED = ("torch", "torchvision", "numpy")


def audit(
    model: object,
    data: object,
    bits: str | int | Precision | Iterable[str | int | Precision] = (8,),
    *,
    scheme: str | Scheme = "absmax",
    allocation: Allocation = Allocation(),  # noqa: B008 (frozen)
    device: str = "cpu",
    batch_size: int = CHUNK,
    workers: int | None = None,
    seed: int = 0,
    curvature: CurvatureOptions | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Audit:
    """Measure a model on grouped data at fp32 and at each requested precision, in one pass over the data.

    Parameters
    ----------
    model : Model, torch.nn.Module, callable or path
        A plain callable has no weights to quantize: it is measured as it is, at fp32 alone. Of a path, see
        `load_model`.
    data : GroupedData, (x, y) or (x, y, group) of arrays, or path
        Of a path, see `load_data`.
    bits : precisions
        Such as ``"8,4"``, ``4`` or ``["fp16", "int4"]``.
    scheme : str or Scheme
        How a tensor is mapped to the grid, such as ``"mse/per-channel"``.
    allocation : Allocation
        Layers that have other bits or are left out, such as ``Allocation.of("conv1=8,fc=8", exclude="embed*")``.
    device : str
        Where the model runs, such as ``"cuda"``.
    batch_size, workers : int
        How samples are loaded; they do not change the numbers. Images are decoded in workers by default.
    seed : int
        For models and data sets that draw torch's random numbers: these start anew at each chunk and each sample.
    curvature : CurvatureOptions, optional
        Measures gradient norms and Hessian eigenvalues of every group as well, which takes far longer than the pass.
    command : sequence of str
        Recorded in the audit, so that it can be run again.
    progress : callable, optional
        Called with what is counted, such as "samples", how many are done, and how many there are if that is known.

    Raises
    ------
    OptionError
        If a precision, the scheme, the allocation or the device makes no sense, or curvature may not take the memory
        that it needs.
    InputError
        If the data cannot be loaded, does not fit the model, or weights are not finite.
    MeasureError
        If the model fails on a batch.

    Examples
    --------
    >>> made = audit("demo", "demo", bits=[8, 2])
    >>> [result.precision for result in made.precisions]
    ['fp32', 'int8', 'int2']
    >>> made.at("int2").fvo > made.at("fp32").fvo
    True
    """
    started = time.monotonic()
    subject = load_model(model) if isinstance(model, str | os.PathLike) else as_model(model)
    samples = load_data(data, model=subject) if isinstance(data, str | os.PathLike) else as_samples(data)
    precisions = parse_precisions(bits)
    grid = Scheme.parse(scheme)
    place = _device(device)
    workers = _default_workers(samples) if workers is None or samples.is_iterable else workers
    _check_counts(batch_size=(batch_size, 1), workers=(workers, 0), seed=(seed, 0))
    with _own_random_state(place), _exact_arithmetic(place), ExitStack() as stack:
        roster = samples.roster()
        with closing(chunks(samples, roster, batch_size=batch_size, workers=workers, seed=seed)) as stream:
            first = next(stream, None)
            if first is None:
                raise InputError(f"{samples.source} holds no samples")
            prepared = _prepared(subject, precisions, grid, allocation, place, first.batch, bool(curvature))
            forwards = [subject_.forward for subject_ in prepared.subjects]
            backward = None
            if curvature:
                backward = stack.enter_context(_backward(prepared, first.batch, curvature, place, seed))
            passed = one_pass(
                chain([first], stream),
                forwards,
                samples,
                roster,
                seed=seed,
                keep=backward.keep if backward else None,
                progress=progress,
            )
        grouped = passed.data
        curved = backward.measure(passed.position, len(grouped.group_names), progress) if backward else None
    outcomes = {forward.precision.name: right for forward, right in zip(forwards, passed.right, strict=True)}
    return Audit(
        schema_version=SCHEMA_VERSION,
        model=_model_record(subject, allocation),
        data=DataRecord(data_sha256(grouped, passed.digests), grouped.size, grouped.classes),
        settings=_settings(grid, allocation, seed, place, backward),
        groups=grouped.group_names,
        precisions=_results(prepared.subjects, passed.tallies, grouped, curved or [Curved()] * len(forwards)),
        inputs=_inputs_record(subject, grouped, passed.notices),
        run=RunRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(command),
            seconds=round(time.monotonic() - started, 3),
            platform=f"{platform.platform()}, Python {platform.python_version()}",
            threads=torch.get_num_threads(),
            batch_size=batch_size,
            workers=workers,
            versions={"qfair_check": __version__} | {name: version(name) for name in _VERSIONED},
        ),
        outcomes_sha256=outcomes_digest(outcomes),
        outcomes=outcomes,
    )


def quantized_for_audit(
    model: Model,
    precision: Precision,
    scheme: str | Scheme,
    allocation: Allocation,
    data: Samples | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """Return a new module with the weights that an audit gives it; the first samples tell its first and last layer.

    Raises
    ------
    InputError
        If the model has no weights.
    """
    if model.module is None:
        raise InputError("the model is a plain callable and has no weights to quantize")
    ends = None
    if allocation.first_last and data is not None:
        with (
            _own_random_state(_device("cpu")),
            closing(chunks(data, data.roster(), batch_size=CHUNK, workers=0, seed=seed)) as stream,
        ):
            base = quantize_model(model.module, FP32, scheme)
            ends = _ends(base.module, next(stream).batch)
    return quantize_model(model.module, precision, scheme, allocation=allocation, ends=ends).module


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """The model at one precision; `module` is a copy of its own where curvature is measured."""

    forward: Forward
    weights: Weights
    module: nn.Module | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """The model at every precision, and what makes its copies faster."""

    subjects: list[_Subject]
    faster: SpeedUp = AS_IT_IS


def _prepared(
    model: Model,
    precisions: Sequence[Precision],
    scheme: Scheme,
    allocation: Allocation,
    device: torch.device,
    batch: Sample,
    keeps: bool,
) -> _Prepared:
    if model.module is None:
        if precisions:
            raise InputError(
                "the model is a plain callable and has no weights to quantize: give a torch.nn.Module to audit it "
                f"at {', '.join(map(str, precisions))}, or audit it with bits=32"
            )
        return _Prepared([_Subject(Forward(FP32, "as given", device, partial(called, model.forward)), _NO_WEIGHTS)])
    base = quantize_model(model.module, FP32, scheme, allocation=replace(allocation, first_last=None))
    ends = _ends(base.module, batch) if allocation.first_last else None
    copies = [base, *(quantize_model(model.module, p, scheme, allocation=allocation, ends=ends) for p in precisions)]
    reach = weight_reach(base)
    faster = speed_up(base.module, batch) if device.type == "cpu" else AS_IT_IS
    subjects = []
    for quantized in copies:
        kept = copy.deepcopy(quantized.module) if keeps else None
        weights = weights_record(quantized, reach)  # first, since what is run has BatchNorm folded into its weights
        subjects.append(_Subject(forward_at(quantized.precision, quantized.module, device, faster), weights, kept))
    return _Prepared(subjects, faster)


def _backward(
    prepared: _Prepared, batch: Sample, options: CurvatureOptions, device: torch.device, seed: int
) -> BackwardPass:
    subjects = [
        (subject.module, tuple(layer.name for layer in subject.weights.layers))
        for subject in prepared.subjects
        if subject.module is not None
    ]
    return BackwardPass(subjects, batch, options, faster=prepared.faster, device=device, seed=seed)


def _ends(module: nn.Module, batch: Sample) -> tuple[str, str] | None:
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


_NO_WEIGHTS = Weights(0, 0, None, 0.0, Histogram(0.0, 0.0, ()), ())


def _own_random_state(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _exact_arithmetic(device: torch.device) -> AbstractContextManager[None]:
    """Keep convolutions on a GPU in fp32 proper, which they are not by default, and repeatable."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    return flags


def _check_counts(**given: tuple[object, int]) -> None:
    for name, (value, least) in given.items():
        is_whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
        if not is_whole or not least <= operator.index(value) < _MOST:  # type: ignore[arg-type]
            raise OptionError(f"{name} is {value!r}: it is a whole number from {least} to {_MOST - 1}")


def _results(
    subjects: Sequence[_Subject], tallies: Sequence[Tally], data: GroupedData, curved: Sequence[Curved]
) -> tuple[PrecisionResult, ...]:
    base = tallies[0]
    fp32_groups = base.measures(base)
    results = []
    for subject, tally, curvature in zip(subjects, tallies, curved, strict=True):
        groups = tally.measures(base)
        reason = _why_no_gap(groups, data.group_names)
        base_reason = _why_no_gap(fp32_groups, data.group_names)
        undefined = {"fvo": reason} if reason else {}
        if reason or base_reason:
            undefined["fvo_increase"] = reason or f"{base_reason} at fp32"
        results.append(
            PrecisionResult(
                precision=subject.forward.precision.name,
                computation=subject.forward.computation,
                overall=tally.pooled().measures(base.pooled())[0],
                groups=groups,
                fvo=fvo(groups),
                fvo_increase=None if reason or base_reason else fvo_increase(groups, fp32_groups),
                undefined=undefined,
                recalls=tally.recalls(data.classes) if data.group_by else (),
                weights=subject.weights,
                curvature=curvature.groups,
                moved=curvature.moved,
            )
        )
    return tuple(results)


def _why_no_gap(groups: Sequence[Measures], names: Sequence[str]) -> str | None:
    if len(groups) < 2:
        return "there is only one group"
    return next(
        (
            f"group {name}: {group.undefined['accuracy']}"
            for name, group in zip(names, groups, strict=True)
            if group.accuracy is None
        ),
        None,
    )


def _model_record(model: Model, allocation: Allocation) -> ModelRecord:
    if model.module is None:
        return ModelRecord(None, 0, 0, ())
    names = [name for name, _, _ in quantizable_weights(model.module)]
    kept = set(allocation.included(names))
    quantized, parameters = quantized_share(model.module, allocation)
    return ModelRecord(model.sha256, parameters, quantized, tuple(name for name in names if name not in kept))


def _settings(
    scheme: Scheme, allocation: Allocation, seed: int, device: torch.device, backward: BackwardPass | None
) -> Settings:
    digest = hashlib.sha256(f"{scheme}\n{allocation}".encode()).hexdigest()
    curvature = backward.settings if backward else None
    return Settings(str(scheme), str(allocation), digest, seed, CHUNK, _device_name(device), curvature)


def _inputs_record(model: Model, data: GroupedData, notices: tuple[str, ...]) -> InputsRecord:
    prepared = data.preprocessing
    return InputsRecord(
        model=model.source,
        architecture=model.architecture,
        data=data.source,
        label=data.label,
        group_by=data.group_by,
        split=data.split,
        class_order=data.class_order,
        image_size=prepared.image_size if prepared else None,
        mean=prepared.mean if prepared else (),
        std=prepared.std if prepared else (),
        transforms=prepared.transforms if prepared else None,
        bins=data.bins,
        notices=(*model.notices, *data.notices, *notices),
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {name!r} cannot be used here: {reason}; cpu always can") from error
    return device


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _default_workers(data: Samples) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, torch.get_num_threads(), cores) if data.decodes else 0

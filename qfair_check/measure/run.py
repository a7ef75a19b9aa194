"""The only composer: model, grouped data and precisions in, audit out."""

import hashlib
import operator
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray

from qfair_check import __version__
from qfair_check.audit_file import outcomes_digest, pack_outcomes
from qfair_check.errors import InputError, MeasureError, OptionError
from qfair_check.inputs.data import GroupedData, as_grouped_data, load_data
from qfair_check.inputs.model import Model, as_model, load_model
from qfair_check.measure.chunks import CHUNK, Chunk, chunks, data_sha256
from qfair_check.measure.forward import Forward, forward_at
from qfair_check.measure.tally import Tally
from qfair_check.measure.weights import weight_reach, weights_record
from qfair_check.precision import FP32, Precision, parse_precisions
from qfair_check.quantize.model import QuantizedModel, quantize_model, quantized_share
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
    fvo,
    fvo_increase,
)

_BLOCK_VALUES = 2**18
_MOST = 2**31
_VERSIONED = ("torch", "torchvision", "numpy")

Progress = Callable[[int], object]


def audit(
    model: object,
    data: object,
    bits: str | int | Precision | Iterable[str | int | Precision] = (8,),
    *,
    scheme: str | Scheme = "absmax",
    device: str = "cpu",
    batch_size: int = CHUNK,
    workers: int | None = None,
    seed: int = 0,
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
    device : str
        Where the model runs, such as ``"cuda"``.
    batch_size, workers : int
        How samples are loaded; they do not change the numbers. Images are decoded in workers by default.
    seed : int
        For models and data sets that draw torch's random numbers: these start anew at each chunk and each sample.
    command : sequence of str
        Recorded in the audit, so that it can be run again.
    progress : callable, optional
        Called with the number of samples done.

    Raises
    ------
    OptionError
        If a precision, the scheme or the device makes no sense.
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
    samples = load_data(data, model=subject) if isinstance(data, str | os.PathLike) else as_grouped_data(data)
    precisions = parse_precisions(bits)
    grid = Scheme.parse(scheme)
    place = _device(device)
    workers = _default_workers(samples) if workers is None else workers
    _check_counts(batch_size=(batch_size, 1), workers=(workers, 0), seed=(seed, 0))
    with _own_random_state(place), _exact_arithmetic(place):
        subjects = _subjects(subject, precisions, grid, place)
        with closing(chunks(samples, batch_size=batch_size, workers=workers, seed=seed)) as stream:
            passed = _stream(stream, subjects, samples, seed, progress)
    samples = passed.data
    outcomes = {
        subject_.forward.precision.name: pack_outcomes(right)
        for subject_, right in zip(subjects, passed.right, strict=True)
    }
    parameters, quantized = (0, 0) if subject.module is None else quantized_share(subject.module)[::-1]
    return Audit(
        schema_version=SCHEMA_VERSION,
        model=ModelRecord(subject.sha256, parameters, quantized),
        data=DataRecord(data_sha256(samples, passed.digests), len(samples.labels), samples.classes),
        settings=Settings(str(grid), hashlib.sha256(str(grid).encode()).hexdigest(), seed, CHUNK, _device_name(place)),
        groups=samples.group_names,
        precisions=_results(subjects, passed.tallies, samples),
        inputs=_inputs_record(subject, samples),
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


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """The model at one precision."""

    forward: Forward
    weights: Weights


@dataclass(frozen=True, slots=True, eq=False)
class _Passed:
    """What one pass over the data gave, by precision."""

    tallies: list[Tally]
    right: list[NDArray[np.bool_]]
    digests: list[bytes]
    data: GroupedData


def _subjects(model: Model, precisions: Sequence[Precision], scheme: Scheme, device: torch.device) -> list[_Subject]:
    if model.module is None:
        if precisions:
            raise InputError(
                "the model is a plain callable and has no weights to quantize: give a torch.nn.Module to audit it "
                f"at {', '.join(map(str, precisions))}, or audit it with bits=32"
            )
        return [_Subject(Forward(FP32, "as given", device, model.forward), _NO_WEIGHTS)]
    copies: list[QuantizedModel] = [quantize_model(model.module, p, scheme) for p in (FP32, *precisions)]
    reach = weight_reach(copies[0])
    weights = [weights_record(copy, reach) for copy in copies]
    return [
        _Subject(forward_at(copy.precision, copy.module, device), weight)
        for copy, weight in zip(copies, weights, strict=True)
    ]


_NO_WEIGHTS = Weights(0, 0, None, 0.0, Histogram(0.0, 0.0, ()), ())


def _stream(
    stream: Iterable[Chunk], subjects: Sequence[_Subject], data: GroupedData, seed: int, progress: Progress | None
) -> _Passed:
    passed: _Passed | None = None
    held: list[list[NDArray[np.float64]]] = [[] for _ in subjects]
    done = counted = classes = 0
    for chunk in stream:
        for logits, subject in zip(held, subjects, strict=True):
            logits.append(_logits(subject.forward, chunk, data, seed))
            classes = classes or logits[-1].shape[1]
            if logits[-1].shape[1] != classes:
                raise MeasureError(
                    f"the model at {subject.forward.precision} gave {logits[-1].shape[1]} logits on "
                    f"{data.where(chunk.start)} and the samples after it, and {classes} before"
                )
        if passed is None:
            fitted = _fitted(data, classes)
            empty = Tally.empty(len(fitted.group_names), classes)
            passed = _Passed(
                [empty] * len(subjects), [np.zeros(len(data.labels), np.bool_) for _ in subjects], [], fitted
            )
        passed.digests.append(chunk.digest)
        done += chunk.size
        if (done - counted) * classes >= _BLOCK_VALUES:
            _count(passed, held, slice(counted, done))
            counted = done
        if progress:
            progress(done)
    if passed is None:
        raise InputError(f"{data.source} holds no samples")
    if done > counted:
        _count(passed, held, slice(counted, done))
    return passed


def _count(passed: _Passed, held: list[list[NDArray[np.float64]]], where: slice) -> None:
    baseline = np.concatenate(held[0])
    labels, groups = passed.data.labels[where], passed.data.groups[where]
    for index, logits in enumerate(held):
        tally, right = Tally.of(np.concatenate(logits), baseline, labels, groups, len(passed.data.group_names))
        passed.tallies[index] += tally
        passed.right[index][where] = right
        logits.clear()


def _logits(forward: Forward, chunk: Chunk, data: GroupedData, seed: int) -> NDArray[np.float64]:
    """Return the logits of a chunk; a model that changes its input or draws random numbers disturbs no other."""
    _seed_all(seed + chunk.start, forward.device)
    try:
        with torch.inference_mode():
            return forward.logits(chunk.batch.clone())[: chunk.size]
    except Exception as error:  # the user's model may raise anything
        kind = "" if isinstance(error, MeasureError) else f"{type(error).__name__}: "
        last = data.where(chunk.start + chunk.size - 1)
        cure = "" if chunk.batch.is_floating_point() else "; if the model takes floats, give x as floats"
        raise MeasureError(
            f"the model at {forward.precision} failed on {data.where(chunk.start)} to {last}, as a batch of shape "
            f"{tuple(chunk.batch.shape)} ({chunk.batch.dtype}): {kind}{error}{cure}"
        ) from error


def _own_random_state(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _seed_all(seed: int, device: torch.device) -> None:
    """Seed the generators that `_own_random_state` restores; torch.manual_seed would reach every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


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


def _fitted(data: GroupedData, classes: int) -> GroupedData:
    """Return the data with a name for every output of the model, or say why it does not fit."""
    beyond = np.flatnonzero(data.labels >= classes)
    if len(beyond):
        first = int(beyond[0])
        raise InputError(
            f"{data.where(first)} has class {data.classes[data.labels[first]]!r} (index {data.labels[first]}), and "
            f"the model has {classes} outputs; labels out of range: {len(beyond)}"
        )
    if len(data.classes) == classes:
        return data
    if data.class_order != "indices" or data.classes != tuple(map(str, range(len(data.classes)))):
        raise InputError(
            f"the data has {len(data.classes)} classes ({', '.join(data.classes[:8])}) and the model {classes} "
            f"outputs: pass --qfair-classes with {classes} names in the order of the outputs"
        )
    names = tuple(map(str, range(classes)))
    return replace(data, classes=names, group_names=data.group_names if data.group_by else names)


def _results(subjects: Sequence[_Subject], tallies: Sequence[Tally], data: GroupedData) -> tuple[PrecisionResult, ...]:
    base = tallies[0]
    fp32_groups = base.measures(base)
    results = []
    for subject, tally in zip(subjects, tallies, strict=True):
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


def _inputs_record(model: Model, data: GroupedData) -> InputsRecord:
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
        notices=(*model.notices, *data.notices),
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


def _default_workers(data: GroupedData) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, torch.get_num_threads(), cores) if data.decodes else 0

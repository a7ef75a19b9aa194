"""The only composer: model, grouped data and precisions in, audit out."""

import hashlib
import operator
import os
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from typing import SupportsIndex, get_args

import torch
from torch import nn

from qfair_check import __version__
from qfair_check.audit_file import outcomes_digest
from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.data import GroupedData, as_samples, load_data
from qfair_check.inputs.model import Model, as_model, load_model
from qfair_check.inputs.options import BadSample
from qfair_check.inputs.sample import Sample
from qfair_check.measure.as_is import RULE, as_is, grids_by_weight
from qfair_check.measure.backward_pass import BackwardPass, Curved
from qfair_check.measure.chunks import CHUNK, Samples, chunks, data_sha256
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.one_pass import Progress, one_pass
from qfair_check.measure.reference import Reference, notices_of, reference_of
from qfair_check.measure.results import Results, results, with_audit, without_reference
from qfair_check.measure.subjects import Prepared, ends_of, prepared, prepared_as_is
from qfair_check.outcome_rows import pack_positions
from qfair_check.precision import AS_IS, FP32, Precision, check_unmixed, parse_precisions
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model, quantized_share
from qfair_check.quantize.spec import Scheme
from qfair_check.record import (
    SCHEMA_VERSION,
    Audit,
    DataRecord,
    InputsRecord,
    ModelRecord,
    RunRecord,
    Settings,
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
    reference: object = None,
    bad_sample: BadSample = "fail",
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
        Such as ``"8,4"``, ``4`` or ``["fp16", "int4"]``; or ``"asis"``, alone, for a model with its weights as they
        are, which is the only one for a model that lies on a grid of its own.
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
    reference : Model, torch.nn.Module, callable, Audit or path, optional
        For ``asis``: the model that this one was made from, or an audit of it, whose fp32 values are the baseline.
        Without one, the audit that was saved beside the model's file, if there is one; else the baseline has no values.
    bad_sample : str
        What a sample that cannot be read, of a known class and group, does: ``fail`` ends the audit; ``insufficient``
        goes on without it, names it, and leaves what is measured of its group undefined.
    command : sequence of str
        Recorded in the audit, so that it can be run again.
    progress : callable, optional
        Called with what is counted, such as "samples", how many are done, and how many there are if that is known.

    Raises
    ------
    OptionError
        If a precision, the scheme, the allocation, the device or the reference makes no sense, or curvature may not
        take the memory that it needs.
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
    if bad_sample not in get_args(BadSample):
        raise OptionError(f"bad_sample is {bad_sample!r}: it is fail or insufficient")
    subject = load_model(model) if isinstance(model, str | os.PathLike) else as_model(model)
    samples = load_data(data, model=subject) if isinstance(data, str | os.PathLike) else as_samples(data)
    precisions = parse_precisions(bits)
    grid = Scheme.parse(scheme)
    check_precisions(subject, precisions, has_reference=reference is not None)
    is_as_is = precisions == (AS_IS,)
    if is_as_is and (grid != Scheme() or allocation != Allocation()):
        raise OptionError("at asis nothing is quantized: leave out --qfair-scheme, and options for bits of layers")
    origin = reference_of(subject, reference) if is_as_is else None
    place = _device(device)
    workers = _default_workers(samples) if workers is None or samples.is_iterable else workers
    _check_counts(batch_size=(batch_size, 1), workers=(workers, 0), seed=(seed, 0))
    with _own_random_state(place), _exact_arithmetic(place), ExitStack() as stack:
        roster = samples.roster()
        loaded = chunks(
            samples,
            roster,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            keeps_unread=bad_sample == "insufficient",
        )
        with closing(loaded) as stream:
            first = next(stream, None)
            if first is None:
                raise InputError(f"{samples.source} holds no samples")
            if is_as_is:
                model_of = origin.model if origin else None
                made = prepared_as_is(subject, model_of, place, first.batch, keeps=bool(curvature))
            else:
                made = prepared(subject, precisions, grid, allocation, place, first.batch, keeps=bool(curvature))
            forwards = [one.forward for one in made.subjects]
            backward = None
            if curvature:
                backward = stack.enter_context(_backward(made, first.batch, curvature, place, seed))
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
    data_record = DataRecord(data_sha256(grouped, passed.digests), grouped.size, grouped.classes)
    settings = _settings(grid, allocation, seed, place, backward, is_as_is=is_as_is)
    most_curved = settings.curvature.samples if settings.curvature else None
    group_bits = pack_positions(grouped.groups, len(grouped.group_names))
    found = results(made.subjects, passed.tallies, grouped, curved or [Curved()] * len(forwards), most_curved)
    if is_as_is and (origin is None or origin.audit):
        found, outcomes = _compared(found, outcomes, origin, grouped, data_record, settings)
    return Audit(
        schema_version=SCHEMA_VERSION,
        model=_model_record(subject, allocation, is_as_is=is_as_is),
        data=data_record,
        settings=settings,
        groups=grouped.group_names,
        precisions=found,
        inputs=_inputs_record(subject, grouped, (*(notices_of(subject, origin) if is_as_is else ()), *passed.notices)),
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
        outcomes_sha256=outcomes_digest(outcomes, group_bits),
        outcomes=outcomes,
        outcomes_hold_groups=True,
        group_bits=group_bits,
        reference=origin.record if origin else None,
    )


def check_precisions(model: Model, precisions: Sequence[Precision], *, has_reference: bool = False) -> None:
    """Refuse precisions that a model cannot have.

    Raises
    ------
    OptionError
        If asis stands among others, the model lies on a grid of its own and the precision is another than asis, or
        there is a reference and the model itself is the baseline.
    """
    check_unmixed(precisions)
    if AS_IS in precisions:
        return
    if model.grids:
        bits = sorted({grid.bits for grid in model.grids.values()})
        raise OptionError(
            f"{model.source} lies on a grid of its own already, of {' and '.join(map(str, bits))} bits, and cannot be "
            "quantized again: audit it with --bits asis, or give the model that it was made from"
        )
    if has_reference:
        raise OptionError(
            "a reference is for a model that is audited as it is, with --bits asis: at other bits the model itself is "
            "the baseline"
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
    check_precisions(model, [precision])
    if precision == AS_IS:
        return as_is(model).module
    ends = None
    if allocation.first_last and data is not None:
        with (
            _own_random_state(_device("cpu")),
            closing(chunks(data, data.roster(), batch_size=CHUNK, workers=0, seed=seed)) as stream,
        ):
            base = quantize_model(model.module, FP32, scheme)
            ends = ends_of(base.module, next(stream).batch)
    return quantize_model(model.module, precision, scheme, allocation=allocation, ends=ends).module


def _backward(
    made: Prepared, batch: Sample, options: CurvatureOptions, device: torch.device, seed: int
) -> BackwardPass:
    subjects = [
        (subject.module, tuple(layer.name for layer in subject.weights.layers))
        for subject in made.subjects
        if subject.module is not None
    ]
    return BackwardPass(subjects, batch, options, faster=made.faster, device=device, seed=seed)


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


def _compared(
    found: Results,
    outcomes: dict[str, bytes],
    origin: Reference | None,
    data: GroupedData,
    record: DataRecord,
    settings: Settings,
) -> tuple[Results, dict[str, bytes]]:
    """Return the results with the baseline of a saved audit, or with none, and the outcomes that belong to them."""
    if origin is None or origin.audit is None:
        return without_reference(found[0], data.group_names), outcomes
    both = with_audit(found[0], outcomes[AS_IS.name], origin.audit, data, record.sha256, settings.curvature)
    told = origin.audit.outcomes.get(FP32.name)
    is_known = told is not None and both[0].overall == origin.audit.fp32.overall
    return both, ({FP32.name: told} if is_known and told is not None else {}) | outcomes


def audited_share(model: Model, allocation: Allocation, *, is_as_is: bool = False) -> tuple[int, int]:
    """Return how many parameters are quantized, or lie on a grid of their own, and how many there are."""
    if model.module is None:
        return 0, 0
    if is_as_is:
        _, parameters = quantized_share(model.module)
        return sum(grid.codes.numel() for grid in model.grids.values()), parameters
    return quantized_share(model.module, allocation)


def _model_record(model: Model, allocation: Allocation, *, is_as_is: bool) -> ModelRecord:
    if model.module is None:
        return ModelRecord(None, 0, 0, ())
    names = [name for name, _, _ in quantizable_weights(model.module)]
    on_grid = grids_by_weight(model) or names
    kept = set(on_grid if is_as_is else allocation.included(names))
    quantized, parameters = audited_share(model, allocation, is_as_is=is_as_is)
    return ModelRecord(model.sha256, parameters, quantized, tuple(name for name in names if name not in kept))


def _settings(
    scheme: Scheme,
    allocation: Allocation,
    seed: int,
    device: torch.device,
    backward: BackwardPass | None,
    *,
    is_as_is: bool,
) -> Settings:
    named = RULE if is_as_is else str(scheme)
    digest = hashlib.sha256(f"{named}\n{allocation}".encode()).hexdigest()
    curvature = backward.settings if backward else None
    return Settings(named, str(allocation), digest, seed, CHUNK, _device_name(device), curvature)


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
        features=data.features,
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

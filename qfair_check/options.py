"""What the user said, by option, becomes what is done."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from qfair_check.errors import OptionError
from qfair_check.inputs.bins import parse_bins
from qfair_check.inputs.options import BadSample, DataOptions, ModelOptions
from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE, GATE_CHECKS, Insufficient
from qfair_check.judge.limits import Limits, gate_limits, parse_confidence
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.option_table import DEFAULT_BITS, DEMO
from qfair_check.precision import AS_IS, Precision, check_unmixed, parse_precisions
from qfair_check.quantize.allocation import Allocation

Lookup = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How to measure."""

    precisions: tuple[Precision, ...]
    scheme: str
    allocation: Allocation
    device: str
    batch_size: int
    workers: int | None
    seed: int
    curvature: CurvatureOptions | None
    reference: ModelOptions | None = None
    bad_sample: BadSample = "fail"


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How to judge."""

    limits: Limits
    min_group_size: int
    insufficient: Insufficient
    confidence: Decimal | None = None


def model_options(get: Lookup) -> ModelOptions | None:
    """Return what is said about the model; None without a model."""
    path = get("model")
    return ModelOptions(path, get("arch"), bool(get("trust_pickle"))) if path else None


def data_options(get: Lookup) -> DataOptions | None:
    """Return what is said about the data, the demo's for the demo model; None without data.

    Raises
    ------
    OptionError
        If a value makes no sense.
    """
    path = get("data") or (DEMO if get("model") == DEMO else None)
    if not path:
        return None
    return DataOptions(
        path=path,
        label=get("label"),
        group_by=_names(get("group_by")),
        bins=parse_bins(bins) if (bins := get("bin")) else (),
        split=get("split"),
        classes=_names(get("classes")),
        features=_names(get("features")),
        image_size=_image_size(get("image_size")),
        mean=_floats("mean", get("mean")),
        std=_floats("std", get("std")),
        transforms=get("transforms"),
        allow_outside=bool(get("allow_outside")),
    )


def measure_options(get: Lookup) -> MeasureOptions:
    """Return how to measure.

    Raises
    ------
    OptionError
        If a value makes no sense.
    """
    from qfair_check.quantize.spec import Scheme

    workers, reference = get("workers"), get("reference")
    precisions = parse_precisions(get("bits") or DEFAULT_BITS)
    check_unmixed(precisions)
    if reference and precisions != (AS_IS,):
        raise OptionError(
            "--qfair-reference is for a model that is audited as it is, with --qfair-bits asis: at other bits the "
            "model itself is the baseline"
        )
    return MeasureOptions(
        precisions=precisions,
        scheme=str(Scheme.parse(get("scheme") or "absmax")),
        allocation=Allocation.of(get("layer_bits") or "", get("exclude") or "", get("first_last")),
        device=get("device") or "cpu",
        batch_size=integer("batch_size", get("batch_size") or "64", least=1),
        workers=None if workers is None else integer("workers", workers, least=0),
        seed=integer("seed", get("seed") or "0", least=0),
        curvature=_curvature(get),
        reference=ModelOptions(reference, get("arch"), bool(get("trust_pickle"))) if reference else None,
        bad_sample=cast(BadSample, get("bad_sample") or "fail"),
    )


def judge_options(get: Lookup) -> JudgeOptions:
    """Return how to judge.

    Raises
    ------
    OptionError
        If a limit or another value makes no sense.
    """
    insufficient = get("insufficient") or "fail"
    if insufficient not in ("fail", "warn", "pass"):
        raise OptionError(f"insufficient is {insufficient!r}: it is fail, warn or pass")
    return JudgeOptions(
        limits=gate_limits({check.keyword: get(check.keyword) for check in GATE_CHECKS}),
        min_group_size=integer("min_group_size", get("min_group_size") or str(DEFAULT_MIN_GROUP_SIZE), least=1),
        insufficient=cast(Insufficient, insufficient),
        confidence=parse_confidence(get("confidence")),
    )


def _curvature(get: Lookup) -> CurvatureOptions | None:
    """Read what is to be measured of curvature, if the user asks for it or sets a limit that needs it."""
    limits = [check.keyword for check in GATE_CHECKS if check.ratio_of]
    if get("curvature") or any(get(keyword) for keyword in limits):
        return CurvatureOptions.of(get("curvature_samples"), get("curvature_memory"), get("hessian"))
    idle = [key for key in ("curvature_samples", "curvature_memory", "hessian") if get(key)]
    if idle:
        names = ", ".join(f"--qfair-{key.replace('_', '-')}" for key in idle)
        raise OptionError(f"{names} would do nothing, since curvature is not measured: add --qfair-curvature")
    return None


def _names(given: str | None) -> tuple[str, ...]:
    """Read comma-separated names; a name with a comma stands in double quotes.

    Raises
    ------
    OptionError
        If they stand on several lines.
    """
    if not given:
        return ()
    try:
        return tuple(name.strip() for name in next(csv.reader([given], skipinitialspace=True)))
    except csv.Error:
        raise OptionError(f"{given!r} are no names: give them on one line, separated by commas") from None


def _floats(name: str, given: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in given.split(",")) if given else ()
    except ValueError:
        raise OptionError(f"{name} is {given!r}: give numbers such as 0.5,0.5,0.5") from None


def _image_size(given: str | None) -> tuple[int, int] | None:
    if not given:
        return None
    parts = given.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise OptionError(f"image_size is {given!r}: give pixels such as 64, or height x width such as 64x48")
    return int(parts[0]), int(parts[-1])


def integer(name: str, given: str, least: int) -> int:
    """Read a whole number.

    Raises
    ------
    OptionError
        If it is none, or less than `least`.
    """
    try:
        value = int(given)
    except ValueError:
        value = least - 1
    if value < least:
        raise OptionError(f"{name} is {given!r}: it is a whole number of at least {least}")
    return value

"""Every option, once: the plugin offers it as ``--qfair-NAME`` and ``qfair_NAME``, the command line as ``--NAME``."""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from qfair_check.errors import OptionError
from qfair_check.inputs.bins import parse_bins
from qfair_check.inputs.options import DataOptions, ModelOptions
from qfair_check.judge.limits import (
    DEFAULT_MIN_GROUP_SIZE,
    GATE_CHECKS,
    Insufficient,
    Limits,
    gate_limits,
)
from qfair_check.precision import Precision, parse_precisions
from qfair_check.quantize.allocation import Allocation

DEFAULT_BITS = "8"
DEMO = "demo"

Lookup = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Option:
    """One option; a flag takes no value."""

    name: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    is_flag: bool = False

    @property
    def key(self) -> str:
        """The name with underscores."""
        return self.name.replace("-", "_")


def not_empty(given: str) -> str:
    """Refuse an empty value: it is more often an unset variable of a CI script than a wish for the default."""
    if not given.strip():
        raise argparse.ArgumentTypeError("the value is empty: leave the option out for its default")
    return given


def as_command_line(text: str) -> str:
    """Return a message with the names that options have in the command ``qfair``."""
    return text.replace("--qfair-", "--")


MODEL_OPTIONS = (
    Option("arch", "architecture of a state dict: torchvision's name, or package.module:factory", "NAME"),
    Option("trust-pickle", "load a model file that runs code; only for files you made yourself", is_flag=True),
)
DATA_OPTIONS = (
    Option(
        "data",
        "grouped data: a .csv or .parquet manifest, an .npz or .safetensors with x, y and optionally group, a folder "
        "of images by class or of UTKFace, package.module:function, or demo",
        "FILE",
    ),
    Option("label", "column that holds the true class (default: label)", "COLUMN"),
    Option(
        "group-by",
        "columns that make the groups, such as race,gender (default: group, or the class)",
        "COLUMNS",
    ),
    Option(
        "bin", "bins of group columns of numbers, such as age=0,18,40,65; the last bin holds both its edges", "BINS"
    ),
    Option("split", "keep the rows that hold this in the column split, such as test", "VALUE"),
    Option("classes", "label names in the order of the model's outputs, such as cat,dog", "NAMES"),
    Option("features", "columns that are the model's input (default: all others that are left)", "COLUMNS"),
    Option("image-size", "resize images to this many pixels: 64, or height x width as 64x48", "SIZE"),
    Option("mean", "mean of each RGB channel in [0, 1], such as 0.485,0.456,0.406", "VALUES"),
    Option("std", "standard deviation of each RGB channel", "VALUES"),
    Option(
        "transforms", "prepare images as torchvision's weights of this name, such as ResNet18_Weights.DEFAULT", "NAME"
    ),
)
MEASURE_OPTIONS = (
    Option("bits", f"precisions to gate, such as 8,4,2 or int8,fp16 (default: {DEFAULT_BITS})", "BITS"),
    Option(
        "scheme",
        "absmax, mse, aciq or percentile, with /full, /asymmetric, /per-channel (default: absmax)",
        "SCHEME",
    ),
    Option("layer-bits", "bits of some layers at integer precisions, such as conv1=8,fc=8 or layer1.*=4", "PATTERNS"),
    Option("exclude", "layers that are not quantized, such as embed or head.*", "PATTERNS"),
    Option("first-last", "bits of the first and the last layer in the order of execution, such as 8", "BITS"),
    Option("device", "where the model runs, such as cuda (default: cpu)", "DEVICE"),
    Option("batch-size", "samples loaded at a time; it does not change the numbers (default: 64)", "N"),
    Option("workers", "processes that load samples (default: 0, and up to 4 for images)", "N"),
    Option("seed", "for models and data sets that draw random numbers (default: 0)", "N"),
)
LIMIT_OPTIONS = tuple(
    Option(
        check.keyword.replace("_", "-"),
        f"{'upper' if check.is_ceiling else 'lower'} limit on {check.phrase}, such as 0.1 or 0.1,int4=0.15"
        + (f" (default: {check.default})" if check.default else " (not judged unless set)"),
        "LIMIT",
    )
    for check in GATE_CHECKS
)
MIN_GROUP_SIZE = Option(
    "min-group-size", f"samples a group needs to be judged (default: {DEFAULT_MIN_GROUP_SIZE})", "N"
)
JUDGE_OPTIONS = (
    *LIMIT_OPTIONS,
    MIN_GROUP_SIZE,
    Option(
        "insufficient",
        "what to do about a limit that cannot be judged (default: fail)",
        choices=("fail", "warn", "pass"),
    ),
)
PLUGIN_OPTIONS = (
    Option(
        "model",
        "model to gate: .safetensors, .pt, .pth, .pt2, .ckpt or .bin, a Hugging Face folder, or demo",
        "FILE",
    ),
    *MODEL_OPTIONS,
    *DATA_OPTIONS,
    *MEASURE_OPTIONS,
    *JUDGE_OPTIONS,
    Option("audit", "gate a saved audit instead of a model, without loading torch", "FILE"),
    Option("json", "write the audit to this file", "FILE"),
    Option("junit-properties", "put measured values into junit xml (default: on)", choices=("on", "off")),
)


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


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How to judge."""

    limits: Limits
    min_group_size: int
    insufficient: Insufficient


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
    )


def measure_options(get: Lookup) -> MeasureOptions:
    """Return how to measure.

    Raises
    ------
    OptionError
        If a value makes no sense.
    """
    from qfair_check.quantize.spec import Scheme

    workers = get("workers")
    return MeasureOptions(
        precisions=parse_precisions(get("bits") or DEFAULT_BITS),
        scheme=str(Scheme.parse(get("scheme") or "absmax")),
        allocation=Allocation.of(get("layer_bits") or "", get("exclude") or "", get("first_last")),
        device=get("device") or "cpu",
        batch_size=_integer("batch_size", get("batch_size") or "64", least=1),
        workers=None if workers is None else _integer("workers", workers, least=0),
        seed=_integer("seed", get("seed") or "0", least=0),
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
        min_group_size=_integer("min_group_size", get("min_group_size") or str(DEFAULT_MIN_GROUP_SIZE), least=1),
        insufficient=cast(Insufficient, insufficient),
    )


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


def _integer(name: str, given: str, least: int) -> int:
    try:
        value = int(given)
    except ValueError:
        value = least - 1
    if value < least:
        raise OptionError(f"{name} is {given!r}: it is a whole number of at least {least}")
    return value

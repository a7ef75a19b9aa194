"""Every option, once: the plugin offers it as ``--qfair-NAME`` and ``qfair_NAME``, the command line as ``--NAME``."""

import argparse
import re
from typing import NamedTuple

from qfair_check.judge.checks import CHECKS, DEFAULT_MIN_GROUP_SIZE, GATE_CHECKS

DEFAULT_BITS = "8"
DEMO = "demo"


class Option(NamedTuple):
    """One option; a flag takes no value, and what has `bare` means that where it is given without one.

    A tuple, since every pytest run makes these, and a dataclass takes long.
    """

    name: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    is_flag: bool = False
    bare: str | None = None

    @property
    def key(self) -> str:
        """The name with underscores."""
        return self.name.replace("-", "_")


def not_empty(given: str) -> str:
    """Refuse an empty value: it is more often an unset variable of a CI script than a wish for the default."""
    if not given.strip():
        raise argparse.ArgumentTypeError("the value is empty: leave the option out for its default")
    return given


_PYTEST_NAME = re.compile(r"--qfair-(?!json\b)")


def as_command_line(text: str) -> str:
    """Return a message with the option names of the command ``qfair``, which has no ``--qfair-json``."""
    return _PYTEST_NAME.sub("--", text)


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
    Option("allow-outside", "read images that lie outside the folder of the manifest that names them", is_flag=True),
)
LAYER_OPTIONS = (
    Option("layer-bits", "bits of some layers at integer precisions, such as conv1=8,fc=8 or layer1.*=4", "PATTERNS"),
    Option("exclude", "layers that are not quantized, such as embed or head.*", "PATTERNS"),
)
MEASURE_OPTIONS = (
    Option(
        "bits",
        f"precisions to gate, such as 8,4,2 or int8,fp16; or asis, the model as it is (default: {DEFAULT_BITS})",
        "BITS",
    ),
    Option(
        "reference",
        "with bits asis: the model that this one was made from, an audit of it (.json), or demo, which limits relative "
        "to fp32 compare with",
        "FILE",
    ),
    Option(
        "scheme",
        "absmax, mse, aciq or percentile, with /full, /asymmetric, /per-channel (default: absmax)",
        "SCHEME",
    ),
    *LAYER_OPTIONS,
    Option("first-last", "bits of the first and the last layer in the order of execution, such as 8", "BITS"),
    Option("device", "where the model runs, such as cuda (default: cpu)", "DEVICE"),
    Option("batch-size", "samples loaded at a time; it does not change the numbers (default: 64)", "N"),
    Option("workers", "processes that load samples (default: 0, and up to 4 for images)", "N"),
    Option("seed", "for models and data sets that draw random numbers (default: 0)", "N"),
    Option(
        "bad-sample",
        "what a sample that cannot be read does: end the run, or leave its group insufficient (default: fail)",
        choices=("fail", "insufficient"),
    ),
    Option(
        "curvature",
        "measure the gradient norm and the Hessian eigenvalues of every group, which takes many passes over the data",
        is_flag=True,
    ),
    Option(
        "curvature-samples",
        "at most so many samples of each group, drawn by the seed, for curvature (default: all)",
        "N",
    ),
    Option("curvature-memory", "what measuring curvature may add to the memory in use (default: 2GiB)", "SIZE"),
    Option("hessian", "what finds the largest Hessian eigenvalue (default: lanczos)", choices=("lanczos", "pyhessian")),
)
LIMIT_OPTIONS = tuple(
    Option(
        check.keyword.replace("_", "-"),
        f"{'upper' if check.is_ceiling else 'lower'} limit on {check.phrase.replace('λmax', 'lambda_max')}, such as "
        + ("2 or 2,int4=3, which needs curvature" if check.ratio_of else "0.1 or 0.1,int4=0.15")
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
        "confidence",
        "let a rate pass or fail only where that is certain to this degree, such as 0.95 (default: by its value)",
        "P",
    ),
    Option(
        "insufficient",
        "what to do about a limit that cannot be judged (default: fail)",
        choices=("fail", "warn", "pass"),
    ),
)
BASELINE_OPTIONS = (
    Option("baseline", "compare with the audit in this file, which is written where there is none, and fails", "FILE"),
    Option(
        "max-regression",
        "how far accuracy of a group may fall below the baseline, and FVO rise above it, such as 0.02,int4=0.05 "
        f"(default: {CHECKS['regression'].default})",
        "LIMIT",
    ),
    Option(
        "update-baseline",
        "write the baseline anew from this audit; =new-only: add what it does not hold",
        choices=("all", "new-only"),
        bare="all",
    ),
)
REMEDY_STRATEGIES = ("fair-qat", "mpqat", "fair-base", "ptq", "all")
REMEDIATE_OPTIONS = (
    Option(
        "train", "training data, prepared as the audited data is; not what is audited (for the demo: its own)", "FILE"
    ),
    Option("train-split", "keep the rows of the training data that hold this in the column split", "VALUE"),
    Option("bits", "bits of the weights (default: 4)", "BITS"),
    Option(
        "scheme",
        "how the given model is rounded, to compare with; steps are learned on its grid (default: absmax)",
        "SCHEME",
    ),
    *LAYER_OPTIONS,
    Option("first-last", "bits of the first and the last layer (default: 8, unless bits of layers are given)", "BITS"),
    Option(
        "strategy",
        "fair-qat: on the grid, with groups brought to one level; mpqat: on the grid, data as it is; fair-base: groups "
        "balanced, then rounded; ptq: rounded; all: each that trains, compared (default: fair-qat)",
        choices=REMEDY_STRATEGIES,
    ),
    Option("epochs", "at most so many passes over the training data (default: 12)", "N"),
    Option("minutes", "train for so long instead; no two runs are then the same bit for bit", "N"),
    Option("optimizer", "sgd, with momentum, or adam (default: sgd)", choices=("sgd", "adam")),
    Option(
        "learning-rate", "at the start, from where a cosine leads to 0 (default: 0.01; adam: 0.001; int2: x 2)", "X"
    ),
    Option("amp", "train in bfloat16, which is faster where the processor has it", is_flag=True),
    Option("device", "where the model is trained, such as cuda (default: cpu)", "DEVICE"),
    Option("seed", "of everything that is drawn (default: 0)", "N"),
    Option("resume", "go on from where an interrupted run of the same command ended", is_flag=True),
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
    *BASELINE_OPTIONS,
    Option("audit", "gate a saved audit instead of a model, without loading torch", "FILE"),
    Option("json", "write the audit to this file", "FILE"),
    Option("no-cache", "measure anew, even where nothing has changed since an earlier run", is_flag=True),
    Option("cache-content", "tell unchanged images by their bytes, not by size and time of change", is_flag=True),
    Option("summary", "write a summary in markdown to this file, or github for the summary of the CI step", "FILE"),
    Option(
        "remediate",
        "where a limit is broken at an integer precision, train a fairer model after the tests, into this folder",
        "FOLDER",
    ),
    Option(
        "train-data",
        "what --qfair-remediate trains on, prepared as the audited data is (for the demo: its own)",
        "FILE",
    ),
    Option("train-split", "keep the rows of the training data that hold this in the column split", "VALUE"),
    Option("junit-properties", "put measured values into junit xml (default: on)", choices=("on", "off")),
)

"""The audit: everything that is known about one model on one grouped data set, as a frozen record."""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from qfair_check.curvature_record import CurvatureSettings, GroupCurvature
from qfair_check.errors import InputError, OptionError
from qfair_check.outcome_rows import unpack_bits, unpack_positions
from qfair_check.precision import AS_IS, Precision
from qfair_check.reference_record import UNMEASURED, ReferenceRecord
from qfair_check.training_record import TrainingRecord

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3
UNREAD = "could not be read"
DTDB_BINS = 50

Count = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured on one group of samples, or on all of them, at one precision.

    A value that is not defined is None, and `undefined` says why by metric; None without a reason is a metric that the
    audit does not hold. `correct` counts samples whose largest logit is the true class; the four paired counts compare
    with fp32 on the same samples; `flips` counts predictions that changed, whether right or wrong. `dtdb` is the
    histogram of the softmax probability of the true class over 50 equal bins on [0, 1].
    """

    samples: Count
    nonfinite: Count
    null_logits: Count
    correct: Count | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    loss: float | None = None
    cosine_distance: float | None = None
    l1_distance: float | None = None
    l2_distance: float | None = None
    logit_variance: float | None = None
    softmax_variance: float | None = None
    prediction_probability: float | None = None
    flips: Count | None = None
    flip_rate: float | None = None
    both_right: Count | None = None
    right_to_wrong: Count | None = None
    wrong_to_right: Count | None = None
    both_wrong: Count | None = None
    dtdb: tuple[Count, ...] = ()
    undefined: dict[str, str] = field(default_factory=dict)

    @property
    def exact_accuracy(self) -> Fraction | None:
        """Accuracy as the fraction correct / samples; None where it is not defined."""
        return None if self.correct is None or not self.samples else Fraction(self.correct, self.samples)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One quantized tensor: its grid, and what the grid did to it.

    Parameters
    ----------
    name : str
    shape : tuple of int
    bits : int
        Bits per weight.
    rule : str
        The scale rule; ``round`` at a floating-point precision, whose weights are only rounded; ``as is`` where the
        model came on a grid of its own, or on none that is known.
    scale : tuple of float
        The step: one value, or one per channel; empty at a floating-point precision.
    zero_point : tuple of int
        The code of real 0, for each scale.
    levels : int
        Distinct codes in use, in the channel with the most; 0 at a floating-point precision.
    zeros : int
        Weights that are now exactly zero.
    clipped : int
        Weights that fell beyond the ends of the grid.
    weight_difference : float or None
        sum |w~ - w|, in float64; None where the weights before quantization are not known.
    """

    name: str
    shape: tuple[Count, ...]
    bits: Count
    rule: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    levels: Count
    zeros: Count
    clipped: Count
    weight_difference: float | None

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def sparsity(self) -> float | None:
        """Share of weights that are now exactly zero; None without weights."""
        return self.zeros / self.elements if self.elements else None

    @property
    def clipped_share(self) -> float | None:
        """Share of weights that fell beyond the ends of the grid; None without weights."""
        return self.clipped / self.elements if self.elements else None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over equal bins on [low, high]."""

    low: float
    high: float
    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """All quantized tensors of the model at one precision."""

    elements: Count
    zeros: Count
    sparsity: float | None
    weight_difference: float | None
    histogram: Histogram
    layers: tuple[LayerWeights, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall of one class in every group (in the order of `Audit.groups`), and its largest gap.

    The gap is over the groups that hold samples of the class; None with fewer than two such groups, or where
    a group has NaN or infinite logits.
    """

    label: str
    samples: tuple[Count, ...]
    correct: tuple[Count, ...]
    gap: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionResult:
    """Everything measured at one precision; `groups` and `curvature` follow the order of `Audit.groups`.

    `curvature` is empty if it was not asked for; `moved` names the tensors that its accounts tell of.
    """

    precision: str
    computation: str
    overall: Measures
    groups: tuple[Measures, ...]
    fvo: float | None = None
    fvo_increase: float | None = None
    undefined: dict[str, str]
    recalls: tuple[Recall, ...]
    weights: Weights
    curvature: tuple[GroupCurvature, ...] = ()
    moved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Which weights were audited: the hash covers every name, shape, type and value of the state dict.

    It is None for a plain callable, whose weights are unknown. `excluded` names the weights that could be
    quantized and were left at fp32 on request.
    """

    sha256: Sha256 | None
    parameters: Count
    quantized_parameters: Count
    excluded: tuple[str, ...]

    @property
    def quantized_share(self) -> float:
        """Quantized parameters / all parameters."""
        return self.quantized_parameters / self.parameters if self.parameters else 0.0


@dataclass(frozen=True, slots=True)
class DataRecord:
    """Which samples were audited: the hash covers inputs as the model got them, labels and groups."""

    sha256: Sha256
    samples: Count
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What else the measured numbers depend on.

    `scheme` is the text of a `Scheme`, `allocation` that of an `Allocation`, empty where every layer has the audited
    precision; `scheme_sha256` is the hash of both.
    """

    scheme: str
    allocation: str
    scheme_sha256: Sha256
    seed: int
    chunk: Count
    device: str
    curvature: CurvatureSettings | None = None


@dataclass(frozen=True, slots=True)
class InputsRecord:
    """Where model and data came from and how they were read."""

    model: str
    architecture: str | None
    data: str
    label: str | None
    group_by: tuple[str, ...]
    split: str | None
    class_order: str
    image_size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transforms: str | None
    bins: str | None
    notices: tuple[str, ...]
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """When, where and how this audit was made; outside every comparison of audits."""

    created: str
    command: tuple[str, ...]
    seconds: float
    platform: str
    threads: Count
    batch_size: Count
    workers: Count
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Audit:
    """One model on one grouped data set at several precisions; the first is always fp32.

    `outcomes` maps a precision to packed bits, one per sample in dataset order, 1 where the prediction was right
    (`right` unpacks them), `group_bits` holds places in `groups` (`sample_groups`). Both live in a side file named by
    `outcomes_sha256`, and are empty without it. A model that is audited as it is, at ``asis``, has the fp32 values of
    the model that `reference` names; without one, or if that was measured on other data, none of them is defined.
    `training` tells how a model that `qfair remediate` made was trained.

    Examples
    --------
    >>> from qfair_check.record import Audit
    >>> Audit.load("missing.json")
    Traceback (most recent call last):
        ...
    qfair_check.errors.InputError: there is no audit file missing.json: qfair audit --out and --qfair-json write one
    """

    schema_version: Count
    model: ModelRecord
    data: DataRecord
    settings: Settings
    groups: tuple[str, ...]
    precisions: tuple[PrecisionResult, ...]
    inputs: InputsRecord
    run: RunRecord
    outcomes_sha256: Sha256
    outcomes: dict[str, bytes] = field(default_factory=dict, repr=False)
    reference: ReferenceRecord | None = None
    training: TrainingRecord | None = None
    outcomes_hold_groups: bool = False
    group_bits: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def fp32(self) -> PrecisionResult:
        """The baseline."""
        return self.precisions[0]

    @property
    def has_baseline(self) -> bool:
        """Whether anything was measured at fp32; not so of a model that is audited as it is, without a reference."""
        return self.fp32.computation != UNMEASURED

    @property
    def quantized(self) -> tuple[PrecisionResult, ...]:
        """Every precision but the baseline."""
        return self.precisions[1:]

    @property
    def origin_sha256(self) -> str | None:
        """Hash of the model whose fp32 values these are; None where there are none, or its weights are unknown."""
        if self.reference is not None:
            return self.reference.sha256
        is_as_is = any(result.precision == AS_IS.name for result in self.precisions)
        return None if is_as_is else self.model.sha256

    def at(self, precision: str | int | Precision) -> PrecisionResult:
        """Return what was measured at one precision.

        Raises
        ------
        OptionError
            If the audit does not hold it.
        """
        name = Precision.parse(precision).name
        for result in self.precisions:
            if result.precision == name:
                return result
        held = ", ".join(result.precision for result in self.precisions)
        raise OptionError(f"the audit holds no {name}: it holds {held}; audit the model again with --bits {name}")

    def model_bits(self, precision: str | int | Precision) -> int | None:
        """Return the size of the model's parameters in bits; None if they are unknown.

        Quantized weights count at their bits, other parameters at 16 for fp16 and bf16, which round them too, else at
        32. Scales, zero points and buffers are left out.

        Raises
        ------
        OptionError
            If the audit does not hold the precision.
        """
        result = self.at(precision)
        if self.model.sha256 is None:
            return None
        half = Precision(result.precision).bits == 16
        others = self.model.parameters - result.weights.elements
        return sum(layer.elements * layer.bits for layer in result.weights.layers) + others * (16 if half else 32)

    def right(self, precision: str | int | Precision) -> NDArray[np.bool_]:
        """Return, per sample in dataset order, whether the prediction was right; shape (samples,).

        Raises
        ------
        InputError
            If the side file with the outcomes was not found beside the audit, or nothing was measured at fp32.
        """
        packed = self.outcomes.get(self.at(precision).precision)
        if packed is None and not self.has_baseline and self.outcomes:
            raise InputError("nothing was measured at fp32: audit the model again with --qfair-reference")
        if packed is None:
            raise InputError(f"the per-sample outcomes (*.{self.outcomes_sha256[:16]}.outcomes.npy) are not there")
        return unpack_bits(packed, self.data.samples)

    def sample_groups(self) -> NDArray[np.intp] | None:
        """Return, per sample in dataset order, the place of its group in `groups`; None where no side file tells."""
        is_known = self.outcomes_hold_groups and bool(self.outcomes)
        return unpack_positions(self.group_bits, self.data.samples) if is_known else None

    def measured_json(self) -> bytes:
        """Return the JSON of everything that was measured, without `inputs`, `run` and `training`.

        On the same device, build and thread count it is the same byte for byte, however samples are stored or batched.
        """
        from qfair_check.audit_file import as_text

        held: dict[str, Any] = msgspec.to_builtins(self)
        for outside in ("inputs", "run", "outcomes", "group_bits", "training"):
            del held[outside]
        if self.reference is not None:
            del held["reference"]["source"], held["reference"]["kind"]
        return msgspec.json.encode(as_text(held))

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per precision, group and metric.

        Returns
        -------
        pandas.DataFrame
            Columns precision, group (missing for overall values), metric, value (NaN where not defined), n.
        """
        from qfair_check.audit_frame import audit_frame

        return audit_frame(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit and, beside it, its outcomes; a reader sees the old file or the new one.

        The outcomes go to ``<stem>.<first 16 digits of their hash>.outcomes.npy``.

        Raises
        ------
        InputError
            If the folder cannot be written.
        """
        from qfair_check.audit_file import write_audit

        write_audit(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Audit":
        """Read an audit that `save` wrote, and its outcomes when they are beside it.

        Raises
        ------
        InputError
            If there is no such file, it is no audit, it is of another schema version, or its numbers
            contradict each other.
        """
        from qfair_check.audit_file import read_audit

        return read_audit(Path(path))

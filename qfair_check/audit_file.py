"""An audit as a JSON file, its outcomes as a side file, and the JSON Schema of both."""

import hashlib
import io
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from qfair_check.errors import InputError, OptionError
from qfair_check.files import replace_file
from qfair_check.gaps import fvo, fvo_increase
from qfair_check.precision import FP32, Precision
from qfair_check.record import SCHEMA_VERSION, Audit, Measures, PrecisionResult, Weights

_LARGEST_COSINE_DISTANCE = 2 + 1e-9
_COUNTS = (
    "correct",
    "flips",
    "nonfinite",
    "null_logits",
    "both_right",
    "right_to_wrong",
    "wrong_to_right",
    "both_wrong",
)


def write_audit(audit: Audit, path: Path) -> None:
    """Write what `Audit.save` promises."""
    try:
        if audit.outcomes:
            replace_file(_outcomes_path(audit, path), _npy(audit.outcomes))
        bare: dict[str, Any] = msgspec.to_builtins(replace(audit, outcomes={}))
        del bare["outcomes"]
        replace_file(path, msgspec.json.format(msgspec.json.encode(as_text(bare)), indent=1) + b"\n")
    except (OSError, ValueError) as error:  # a path without a name, or with a NUL byte, is a ValueError
        raise InputError(f"cannot write the audit {path}: {getattr(error, 'strerror', None) or error}") from error


def read_audit(path: Path) -> Audit:
    """Read what `Audit.load` promises."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no audit file {path}: qfair audit --out and --qfair-json write one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the audit {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {version}, and this qfair_check reads {SCHEMA_VERSION}: "
                "audit the model again, or use the version of qfair_check that wrote it"
            )
        audit = msgspec.json.decode(raw, type=Audit)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not an audit that qfair_check wrote, or is damaged: {error}") from error
    problem = _contradiction(audit)
    if problem:
        raise InputError(f"{path} contradicts itself ({problem}): it was edited or damaged; audit the model again")
    return replace(audit, outcomes=_read_outcomes(_outcomes_path(audit, path), audit))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a saved audit."""
    schema = msgspec.json.schema(Audit)
    del schema["$defs"]["Audit"]["properties"]["outcomes"]
    title = f"qfair_check audit, schema version {SCHEMA_VERSION}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | schema


def as_text(value: Any) -> Any:
    """Escape what a file name may hold and JSON may not: bytes that are no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: as_text(inner) for name, inner in value.items()}
    return [as_text(inner) for inner in value] if isinstance(value, list | tuple) else value


def pack_outcomes(right: NDArray[np.bool_]) -> bytes:
    """Pack one bit per sample, first sample in the lowest bit."""
    return np.packbits(right, bitorder="little").tobytes()


def outcomes_digest(outcomes: dict[str, bytes]) -> str:
    """Return the sha256 of the side file that holds these outcomes."""
    return hashlib.sha256(_npy(outcomes)).hexdigest()


@dataclass(frozen=True, slots=True)
class _Version:
    schema_version: int


def _outcomes_path(audit: Audit, path: Path) -> Path:
    return path.with_name(f"{path.stem}.{audit.outcomes_sha256[:16]}.outcomes.npy")


def _npy(outcomes: dict[str, bytes]) -> bytes:
    rows = np.stack([np.frombuffer(packed, np.uint8) for packed in outcomes.values()])
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def _read_outcomes(path: Path, audit: Audit) -> dict[str, bytes]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read the outcomes {path}: {error.strerror or error}") from error
    if hashlib.sha256(raw).hexdigest() != audit.outcomes_sha256:
        raise InputError(f"{path} is damaged: its hash is not the one the audit names; audit the model again")
    rows = np.load(io.BytesIO(raw), allow_pickle=False)
    return {result.precision: row.tobytes() for result, row in zip(audit.precisions, rows, strict=True)}


def _contradiction(audit: Audit) -> str | None:
    names = [result.precision for result in audit.precisions]
    if not names or names[0] != FP32.name or len(set(names)) != len(names):
        return f"precisions are {', '.join(names) or 'absent'}; they start with fp32 and differ"
    if not audit.groups:
        return "there is no group"
    if len(set(audit.groups)) != len(audit.groups):
        return "two groups have the same name"
    for result in audit.precisions:
        try:
            Precision(result.precision)
        except OptionError as error:
            return str(error)
        if len(result.groups) != len(audit.groups):
            return f"{result.precision} has {len(result.groups)} groups, not {len(audit.groups)}"
        problem = _contradiction_at(result, audit)
        if problem:
            return f"{result.precision}: {problem}"
    return None


def _contradiction_at(result: PrecisionResult, audit: Audit) -> str | None:
    samples = audit.data.samples
    if result.overall.samples != samples or sum(group.samples for group in result.groups) != samples:
        return f"the groups do not add up to {samples} samples"
    baseline = (audit.fp32.overall, *audit.fp32.groups)
    for measures, fp32 in zip((result.overall, *result.groups), baseline, strict=True):
        if measures.samples != fp32.samples:
            return "a group has other samples than at fp32"
        problem = _contradiction_in(measures, fp32)
        if problem:
            return problem
    for name in _COUNTS:
        by_group = [getattr(group, name) for group in result.groups]
        whole = getattr(result.overall, name)
        if whole is not None and None not in by_group and whole != sum(by_group):
            return f"{name} of the groups does not add up to that of all"
    if result.fvo not in (None, fvo(result.groups)):
        return "the FVO is not that of the groups"
    if result.fvo_increase not in (None, fvo_increase(result.groups, audit.fp32.groups)):
        return "the FVO increase is not that of the groups"
    return _contradiction_in_weights(result.weights)


def _contradiction_in_weights(weights: Weights) -> str | None:
    if weights.zeros > weights.elements:
        return "more weights are zero than there are"
    if weights.sparsity != (weights.zeros / weights.elements if weights.elements else None):
        return "the sparsity is not zeros / elements"
    layers = weights.layers
    if any(max(layer.zeros, layer.clipped) > layer.elements for layer in layers):
        return "more weights of a layer are counted than there are"
    counted = sum(layer.elements for layer in layers), sum(layer.zeros for layer in layers)
    moved = sum(layer.weight_difference for layer in layers)
    if counted != (weights.elements, weights.zeros) or not isclose(moved, weights.weight_difference):
        return "the layers do not add up to the weights"
    return None


def _contradiction_in(measures: Measures, fp32: Measures) -> str | None:
    for name in _COUNTS:
        count = getattr(measures, name)
        if count is not None and count > measures.samples:
            return "more is counted than there are samples"
    for name in measures.undefined:
        if getattr(measures, name, None) is not None:
            return f"{name} has a value and is said to be undefined"
    if not 0 <= (measures.cosine_distance or 0.0) <= _LARGEST_COSINE_DISTANCE:
        return "a cosine distance is not from 0 to 2"
    accuracy, before = measures.exact_accuracy, fp32.exact_accuracy
    if measures.accuracy != (None if accuracy is None else float(accuracy)):
        return "an accuracy is not correct / samples"
    drop = None if accuracy is None or before is None else float(before - accuracy)
    if measures.accuracy_drop != drop:
        return "an accuracy drop is not the difference from fp32"
    flips, rate = measures.flips, measures.flip_rate
    if flips is not None and rate is not None and rate != flips / measures.samples:
        return "a flip rate is not flips / samples"
    return _contradiction_in_pairs(measures, fp32)


def _contradiction_in_pairs(measures: Measures, fp32: Measures) -> str | None:
    both, lost = measures.both_right, measures.right_to_wrong
    gained, neither = measures.wrong_to_right, measures.both_wrong
    if both is None or lost is None or gained is None or neither is None:
        return None
    if both + lost + gained + neither != measures.samples:
        return "the paired counts do not add up to the samples"
    if both + gained != measures.correct or both + lost != fp32.correct:
        return "the paired counts are not those of the accuracies"
    return None

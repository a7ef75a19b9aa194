"""An audit as a JSON file, its outcomes as a side file, and the JSON Schema of both."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from qfair_check.contradictions import contradiction
from qfair_check.errors import InputError
from qfair_check.files import replace_file
from qfair_check.outcome_rows import beside, npy, read_rows
from qfair_check.record import SCHEMA_VERSION, Audit


def write_audit(audit: Audit, path: Path) -> None:
    """Write what `Audit.save` promises."""
    try:
        if audit.outcomes:
            replace_file(_outcomes_path(audit, path), npy(list(audit.outcomes.values())))
        bare: dict[str, Any] = msgspec.to_builtins(replace(audit, outcomes={}))
        del bare["outcomes"]
        replace_file(path, msgspec.json.format(msgspec.json.encode(as_text(bare)), indent=1) + b"\n")
    except (OSError, ValueError) as error:  # a path without a name, or with a NUL byte, is a ValueError
        raise InputError(f"cannot write the audit {path}: {getattr(error, 'strerror', None) or error}") from error


def files_of(audit: Audit, path: Path) -> tuple[Path, ...]:
    """Return what `write_audit` writes."""
    return (path, _outcomes_path(audit, path)) if audit.outcomes else (path,)


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
    problem = contradiction(audit)
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
    return hashlib.sha256(npy(list(outcomes.values()))).hexdigest()


@dataclass(frozen=True, slots=True)
class _Version:
    schema_version: int


def _outcomes_path(audit: Audit, path: Path) -> Path:
    return beside(path, audit.outcomes_sha256)


def _read_outcomes(path: Path, audit: Audit) -> dict[str, bytes]:
    names = [result.precision for result in audit.precisions]
    named_by = "the audit names; audit the model again"
    rows = read_rows(path, audit.outcomes_sha256, audit.data.samples, len(names), named_by)
    # fp32 has none if there is no reference
    return {} if rows is None else dict(zip(names[-len(rows) :], rows, strict=True))

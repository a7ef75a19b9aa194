"""An audit as a JSON file, its outcomes as a side file, and the JSON Schema of both."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from qfair_check.contradictions import contradiction, contradiction_in_outcomes
from qfair_check.errors import InputError
from qfair_check.files import replace_file, undone_on_error
from qfair_check.outcome_rows import beside, npy, read_rows, rows_of_positions
from qfair_check.record import SCHEMA_VERSION, Audit

_BESIDE = ("outcomes", "group_bits")


def write_audit(audit: Audit, path: Path) -> None:
    """Write what `Audit.save` promises."""
    bare: dict[str, Any] = msgspec.to_builtins(replace(audit, outcomes={}, group_bits=()))
    for beside_it in _BESIDE:
        del bare[beside_it]
    try:
        with undone_on_error(files_of(audit, path)[1:]):
            if audit.outcomes:
                replace_file(_outcomes_path(audit, path), npy([*audit.outcomes.values(), *audit.group_bits]))
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
    side = _outcomes_path(audit, path)
    held = _with_outcomes(audit, side)
    if problem := contradiction_in_outcomes(held):
        raise InputError(f"{side} contradicts {path} ({problem}): one was edited or damaged; audit the model again")
    return held


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a saved audit."""
    schema = msgspec.json.schema(Audit)
    for beside_it in _BESIDE:
        del schema["$defs"]["Audit"]["properties"][beside_it]
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = cleandoc(definition["description"])  # as Python 3.13 has it anyway
    title = f"qfair_check audit, schema version {SCHEMA_VERSION}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | schema


def as_text(value: Any) -> Any:
    """Escape what a file name may hold and JSON may not: bytes that are no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: as_text(inner) for name, inner in value.items()}
    return [as_text(inner) for inner in value] if isinstance(value, list | tuple) else value


def outcomes_digest(outcomes: dict[str, bytes], group_bits: Sequence[bytes] = ()) -> str:
    """Return the sha256 of the side file that holds these outcomes, and the groups of samples."""
    return hashlib.sha256(npy([*outcomes.values(), *group_bits])).hexdigest()


@dataclass(frozen=True, slots=True)
class _Version:
    schema_version: int


def _outcomes_path(audit: Audit, path: Path) -> Path:
    return beside(path, audit.outcomes_sha256)


def _with_outcomes(audit: Audit, path: Path) -> Audit:
    names = [result.precision for result in audit.precisions]
    behind = rows_of_positions(len(audit.groups)) if audit.outcomes_hold_groups else 0
    named_by = "the audit names; audit the model again"
    rows = read_rows(path, audit.outcomes_sha256, audit.data.samples, len(names) + behind, named_by)
    if rows is None:
        return replace(audit, outcomes={}, group_bits=())
    if len(rows) <= behind:
        raise InputError(f"{path} does not hold what the audit says: take it away")
    right, group_bits = rows[: len(rows) - behind], tuple(rows[len(rows) - behind :])
    # fp32 has none if there is no reference
    return replace(audit, outcomes=dict(zip(names[-len(right) :], right, strict=True)), group_bits=group_bits)

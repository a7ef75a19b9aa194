"""A baseline as a file that reviews well: a line for each group, and nothing that changes without the numbers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec

from qfair_check.baseline_record import BASELINE_VERSION, Baseline, Entry, Tally
from qfair_check.errors import InputError, OptionError
from qfair_check.files import replace_file, undone_on_error
from qfair_check.gaps import accuracy_gap
from qfair_check.outcome_rows import beside, npy, read_rows
from qfair_check.precision import Precision

_MOST_BYTES = 64 * 2**20
_DIGITS = 4
_AGAIN = "write it anew with --qfair-update-baseline"
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Group(msgspec.Struct, forbid_unknown_fields=True):
    accuracy: float | None
    correct: Count | None
    samples: Count


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    precision: str
    scheme: str
    allocation: str
    model: Sha256 | None
    accuracy: float | None
    fvo: float | None
    groups: dict[str, _Group]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    qfair_baseline: int
    data: Sha256
    outcomes: Sha256 | None
    entries: list[_Entry]


class _Version(msgspec.Struct):
    qfair_baseline: int


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline, and beside it which samples were right; a reader sees the old file or the new one.

    The side file of the baseline that was there is removed.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    side = _npy(baseline)
    digest = hashlib.sha256(side).hexdigest() if side else None
    before, after = _side_files(path), {beside(path, digest)} if digest else set()
    try:
        with undone_on_error(after):
            if side and digest:
                replace_file(beside(path, digest), side)
            replace_file(path, _text(baseline, digest).encode())
        for old in before - after:
            old.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the baseline {path}: {getattr(error, 'strerror', None) or error}") from error


def read_baseline(path: Path) -> Baseline | None:
    """Read a baseline; None if there is no such file.

    Raises
    ------
    InputError
        If it cannot be read, is of another schema or damaged, or contradicts itself.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is no baseline: it has more than {_MOST_BYTES:,} bytes")
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the baseline {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        version = msgspec.json.decode(raw, type=_Version).qfair_baseline
        if version != BASELINE_VERSION:
            raise InputError(
                f"{path} is a baseline of schema {version}, and this qfair_check reads {BASELINE_VERSION}: {_AGAIN}"
            )
        read = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no baseline that qfair_check wrote, or is damaged ({error}): {_AGAIN}") from error
    if problem := _contradiction(read):
        raise InputError(f"{path} contradicts itself ({problem}): it was edited or damaged; {_AGAIN}")
    groups = tuple(read.entries[0].groups) if read.entries else ()
    entries = [
        Entry(
            entry.precision,
            entry.scheme,
            entry.allocation,
            entry.model,
            tuple(Tally(entry.groups[name].samples, entry.groups[name].correct) for name in groups),
        )
        for entry in read.entries
    ]
    rows = _rows(path, read.outcomes, entries)
    return Baseline(
        read.data, groups, tuple(replace(entry, right=row) for entry, row in zip(entries, rows, strict=True))
    )


def _text(baseline: Baseline, digest: str | None) -> str:
    lines = [
        "{",
        f' "qfair_baseline": {BASELINE_VERSION},',
        f' "data": {json.dumps(baseline.data)},',
        f' "outcomes": {json.dumps(digest)},',
        ' "entries": [',
    ]
    for index, entry in enumerate(baseline.entries):
        lines += ["  {"]
        lines += [
            f'   "{name}": {json.dumps(value)},'
            for name, value in (
                ("precision", entry.precision),
                ("scheme", entry.scheme),
                ("allocation", entry.allocation),
                ("model", entry.model),
                ("accuracy", _rounded(entry.overall.accuracy)),
                ("fvo", _fvo(entry.groups)),
            )
        ]
        lines += ['   "groups": {']
        lines += [
            f"    {json.dumps(name)}: "
            + json.dumps({"accuracy": _rounded(tally.accuracy), "correct": tally.correct, "samples": tally.samples})
            + ("," if place + 1 < len(baseline.groups) else "")
            for place, (name, tally) in enumerate(zip(baseline.groups, entry.groups, strict=True))
        ]
        lines += ["   }", "  }" + ("," if index + 1 < len(baseline.entries) else "")]
    return "\n".join([*lines, " ]", "}"]) + "\n"


def _fvo(groups: Sequence[Tally]) -> float | None:
    known = [tally.accuracy for tally in groups if tally.accuracy is not None]
    return _rounded(accuracy_gap(known)) if len(known) == len(groups) > 1 else None


def _rounded(value: Fraction | None) -> float | None:
    return None if value is None else round(float(value), _DIGITS)


def _contradiction(read: _File) -> str | None:
    """Return what of a baseline cannot be; None if nothing."""
    if not read.entries:
        return "it holds no precision"
    keys = {(entry.precision, entry.scheme, entry.allocation) for entry in read.entries}
    if len(keys) < len(read.entries):
        return "a precision is there twice"
    sizes = {name: group.samples for name, group in read.entries[0].groups.items()}
    for entry in read.entries:
        try:
            Precision.parse(entry.precision)
        except OptionError:
            return f"there is no precision {entry.precision!r}"
        if {name: group.samples for name, group in entry.groups.items()} != sizes:
            return f"the groups of {entry.precision} are other ones"
        for name, group in entry.groups.items():
            if group.correct is not None and group.correct > group.samples:
                return f"more samples of {name} are right at {entry.precision} than there are"
            if group.accuracy != _rounded(Tally(group.samples, group.correct).accuracy):
                return f"the accuracy of {name} at {entry.precision} is not that of its counts"
        tallies = tuple(Tally(group.samples, group.correct) for group in entry.groups.values())
        overall = Entry(entry.precision, entry.scheme, entry.allocation, entry.model, tallies).overall
        if (entry.accuracy, entry.fvo) != (_rounded(overall.accuracy), _fvo(tallies)):
            return f"accuracy or fvo at {entry.precision} is not that of the groups"
    return None


def _npy(baseline: Baseline) -> bytes | None:
    """Return the side file: a row for each entry; None where one of them is not known."""
    rows = [entry.right for entry in baseline.entries]
    return npy(rows) if rows and all(len(row) == len(rows[0]) > 0 for row in rows) else None


def _rows(path: Path, digest: str | None, entries: list[Entry]) -> list[bytes]:
    unknown = [b""] * len(entries)
    if digest is None:
        return unknown
    side = beside(path, digest)
    samples = entries[0].overall.samples
    rows = read_rows(side, digest, samples, len(entries), f"that {path} names; take it away, or {_AGAIN}")
    if rows is not None and len(rows) != len(entries):
        raise InputError(f"{side} holds no row for each precision: take it away, or {_AGAIN}")
    return unknown if rows is None else rows


def _side_files(path: Path) -> set[Path]:
    """Return the side file that the baseline there names, if it is one."""
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return set()
    return {beside(path, read.outcomes)} if read.outcomes else set()

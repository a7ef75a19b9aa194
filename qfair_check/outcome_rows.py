"""Which samples were right, as a side file: a row of bits for each precision, named by its hash."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qfair_check.errors import InputError

_HEADER = 128  # bytes before the rows, in a NumPy array file of this kind


def npy(rows: Sequence[bytes]) -> bytes:
    """Return rows of equal length as a NumPy array file of ``uint8``."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack([np.frombuffer(row, np.uint8) for row in rows]), allow_pickle=False)
    return buffer.getvalue()


def beside(path: Path, digest: str) -> Path:
    """Return where the side file of an audit or a baseline lies."""
    return path.with_name(f"{path.stem}.{digest[:16]}.outcomes.npy")


def read_rows(path: Path, digest: str, samples: int, most: int, named_by: str) -> list[bytes] | None:
    """Read at most so many rows of a bit for each sample; None if there is no such file.

    `named_by` ends the sentence about another hash: who names it, and what to do.

    Raises
    ------
    InputError
        If it cannot be read, has another hash, or holds anything else.
    """
    width = (samples + 7) // 8
    try:
        raw = path.read_bytes() if path.stat().st_size <= _HEADER + most * width else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read the outcomes {path}: {error.strerror or error}") from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise InputError(f"{path} is damaged: its hash is not the one {named_by}")
    rows = [raw[start : start + width] for start in range(_HEADER, len(raw), width or 1)]
    if not rows or len(rows[-1]) != width or npy(rows) != raw:  # a header of another kind is refused unread
        raise InputError(f"{path} does not hold a bit for each sample: take it away")
    return rows

"""Which samples were right, and of which group they are, as a side file: rows of bits, named by its hash."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qfair_check.errors import InputError

_HEADER = 128  # bytes before the rows, in a NumPy array file of this kind


def pack_bits(flags: NDArray[np.bool_]) -> bytes:
    """Pack one bit per sample, first sample in the lowest bit."""
    return np.packbits(flags, bitorder="little").tobytes()


def unpack_bits(packed: bytes, samples: int) -> NDArray[np.bool_]:
    """Return what `pack_bits` packed; shape (samples,)."""
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=samples, bitorder="little").astype(np.bool_)


def rows_of_positions(count: int) -> int:
    """Return how many rows hold positions below a count.

    Examples
    --------
    >>> [rows_of_positions(count) for count in (1, 2, 5)]
    [0, 1, 3]
    """
    return (count - 1).bit_length()


def pack_positions(positions: NDArray[np.integer], count: int) -> tuple[bytes, ...]:
    """Return positions below a count, shape (samples,), as rows of bits, the lowest bit first."""
    return tuple(pack_bits((positions >> bit & 1).astype(np.bool_)) for bit in range(rows_of_positions(count)))


def unpack_positions(rows: Sequence[bytes], samples: int) -> NDArray[np.intp]:
    """Return what `pack_positions` packed; shape (samples,)."""
    found = np.zeros(samples, np.intp)
    for bit, row in enumerate(rows):
        found |= unpack_bits(row, samples).astype(np.intp) << bit
    return found


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

"""Whether a path is a file that can be read."""

import stat
from pathlib import Path

from qfair_check.errors import InputError


def require_file(path: Path, kind: str, accepted: str) -> None:
    """Check that there is a regular file with something in it.

    Parameters
    ----------
    path : Path
    kind : str
        What it should be, such as "model".
    accepted : str
        What the user can give instead.

    Raises
    ------
    InputError
        If there is none, or it is a folder, a device or a pipe, or empty.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"there is no {kind} file {path}: {accepted}") from None
    except (OSError, ValueError) as error:  # a path with a NUL byte is a ValueError
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {accepted}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder: {accepted}")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a device or a pipe: {accepted}")
    if not found.st_size:
        raise InputError(f"{path} is empty: {accepted}")

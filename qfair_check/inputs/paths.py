"""Whether a path is a file that can be read, or no path but the name of a function."""

import os
import re
import stat
from pathlib import Path

from qfair_check.errors import InputError

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(text: str) -> bool:
    """Whether a text is ``package.module:function`` rather than a path.

    Examples
    --------
    >>> is_factory("faces.data:test_split"), is_factory("C:/faces.csv"), is_factory("faces.csv")
    (True, False, False)
    """
    return _FACTORY.fullmatch(text) is not None


class Inside:
    """Tells whether paths lie in a folder, links followed.

    Parameters
    ----------
    folder : Path

    Examples
    --------
    >>> inside = Inside(Path("."))
    >>> inside.holds("faces/1.jpg"), inside.holds("../1.jpg"), inside.holds("/etc/passwd")
    (True, False, False)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        self._root = os.path.realpath(folder)
        self._known: dict[str, bool] = {}

    def holds(self, name: str) -> bool:
        """Return whether a path, relative to the folder, lies in it; one that cannot be a path does not."""
        path = os.path.join(self._folder, name)  # noqa: PTH118 (Path is slow on a million names)
        try:
            if os.path.islink(path):  # noqa: PTH114 (likewise)
                return self._lies_in(os.path.realpath(path))
            parent, last = os.path.split(path)
            if parent not in self._known:
                self._known[parent] = self._lies_in(os.path.realpath(parent))
        except ValueError:
            return False
        return self._known[parent] and last != ".."

    def _lies_in(self, real: str) -> bool:
        return os.path.commonpath([self._root, real]) == self._root


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

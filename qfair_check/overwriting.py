"""Files that one option writes, and another one names too."""

import os
from collections.abc import Mapping
from pathlib import Path

from qfair_check.errors import OptionError
from qfair_check.option_table import DEMO


def refuse_overwriting(written: Mapping[str, str | None], read: Mapping[str, str | None]) -> None:
    """Refuse to write a file that is read, or that is written twice.

    Parameters
    ----------
    written, read : mapping of str to str or None
        Paths by what names them; None where nothing does. ``demo`` is read and is no file.

    Raises
    ------
    OptionError
        Naming both.

    Examples
    --------
    >>> refuse_overwriting({"--out": "faces.csv"}, {"the data": "./faces.csv"})
    Traceback (most recent call last):
    qfair_check.errors.OptionError: --out faces.csv is the file of the data: name another
    """
    given = [(name, path) for name, path in written.items() if path]
    for index, (name, path) in enumerate(given):
        others = {**read, **dict(given[index + 1 :])}
        for other, its in others.items():
            if its and its != DEMO and is_same_file(path, its):
                raise OptionError(f"{name} {path} is the file of {other}: name another")


def is_same_file(one: str, other: str) -> bool:
    """Return whether two paths lead to one file, which need not be there."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or Path(one).samefile(other)
    except (OSError, ValueError):  # one of them is no file, such as package.module:function
        return False

"""What a command prints, and how wide."""

import os
import shutil
import sys

from qfair_check.errors import InputError


def columns() -> int:
    """Return how many columns the terminal has."""
    return shutil.get_terminal_size().columns


def say(text: str) -> None:
    """Print, with a replacement for what the terminal's encoding cannot say; a reader that left changes nothing.

    Raises
    ------
    InputError
        If it cannot be written, such as into a file on a full disk.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes when Python ends
        if not isinstance(error, BrokenPipeError):
            raise InputError(f"cannot print: {error.strerror or error}") from error

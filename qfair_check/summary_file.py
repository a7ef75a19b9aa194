"""Where the markdown summary goes: a file of its own, or the one that GitHub Actions shows for the step."""

import os
from dataclasses import dataclass
from pathlib import Path

from qfair_check.errors import InputError, OptionError
from qfair_check.files import replace_file

GITHUB = "github"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True)
class SummaryFile:
    """A file for the summary.

    Parameters
    ----------
    given : str
        What the user said.
    path : Path
        Absolute.
    is_shared : bool
        Whether others write there too, so that it is appended to.
    """

    given: str
    path: Path
    is_shared: bool

    def __str__(self) -> str:
        return str(self.path) if self.given == GITHUB else self.given

    def write(self, markdown: str) -> None:
        """Write the summary: whole or not at all, or after what stands there.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        try:
            if self.is_shared:
                with self.path.open("ab") as file:
                    apart = "\n" if file.tell() else ""
                    file.write(f"{apart}{markdown}".encode())
            else:
                replace_file(self.path, markdown.encode())
        except OSError as error:
            raise InputError(f"cannot write the summary {self}: {error.strerror or error}") from error


def summary_file(given: str) -> SummaryFile | None:
    """Return the file that ``--qfair-summary`` names; None for ``github`` where GitHub Actions does not run.

    Raises
    ------
    OptionError
        If it cannot be a file.
    """
    step = os.environ.get(STEP_SUMMARY)
    if given == GITHUB and not step:
        return None
    path = Path(step if given == GITHUB and step else given).absolute()
    told = f"--qfair-summary {given}"
    if not path.parent.is_dir():
        raise OptionError(f"{told}: there is no folder {path.parent}")
    if path.is_dir():
        raise OptionError(f"{told}: {path} is a folder, name a file in it")
    return SummaryFile(given, path, bool(step) and os.path.realpath(path) == os.path.realpath(step or ""))

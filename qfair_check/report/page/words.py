"""Names and numbers as the page writes them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath

from markupsafe import Markup, escape

from qfair_check.judge.text import printable, shown_name

MINUS = "−"
UNDEFINED = "undefined"
_BRIEF = 100
_OPTION = re.compile(r"--[a-z][\w=-]*")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def brief(text: str) -> str:
    """Return a text fit to stand above the verdict: what is longer than a line is cut off, and says so."""
    return shown_name(text, _BRIEF)


def bidi_name(name: str) -> Markup:
    """Return a name that the user chose, set apart so that its writing direction does not scramble the line.

    It is `brief`.

    Examples
    --------
    >>> bidi_name("</table>")
    Markup('<bdi>&lt;/table&gt;</bdi>')
    """
    return Markup("<bdi>{}</bdi>").format(brief(name))


def file_name(path: str) -> str:
    """Return the last part of a path, whichever system it is of; what is no path stays as it is.

    Examples
    --------
    >>> file_name("/models/faces/resnet18.pt"), file_name("package.module:make")
    ('resnet18.pt', 'package.module:make')
    """
    return (PureWindowsPath(path) if _WINDOWS.match(path) else PurePosixPath(path)).name or path


def signed(value: float, digits: int = 3) -> str:
    """Return a change with its sign; one that rounds to nothing has none.

    Examples
    --------
    >>> signed(0.1), signed(-0.25), signed(-0.0001)
    ('+0.100', '−0.250', '0.000')
    """
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def fixed(value: float | None) -> str:
    """Return a share with three decimals, or that it is not defined."""
    return UNDEFINED if value is None else f"{value:.3f}".replace("-", MINUS)


def counted(count: int, noun: str) -> str:
    """Return how many there are.

    Examples
    --------
    >>> counted(1, "group"), counted(1200, "group")
    ('1 group', '1,200 groups')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def all_of(names: Sequence[str]) -> str:
    """Return the names as one phrase.

    Examples
    --------
    >>> all_of(["fp16", "int8", "int4"])
    'fp16, int8 and int4'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def joined(parts: Iterable[Markup]) -> Markup:
    """Return sentences with a blank between them; empty ones are left out."""
    return Markup(" ").join(filter(None, parts))


def as_command_line(text: str) -> str:
    """Return a message with the names that options have in the command ``qfair``, which the page tells of."""
    return text.replace("--qfair-", "--")


def whole_options(text: str) -> Markup:
    """Return a sentence in which no line ends within the name of an option.

    Examples
    --------
    >>> whole_options("leave out --confidence")
    Markup('leave out <span class="option">--confidence</span>')
    """
    return Markup(_OPTION.sub(r'<span class="option">\g<0></span>', str(escape(printable(text)))))

"""How curvature is to be measured, as the user asks for it."""

from dataclasses import dataclass

from qfair_check.errors import OptionError

METHODS = ("lanczos", "pyhessian")
DEFAULT_MEMORY = "2GiB"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True)
class CurvatureOptions:
    """What to measure gradient norms and Hessian eigenvalues on, and how.

    Parameters
    ----------
    samples : int or None
        At most so many samples of each group, drawn at random by the audit's seed; None for all of them.
    memory : int
        Bytes that measuring curvature may add to the memory of the process.
    method : str
        ``lanczos`` or ``pyhessian``.

    Examples
    --------
    >>> CurvatureOptions.of(samples="200", memory="512MiB")
    CurvatureOptions(samples=200, memory=536870912, method='lanczos')
    """

    samples: int | None = None
    memory: int = 2 * 2**30
    method: str = "lanczos"

    @classmethod
    def of(cls, samples: str | None = None, memory: str | None = None, method: str | None = None) -> "CurvatureOptions":
        """Read what the options say; None stands for the default.

        Raises
        ------
        OptionError
            If a value makes no sense.
        """
        if samples is not None and not (samples.strip().isdecimal() and int(samples) > 0):
            raise OptionError(f"curvature_samples is {samples!r}: it is a whole number of at least 1")
        if method not in (None, *METHODS):
            raise OptionError(f"hessian is {method!r}: it is {' or '.join(METHODS)}")
        return cls(int(samples) if samples else None, _bytes(memory or DEFAULT_MEMORY), method or METHODS[0])


def _bytes(given: str) -> int:
    text = given.strip().upper()
    number, unit = text.rstrip("BIKMGT"), text[len(text.rstrip("BIKMGT")) :]
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 1 <= value < 2**60:
        raise OptionError(f"curvature_memory is {given!r}: give a size with its unit, such as 2GiB or 500MB")
    return int(value)

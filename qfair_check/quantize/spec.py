"""How a tensor is mapped to an integer grid: rule, grid and granularity."""

import difflib
from dataclasses import dataclass
from typing import Literal

from qfair_check.errors import OptionError

Rule = Literal["absmax", "mse", "aciq", "percentile"]
GridName = Literal["symmetric", "full", "asymmetric"]
Granularity = Literal["per-tensor", "per-channel"]

RULES = ("absmax", "mse", "aciq", "percentile")
GRIDS = ("symmetric", "full", "asymmetric")
GRANULARITIES = ("per-tensor", "per-channel")
DEFAULT_PERCENTILE = 99.9


@dataclass(frozen=True, slots=True)
class Scheme:
    """How every quantized tensor is mapped to its grid, at every bit width.

    Parameters
    ----------
    rule : str
        Where the range is clipped: ``absmax``, ``mse``, ``aciq`` or ``percentile``.
    grid : str
        ``symmetric``: -(2^(b-1)-1) to 2^(b-1)-1; ``full``: -2^(b-1) to 2^(b-1)-1; ``asymmetric``: 2^b
        levels with an integer zero point.
    granularity : str
        One scale for a tensor, or one for each output channel.
    percentile : float
        In (50, 100]; used by the rule ``percentile`` alone.

    Raises
    ------
    OptionError
        If the percentile is out of range.

    Examples
    --------
    >>> str(Scheme.parse("mse/per-channel"))
    'mse/symmetric/per-channel'
    >>> Scheme.parse("percentile=99.5/full").percentile
    99.5
    """

    rule: Rule = "absmax"
    grid: GridName = "symmetric"
    granularity: Granularity = "per-tensor"
    percentile: float = DEFAULT_PERCENTILE

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise OptionError(f"the percentile is {self.percentile:g}: it is above 50 and at most 100")

    def __str__(self) -> str:
        rule = f"percentile={self.percentile:g}" if self.rule == "percentile" else self.rule
        return f"{rule}/{self.grid}/{self.granularity}"

    @classmethod
    def parse(cls, text: "str | Scheme") -> "Scheme":
        """Read words joined by slashes, in any order; what is not said is the default.

        Raises
        ------
        OptionError
            If a word is unknown, or two words say the same kind of thing.
        """
        if isinstance(text, Scheme):
            return text
        given: dict[str, object] = {}
        for word in text.strip().lower().split("/"):
            name, equals, number = word.strip().partition("=")
            kind = _kind(name, text)
            if kind in given:
                raise OptionError(f"scheme {text!r} names two {kind}s")
            given[kind] = name
            if equals:
                given["percentile"] = _percentile(name, number, text)
        return cls(**given)  # type: ignore[arg-type]  # each word was checked against its kind


def integer_range(bits: int, grid: GridName) -> tuple[int, int]:
    """Return the lowest and the highest level of a grid.

    Examples
    --------
    >>> integer_range(4, "symmetric"), integer_range(4, "full"), integer_range(4, "asymmetric")
    ((-7, 7), (-8, 7), (0, 15))
    """
    if grid == "asymmetric":
        return 0, 2**bits - 1
    top = 2 ** (bits - 1) - 1
    return (-top, top) if grid == "symmetric" else (-top - 1, top)


def _kind(name: str, text: str) -> str:
    for kind, known in (("rule", RULES), ("grid", GRIDS), ("granularity", GRANULARITIES)):
        if name in known:
            return kind
    words = (*RULES, *GRIDS, *GRANULARITIES)
    near = difflib.get_close_matches(name, words, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise OptionError(f"scheme {text!r} says {name!r}, which is not one of {', '.join(words)}{hint}")


def _percentile(name: str, number: str, text: str) -> float:
    if name != "percentile":
        raise OptionError(f"scheme {text!r}: only percentile takes a number")
    try:
        return float(number)
    except ValueError:
        raise OptionError(f"scheme {text!r}: {number!r} is not a percentile") from None

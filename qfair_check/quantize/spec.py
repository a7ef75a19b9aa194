"""How a tensor is mapped to an integer grid: scale rule, grid and granularity."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, cast, get_args

from qfair_check.errors import OptionError
from qfair_check.integer_grid import GRIDS as GRIDS
from qfair_check.integer_grid import Grid as Grid
from qfair_check.integer_grid import integer_range as integer_range

Rule = Literal["absmax", "mse", "aciq", "percentile"]
Granularity = Literal["per-tensor", "per-channel"]

RULES: tuple[Rule, ...] = get_args(Rule)
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
DEFAULT_PERCENTILE = 99.9


@dataclass(frozen=True, slots=True)
class Scheme:
    """How every quantized tensor is mapped to its grid, the same at every bit width.

    Parameters
    ----------
    rule : str
        Where the range is clipped: ``absmax``, ``mse``, ``aciq`` or ``percentile``.
    grid : str
        At b bits, ``symmetric``: -(2^(b-1)-1) to 2^(b-1)-1; ``full``: -2^(b-1) to 2^(b-1)-1; ``asymmetric``:
        0 to 2^b-1 with an integer zero point.
    granularity : str
        ``per-tensor``: one scale for a tensor; ``per-channel``: one for each output channel.
    percentile : float
        Percent of the weights that the rule ``percentile`` keeps inside, in (0, 100].

    Raises
    ------
    OptionError
        If a name is unknown, or the percentile is out of range or goes with another rule.

    Examples
    --------
    >>> str(Scheme.parse("mse/per-channel"))
    'mse/symmetric/per-channel'
    >>> Scheme.parse("full/percentile=99.5") == Scheme("percentile", "full", percentile=99.5)
    True
    """

    rule: Rule = "absmax"
    grid: Grid = "symmetric"
    granularity: Granularity = "per-tensor"
    percentile: float = DEFAULT_PERCENTILE

    def __post_init__(self) -> None:
        _check_known(self.rule, RULES)
        _check_known(self.grid, GRIDS)
        _check_known(self.granularity, GRANULARITIES)
        if not 0 < self.percentile <= 100:
            raise OptionError(f"the percentile of a scheme is {self.percentile}: it is above 0 and at most 100")
        if self.rule != "percentile" and self.percentile != DEFAULT_PERCENTILE:
            raise OptionError(f"a percentile ({self.percentile}) goes with the rule percentile, not with {self.rule}")

    def __str__(self) -> str:
        number = f"={self.percentile!r}".removesuffix(".0") if self.rule == "percentile" else ""
        return f"{self.rule}{number}/{self.grid}/{self.granularity}"

    @classmethod
    def parse(cls, text: "str | Scheme") -> "Scheme":
        """Read words joined by slashes, in any order; what is not said is the default.

        Raises
        ------
        OptionError
            If a word is unknown, two words contradict each other, or the percentile makes no sense.
        """
        if isinstance(text, Scheme):
            return text
        if not isinstance(text, str):
            raise OptionError(f"a quantization scheme is a text such as 'absmax/per-channel', not {text!r}")
        rules, grids, granularities = list[Rule](), list[Grid](), list[Granularity]()
        percentile = DEFAULT_PERCENTILE
        for part in text.lower().split("/"):
            word, equals, number = part.strip().partition("=")
            _check_known(word, (*RULES, *GRIDS, *GRANULARITIES))
            if equals:
                percentile = _percentile(word, number)
            if word in RULES:
                rules.append(word)
            elif word in GRIDS:
                grids.append(word)
            else:
                granularities.append(cast(Granularity, word))
        for kind, words in (("rules", rules), ("grids", grids), ("granularities", granularities)):
            if len(words) > 1:
                raise OptionError(f"the scheme {text!r} names {len(words)} {kind}: {' and '.join(words)}; name one")
        return cls(
            next(iter(rules), "absmax"),
            next(iter(grids), "symmetric"),
            next(iter(granularities), "per-tensor"),
            percentile,
        )


def _check_known(word: str, known: Collection[str]) -> None:
    if word not in known:
        near = get_close_matches(word, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise OptionError(
            f"{word!r} is not a word of a quantization scheme: {hint}Known are {', '.join(known)}"
            + (", joined by slashes" if len(known) > len(RULES) else "")
        )


def _percentile(word: str, number: str) -> float:
    if word != "percentile":
        raise OptionError(f"'{word}={number}' in a scheme: only percentile takes a number, such as percentile=99.9")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise OptionError(f"'percentile={number}' in a scheme: {number!r} is not a number; write such as 99.9")
    return value

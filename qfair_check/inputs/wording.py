"""How messages list and count things."""

from collections.abc import Iterable

_MOST = 8


def listed(names: Iterable[str], count: int | None = None) -> str:
    """Join the first few names; `count` is how many there are, if `names` holds only the first of them.

    Examples
    --------
    >>> listed("abcdefghijk")
    'a, b, c, d, e, f, g, h and 3 more'
    """
    every = list(names)
    more = (len(every) if count is None else count) - _MOST
    return ", ".join(every[:_MOST]) + (f" and {more:,} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Write a count with its noun.

    Examples
    --------
    >>> counted(1, "sample"), counted(2000, "sample")
    ('1 sample', '2,000 samples')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""How messages list and count things."""

from collections.abc import Callable, Iterable, Sequence

_MOST = 8
_MOST_PLACES = 3


def listed(names: Iterable[str], count: int | None = None, most: int = _MOST) -> str:
    """Join the first names, at most `most`; `count` is how many there are, if `names` holds only the first of them.

    Examples
    --------
    >>> listed("abcdefghijk")
    'a, b, c, d, e, f, g, h and 3 more'
    """
    every = list(names)
    more = (len(every) if count is None else count) - most
    return ", ".join(every[:most]) + (f" and {more:,} more" if more > 0 else "")


def located(samples: Sequence[int], where: Callable[[int], str]) -> str:
    """Name the first few samples.

    Examples
    --------
    >>> located([1, 4, 5, 7], "sample {}".format)
    'sample 1, sample 4, sample 5 and 1 more'
    """
    return listed(map(where, samples[:_MOST_PLACES]), len(samples), _MOST_PLACES)


def counted(number: int, noun: str) -> str:
    """Write a count with its noun.

    Examples
    --------
    >>> counted(1, "sample"), counted(2000, "sample")
    ('1 sample', '2,000 samples')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

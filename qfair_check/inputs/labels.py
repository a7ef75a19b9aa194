"""Names of classes and groups become indices."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.wording import counted, listed, located

ClassOrder = Literal["given", "model", "data", "sorted", "indices"]

_MOST_CLASSES = 100_000
_INDEX = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """A column of names: sample i has `values[codes[i]]`; code -1 is a missing name."""

    codes: NDArray[np.int64]
    values: tuple[str, ...]

    @classmethod
    def of(cls, column: Iterable[str]) -> "Names":
        """Index a column of text, where an empty text is a missing name; values are sorted as by `sorted_by_name`.

        Examples
        --------
        >>> names = Names.of(["b", "a", "", "b"])
        >>> names.codes.tolist(), names.values
        ([1, 0, -1, 1], ('a', 'b'))
        """
        found: dict[str, int] = {}
        codes = np.fromiter((found.setdefault(value, len(found)) for value in column), np.int64)
        return cls.sorted_by_name(codes, tuple(found))

    @classmethod
    def sorted_by_name(cls, codes: NDArray[np.int64], values: Sequence[str]) -> "Names":
        """Bring values into order, as numbers if all are whole numbers; they may be empty, which is missing, or equal.

        Examples
        --------
        >>> names = Names.sorted_by_name(np.array([0, 2, 1, -1]), ["10", "", "9"])
        >>> names.codes.tolist(), names.values
        ([1, 0, -1, -1], ('9', '10'))
        """
        found = set(values) - {""}
        as_number = all(_INDEX.fullmatch(value) for value in found)
        ordered = sorted(found, key=(lambda value: (int(value), value)) if as_number else None)
        return cls(codes, tuple(values)).ordered_as(ordered)

    def ordered_as(self, values: Sequence[str]) -> "Names":
        """Give every name its place in `values`; one that is not among them is missing."""
        index = {value: code for code, value in enumerate(values)}
        moved = np.array([*(index.get(value, -1) for value in self.values), -1], np.int64)
        return Names(moved[self.codes], tuple(values))

    def take(self, kept: NDArray[np.bool_]) -> "Names":
        """Keep some samples, and every name."""
        return Names(self.codes[kept], self.values)

    def require(self, what: str, where: Callable[[int], str]) -> None:
        """Check that no sample lacks a name.

        Raises
        ------
        InputError
            If one does.
        """
        missing = np.flatnonzero(self.codes < 0)
        if len(missing):
            raise InputError(
                f"{what} is empty for {counted(len(missing), 'sample')}: {located(missing.tolist(), where)}; "
                "fill it in, or leave those samples out"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The class index of each sample, the class names by index, and where their order comes from."""

    indices: NDArray[np.int64]
    names: tuple[str, ...]
    order: ClassOrder
    notices: tuple[str, ...] = ()


def assign_classes(
    labels: Names,
    *,
    given: tuple[str, ...],
    model: tuple[str, ...],
    data: tuple[str, ...] = (),
    what: str,
    where: Callable[[int], str],
    option: str = "--qfair-classes",
) -> Classes:
    """Turn labels into class indices.

    Names in the order `given`, else in that of the model, else in that of the data, have that order. Whole
    numbers that are no such names are the indices themselves. Other names are sorted. Where neither user nor
    model say the order, a notice does.

    Parameters
    ----------
    labels : Names
        Without missing names.
    given, model, data : tuple of str
        Class names in the order of the logits, from the user, from the model file, and from data that lists
        its classes; empty if unknown.
    what : str
        What holds the labels, for messages.
    where : callable
        Names sample i.
    option : str
        What the user sets to give class names.

    Raises
    ------
    OptionError
        If `given` names a class twice or names none.
    InputError
        If a label is neither a known name nor an index in range.

    Examples
    --------
    >>> labels = Names.of(["dog", "cat"])
    >>> assign_classes(labels, given=("dog", "cat"), model=(), what="y", where=str).indices.tolist()
    [0, 1]
    """
    _require_distinct(given, model, option)
    names = given or model or data
    known = f"known classes ({listed(names)})"
    order: ClassOrder = "given" if given else "model" if model else "data"
    notices: tuple[str, ...] = ()
    if given and model and given != model:
        notices = (f"class names: {listed(given)} as given; the model file has {listed(model)}",)
    if all(_INDEX.fullmatch(value) for value in labels.values) and not (set(labels.values) <= set(names)):
        order, limit = "indices", len(names) or _MOST_CLASSES
        known = f"class indices 0 to {limit - 1}" + (f" ({listed(names)})" if names else "")
        index = {value: int(value) for value in labels.values if int(value) < limit}
        names = names or tuple(map(str, range(max(index.values(), default=-1) + 1)))
    else:
        if not names:
            _refuse_numbers(labels, what, where, option)
            order, names = "sorted", labels.values
            notices = (f"class order: sorted label names ({listed(names)}); pass {option} to fix it",)
        elif order == "data":
            notices = (f"class order: that of the data ({listed(names)}); pass {option} to fix it",)
        index = {name: position for position, name in enumerate(names)}
    indices = np.array([index.get(value, -1) for value in labels.values], np.int64)[labels.codes]
    unknown = np.flatnonzero(indices < 0)
    if len(unknown):
        strange = listed(labels.values[code] for code in np.unique(labels.codes[unknown]))
        raise InputError(
            f"{what} holds {strange}, not among the {known}, for {counted(len(unknown), 'sample')}: "
            f"{located(unknown.tolist(), where)}; correct the labels, or pass {option} with all names in the order "
            "of the model's outputs"
        )
    return Classes(indices, names, order, notices)


def _require_distinct(given: tuple[str, ...], model: tuple[str, ...], option: str) -> None:
    if len({*given} - {""}) < len(given):
        raise OptionError(f"{option} is {', '.join(map(repr, given))}: name every class once")
    if not given and len(set(model)) < len(model):
        raise InputError(f"the model file names a class twice ({listed(model)}): pass {option}")


def _refuse_numbers(labels: Names, what: str, where: Callable[[int], str], option: str) -> None:
    """Sorted as text, numbers such as -1, 10, 2.0 would get class indices that nobody meant."""
    if all(_NUMBER.fullmatch(value) for value in labels.values):
        bad = next(code for code, value in enumerate(labels.values) if not _INDEX.fullmatch(value))
        at = np.flatnonzero(labels.codes == bad)
        place = f" ({where(int(at[0]))})" if len(at) else ""
        raise InputError(
            f"{what} holds {labels.values[bad]}{place}, which is no class index: write whole numbers from 0, or "
            f"pass {option} with the names in the order of the model's outputs"
        )


def intersect(columns: Sequence[Names]) -> tuple[Names, tuple[str, ...]]:
    """Cross group columns: every combination that occurs is a group, named such as "Black × female".

    Returns
    -------
    names : Names
        Sorted by column; missing where one of the columns is.
    absent : tuple of str
        A notice about the combinations that never occur, if there are any.

    Examples
    --------
    >>> names, absent = intersect([Names.of(["a", "b"]), Names.of(["x", "y"])])
    >>> names.values, absent
    (('a × x', 'b × y'), ('2 combinations never occur and are no groups: a × y, b × x',))
    """
    if len(columns) == 1:
        return columns[0], ()
    codes = np.stack([column.codes for column in columns], axis=1)
    complete = (codes >= 0).all(axis=1)
    present, inverse = np.unique(codes[complete], axis=0, return_inverse=True)
    crossed = np.full(len(codes), -1, np.int64)
    crossed[complete] = inverse.reshape(-1)
    values = tuple(
        " × ".join(column.values[code] for column, code in zip(columns, row, strict=True)) for row in present
    )
    twice = [name for name, count in Counter(values).items() if count > 1]
    if twice:
        raise InputError(f"crossing the columns gives two groups named {listed(twice)}: rename their values")
    lacking = math.prod(len(column.values) for column in columns) - len(values)
    if not lacking:
        return Names(crossed, values), ()
    occurring = set(values)
    possible = map(" × ".join, product(*(column.values for column in columns)))
    first = islice((name for name in possible if name not in occurring), 8)
    subject = (
        "combination never occurs and is no group" if lacking == 1 else "combinations never occur and are no groups"
    )
    return Names(crossed, values), (f"{lacking:,} {subject}: {listed(first, lacking)}",)

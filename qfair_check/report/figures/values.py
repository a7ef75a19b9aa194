"""Numbers of the groups, as figures and their tables take them: by precision, with the reason where one is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qfair_check.curvature_record import GroupCurvature
from qfair_check.judge.statistics import wilson_interval
from qfair_check.judge.text import MOST_REASONS, printable, shown_name
from qfair_check.record import Audit, Measures, PrecisionResult
from qfair_check.report.figures.canvas import apart
from qfair_check.report.figures.exhibit import Table

MOST_DRAWN = 12
NOT_DEFINED = "not defined"
NO_CURVATURE = "the audit was made without curvature: audit the model again with --qfair-curvature"
_TABLE_NAME = 100
_FEW = 5
NOT_HELD = "the audit does not hold it; audit the model again with this version of qfair_check"


_Places = dict[str, dict[str, None]]  # precisions by group


@dataclass(frozen=True, slots=True)
class Value:
    """One number of one group at one precision.

    Parameters
    ----------
    number : float or None
    reason : str
        Why it is None.
    interval : tuple of float or None
        Wilson's, 95%; of an accuracy.
    is_settled : bool
        False where an iteration did not converge.
    """

    number: float | None
    reason: str = ""
    interval: tuple[float, float] | None = None
    is_settled: bool = True

    def text(self) -> str:
        """Return the number with its interval, or that there is none."""
        if self.number is None:
            return NOT_DEFINED
        if self.interval is not None:
            return f"{self.number:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return f"{self.number:.4g}" + ("" if self.is_settled else " (not converged)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One metric of every group at some precisions.

    Parameters
    ----------
    name : str
        In words, such as ``L1 distance``.
    by_precision : dict of str to tuple of Value
        In the order of `Audit.groups`.
    """

    name: str
    by_precision: dict[str, tuple[Value, ...]]

    @property
    def why_nothing(self) -> str:
        """The first reason why there is none if no value is defined, else empty."""
        values = [value for group in self.by_precision.values() for value in group]
        if not values:
            return "there are no groups"
        if any(value.number is not None for value in values):
            return ""
        return values[0].reason


def measured(name: str, metric: str, results: Sequence[PrecisionResult]) -> Quantity:
    """Return a metric of `Measures`; accuracy has intervals."""

    def value(group: Measures) -> Value:
        number = getattr(group, metric)
        if number is None:
            return Value(None, group.undefined.get(metric, NOT_HELD))
        has_interval = metric == "accuracy" and group.correct is not None
        return Value(number, interval=wilson_interval(group.correct or 0, group.samples) if has_interval else None)

    return Quantity(name, {result.precision: tuple(map(value, result.groups)) for result in results})


def curved(name: str, metric: str, results: Sequence[PrecisionResult]) -> Quantity:
    """Return a metric of `GroupCurvature`."""

    def value(group: GroupCurvature) -> Value:
        number = getattr(group, metric)
        if number is None:
            return Value(None, group.undefined.get(metric, NOT_HELD))
        return Value(number, is_settled=metric != "lambda_max" or group.converged)

    return Quantity(name, {result.precision: tuple(map(value, result.curvature)) for result in results})


def results_of(audit: Audit, precisions: Sequence[str] | None) -> list[PrecisionResult]:
    """Return the results at these precisions in the audit's order, or all of them.

    Raises
    ------
    OptionError
        If the audit does not hold one of them.
    """
    if precisions is None:
        return list(audit.precisions)
    wanted = [audit.at(precision) for precision in precisions]
    return [result for result in audit.precisions if any(result is one for one in wanted)]


def drawn_groups(audit: Audit) -> list[int]:
    """Return the positions of the groups that are drawn, in the audit's order.

    With more than 12 groups these are the 11 with the lowest accuracy at the narrowest precision, those without one
    first, and the one with the highest.
    """
    indices = list(range(len(audit.groups)))
    if len(indices) <= MOST_DRAWN:
        return indices
    narrowest = audit.precisions[-1].groups

    def rank(index: int) -> float:
        accuracy = narrowest[index].accuracy
        return -1.0 if accuracy is None else accuracy

    ranked = sorted(indices, key=rank)
    return sorted([*ranked[: MOST_DRAWN - 1], ranked[-1]])


def drawn_note(audit: Audit) -> tuple[str, ...]:
    """Return which groups are not drawn, if any are not."""
    left = len(audit.groups) - len(drawn_groups(audit))
    if not left:
        return ()
    who = f"{left:,} groups are" if left > 1 else "1 group is"
    return (
        f"{who} in the table only: drawn are the {MOST_DRAWN - 1} with the lowest accuracy at "
        f"{audit.precisions[-1].precision}, and the one with the highest.",
    )


def table_names(audit: Audit) -> list[str]:
    """Return the groups' names as tables write them: at most 100 columns wide, and distinct."""
    return apart(audit.groups, lambda name, shorten: shorten(name, _TABLE_NAME))


def wide_table(audit: Audit, quantity: Quantity, samples: Sequence[int]) -> Table:
    """Return a row for each group, with its samples, and a column for each precision."""
    rows = [
        [name, f"{samples[index]:,}", *(values[index].text() for values in quantity.by_precision.values())]
        for index, name in enumerate(table_names(audit))
    ]
    return Table(["group", "n", *quantity.by_precision], rows)


def long_table(audit: Audit, quantities: Sequence[Quantity], *, on_subsample: bool = False) -> Table:
    """Return a row for each group and precision, and a column for each quantity; all have the same precisions.

    Parameters
    ----------
    audit : Audit
    quantities : sequence of Quantity
    on_subsample : bool
        Whether to tell how many samples curvature was measured on.
    """
    head = ["group", "n", *(["n of curvature"] if on_subsample else []), "precision"]
    rows = []
    for index, name in enumerate(table_names(audit)):
        n = [f"{audit.fp32.groups[index].samples:,}"]
        n += [f"{audit.fp32.curvature[index].samples:,}"] if on_subsample else []
        for precision in quantities[0].by_precision:
            cells = [quantity.by_precision[precision][index].text() for quantity in quantities]
            rows.append([name, *n, precision, *cells])
    return Table([*head, *(quantity.name for quantity in quantities)], rows)


def undefined_notes(audit: Audit, quantities: Iterable[Quantity]) -> tuple[str, ...]:
    """Return a sentence for each reason why values are missing, with the groups and precisions that it holds for."""
    missing: dict[tuple[str, str], _Places] = {}
    doubtful: dict[str, _Places] = {}
    for quantity in quantities:
        for precision, values in quantity.by_precision.items():
            for name, value in zip(audit.groups, values, strict=True):
                if value.number is None:
                    _add(missing.setdefault((quantity.name, value.reason), {}), name, precision)
                elif not value.is_settled:
                    _add(doubtful.setdefault(quantity.name, {}), name, precision)
    told = [
        f"Not drawn: {quantity} of {where} is not defined: {printable(reason)}."
        for (quantity, reason), places in missing.items()
        for where in _where(places, audit)
    ]
    more = len(told) - MOST_REASONS
    if more > 0:
        told[MOST_REASONS:] = [f"{more:,} more reasons like these; the tables say which values are missing."]
    unsettled = [
        f"Hollow: {quantity} of {where} did not converge: the true value may be larger."
        for quantity, places in doubtful.items()
        for where in _where(places, audit)
    ]
    return (*told, *_few(unsettled))


def below_log_notes(audit: Audit, quantity: Quantity) -> tuple[str, ...]:
    """Return which values a logarithmic axis cannot show, being 0 or less."""
    places: _Places = {}
    for precision, values in quantity.by_precision.items():
        for name, value in zip(audit.groups, values, strict=True):
            if value.number is not None and value.number <= 0:
                _add(places, name, precision)
    return _few(
        [
            f"Not drawn: {quantity.name} of {where} is 0 or less, which the logarithmic axis cannot show; the table "
            "has it."
            for where in _where(places, audit)
        ]
    )


def _add(places: _Places, group: str, precision: str) -> None:
    places.setdefault(group, {})[precision] = None


def _where(places: _Places, audit: Audit) -> list[str]:
    """Return where something holds, such as ``A, B at int4``: groups that share their precisions in one phrase."""
    by_precisions: dict[tuple[str, ...], list[str]] = {}
    for group, precisions in places.items():
        by_precisions.setdefault(tuple(precisions), []).append(group)
    return [f"{_whose(groups, audit)} at {', '.join(precisions)}" for precisions, groups in by_precisions.items()]


def _few(notes: list[str]) -> tuple[str, ...]:
    more = len(notes) - MOST_REASONS
    return (
        *notes[:MOST_REASONS],
        *([f"{more:,} more notes like these; the tables have every value."] if more > 0 else []),
    )


def _whose(groups: Iterable[str], audit: Audit) -> str:
    names = [shown_name(name) for name in groups]
    if len(names) == len(audit.groups) > 1:
        return "every group"
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more:,} more" if more > 0 else "")

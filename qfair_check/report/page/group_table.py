"""Every group at every precision: the table of accuracies, and that of curvature."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from qfair_check.curvature_record import GroupCurvature
from qfair_check.judge.text import MOST_REASONS, compact, interval_text, shown_name
from qfair_check.precision import FP32
from qfair_check.record import Audit, Measures, PrecisionResult
from qfair_check.report.curvature import on_samples, undefined_notes
from qfair_check.report.page.words import UNDEFINED, counted, fixed, signed

LOWEST, LARGEST_LOSS, LARGEST = "lowest accuracy", "largest loss", "largest λmax"
_NOTHING = "-"
_NO_REASON = "the audit gives no reason"
_MOST_PLACES = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text, what stands below it, what it is sorted by, and why it is marked; each may be empty."""

    text: str
    below: tuple[str, ...] = ()
    order: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One group, or what is above all of them."""

    name: str
    samples: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a precision: what it holds, and what stands below each number."""

    title: str
    below: str = ""


@dataclass(frozen=True, slots=True)
class GroupTable:
    """Rows are groups; `heads` names each precision with its columns, in the order of the cells."""

    heads: tuple[tuple[str, tuple[Column, ...]], ...]
    rows: tuple[Row, ...]
    foot: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()


def accuracy_table(audit: Audit) -> GroupTable:
    """Return accuracy with its Wilson interval, and change and flips, of every group at every precision.

    The lowest accuracy and the largest loss at each precision are marked; equal ones all.
    """
    marked = [(_lowest(result.groups), _largest_loss(result.groups)) for result in audit.precisions]
    rows = tuple(
        Row(
            name,
            audit.fp32.groups[index].samples,
            tuple(
                cell
                for result, (lowest, loss) in zip(audit.precisions, marked, strict=True)
                for cell in _cells(result, result.groups[index], index in lowest, index in loss)
            ),
        )
        for index, name in enumerate(audit.groups)
    )
    overall = Row(
        "overall", audit.data.samples, tuple(c for at in audit.precisions for c in _cells(at, at.overall, False, False))
    )
    gaps = Row("FVO (largest gap)", None, tuple(cell for result in audit.precisions for cell in _gap(result)))
    return GroupTable(tuple(map(_head, audit.precisions)), rows, (overall, gaps), _notes(audit))


def curvature_table(audit: Audit) -> GroupTable | None:
    """Return gradient norm and λmax of every group at every precision; None where they were not measured."""
    if audit.settings.curvature is None:
        return None
    heads = tuple(
        (result.precision, (Column("gradient norm"), Column("λmax", "residual, HVPs"))) for result in audit.precisions
    )
    steepest = [_steepest(result.curvature) for result in audit.precisions]
    rows = tuple(
        Row(
            name,
            audit.fp32.curvature[index].samples,
            tuple(
                cell
                for result, most in zip(audit.precisions, steepest, strict=True)
                for cell in _curvature_cells(result.curvature[index], index in most)
            ),
        )
        for index, name in enumerate(audit.groups)
    )
    undefined = undefined_notes(audit, audit.precisions, {"gradient_norm": "gradient norm", "lambda_max": "λmax"})
    notes = (f"Measured {on_samples(audit)}.", *(note.removeprefix("note").strip() for note in undefined))
    return GroupTable(heads, rows, notes=notes)


def _head(result: PrecisionResult) -> tuple[str, tuple[Column, ...]]:
    accuracy = Column("accuracy", "95% interval")
    if result.precision == FP32.name:
        return result.precision, (accuracy,)
    return result.precision, (accuracy, Column("change", "flips"))


def _cells(result: PrecisionResult, measures: Measures, is_lowest: bool, is_largest_loss: bool) -> list[Cell]:
    if measures.accuracy is None:
        accuracy = Cell(UNDEFINED if measures.samples else "no samples")
    else:
        interval = interval_text(measures)
        accuracy = Cell(
            fixed(measures.accuracy),
            (interval,) if interval else (),
            repr(measures.accuracy),
            LOWEST if is_lowest else "",
        )
    if result.precision == FP32.name:
        return [accuracy]
    if measures.accuracy_drop is None:
        return [accuracy, Cell(_NOTHING)]
    change = -measures.accuracy_drop + 0.0
    flips = () if measures.flips is None else (counted(measures.flips, "flip"),)
    return [accuracy, Cell(signed(change), flips, repr(change), LARGEST_LOSS if is_largest_loss else "")]


def _gap(result: PrecisionResult) -> list[Cell]:
    gap = Cell(fixed(result.fvo))
    if result.precision == FP32.name:
        return [gap]
    return [gap, Cell(_NOTHING if result.fvo_increase is None else signed(result.fvo_increase))]


def _lowest(groups: Sequence[Measures]) -> set[int]:
    known = {index: accuracy for index, group in enumerate(groups) if (accuracy := group.exact_accuracy) is not None}
    return _extreme(known, min)


def _largest_loss(groups: Sequence[Measures]) -> set[int]:
    losses = {
        index: Fraction(group.accuracy_drop) for index, group in enumerate(groups) if group.accuracy_drop is not None
    }
    return {index for index in _extreme(losses, max) if losses[index] > 0}


def _steepest(groups: Sequence[GroupCurvature]) -> set[int]:
    known = {index: Fraction(group.lambda_max) for index, group in enumerate(groups) if group.lambda_max is not None}
    return _extreme(known, max)


def _extreme(values: dict[int, Fraction], pick: Callable[[Iterable[Fraction]], Fraction]) -> set[int]:
    """Return who has the extreme value; nobody where all have the same."""
    if len(set(values.values())) < 2:
        return set()
    extreme = pick(values.values())
    return {index for index, value in values.items() if value == extreme}


def _curvature_cells(group: GroupCurvature, is_steepest: bool) -> list[Cell]:
    norm, eigenvalue = group.gradient_norm, group.lambda_max
    gradient = Cell(_NOTHING) if norm is None else Cell(compact(norm), (), repr(norm))
    if eigenvalue is None:
        return [gradient, Cell(_NOTHING)]
    residual = "" if group.residual is None else f"{group.residual:.2g}, "
    doubt = () if group.converged else ("not converged",)
    below = (f"{residual}{counted(group.hvps, 'HVP')}", *doubt)
    return [gradient, Cell(compact(eigenvalue), below, repr(eigenvalue), LARGEST if is_steepest else "")]


def _notes(audit: Audit) -> tuple[str, ...]:
    """Return why values are not defined, each reason once with where it holds."""
    found: dict[str, list[str]] = {}
    for result in audit.precisions:
        is_quantized = result is not audit.fp32
        for name, group in zip(audit.groups, result.groups, strict=True):
            place = f"{shown_name(name)} at {result.precision}"
            if group.accuracy is None:
                found.setdefault(group.undefined.get("accuracy", _NO_REASON), []).append(place)
            elif is_quantized and group.accuracy_drop is None:
                reason = group.undefined.get("accuracy_drop", _NO_REASON)
                found.setdefault(reason, []).append(f"change of {place}")
        if result.fvo is None:
            found.setdefault(result.undefined.get("fvo", _NO_REASON), []).append(f"FVO at {result.precision}")
        elif is_quantized and result.fvo_increase is None:
            reason = result.undefined.get("fvo_increase", _NO_REASON)
            found.setdefault(reason, []).append(f"change of FVO at {result.precision}")
    notes = [f"Not defined: {_first(places)}: {reason}" for reason, places in list(found.items())[:MOST_REASONS]]
    more = len(found) - len(notes)
    return (*notes, *([f"Not defined: {more:,} more reasons like these"] if more else []))


def _first(places: Sequence[str]) -> str:
    more = len(places) - _MOST_PLACES
    return ", ".join(places[:_MOST_PLACES]) + (f" and {more:,} more" if more > 0 else "")

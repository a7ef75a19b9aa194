"""Several audits side by side: how each precision fares, and every group in all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from qfair_check.judge.pareto_text import worst_group
from qfair_check.judge.text import interval_text
from qfair_check.judge.verdicts import Outcome
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.page.group_table import Cell, Column, GroupTable, Row
from qfair_check.report.page.words import fixed, signed
from qfair_check.report.reported import Reported

_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One precision of one audit; numbers are text, and `outcome` is None where nothing was judged."""

    audit: str
    precision: str
    outcome: Outcome | None
    overall: str
    overall_interval: str
    fvo: str
    fvo_increase: str
    worst: str
    worst_samples: int
    worst_accuracy: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The summary, and the groups in all audits or why they cannot stand in one table."""

    summary: tuple[SummaryRow, ...]
    groups: GroupTable | None
    why_no_groups: str
    notes: tuple[str, ...]


def compare(reported: Sequence[Reported]) -> Comparison:
    """Return the comparison of at least two audits."""
    difference = _difference(reported)
    return Comparison(
        tuple(_summary(one, result) for one in reported for result in one.audit.precisions),
        None if difference else _groups(reported),
        difference,
        _notes(reported),
    )


def _summary(one: Reported, result: PrecisionResult) -> SummaryRow:
    worst = worst_group(result)
    group = result.groups[worst]
    judged = any(verdict.precision == result.precision for verdict in one.verdicts)
    increase = result.fvo_increase
    return SummaryRow(
        one.name,
        result.precision,
        one.outcome(result.precision) if judged else None,
        fixed(result.overall.accuracy),
        interval_text(result.overall),
        fixed(result.fvo),
        _NOTHING if result is one.audit.fp32 or increase is None else signed(increase),
        one.audit.groups[worst],
        group.samples,
        f"{fixed(group.accuracy)} {interval_text(group)}".rstrip(),
    )


def _groups(reported: Sequence[Reported]) -> GroupTable:
    first = reported[0].audit
    heads = tuple((one.name, tuple(Column(result.precision) for result in one.audit.precisions)) for one in reported)
    places = [{name: index for index, name in enumerate(one.audit.groups)} for one in reported]
    rows = tuple(
        Row(
            name,
            group.samples,
            tuple(
                _cell(one.audit, result, place[name])
                for one, place in zip(reported, places, strict=True)
                for result in one.audit.precisions
            ),
        )
        for name, group in zip(first.groups, first.fp32.groups, strict=True)
    )
    return GroupTable(heads, rows)


def _cell(audit: Audit, result: PrecisionResult, index: int) -> Cell:
    group = result.groups[index]
    interval = interval_text(group)
    return Cell(
        fixed(group.accuracy), (interval,) if interval else (), "" if group.accuracy is None else repr(group.accuracy)
    )


def _difference(reported: Sequence[Reported]) -> str:
    """Return why the audits are not of the same groups with as many samples each; empty where they are."""
    first, *others = reported
    own = _samples(first.audit)
    for other in others:
        samples = _samples(other.audit)
        if samples.keys() != own.keys():
            return (
                f"{first.name} and {other.name} are of different groups, so they do not stand in one table: "
                "each has its own below"
            )
        if samples != own:
            return (
                f"{first.name} and {other.name} hold other numbers of samples of the same groups, so they do not stand "
                "in one table: each has its own below"
            )
    return ""


def _samples(audit: Audit) -> dict[str, int]:
    return {name: group.samples for name, group in zip(audit.groups, audit.fp32.groups, strict=True)}


def _notes(reported: Sequence[Reported]) -> tuple[str, ...]:
    first, *others = reported
    notes = [
        f"{first.name} and {other.name} are of different inputs, labels or classes (the hashes of their data differ): "
        "compare them only if you know why"
        for other in others
        if other.audit.data.sha256 != first.audit.data.sha256
    ]
    seen: dict[bytes, str] = {}
    for one in reported:
        same = seen.setdefault(one.audit.measured_json(), one.name)
        if same != one.name:
            notes.append(f"{same} and {one.name} hold the same measurements")
    return tuple(notes)

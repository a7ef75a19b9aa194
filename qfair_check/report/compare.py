"""Audits side by side as a table for a terminal: which precisions are on the Pareto front."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import PurePath

from wcwidth import wcswidth

from qfair_check.gaps import exact_fvo
from qfair_check.judge.pareto import Standing
from qfair_check.judge.pareto_text import accuracy_text, candidate_name, who_cannot_be_judged, worst_group
from qfair_check.judge.text import digits_apart, printable, shown_name
from qfair_check.judge.verdicts import Outcome
from qfair_check.record import Audit, PrecisionResult
from qfair_check.report.table import aligned, shown_apart, wrapped

_HEAD = ["audit", "precision", "size", "", "OA", "FVO", "worst group", "", "front"]
_AUDIT, _GROUP = 0, 6
_RIGHT = (2, 3)
_LEAST_NAME, _MOST_NAME = 12, 40
_MARKS = {Outcome.PASS: "yes", Outcome.FAIL: "no", Outcome.INSUFFICIENT: "unsure"}
_NO_MARK = "-"
_LEGEND = (
    "front: yes where no other candidate is as good in both OA (overall accuracy) and FVO (largest gap between "
    "groups) and better in one; fp32 is the baseline, and no candidate; size: bits of the parameters, and their "
    "share of fp32"
)


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return for each path its last parts, as many as tell it from the others.

    Examples
    --------
    >>> short_names(["runs/absmax/audit.json", "runs/mse/audit.json", "runs/mixed.json"])
    ('absmax/audit.json', 'mse/audit.json', 'mixed.json')
    """
    ends = [
        ["/".join(parts[-depth:]) for depth in range(1, len(parts) + 1)] for parts in (PurePath(p).parts for p in paths)
    ]
    return tuple(
        next((end for end in own if sum(end in others for others in ends) == 1), own[-1] if own else path)
        for own, path in zip(ends, paths, strict=True)
    )


def render_comparison(
    audits: Sequence[Audit], names: Sequence[str], standings: Sequence[Standing], *, width: int = 80
) -> str:
    """Return the table: fp32 of each model, then every candidate and whether it is on the front.

    Parameters
    ----------
    audits : sequence of Audit
        Of the same groups.
    names : sequence of str
        Printable and distinct.
    standings : sequence of Standing
        Of the candidates in these audits.
    width : int
        Terminal columns.
    """
    shown = [(index, audits[index].fp32, _NO_MARK) for index in _distinct_models(audits)]
    for standing in standings:
        index, precision = standing.candidate.audit, standing.candidate.precision
        shown.append((index, audits[index].at(precision), _MARKS[standing.outcome]))
    accuracies = [result.overall.exact_accuracy for _, result, _ in shown]
    gaps = [exact_fvo(result.groups) for _, result, _ in shown]
    rows = [
        [
            names[index],
            result.precision,
            *_size(audits[index], result),
            accuracy,
            gap,
            *_worst(audits[index], result),
            mark,
        ]
        for (index, result, mark), accuracy, gap in zip(shown, _numbers(accuracies), _numbers(gaps), strict=True)
    ]
    lines = wrapped([*_preamble(audits, names), *_notes(audits, names, standings)], width)
    return "\n".join([*lines, "", *_fitted([_HEAD, *rows], width), "", *wrapped([_LEGEND], width)]) + "\n"


def _distinct_models(audits: Sequence[Audit]) -> list[int]:
    """Return the first audit with fp32 values of each model; unknown weights are another model in each audit."""
    seen: dict[object, int] = {}
    for index, audit in enumerate(audits):
        if not audit.has_baseline:
            continue
        correct = {name: group.correct for name, group in zip(audit.groups, audit.fp32.groups, strict=True)}
        seen.setdefault((audit.origin_sha256 or index, tuple(sorted(correct.items()))), index)
    return list(seen.values())


def _size(audit: Audit, result: PrecisionResult) -> tuple[str, str]:
    bits, whole = audit.model_bits(result.precision), audit.model_bits("fp32")
    return ("unknown", "") if bits is None else (f"{bits:,}", f"{bits / whole:.1%}" if whole else "")


def _numbers(values: Sequence[Fraction | None]) -> list[str]:
    """Return the values with as many digits as tell them apart."""
    digits = digits_apart(value for value in values if value is not None)
    return ["undefined" if value is None else f"{float(value):.{digits}f}" for value in values]


def _worst(audit: Audit, result: PrecisionResult) -> tuple[str, str]:
    index = worst_group(result)
    group = result.groups[index]
    return audit.groups[index], f"{accuracy_text(group)}  n={group.samples}"


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of the table, with names of audits and groups shortened where it would be too wide."""
    names, groups = [row[_AUDIT] for row in rows], [shown_name(row[_GROUP], _MOST_NAME) for row in rows]
    bare = [["" if column in (_AUDIT, _GROUP) else cell for column, cell in enumerate(row)] for row in rows]
    room = width - max(map(wcswidth, aligned(bare, _RIGHT)))
    for_groups = max(room - max(map(wcswidth, names)), room // 2, _LEAST_NAME)
    groups = [shown_name(group, for_groups) for group in groups]
    names = shown_apart(names, max(room - max(map(wcswidth, groups)), _LEAST_NAME))
    return aligned(
        [
            [name, *row[_AUDIT + 1 : _GROUP], group, *row[_GROUP + 1 :]]
            for name, row, group in zip(names, rows, groups, strict=True)
        ],
        _RIGHT,
    )


def _notes(audits: Sequence[Audit], names: Sequence[str], standings: Sequence[Standing]) -> list[str]:
    told = who_cannot_be_judged([standing.candidate for standing in standings], names)
    for standing in standings:
        if standing.doubts:
            own = candidate_name(standing.candidate, names)
            doubts = ", ".join(candidate_name(other, names) for other in standing.doubts)
            told.append(f"{own} is on the front unless a candidate that cannot be judged is better: {doubts}")
    return [f"note    {line}" for line in [*told, *_about_inputs(audits, names)]]


def _about_inputs(audits: Sequence[Audit], names: Sequence[str]) -> list[str]:
    told = []
    seen: dict[bytes, str] = {}
    for audit, name in zip(audits, names, strict=True):
        same = seen.setdefault(audit.measured_json(), name)
        if same != name:
            told.append(f"{same} and {name} hold the same measurements")
        if audit.data.sha256 != audits[0].data.sha256:
            told.append(
                f"{names[0]} and {name} have as many samples in each group, but other inputs, labels or classes (the "
                "hashes of their data differ): compare them only if you know why"
            )
    return told


def _preamble(audits: Sequence[Audit], names: Sequence[str]) -> list[str]:
    lines = []
    for audit, name in zip(audits, names, strict=True):
        allocation = f", {printable(audit.settings.allocation)}" if audit.settings.allocation else ""
        lines.append(f"audit   {name}: {printable(audit.inputs.model)}, {printable(audit.settings.scheme)}{allocation}")
    first = audits[0]
    return [
        *lines,
        f"data    {printable(first.inputs.data)}, {first.data.samples:,} samples, {len(first.groups)} groups",
    ]

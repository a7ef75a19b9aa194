"""Whether an audit is worse than a baseline of the same data."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np

from qfair_check.baseline_record import Baseline, Entry, Tally, entry_of
from qfair_check.errors import OptionError
from qfair_check.gaps import accuracy_gap
from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE
from qfair_check.judge.reasons import Fault, Reason, first_fault
from qfair_check.judge.verdicts import Comparison, Flips, GroupChange, Outcome, Verdict
from qfair_check.outcome_rows import unpack_bits
from qfair_check.precision import Precision
from qfair_check.record import Audit

REGRESSION = "regression"


def judge_regression(
    audit: Audit,
    baseline: Baseline | None,
    limit: Decimal,
    precision: str | int | Precision,
    *,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
) -> Verdict:
    """Judge how much worse an audit is than a baseline at one precision.

    The regression is the largest of acc_g(baseline) - acc_g(now) over groups and FVO(now) - FVO(baseline), exactly; it
    is negative where all got better. A missing baseline, entry or group fails, and so does a new group.

    Parameters
    ----------
    audit : Audit
    baseline : Baseline or None
        None where there was none.
    limit : Decimal
    precision : str, int or Precision
    min_group_size : int
        Samples that a group needs to be judged.

    Raises
    ------
    OptionError
        If the audit does not hold the precision, or is of other data in the same groups.

    Examples
    --------
    >>> from qfair_check import Baseline, audit
    >>> before, now = audit("demo", "demo", 4), audit("demo", "demo", 4, scheme="absmax")
    >>> found = judge_regression(now, Baseline.of(before), Decimal("0.01"), 4)
    >>> str(found.outcome), found.measured
    ('pass', Fraction(0, 1))
    """
    now = entry_of(audit, audit.at(precision))
    if baseline is None:
        return _refused(now, limit, [Reason(Fault.NO_BASELINE, "there was no baseline to compare with")])
    if other := _other_groups(baseline, audit):
        return _refused(now, limit, other)
    check_same_data(baseline, audit)
    before = baseline.find(now.key)
    if before is None:
        return _refused(now, limit, [_no_entry(baseline, now)])
    flips, of_groups = _flips(before, now, audit)
    pairs = zip(audit.groups, _sorted(before, baseline.groups, audit.groups), now.groups, of_groups, strict=True)
    changed = [GroupChange(*pair) for pair in pairs]
    reasons = [reason for change in changed if (reason := _doubt(change, min_group_size))]
    known = {
        index: change
        for index, change in enumerate(changed)
        if change.drop is not None and change.after.samples >= min_group_size
    }
    drops = {index: change.drop for index, change in known.items() if change.drop is not None}
    before_gap, after_gap = (_gap([getattr(change, side) for change in known.values()]) for side in ("before", "after"))
    rises = [after_gap - before_gap] if before_gap is not None and after_gap is not None else []
    measured = max([*drops.values(), *rises], default=None)
    worst, best = max(drops, key=drops.__getitem__, default=None), None
    if measured not in (None, *drops.values()):  # the rise of FVO: of the groups between which it lies now
        worst, best = (pick(known, key=lambda index: known[index].after.accuracy or 0) for pick in (min, max))
    if measured is not None and measured > Fraction(limit):
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.INSUFFICIENT if reasons or measured is None else Outcome.PASS
    return Verdict(
        REGRESSION,
        now.precision,
        limit,
        measured,
        None,
        outcome,
        worst,
        best,
        tuple(reason.told for reason in reasons),
        first_fault(reasons),
        comparison=Comparison(
            before.overall,
            now.overall,
            before_gap,
            after_gap,
            tuple(sorted(filter(_is_told, known.values()), key=_by_drop)),
            flips,
            None if None in (before.model, now.model) else before.model == now.model,
        ),
    )


def check_same_data(baseline: Baseline, audit: Audit) -> None:
    """Refuse a baseline of other data in the same groups, or one whose counts are not those of the same data.

    Raises
    ------
    OptionError
        Saying so.
    """
    if _other_groups(baseline, audit):
        return
    if baseline.data != audit.data.sha256:
        raise OptionError(
            f"the baseline is of other data ({baseline.data[:12]}) than this audit ({audit.data.sha256[:12]}): name "
            "that of these samples, or write it anew with --qfair-update-baseline"
        )
    for entry in baseline.entries:
        tallies = _sorted(entry, baseline.groups, audit.groups)
        for name, before, now in zip(audit.groups, tallies, audit.precisions[0].groups, strict=True):
            if before.samples != now.samples:
                raise OptionError(
                    f"the baseline was edited: it has {before.samples:,} samples of group {name}, and the same data "
                    f"have {now.samples:,}; write it anew with --qfair-update-baseline"
                )
        _check_outcomes(entry, tallies, audit)


def _check_outcomes(entry: Entry, tallies: Sequence[Tally], audit: Audit) -> None:
    """Refuse counts that are not those of the outcomes beside them, where these and the groups of samples are known."""
    groups = audit.sample_groups()
    if groups is None or not entry.right:
        return
    right = np.bincount(groups[unpack_bits(entry.right, audit.data.samples)], minlength=len(audit.groups)).tolist()
    for name, tally, counted in zip(audit.groups, tallies, right, strict=True):
        if tally.correct not in (None, counted):
            raise OptionError(
                f"the baseline was edited: {tally.correct:,} samples of group {name} are right at {entry.precision}, "
                f"and {counted:,} in the outcomes beside it; write it anew with --qfair-update-baseline"
            )


def _refused(now: Entry, limit: Decimal, reasons: Sequence[Reason]) -> Verdict:
    told = tuple(reason.told for reason in reasons)
    return Verdict(REGRESSION, now.precision, limit, None, None, Outcome.FAIL, None, None, told, first_fault(reasons))


def _other_groups(baseline: Baseline, audit: Audit) -> list[Reason]:
    before, now = set(baseline.groups), set(audit.groups)
    gone = [f"group {name} of the baseline is gone" for name in baseline.groups if name not in now]
    new = [f"group {name} is not in the baseline" for name in audit.groups if name not in before]
    return [Reason(Fault.OTHER_GROUPS, told) for told in gone + new]


def _no_entry(baseline: Baseline, now: Entry) -> Reason:
    held = ", ".join(" ".join(filter(None, entry.key)) for entry in baseline.entries)
    return Reason(Fault.NO_ENTRY, f"the baseline holds no {' '.join(filter(None, now.key))}: it holds {held}")


def _sorted(entry: Entry, names: Sequence[str], wanted: Sequence[str]) -> list[Tally]:
    by_name = dict(zip(names, entry.groups, strict=True))
    return [by_name[name] for name in wanted]


def _doubt(change: GroupChange, least: int) -> Reason | None:
    if change.after.samples < least:
        told = f"group {change.name} has {change.after.samples} samples, and judging needs {least}"
        return Reason(Fault.SMALL_GROUP, told)
    if change.drop is None:
        where = "here" if change.after.accuracy is None else "in the baseline"
        return Reason(Fault.NO_VALUE, f"the accuracy of group {change.name} is not defined {where}")
    return None


def _gap(tallies: Iterable[Tally]) -> Fraction | None:
    accuracies = [accuracy for tally in tallies if (accuracy := tally.accuracy) is not None]
    return accuracy_gap(accuracies) if len(accuracies) > 1 else None


def _by_drop(change: GroupChange) -> Fraction:
    return -(change.drop or Fraction(0))


def _is_told(change: GroupChange) -> bool:
    return bool(change.drop) or (change.flips is not None and change.flips != Flips(0, 0))


def _flips(before: Entry, now: Entry, audit: Audit) -> tuple[Flips | None, Sequence[Flips | None]]:
    """Return the flips of all samples and those of each group; None where they are not known."""
    unknown = [None] * len(audit.groups)
    if not before.right or len(before.right) != len(now.right):
        return None, unknown
    was, is_now = (unpack_bits(right, audit.data.samples) for right in (before.right, now.right))
    lost, gained = was & ~is_now, is_now & ~was
    groups = audit.sample_groups()
    if groups is None:
        return Flips(int(lost.sum()), int(gained.sum())), unknown
    by_group = [np.bincount(groups[flipped], minlength=len(audit.groups)).tolist() for flipped in (lost, gained)]
    return Flips(sum(by_group[0]), sum(by_group[1])), [Flips(*pair) for pair in zip(*by_group, strict=True)]

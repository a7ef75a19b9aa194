"""The verdict of one audit: a word, one sentence on who is hurt, and every limit with its value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from markupsafe import Markup

from qfair_check.judge.checks import CHECKS, Check
from qfair_check.judge.regression import REGRESSION
from qfair_check.judge.text import compact, describe, digits_apart, interval_text, printable
from qfair_check.judge.verdicts import Comparison, Outcome, Verdict
from qfair_check.record import Audit, Measures, PrecisionResult
from qfair_check.report.page.words import MINUS, all_of, as_command_line, bidi_name, counted, fixed, joined
from qfair_check.report.reported import Reported

_ORDER = (Outcome.FAIL, Outcome.INSUFFICIENT, Outcome.PASS)
_NOTHING = "-"
_FEWEST_DIGITS, _MOST_DIGITS = 3, 9
_CHANGE_OF = {"fvo-increase": "FVO ", "accuracy-drop": "accuracy "}


@dataclass(frozen=True, slots=True)
class Banner:
    """What is read first.

    Parameters
    ----------
    word : str
        ``PASS``, ``FAIL``, ``INSUFFICIENT``, ``NOT JUDGED``, or ``INCOMPLETE`` where a run judged some limits alone.
    tone : str
        ``pass``, ``fail``, ``insufficient`` or ``none``: how it is coloured, and its icon.
    meaning : str
        The word in plain words.
    summary : Markup
        Who is hurt, by how much and at which precision.
    """

    word: str
    tone: str
    meaning: str
    summary: Markup


@dataclass(frozen=True, slots=True)
class Concerned:
    """A group that makes a value: ``worst``, ``best``, ``largest`` or ``smallest``, and on how many samples."""

    role: str
    name: str
    samples: int
    value: str


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit at one precision; numbers are text, `told` is what the verdict says in full.

    `is_partial` where the value is that of the groups that can be judged, and there are others.
    """

    outcome: Outcome
    phrase: str
    precision: str
    measured: str
    bounds: str
    is_partial: bool
    relation: str
    limit: str
    baseline: str
    concerned: tuple[Concerned, ...]
    told: str


def banner_of(reported: Reported) -> Banner:
    """Return the banner of an audit."""
    verdicts = reported.verdicts
    if not verdicts:
        why = "no limit was judged in this run" if reported.left_out else "no limit binds, so nothing was judged"
        return Banner("NOT JUDGED", "none", why, _unjudged(reported.audit))
    outcome = reported.outcome()
    held = counted(len(verdicts), "limit")
    if outcome is Outcome.PASS and reported.left_out:
        meaning = f"{held} {'holds' if len(verdicts) == 1 else 'hold'}, others were not judged"
        return Banner("INCOMPLETE", "insufficient", meaning, joined([_pass(reported), _left_out(reported)]))
    if outcome is Outcome.PASS:
        return Banner(
            "PASS", "pass", f"all of {held} hold" if len(verdicts) > 1 else "the limit holds", _pass(reported)
        )
    if outcome is Outcome.FAIL:
        broken = sum(verdict.outcome is Outcome.FAIL for verdict in verdicts)
        where = all_of(precisions_that(reported, Outcome.FAIL))
        meaning = f"{broken:,} of {held} {'is' if broken == 1 else 'are'} broken, at {where}"
        unsure = sum(verdict.outcome is Outcome.INSUFFICIENT for verdict in verdicts)
        meaning += f"; {unsure:,} cannot be judged" if unsure else ""
        return Banner("FAIL", "fail", meaning, joined([_fail(reported), _left_out(reported)]))
    unsure = sum(verdict.outcome is Outcome.INSUFFICIENT for verdict in verdicts)
    meaning = f"{unsure:,} of {held} cannot be judged, and none is broken"
    return Banner("INSUFFICIENT", "insufficient", meaning, joined([_insufficient(reported), _left_out(reported)]))


def limit_rows(reported: Reported) -> tuple[LimitRow, ...]:
    """Return a row for each verdict: broken limits first, then those that cannot be judged."""
    ranked = sorted(reported.verdicts, key=lambda verdict: _ORDER.index(verdict.outcome))
    return tuple(_row(verdict, reported.audit) for verdict in ranked)


def precisions_that(reported: Reported, outcome: Outcome) -> list[str]:
    """Return the judged precisions that fare so, widest first."""
    judged = dict.fromkeys(verdict.precision for verdict in reported.verdicts)
    return [
        result.precision
        for result in reported.audit.quantized
        if result.precision in judged and reported.outcome(result.precision) is outcome
    ]


def hurt_most(result: PrecisionResult) -> int | None:
    """Return the position of the group that lost most accuracy; None if no group is known to have lost any."""
    drops = {index: group.accuracy_drop for index, group in enumerate(result.groups) if group.accuracy_drop is not None}
    worst = max(drops, key=drops.__getitem__, default=None)
    return None if worst is None or drops[worst] <= 0 else worst


def _unjudged(audit: Audit) -> Markup:
    if not audit.quantized:
        return Markup("The audit holds fp32 alone, which is the baseline and is never judged.")
    return _widest_loss(audit, [result.precision for result in audit.quantized])


def _left_out(reported: Reported) -> Markup:
    """Return what a run did not get to; empty where it judged every limit."""
    if not reported.left_out:
        return Markup()
    were = "was" if reported.left_out == 1 else "were"
    return Markup("{} {} not judged in this run: left out, or it ended before.").format(
        counted(reported.left_out, "limit"), were
    )


def _pass(reported: Reported) -> Markup:
    precisions = precisions_that(reported, Outcome.PASS)
    limited = {verdict.precision for verdict in reported.verdicts if verdict.check == "group-drop"}
    held = "No group lost more than the limits allow" if limited.issuperset(precisions) else "Every limit holds"
    return joined(
        [
            Markup("{} at {}.").format(held, all_of(precisions)),
            _widest_loss(reported.audit, precisions),
        ]
    )


def _widest_loss(audit: Audit, precisions: Sequence[str]) -> Markup:
    """Return a sentence on the largest loss of all."""
    losses = []
    for result in map(audit.at, precisions):
        worst = hurt_most(result)
        if worst is not None:
            losses.append((result.groups[worst].accuracy_drop or 0.0, result))
    if not losses:
        return Markup("{}.").format(_no_loss(map(audit.at, precisions)))
    return Markup("The largest loss is at {}.").format(_loss(audit, max(losses, key=lambda loss: loss[0])[1]))


def _no_loss(results: Iterable[PrecisionResult]) -> str:
    known = all(group.accuracy_drop is not None for result in results for group in result.groups)
    return "No group lost accuracy" if known else "No group is known to have lost accuracy"


def _fail(reported: Reported) -> Markup:
    audit, failed = reported.audit, precisions_that(reported, Outcome.FAIL)
    widest, narrowest = audit.at(failed[0]), audit.at(failed[-1])
    parts = [_who_is_hurt(reported, widest)]
    if narrowest is not widest and hurt_most(narrowest) is not None and not _only_regression(reported, narrowest):
        parts.append(Markup("At {}.").format(_loss(audit, narrowest)))
    passed = precisions_that(reported, Outcome.PASS)
    if passed:
        holds = "hold" if len(passed) > 1 else "holds"
        judged = " that was judged" if reported.left_out else ""
        parts.append(Markup("{} {} every limit{}.").format(all_of(passed), holds, judged))
    unsure = precisions_that(reported, Outcome.INSUFFICIENT)
    if unsure:
        parts.append(Markup("Not every limit can be judged at {}.").format(all_of(unsure)))
    return joined(parts)


def _broken_at(reported: Reported, result: PrecisionResult) -> list[Verdict]:
    return [v for v in reported.verdicts if v.precision == result.precision and v.outcome is Outcome.FAIL]


def _only_regression(reported: Reported, result: PrecisionResult) -> bool:
    """Whether what is broken there is about a baseline alone, so that what was lost from fp32 is not to blame."""
    return {verdict.check for verdict in _broken_at(reported, result)} == {REGRESSION}


def _who_is_hurt(reported: Reported, result: PrecisionResult) -> Markup:
    audit = reported.audit
    if _only_regression(reported, result):
        verdict = _broken_at(reported, result)[0]
        headline = describe(verdict, audit).splitlines()[0]
        why = f": {printable(verdict.reasons[0])}" if verdict.reasons else ""
        return Markup("{}{}.").format(headline[0].upper() + headline[1:], as_command_line(why))
    if hurt_most(result) is not None:
        overall = _change(audit.fp32.overall, result.overall)
        return Markup("At {}; overall it {}.").format(_loss(audit, result), overall)
    headline = describe(_broken_at(reported, result)[0], audit).splitlines()[0]
    return Markup("{}. {} there.").format(headline[0].upper() + headline[1:], _no_loss([result]))


def _loss(audit: Audit, result: PrecisionResult) -> Markup:
    worst = hurt_most(result) or 0
    group = result.groups[worst]
    return Markup("{}, the accuracy of <strong>{}</strong> (n={:,}) {}").format(
        result.precision,
        bidi_name(audit.groups[worst]),
        group.samples,
        _change(audit.fp32.groups[worst], group),
    )


def _change(before: Measures, after: Measures) -> str:
    """Return how accuracy changes, with digits enough to tell before and after apart."""
    start, end = before.exact_accuracy, after.exact_accuracy
    if start is None or end is None:
        return "is not defined"
    if start == end:
        return f"stays at {float(start):.{_FEWEST_DIGITS}f}"
    digits = digits_apart((start, end))
    amount, old, new = (f"{float(value):.{digits}f}" for value in (abs(end - start), start, end))
    return f"{'rises' if end > start else 'falls'} by {amount}, from {old} to {new}"


def _insufficient(reported: Reported) -> Markup:
    doubted = [verdict for verdict in reported.verdicts if verdict.outcome is Outcome.INSUFFICIENT]
    reasons = list(dict.fromkeys(reason for verdict in doubted for reason in verdict.reasons))
    precisions = list(dict.fromkeys(verdict.precision for verdict in doubted))
    there = list(dict.fromkeys(verdict.precision for verdict in doubted if reasons[0] in verdict.reasons))
    elsewhere = [precision for precision in precisions if precision not in there]
    first = as_command_line(printable(reasons[0]))
    more = f" (and {counted(len(reasons) - 1, 'reason')} more)" if len(reasons) > 1 else ""
    parts = [Markup("At {}: {}{}.").format(all_of(there), first, more)]
    if elsewhere:
        parts.append(Markup("Not every limit can be judged at {} either.").format(all_of(elsewhere)))
    if len(doubted) < len(reported.verdicts):
        parts.append(Markup("Limits that can be judged hold."))
    if not reported.is_refused:
        parts.append(Markup("A gate with <code>--insufficient={}</code> goes on.").format(reported.insufficient))
    return joined(parts)


def _row(verdict: Verdict, audit: Audit) -> LimitRow:
    check = CHECKS[verdict.check]
    return LimitRow(
        verdict.outcome,
        check.phrase,
        verdict.precision,
        _measured(verdict, check),
        _bounds(verdict, check),
        verdict.is_partial,
        "≤" if check.is_ceiling else "≥",
        f"{verdict.limit:f}" if check.ratio_of else str(verdict.limit),
        _baseline(verdict, check),
        _concerned(verdict, check, audit),
        as_command_line(describe(verdict, audit)),
    )


def _measured(verdict: Verdict, check: Check) -> str:
    """Return the value with digits enough to show on which side of its limit it is."""
    value = verdict.measured
    if value is None:
        return "not known"
    text, digits, limit = _number(value, check, _FEWEST_DIGITS), _FEWEST_DIGITS, Fraction(verdict.limit)
    while digits < _MOST_DIGITS and _side(Fraction(_plain(text)), limit) != _side(value, limit):
        digits += 1
        text = _number(value, check, digits)
    return text


def _bounds(verdict: Verdict, check: Check) -> str:
    """Return between what the value lies, where a confidence was asked for."""
    if (known := verdict.certainty) is None:
        return ""
    low, high = (_number(Fraction(bound), check, _FEWEST_DIGITS) for bound in (known.low, known.high))
    return f"[{low}, {high}]"


def _number(value: Fraction, check: Check, digits: int) -> str:
    number = float(value)
    if not check.ratio_of:
        return f"{number:.{digits}f}".replace("-", MINUS)
    return compact(number) if digits == _FEWEST_DIGITS else f"{number:.{digits}g}"


def _plain(text: str) -> str:
    return text.replace(",", "").replace(MINUS, "-")


def _side(value: Fraction, limit: Fraction) -> int:
    return (value > limit) - (value < limit)


def _baseline(verdict: Verdict, check: Check) -> str:
    """Return the value at fp32; of a change from fp32 what it is a change of."""
    if verdict.baseline is None:
        return _NOTHING
    return _CHANGE_OF.get(check.name, "") + _number(verdict.baseline, check, _FEWEST_DIGITS)


def _concerned(verdict: Verdict, check: Check, audit: Audit) -> tuple[Concerned, ...]:
    between = bool(check.ratio_of) and verdict.highest is not None
    roles = ("largest", "smallest") if between else ("worst", "best")
    places = (verdict.highest, verdict.lowest) if between else (verdict.lowest, verdict.highest)
    result = audit.at(verdict.precision)
    found = []
    for role, index in zip(roles, places, strict=True):
        if index is None:
            continue
        if check.ratio_of:
            curvature = result.curvature[index]
            value = getattr(curvature, check.ratio_of)
            found.append(
                Concerned(role, audit.groups[index], curvature.samples, _NOTHING if value is None else compact(value))
            )
        elif verdict.comparison:
            value = _since_baseline(verdict.comparison, audit.groups[index], result.groups[index])
            found.append(Concerned(role, audit.groups[index], result.groups[index].samples, value))
        else:
            before, after = audit.fp32.groups[index], result.groups[index]
            value = f"{fixed(before.accuracy)} → {fixed(after.accuracy)} {interval_text(after)}".rstrip()
            found.append(Concerned(role, audit.groups[index], after.samples, value))
    if not found and check.name in ("accuracy", "accuracy-drop"):
        overall = result.overall
        value = f"{fixed(audit.fp32.overall.accuracy)} → {fixed(overall.accuracy)} {interval_text(overall)}".rstrip()
        return (Concerned("all samples", "", overall.samples, value),)
    return tuple(found)


def _since_baseline(comparison: Comparison, name: str, after: Measures) -> str:
    """Return the accuracy of a group in the baseline and now; what did not change is not among the changes."""
    earlier = [float(change.before.accuracy or 0) for change in comparison.changed if change.name == name]
    before = earlier[0] if earlier else after.accuracy
    return f"{fixed(before)} in the baseline → {fixed(after.accuracy)} {interval_text(after)}".rstrip()

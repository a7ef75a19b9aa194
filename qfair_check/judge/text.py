"""What a verdict says: the one place where its words are."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

from wcwidth import wcswidth

from qfair_check.curvature_record import GroupCurvature
from qfair_check.judge.checks import CHECKS, Check
from qfair_check.judge.curvature import METRIC_NAMES
from qfair_check.judge.reasons import Fault, cure
from qfair_check.judge.regression_text import comparison_rows
from qfair_check.judge.remedy import remedy_command
from qfair_check.judge.statistics import wilson_interval
from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.record import Audit, Measures

NAME_WIDTH = 40
MOST_REASONS = 10
_ELLIPSIS = "…"
_FEWEST_DIGITS, _MOST_DIGITS = 3, 9
_FULL = 999_500


def describe(verdict: Verdict, audit: Audit) -> str:
    """Return what the verdict says: a headline, then the groups that make the value with n and interval.

    Intervals are Wilson's, 95%, of the accuracy at the judged precision. Where a group is hurt, the command that may
    mend it comes last.
    """
    check = CHECKS[verdict.check]
    if verdict.outcome is Outcome.INSUFFICIENT or verdict.measured is None:
        return _insufficient(verdict, check, audit)
    headline = _HEADLINES[verdict.check](verdict, audit)
    rows = _rows(verdict, audit)
    command = remedy_command(verdict, audit)
    tried = [f"  try    {printable(command)}"] if command else []
    return "\n".join([headline, *_certain(verdict), *rows, *listed("not judged  ", verdict.reasons), *tried])


def printable(text: str) -> str:
    """Return the text with control and other unprintable characters escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def shown_name(name: str, width: int = NAME_WIDTH) -> str:
    """Return a group name fit for a terminal: printable, and at most `width` columns wide."""
    clean = printable(name[: 4 * width])
    if wcswidth(clean) <= width:
        return clean
    kept = clean
    while wcswidth(kept) > width - 1:
        kept = kept[:-1]
    return kept + _ELLIPSIS


def shown_middle(name: str, width: int = NAME_WIDTH) -> str:
    """Return a name fit for a terminal whose end tells it from others: where it is too wide its middle goes.

    Examples
    --------
    >>> shown_middle("features.denseblock4.denselayer16.conv2.weight", 30)
    'features.d…ayer16.conv2.weight'
    """
    clean = printable(name)
    if wcswidth(clean) <= width:
        return clean
    head, tail = clean[: width // 3], clean[-4 * width :]
    while wcswidth(head) > width // 3:
        head = head[:-1]
    while wcswidth(tail) > width - 1 - wcswidth(head):
        tail = tail[1:]
    return head + _ELLIPSIS + tail


def padded(text: str, width: int) -> str:
    """Return the text with blanks up to `width` terminal columns."""
    return text + " " * max(0, width - wcswidth(text))


def compact(value: float) -> str:
    """Return a number with three significant digits, or as a whole number below a million.

    Examples
    --------
    >>> [compact(value) for value in (0.0123456, 12.3456, 12345.6, 1234567.0)]
    ['0.0123', '12.3', '12,346', '1.23e+06']
    """
    return f"{value:,.0f}" if _FULL > abs(value) >= 999.5 else f"{value:.3g}"


def interval_text(group: Measures) -> str:
    """Return the group's accuracy interval as ``[0.020, 0.072]``; empty where accuracy is not defined."""
    if group.correct is None or not group.samples:
        return ""
    low, high = wilson_interval(group.correct, group.samples)
    return f"[{low:.3f}, {high:.3f}]"


def is_of_subsample(verdict: Verdict, audit: Audit) -> bool:
    """Return whether the value of a verdict on curvature is of a subsample of the groups that it names."""
    result = audit.at(verdict.precision)
    named = [index for index in (verdict.lowest, verdict.highest) if index is not None]
    return any(result.curvature[index].samples < result.groups[index].samples for index in named)


def digits_apart(values: Iterable[Fraction]) -> int:
    """Return how many decimals tell all distinct values apart, from 3 to 9.

    Examples
    --------
    >>> digits_apart([Fraction(9001, 10000), Fraction(9, 10), Fraction(1, 2)])
    4
    """
    ordered = sorted(set(values))
    gaps = [high - low for low, high in pairwise(ordered)]
    digits = _FEWEST_DIGITS
    while digits < _MOST_DIGITS and any(gap < Fraction(1, 10**digits) for gap in gaps):
        digits += 1
    return digits


def listed(label: str, reasons: Sequence[str]) -> list[str]:
    """Return a line for each reason, or for the first ten and how many more there are."""
    lines = [f"  {label}{printable(reason)}" for reason in reasons[:MOST_REASONS]]
    more = len(reasons) - MOST_REASONS
    return lines if more <= 0 else [*lines, f"  {label}{more:,} more, for like reasons"]


def cured(fault: Fault | None) -> list[str]:
    """Return a line on what the user can do about it."""
    return [] if fault is None else [f"  cure     {cure(fault)}"]


def _insufficient(verdict: Verdict, check: Check, audit: Audit) -> str:
    lines = [f"{check.phrase} at {verdict.precision} cannot be judged against the limit {verdict.limit}"]
    lines += listed("because  ", verdict.reasons)
    if verdict.certainty is not None or verdict.comparison is not None:
        lines += _rows(verdict, audit)
    if verdict.is_partial:
        measured = float(verdict.measured or 0)
        value = f"{compact(measured)}{_on_subsample(verdict, audit)}" if check.ratio_of else f"{measured:.3f}"
        lines.append(f"  among the other groups it is {value}")
    return "\n".join([*lines, *cured(verdict.fault)])


def _certain(verdict: Verdict) -> list[str]:
    if (known := verdict.certainty) is None:
        return []
    return [f"  at {known.confidence:%} confidence it lies from {known.low:.3f} to {known.high:.3f}"]


def _gap_headline(verdict: Verdict, audit: Audit) -> str:
    added = ""
    if verdict.baseline is not None and verdict.measured is not None:
        change = float(verdict.measured - verdict.baseline)
        verb = "added" if change >= 0 else "removed"
        added = f" (fp32: {float(verdict.baseline):.3f}, so quantization {verb} {abs(change):.3f})"
    return _compared(verdict, f"FVO at {verdict.precision} is") + added


def _gap_increase_headline(verdict: Verdict, audit: Audit) -> str:
    before, change = verdict.baseline or Fraction(0), verdict.measured or Fraction(0)
    after = f" (fp32: {float(before):.3f}, {verdict.precision}: {float(before + change):.3f})"
    return _compared(verdict, f"FVO increase at {verdict.precision} is") + after


def _drop_headline(verdict: Verdict, audit: Audit) -> str:
    name = shown_name(audit.groups[verdict.lowest or 0])
    return _compared(verdict, f"accuracy drop of {name} at {verdict.precision} is")


def _accuracy_headline(verdict: Verdict, audit: Audit) -> str:
    before = audit.fp32.overall.accuracy
    tail = "" if before is None else f" (fp32: {before:.3f})"
    return _compared(verdict, f"overall accuracy at {verdict.precision} is") + tail


def _overall_drop_headline(verdict: Verdict, audit: Audit) -> str:
    before, drop = verdict.baseline or Fraction(0), verdict.measured or Fraction(0)
    tail = f" (fp32: {float(before):.3f}, {verdict.precision}: {float(before - drop):.3f})"
    return _compared(verdict, f"overall accuracy drop at {verdict.precision} is") + tail


def _plain_headline(verdict: Verdict, audit: Audit) -> str:
    return _compared(verdict, f"{CHECKS[verdict.check].phrase} at {verdict.precision} is")


def _cosine_headline(verdict: Verdict, audit: Audit) -> str:
    group = audit.at(verdict.precision).groups[verdict.lowest or 0]
    left_out = f" ({group.null_logits} of {group.samples} samples have null logits and are left out)"
    return _plain_headline(verdict, audit) + (left_out if group.null_logits else "")


def _between_groups_headline(verdict: Verdict, audit: Audit) -> str:
    check, result = CHECKS[verdict.check], audit.at(verdict.precision)
    large, small = (
        f"{shown_name(audit.groups[index])} ({_digits(getattr(result.curvature[index], check.ratio_of))})"
        for index in (verdict.highest or 0, verdict.lowest or 0)
    )
    whose = f"{METRIC_NAMES[check.ratio_of]} at {verdict.precision}"
    before = "" if verdict.baseline is None else f" (fp32: {_digits(float(verdict.baseline))})"
    return _times(verdict, whose, f"as large for {large} as for {small}") + before + _on_subsample(verdict, audit)


def _to_fp32_headline(verdict: Verdict, audit: Audit) -> str:
    check, index = CHECKS[verdict.check], verdict.lowest or 0
    before, after = (
        _digits(getattr(result.curvature[index], check.ratio_of))
        for result in (audit.fp32, audit.at(verdict.precision))
    )
    whose = f"{METRIC_NAMES[check.ratio_of]} of {shown_name(audit.groups[index])} at {verdict.precision} ({after})"
    return _times(verdict, whose, f"that at fp32 ({before})") + _on_subsample(verdict, audit)


def _on_subsample(verdict: Verdict, audit: Audit) -> str:
    return ", on a subsample" if is_of_subsample(verdict, audit) else ""


_HEADLINES: dict[str, Callable[[Verdict, Audit], str]] = {
    "fvo": _gap_headline,
    "fvo-increase": _gap_increase_headline,
    "group-drop": _drop_headline,
    "accuracy": _accuracy_headline,
    "accuracy-drop": _overall_drop_headline,
    "worst-group-accuracy": _plain_headline,
    "flip-rate": _plain_headline,
    "cosine-distance": _cosine_headline,
    "sparsity": _plain_headline,
    "regression": _plain_headline,
    "lambda-max": _between_groups_headline,
    "gradient-norm": _between_groups_headline,
    "lambda-max-to-fp32": _to_fp32_headline,
    "gradient-norm-to-fp32": _to_fp32_headline,
}


def _compared(verdict: Verdict, phrase: str) -> str:
    """Return the phrase, the value and its limit, with digits enough to tell them apart."""
    measured, limit = float(verdict.measured or 0), float(verdict.limit)
    digits = 3
    while (
        verdict.measured != Fraction(verdict.limit) and digits < 9 and f"{measured:.{digits}f}" == f"{limit:.{digits}f}"
    ):
        digits += 1
    return f"{phrase} {measured:.{digits}f}, {_side(verdict)} the limit {limit:.{digits}f}"


def _times(verdict: Verdict, whose: str, what: str) -> str:
    """Return how many times what it is, with digits enough to show on which side of the limit."""
    measured, limit = verdict.measured or Fraction(0), Fraction(verdict.limit)
    text, digits = compact(float(measured)), _FEWEST_DIGITS
    while digits < 17 and _order(Fraction(text.replace(",", "")), limit) != _order(measured, limit):
        digits += 1
        text = f"{float(measured):.{digits}g}"
    return f"{whose} is {text} times {what}, {_side(verdict)} the limit {verdict.limit:f}"


def _order(one: Fraction, other: Fraction) -> int:
    return (one > other) - (one < other)


def _side(verdict: Verdict) -> str:
    if verdict.outcome is not Outcome.FAIL:
        return "within"
    return "above" if CHECKS[verdict.check].is_ceiling else "below"


def _digits(value: float | None) -> str:
    return "undefined" if value is None else compact(value)


def _rows(verdict: Verdict, audit: Audit) -> list[str]:
    if verdict.check == "regression":
        return [f"  {printable(row)}" for row in comparison_rows(verdict)]
    return _curvature_rows(verdict, audit) if CHECKS[verdict.check].ratio_of else _group_rows(verdict, audit)


def _group_rows(verdict: Verdict, audit: Audit) -> list[str]:
    marked = [("worst", verdict.lowest), ("best", verdict.highest)]
    shown = [(mark, index) for mark, index in marked if index is not None]
    if not shown and verdict.check in ("accuracy", "accuracy-drop"):
        return _overall_row(verdict, audit)
    result = audit.at(verdict.precision)
    names = [shown_name(audit.groups[index]) for _, index in shown]
    counts = [f"n={result.groups[index].samples}" for _, index in shown]
    name_width = max(map(wcswidth, names), default=0)
    count_width = max(map(len, counts), default=0)
    return [
        f"  {mark:<5}  {padded(name, name_width)}  {count:<{count_width}}   accuracy "
        f"{_change(audit.fp32.groups[index], result.groups[index])}  {interval_text(result.groups[index])}"
        for (mark, index), name, count in zip(shown, names, counts, strict=True)
    ]


def _overall_row(verdict: Verdict, audit: Audit) -> list[str]:
    overall = audit.at(verdict.precision).overall
    change = _change(audit.fp32.overall, overall)
    return [f"  all    n={overall.samples}   accuracy {change}  {interval_text(overall)}"]


def _curvature_rows(verdict: Verdict, audit: Audit) -> list[str]:
    if verdict.highest is None:
        marked = [("worst", verdict.lowest or 0)]
    else:
        marked = [("largest ", verdict.highest), ("smallest", verdict.lowest or 0)]
    result = audit.at(verdict.precision)
    names = [shown_name(audit.groups[index]) for _, index in marked]
    counts = [_count(result.curvature[index].samples, result.groups[index].samples) for _, index in marked]
    name_width, count_width = max(map(wcswidth, names)), max(map(len, counts))
    return [
        f"  {mark}  {padded(name, name_width)}  {count:<{count_width}}   "
        f"{_curvature_change(audit.fp32.curvature[index : index + 1], result.curvature[index])}"
        for (mark, index), name, count in zip(marked, names, counts, strict=True)
    ]


def _count(drawn: int, samples: int) -> str:
    return f"n={drawn}" if drawn == samples else f"n={drawn}, a subsample of {samples}"


def _curvature_change(before: Sequence[GroupCurvature], after: GroupCurvature) -> str:
    told = []
    for name, metric in (("λmax", "lambda_max"), ("residual", "residual"), ("gradient norm", "gradient_norm")):
        values = [_digits(getattr(group, metric)) for group in (*before, after)]
        told.append(f"{name} {' → '.join(values)}")
    return "  ".join(told)


def _change(before: Measures, after: Measures) -> str:
    start = "undefined" if before.accuracy is None else f"{before.accuracy:.3f}"
    end = "undefined" if after.accuracy is None else f"{after.accuracy:.3f}"
    return f"{start} → {end}"

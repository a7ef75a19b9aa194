"""What a verdict on regression says, beside its headline."""

from qfair_check.baseline_record import Tally
from qfair_check.judge.verdicts import Comparison, Flips, Verdict

_MOST_GROUPS = 10


def comparison_rows(verdict: Verdict) -> list[str]:
    """Return lines on how an audit differs from its baseline; names of groups stand as they are."""
    found = verdict.comparison
    if found is None:
        return []
    names = [change.name for change in found.changed[:_MOST_GROUPS]]
    width = max([len("overall"), *map(len, names)])
    rows = [
        f"{change.name:<{width}}  n={change.after.samples}  {_change(change.before, change.after, change.flips)}"
        for change in found.changed[:_MOST_GROUPS]
    ]
    more = len(found.changed) - _MOST_GROUPS
    if more > 0:
        rows.append(f"{more:,} {'group' if more == 1 else 'groups'} more changed")
    rows.append(f"{'overall':<{width}}  n={found.after.samples}  {_change(found.before, found.after, found.flips)}")
    if found.fvo_before is not None and found.fvo_after is not None:
        rows.append(f"FVO {float(found.fvo_before):.3f} → {float(found.fvo_after):.3f}")
    return [*rows, _key(found), *_model(found)]


def _change(before: Tally, after: Tally, flips: Flips | None) -> str:
    told = "" if flips is None else f"  {flips.lost:,} lost, {flips.gained:,} gained"
    return f"accuracy {_shown(before)} → {_shown(after)}{told}"


def _shown(tally: Tally) -> str:
    return "undefined" if tally.accuracy is None else f"{float(tally.accuracy):.3f}"


def _key(found: Comparison) -> str:
    if found.flips is None:
        return "sample by sample: not known, since no outcomes lie beside the baseline or the audit"
    return "lost: samples that were right and are wrong now; gained: the other way round"


def _model(found: Comparison) -> list[str]:
    if found.is_same_model is None:
        return []
    return [f"the model is {'the same' if found.is_same_model else 'another one'}"]

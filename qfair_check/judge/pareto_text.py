"""What a standing on the Pareto front says."""

from collections.abc import Sequence
from fractions import Fraction

from qfair_check.judge.pareto import Candidate, Standing
from qfair_check.judge.text import MOST_REASONS, cured, digits_apart, interval_text, listed, printable, shown_name
from qfair_check.judge.verdicts import Outcome
from qfair_check.record import Audit, Measures, PrecisionResult


def describe_standing(standing: Standing, audits: Sequence[Audit], names: Sequence[str]) -> str:
    """Return what the standing says: a headline, then the worst group, and who is better by how much.

    Parameters
    ----------
    standing : Standing
    audits : sequence of Audit
        Those compared.
    names : sequence of str
        What messages call them.
    """
    candidate = standing.candidate
    own = candidate_name(candidate, names)
    if standing.outcome is Outcome.INSUFFICIENT:
        return _insufficient(standing, names)
    if standing.outcome is Outcome.PASS:
        return f"{own} is on the Pareto front: {_values(candidate)}\n{_worst_row(candidate, audits)}"
    digits = max(_digits(candidate, other) for other in standing.better)
    lines = [f"{own} is not on the Pareto front: {_values(candidate, digits)}", _worst_row(candidate, audits)]
    for other in standing.better[:MOST_REASONS]:
        lines.append(f"  better  {candidate_name(other, names)}: {_values(other, digits, candidate)}")
        lines.append(_worst_row(other, audits))
    more = len(standing.better) - MOST_REASONS
    lines += [f"  better  {more:,} more"] if more > 0 else []
    return "\n".join([*lines, *listed("not judged  ", candidate.reasons)])


def candidate_name(candidate: Candidate, names: Sequence[str]) -> str:
    """Return the precision, and the audit if there are several.

    Examples
    --------
    >>> candidate_name(Candidate(1, "int4", Fraction(1), Fraction(0)), ["a.json", "b.json"])
    'int4 of b.json'
    """
    return candidate.precision if len(names) == 1 else f"{candidate.precision} of {names[candidate.audit]}"


def worst_group(result: PrecisionResult) -> int:
    """Return the position of the group with the lowest accuracy; one without a defined accuracy comes first."""

    def rank(index: int) -> Fraction:
        accuracy = result.groups[index].exact_accuracy
        return Fraction(-1) if accuracy is None else accuracy

    return min(range(len(result.groups)), key=rank)


def accuracy_text(measures: Measures) -> str:
    """Return the accuracy, or that it is not defined."""
    return "undefined" if measures.accuracy is None else f"{measures.accuracy:.3f}"


def who_cannot_be_judged(candidates: Sequence[Candidate], names: Sequence[str]) -> list[str]:
    """Return one sentence for each set of reasons why candidates cannot be judged."""
    by_reasons: dict[tuple[str, ...], list[str]] = {}
    for candidate in candidates:
        if candidate.reasons:
            by_reasons.setdefault(candidate.reasons, []).append(candidate_name(candidate, names))
    return [f"{', '.join(who)} cannot be judged: {_some(reasons)}" for reasons, who in by_reasons.items()]


def _insufficient(standing: Standing, names: Sequence[str]) -> str:
    candidate = standing.candidate
    reasons = candidate.reasons or tuple(
        f"{candidate_name(other, names)} could be better, and cannot be judged: {other.reasons[0]}"
        for other in standing.doubts
    )
    faults = [one.fault for one in (candidate, *standing.doubts) if one.fault is not None]
    return "\n".join(
        [
            f"whether {candidate_name(candidate, names)} is on the Pareto front cannot be judged",
            *listed("because  ", reasons),
            *cured(min(faults, default=None)),
        ]
    )


def _digits(one: Candidate, other: Candidate) -> int:
    return max(digits_apart([one.accuracy, other.accuracy]), digits_apart([one.fvo, other.fvo]))


def _values(candidate: Candidate, digits: int = 3, reference: Candidate | None = None) -> str:
    most, least = ("at most ", "at least ") if candidate.reasons else ("", "")
    accuracy, fvo = f"{float(candidate.accuracy):.{digits}f}", f"{float(candidate.fvo):.{digits}f}"
    if reference is not None:
        accuracy += f" ({float(candidate.accuracy - reference.accuracy):+.{digits}f})"
        fvo += f" ({float(candidate.fvo - reference.fvo):+.{digits}f})"
    return f"overall accuracy {most}{accuracy}, FVO {least}{fvo}"


def _worst_row(candidate: Candidate, audits: Sequence[Audit]) -> str:
    audit = audits[candidate.audit]
    result = audit.at(candidate.precision)
    index = worst_group(result)
    group = result.groups[index]
    name = shown_name(audit.groups[index])
    return f"  worst   {name}  n={group.samples}   accuracy {accuracy_text(group)}  {interval_text(group)}".rstrip()


def _some(reasons: Sequence[str]) -> str:
    more = len(reasons) - 3
    return "; ".join(map(printable, reasons[:3])) + (f"; and {more:,} more" if more > 0 else "")

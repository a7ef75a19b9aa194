"""The best model: the Pareto front of high overall accuracy and low FVO, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from qfair_check.errors import InputError, OptionError
from qfair_check.judge.checks import CHECKS, DEFAULT_MIN_GROUP_SIZE
from qfair_check.judge.findings import find
from qfair_check.judge.reasons import Fault, first_fault
from qfair_check.judge.text import shown_name
from qfair_check.judge.verdicts import Outcome
from qfair_check.precision import parse_precisions
from qfair_check.record import Audit


@dataclass(frozen=True, slots=True)
class Candidate:
    """One precision of one of the audits that are compared.

    Parameters
    ----------
    audit : int
        Position of the audit.
    precision : str
        Such as ``int4``; never ``fp32``, which is the baseline.
    accuracy, fvo : Fraction
        Overall accuracy and FVO. If the candidate cannot be judged, the highest accuracy and the lowest FVO that
        agree with what is known.
    reasons : tuple of str
        Why it cannot be judged; empty if it can.
    fault : Fault or None
        Which kind of reason is the one to cure; None if it can be judged.
    """

    audit: int
    precision: str
    accuracy: Fraction
    fvo: Fraction
    reasons: tuple[str, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a candidate stands among all of them.

    Parameters
    ----------
    candidate : Candidate
    outcome : Outcome
        PASS: it is on the front. FAIL: another is better. INSUFFICIENT: it, or one that could be better, cannot be
        judged.
    better : tuple of Candidate
        Those on the front that dominate it.
    doubts : tuple of Candidate
        Those that could dominate it, and cannot be judged.
    """

    candidate: Candidate
    outcome: Outcome
    better: tuple[Candidate, ...] = ()
    doubts: tuple[Candidate, ...] = ()


def dominates(one: Candidate, other: Candidate) -> bool:
    """Return whether one is at least as accurate and as fair as the other, and not equal to it in both.

    OA_1 >= OA_2 and FVO_1 <= FVO_2, one of them strictly.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (3).
    """
    is_as_good = one.accuracy >= other.accuracy and one.fvo <= other.fvo
    return is_as_good and (one.accuracy, one.fvo) != (other.accuracy, other.fvo)


def standings(candidates: Sequence[Candidate]) -> tuple[Standing, ...]:
    """Return where each candidate stands, in their order; equal ones stand alike.

    Examples
    --------
    >>> accurate = Candidate(0, "int8", Fraction(9, 10), Fraction(3, 10))
    >>> fair = Candidate(0, "int4", Fraction(8, 10), Fraction(1, 10))
    >>> neither = Candidate(0, "int2", Fraction(8, 10), Fraction(2, 10))
    >>> [standing.outcome.value for standing in standings([accurate, fair, neither])]
    ['pass', 'pass', 'fail']
    """
    judged = [candidate for candidate in candidates if not candidate.reasons]
    unjudged = [candidate for candidate in candidates if candidate.reasons]
    front = [one for one in judged if not any(dominates(other, one) for other in judged)]
    return tuple(_standing(candidate, front, unjudged) for candidate in candidates)


def _standing(candidate: Candidate, front: Sequence[Candidate], unjudged: Sequence[Candidate]) -> Standing:
    better = tuple(other for other in front if dominates(other, candidate))
    if better:
        return Standing(candidate, Outcome.FAIL, better)
    if candidate.reasons:
        return Standing(candidate, Outcome.INSUFFICIENT)
    doubts = tuple(other for other in unjudged if dominates(other, candidate))
    return Standing(candidate, Outcome.INSUFFICIENT if doubts else Outcome.PASS, doubts=doubts)


def candidates_of(
    audits: Sequence[Audit],
    names: Sequence[str],
    *,
    bits: str | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
) -> tuple[Candidate, ...]:
    """Return every quantized precision of every audit, or those named.

    Parameters
    ----------
    audits : sequence of Audit
    names : sequence of str
        What messages call the audits.
    bits : str, optional
        Such as ``8,4``. An audit need not hold them all.
    min_group_size : int
        Samples, at least 1.

    Raises
    ------
    InputError
        If the audits are not of the same groups with as many samples each.
    OptionError
        If there is nothing to compare in one of the audits, no audit holds a named precision, or `min_group_size`
        makes no sense.
    """
    _check_same_groups(audits, names)
    held = [[result.precision for result in audit.quantized] for audit in audits]
    wanted = {name for own in held for name in own} if bits is None else {p.name for p in parse_precisions(bits)}
    for name in sorted(wanted.difference(*held)):
        raise OptionError(f"no audit holds {name}: audit a model again with --bits {name}")
    for name, own in zip(names, held, strict=True):
        if not wanted & set(own):
            raise OptionError(
                f"there is nothing to compare in {name}: it holds {', '.join(['fp32', *own])}, and fp32 is the baseline"
            )
    return tuple(
        _candidate(audits[index], index, precision, min_group_size)
        for index, own in enumerate(held)
        for precision in own
        if precision in wanted
    )


def _candidate(audit: Audit, index: int, precision: str, min_group_size: int) -> Candidate:
    gap = find(audit, CHECKS["fvo"], precision, min_group_size=min_group_size)
    whole = find(audit, CHECKS["accuracy"], precision, min_group_size=min_group_size)
    accuracy = whole.measured
    if accuracy is None:
        groups = audit.at(precision).groups
        most = sum(group.samples if group.correct is None else group.correct for group in groups)
        accuracy = Fraction(most, audit.data.samples) if audit.data.samples else Fraction(1)
    why = gap if gap.reasons else whole
    return Candidate(index, precision, accuracy, gap.measured or Fraction(0), why.told, first_fault(why.reasons))


def _check_same_groups(audits: Sequence[Audit], names: Sequence[str]) -> None:
    first = _samples(audits[0])
    for audit, name in zip(audits[1:], names[1:], strict=True):
        other = _samples(audit)
        if first != other:
            raise InputError(
                f"{names[0]} and {name} cannot be compared: {_difference(first, other, names[0], name)}; "
                "audit both models on the same data with the same groups"
            )


def _samples(audit: Audit) -> dict[str, int]:
    return {name: group.samples for name, group in zip(audit.groups, audit.fp32.groups, strict=True)}


def _difference(first: dict[str, int], other: dict[str, int], first_name: str, other_name: str) -> str:
    for group in sorted(first.keys() ^ other.keys()):
        holder, lacking = (first_name, other_name) if group in first else (other_name, first_name)
        return f"group {shown_name(group)} is in {holder} and not in {lacking}"
    group = next(group for group in first if first[group] != other[group])
    return f"group {shown_name(group)} has {first[group]} samples in {first_name} and {other[group]} in {other_name}"

"""What a remediated model is worth, in a few lines for the end of a pytest run."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.text import describe, printable
from qfair_check.judge.verdicts import Outcome, Verdict, judge_one
from qfair_check.options import JudgeOptions
from qfair_check.precision import AS_IS
from qfair_check.record import Audit
from qfair_check.remediate_command import Remediation, all_hold

_INDENT = " " * 6
_IN_SHORT = {
    (True, True): ("passes every limit now", "green"),
    (True, False): ("passes every limit now, and is no fairer than rounding without training", "yellow"),
    (True, None): ("passes every limit now, and is not known to be fairer than rounding without training", "yellow"),
    (False, True): ("does not pass", "red"),
    (False, False): ("does not pass, and no candidate was fairer than rounding without training", "red"),
    (False, None): ("does not pass, and is not known to be fairer than rounding without training", "red"),
}


@dataclass(frozen=True, slots=True)
class Told:
    """Lines, the first of them in a colour: green, yellow or red."""

    lines: tuple[str, ...]
    colour: str


def told_of_remedy(
    precision: str, remediation: Remediation, bounds: Iterable[tuple[str, Decimal]], judging: JudgeOptions
) -> Told:
    """Say where a model that was trained lies, which limits it breaks, and whether rounding is as fair.

    Parameters
    ----------
    precision : str
        That it was trained for.
    remediation : Remediation
    bounds : iterable of (check, limit)
        By name of the check.
    judging : JudgeOptions
    """
    made, files = remediation.audit, remediation.files
    verdicts = [
        judge_one(
            made, CHECKS[check], limit, AS_IS, min_group_size=judging.min_group_size, confidence=judging.confidence
        )
        for check, limit in bounds
    ]
    verdict, colour = _IN_SHORT[all_hold(verdicts, judging), remediation.is_better]
    plain, mixed = (_fvo(audit) for _, _, audit in remediation.audits[:2])
    return Told(
        (
            f"{precision:<6}{printable(str(files.model))} {verdict}",
            f"{_INDENT}FVO {_fvo(made)}; rounded without training {plain}, or {mixed} with the same bits in each layer"
            f"; audit {printable(str(files.audit))}",
            *(f"{_INDENT}{_headline(one, made)}" for one in verdicts if one.outcome is not Outcome.PASS),
        ),
        colour,
    )


def _fvo(audit: Audit) -> str:
    (result,) = audit.quantized
    return "undefined" if result.fvo is None else f"{result.fvo:.3f}"


def _headline(verdict: Verdict, audit: Audit) -> str:
    return describe(verdict, audit).splitlines()[0]

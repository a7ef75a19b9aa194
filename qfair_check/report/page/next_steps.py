"""What to do next about a verdict."""

import shlex
from dataclasses import dataclass

from qfair_check.judge.reasons import cure
from qfair_check.judge.remedy import remedy_command
from qfair_check.judge.text import printable
from qfair_check.judge.verdicts import Outcome
from qfair_check.precision import Precision
from qfair_check.record import Audit
from qfair_check.report.explain import layer_cure
from qfair_check.report.page.verdict import precisions_that
from qfair_check.report.page.words import all_of, as_command_line
from qfair_check.report.reported import Reported

_MOST_REASONS = 5
_ENDS_BITS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: plain text, the option or command that does it, and why; empty where there is none."""

    text: str
    command: str = ""
    reasons: tuple[str, ...] = ()


def next_steps(reported: Reported) -> tuple[Step, ...]:
    """Return what helps against broken limits, or what is missing where limits cannot be judged."""
    steps = []
    if reported.outcome() is Outcome.FAIL:
        steps += _about_failure(reported)
    doubted = [verdict for verdict in reported.verdicts if verdict.outcome is Outcome.INSUFFICIENT]
    by_cure: dict[str, list[str]] = {}
    for verdict in doubted:
        told = by_cure.setdefault("" if verdict.fault is None else as_command_line(cure(verdict.fault)), [])
        told += [reason for reason in verdict.reasons if reason not in told]
    for remedy, reasons in by_cure.items():
        more = len(reasons) - _MOST_REASONS
        shown = (*map(as_command_line, reasons[:_MOST_REASONS]), *([f"and {more:,} more"] if more > 0 else []))
        text = f"To judge what could not be judged: {remedy}." if remedy else "What could not be judged:"
        steps.append(Step(text, reasons=shown))
    return tuple(steps)


def _about_failure(reported: Reported) -> list[Step]:
    audit, failed = reported.audit, precisions_that(reported, Outcome.FAIL)
    passed = precisions_that(reported, Outcome.PASS)
    steps = [Step(f"Ship {all_of(passed)} instead: no limit is broken there.")] if passed else []
    steps += _by_layer(audit, failed)
    integers = [name for name in failed if Precision(name).is_integer]
    if integers and not audit.settings.allocation and min(Precision(name).bits for name in integers) < _ENDS_BITS:
        steps.append(
            Step("Keep the first and the last layer at 8 bits, and audit again:", f"--first-last {_ENDS_BITS}")
        )
    if integers and "per-tensor" in audit.settings.scheme:
        scheme = audit.settings.scheme.replace("per-tensor", "per-channel")
        steps.append(
            Step("Give each output channel a scale of its own, and audit again:", f"--scheme {shlex.quote(scheme)}")
        )
    commands = (remedy_command(verdict, audit) for verdict in reported.verdicts)
    if trained := next(filter(None, commands), None):
        steps.append(Step("Train a fairer model for so few bits:", printable(trained)))
    return [*steps, *_look_closer(reported)]


def _by_layer(audit: Audit, failed: list[str]) -> list[Step]:
    """Return one step for each layer that costs a group most at a precision that failed."""
    named: dict[tuple[str, str], list[str]] = {}
    for name in failed:
        if (found := layer_cure(audit.at(name))) is not None:
            named.setdefault(found, []).append(name)
    beside = ", beside those that have bits of their own" if audit.settings.allocation else ""
    return [
        Step(f"Keep the layer that costs the worst-hurt group most at {all_of(names)} at more bits{beside}:", option)
        for (_, option), names in named.items()
    ]


def _look_closer(reported: Reported) -> list[Step]:
    name = shlex.quote(printable(reported.path or reported.name))
    if reported.audit.settings.curvature is None:
        why = Step("Learn which layer hurts which group: measure again with this option, then run qfair explain:")
        return [Step(why.text, "--curvature"), Step("See what quantization did to each layer:", f"qfair layers {name}")]
    return [
        Step("See which layers hurt which group:", f"qfair explain {name}"),
        Step("See what quantization did to each layer:", f"qfair layers {name}"),
    ]

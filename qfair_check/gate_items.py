"""The test items of the built-in gate: one for each limit and precision."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter

from qfair_check.errors import FairnessError, QFairError
from qfair_check.judge.assertions import InsufficientDataWarning
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.text import describe, is_of_subsample
from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.plugin_options import lookup
from qfair_check.record import Audit

if TYPE_CHECKING:
    from qfair_check.gate import Gate

NODE = "qfair"


def node_id(check: str, precision: str) -> str:
    """Return the id of an item, such as ``qfair::fvo[int4]``."""
    return f"{NODE}::{check}[{precision}]"


def take_gate_ids(config: pytest.Config) -> list[str]:
    """Take ids of gate items out of the arguments, which pytest would look for as files.

    pytest shows ids relative to the working directory, so that the id may start with ``../qfair::``.
    """
    ids = {arg: f"{NODE}::{arg.partition('::')[2]}" for arg in config.args if _is_gate_id(config, arg)}
    config.args[:] = [arg for arg in config.args if arg not in ids]
    return list(ids.values())


def _is_gate_id(config: pytest.Config, arg: str) -> bool:
    path, separator, _ = arg.partition("::")
    return bool(separator) and Path(path).name == NODE and not (config.invocation_params.dir / path).is_file()


class GateCollector(pytest.Collector):
    """The node ``qfair``, which holds the items of the gate."""

    def __init__(self, *, gate: "Gate", **rest: Any) -> None:
        super().__init__(**rest)
        self._gate = gate
        self.add_marker("qfair")

    def collect(self) -> Iterable["GateItem"]:
        """Yield one item for each limit and precision where it binds."""
        for check, precision in self._gate.items():
            yield GateItem.from_parent(
                self,
                name=f"{check}[{precision}]",
                nodeid=node_id(check, precision),
                gate=self._gate,
                check=check,
                precision=precision,
            )


class GateItem(pytest.Item):
    """One limit at one precision; `verdict` is what it said, once it ran."""

    def __init__(self, *, gate: "Gate", check: str, precision: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.gate = gate
        self.verdict: Verdict | None = None
        self.check = check
        self._precision = precision

    def runtest(self) -> None:
        """Judge the audit; a broken limit raises."""
        verdict = self.verdict = self.gate.verdict(self.check, self._precision)
        if lookup(self.config)("junit_properties") != "off":
            self.user_properties += _properties(verdict, self.gate.audit)
        insufficient = self.gate.judging.insufficient
        text = describe(verdict, self.gate.audit)
        if verdict.outcome is Outcome.FAIL or (verdict.outcome is Outcome.INSUFFICIENT and insufficient == "fail"):
            error = FairnessError(text)
            error.verdicts, error.audit = (verdict,), self.gate.audit
            raise error
        if verdict.outcome is Outcome.INSUFFICIENT and insufficient == "warn":
            warnings.warn(text, InsufficientDataWarning, stacklevel=1)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: object) -> Any:
        """Show what the verdict says, without a traceback."""
        if isinstance(excinfo.value, FairnessError | QFairError | InsufficientDataWarning):
            return VerdictText(str(excinfo.value), str(self.path))
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the item where pytest shows a location."""
        return self.path, None, self.name


class VerdictText(TerminalRepr):
    """A failure as text; its first line stands in pytest's short summary."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.reprcrash = ReprFileLocation(path, 0, text.splitlines()[0])

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write the text, the headline in red."""
        headline, *rest = self.text.splitlines()
        tw.line(headline, red=True, bold=True)
        for line in rest:
            tw.line(line)


def _properties(verdict: Verdict, audit: Audit) -> list[tuple[str, object]]:
    measured = "" if verdict.measured is None else float(verdict.measured)
    is_ratio = bool(CHECKS[verdict.check].ratio_of)
    subsample = [("qfair_subsample", "yes")] if is_ratio and is_of_subsample(verdict, audit) else []
    return [
        ("qfair_check", verdict.check),
        ("qfair_precision", verdict.precision),
        ("qfair_limit", str(verdict.limit)),
        ("qfair_measured", measured),
        ("qfair_outcome", str(verdict.outcome)),
        *subsample,
        *_bounds(verdict),
    ]


def _bounds(verdict: Verdict) -> list[tuple[str, object]]:
    if (known := verdict.certainty) is None:
        return []
    needed = [("qfair_samples_to_settle", known.samples_to_settle)] if known.samples_to_settle else []
    return [("qfair_confidence", str(known.confidence)), ("qfair_low", known.low), ("qfair_high", known.high), *needed]

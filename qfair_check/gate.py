"""The built-in gate: one test item for each limit and precision, measured once before the tests run."""

import sys
import warnings
from collections.abc import Generator, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter
from _pytest.runner import runtestprotocol

from qfair_check.errors import FairnessError, QFairError
from qfair_check.judge.assertions import InsufficientDataWarning
from qfair_check.judge.limits import CHECKS
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Outcome, Verdict, judge_audit, judge_one
from qfair_check.options import JudgeOptions, judge_options, measure_options
from qfair_check.plugin_options import check_command_line_limits, lookup
from qfair_check.precision import Precision
from qfair_check.record import Audit
from qfair_check.sources import (
    NO_DATA,
    NO_MODEL,
    load_configured_data,
    load_configured_model,
    measured_audit,
    saved_audit,
    shared_folder,
)

NODE = "qfair"
_GATE_FILE = "gate.json"
_FIXTURES = frozenset({"qfair_precision", "qfair_audit", "qfair_model", "qfair_data"})


class Gate:
    """What the gate of this run judges: where it comes from, at which precisions, against which limits."""

    def __init__(
        self,
        config: pytest.Config,
        precisions: tuple[Precision, ...],
        judging: JudgeOptions,
        saved: Audit | None,
    ) -> None:
        self.config = config
        self.precisions = precisions
        self.judging = judging
        self._audit = saved
        self._is_saved = saved is not None
        self._overridden = _overridden(config)
        self._selected = _take_gate_ids(config)
        self._idle = False

    @classmethod
    def from_config(cls, config: pytest.Config) -> "Gate":
        """Read every option, so that a wrong one ends the run before anything is loaded.

        Raises
        ------
        UsageError
            If an option makes no sense, or they contradict each other.
        """
        get = lookup(config)
        try:
            judging = judge_options(get)
            measuring = measure_options(get)
            saved = saved_audit(config)
            if saved is not None and get("model"):
                raise pytest.UsageError("give --qfair-model or --qfair-audit, not both")
            precisions = measuring.precisions
            if saved is not None and not get("bits"):
                precisions = tuple(Precision(result.precision) for result in saved.quantized)
            if saved is not None:
                for precision in precisions:
                    saved.at(precision)
            check_command_line_limits(config, precisions)
        except QFairError as error:
            raise pytest.UsageError(str(error)) from None
        gate = cls(config, precisions, judging, saved)
        gate.check_files(get)
        return gate

    def check_files(self, get: Any) -> None:
        """Refuse what can be known to fail before anything is measured."""
        if self.is_gating and not self.precisions:
            raise pytest.UsageError("there is nothing to gate: fp32 is the baseline, give --bits such as 8,4")
        if self.config.getoption("qfair_data") and not self.is_gating:
            raise pytest.UsageError(NO_MODEL)
        if get("model") and get("model") != "demo" and not get("data") and "qfair_data" not in self._overridden:
            raise pytest.UsageError(NO_DATA)
        target = get("json")
        if target and not Path(target).absolute().parent.is_dir():
            raise pytest.UsageError(f"--qfair-json {target}: there is no folder {Path(target).absolute().parent}")

    @property
    def is_gating(self) -> bool:
        """Whether there is something to gate: a model, a saved audit, or an override in the rootdir's conftest."""
        return self._is_saved or bool(lookup(self.config)("model")) or "qfair_model" in self._overridden

    @property
    def audit(self) -> Audit:
        """The audit under judgement; in a worker, the one that the controlling process wrote."""
        if self._audit is None:
            folder = shared_folder(self.config)
            if folder is None:
                raise pytest.UsageError("the model has not been measured")
            self._audit = Audit.load(folder / _GATE_FILE)
        return self._audit

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the verdict on every limit at every gated precision."""
        gated = {precision.name for precision in self.precisions}
        told = judge_audit(self.audit, self.judging.limits, min_group_size=self.judging.min_group_size)
        return tuple(verdict for verdict in told if verdict.precision in gated)

    def pytest_report_header(self) -> list[str]:
        """Say what is gated, and the limits."""
        if not self.is_gating:
            return []
        get = lookup(self.config)
        names = ", ".join(map(str, self.precisions))
        if self._is_saved:
            subject = f"audit {get('audit')} at {names}"
        else:
            data = get("data") or ("demo" if get("model") == "demo" else "from conftest")
            scheme = measure_options(get).scheme
            subject = f"model {get('model') or 'from conftest'}, data {data}, at {names}, {scheme}"
        return [f"qfair: {subject}", f"qfair limits: {limits_text(self.judging)}"]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add the gate to what the session collects."""
        report = yield
        if isinstance(collector, pytest.Session) and self.is_gating and report.passed:
            self._check_selected()
            node = GateCollector.from_parent(collector, name=NODE, nodeid=NODE, gate=self)
            report.result = [*report.result, node]
        return report

    def items(self) -> list[tuple[str, str]]:
        """Return check and precision of each item: all, or those whose ids stand on the command line."""
        bound = self._bound()
        return [pair for pair in bound if _node_id(*pair) in self._selected] if self._selected else bound

    def _bound(self) -> list[tuple[str, str]]:
        return [
            (check, precision.name)
            for precision in self.precisions
            for check, limit in self.judging.limits.items()
            if limit.bound(precision.name) is not None
        ]

    def _check_selected(self) -> None:
        known = [_node_id(*pair) for pair in self._bound()]
        for node_id in self._selected:
            if node_id not in known:
                raise pytest.UsageError(f"not found: {node_id}\n(the gate has {', '.join(known) or 'no items'})")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note a run that asks for qfair and has nothing to judge."""
        uses = any(_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items)
        self._idle = not self.is_gating and not uses and not _is_distributed(self.config)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Measure before the first test, in the controlling process."""
        if self._must_measure(session):
            try:
                self._audit = self._measured(session)
            except QFairError as error:
                raise pytest.UsageError(str(error)) from None
            self._publish()
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show groups as rows and precisions as columns."""
        if self._idle:
            terminalreporter.write_line(
                "qfair: nothing was gated: there is no --qfair-model, and no test used a qfair fixture",
                yellow=True,
            )
        if self._audit is None or hasattr(self.config, "workerinput") or self.config.get_verbosity() < 0:
            return
        from qfair_check.report.terminal import render

        writer = self.config.get_terminal_writer()
        terminalreporter.section("qfair audit")
        terminalreporter.write(render(self._audit, self.verdicts(), width=writer.fullwidth, colour=writer.hasmarkup))
        target = lookup(self.config)("json")
        if target and not self._is_saved:
            terminalreporter.write_line(f"audit written to {target}")

    def _must_measure(self, session: pytest.Session) -> bool:
        if self._is_saved or not self.is_gating or hasattr(self.config, "workerinput"):
            return False
        if self.config.option.collectonly or session.testsfailed:
            return False
        return _is_distributed(self.config) or any(isinstance(item, GateItem) for item in session.items)

    def _measured(self, session: pytest.Session) -> Audit:
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        capture: Any = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            model, data = self._inputs(session)
            if reporter and self.config.get_verbosity() >= 0:
                for notice in data.notices:
                    reporter.write_line(f"qfair: {notice}")
            return _with_progress(self.config, model, data, self.precisions)

    def _inputs(self, session: pytest.Session) -> tuple[Any, Any]:
        if self._overridden:
            return _from_fixtures(session)
        try:
            model = load_configured_model(self.config)
            return model, load_configured_data(self.config, model)
        except pytest.fail.Exception as failure:
            raise pytest.UsageError(failure.msg or "") from None

    def _publish(self) -> None:
        audit = self.audit
        target = lookup(self.config)("json")
        try:
            if target:
                audit.save(target)
            folder = shared_folder(self.config)
            if folder is not None:
                audit.save(folder / _GATE_FILE)
        except QFairError as error:
            raise pytest.UsageError(str(error)) from None


class GateCollector(pytest.Collector):
    """The node ``qfair``, which holds the items of the gate."""

    def __init__(self, *, gate: Gate, **rest: Any) -> None:
        super().__init__(**rest)
        self._gate = gate
        self.add_marker("qfair")

    def collect(self) -> Iterable["GateItem"]:
        """Yield one item for each limit and precision where it binds."""
        for check, precision in self._gate.items():
            yield GateItem.from_parent(
                self,
                name=f"{check}[{precision}]",
                nodeid=_node_id(check, precision),
                gate=self._gate,
                check=check,
                precision=precision,
            )


class GateItem(pytest.Item):
    """One limit at one precision."""

    def __init__(self, *, gate: Gate, check: str, precision: str, **rest: Any) -> None:
        super().__init__(**rest)
        self._gate = gate
        self._check = check
        self._precision = precision

    def runtest(self) -> None:
        """Judge the audit; a broken limit raises."""
        limit = self._gate.judging.limits[self._check].bound(self._precision)
        if limit is None:
            raise FairnessError(f"no limit binds {self._check} at {self._precision}")
        audit = self._gate.audit
        verdict = judge_one(
            audit,
            CHECKS[self._check],
            limit,
            self._precision,
            min_group_size=self._gate.judging.min_group_size,
        )
        if lookup(self.config)("junit_properties") != "off":
            self.user_properties += _properties(verdict)
        text = describe(verdict, audit)
        insufficient = self._gate.judging.insufficient
        if verdict.outcome is Outcome.FAIL or (verdict.outcome is Outcome.INSUFFICIENT and insufficient == "fail"):
            raise FairnessError(text)
        if verdict.outcome is Outcome.INSUFFICIENT and insufficient == "warn":
            warnings.warn(text, InsufficientDataWarning, stacklevel=1)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: object) -> Any:
        """Show what the verdict says, without a traceback."""
        if isinstance(excinfo.value, FairnessError | QFairError):
            return VerdictText(str(excinfo.value), str(self.path))
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the item where pytest shows a location."""
        return self.path, None, self.name


def limits_text(judging: JudgeOptions) -> str:
    """Return the limits in one line."""
    return ", ".join(
        f"{CHECKS[name].phrase} {'<=' if CHECKS[name].is_ceiling else '>='} {limit}"
        for name, limit in judging.limits.items()
    )


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


def _node_id(check: str, precision: str) -> str:
    return f"{NODE}::{check}[{precision}]"


def _properties(verdict: Verdict) -> list[tuple[str, object]]:
    measured = "" if verdict.measured is None else float(verdict.measured)
    return [
        ("qfair_check", verdict.check),
        ("qfair_precision", verdict.precision),
        ("qfair_limit", str(verdict.limit)),
        ("qfair_measured", measured),
        ("qfair_outcome", str(verdict.outcome)),
    ]


def _is_distributed(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")


def _overridden(config: pytest.Config) -> set[str]:
    """Return which of our input fixtures the conftest.py in the rootdir overrides."""
    conftest = config.pluginmanager.getplugin(str(config.rootpath / "conftest.py"))
    return {name for name in ("qfair_model", "qfair_data") if conftest and hasattr(conftest, name)}


def _take_gate_ids(config: pytest.Config) -> list[str]:
    """Take ids of gate items out of the arguments, which pytest would look for as files.

    pytest shows ids relative to the working directory, so that the id may start with ``../qfair::``.
    """
    ids = {arg: f"{NODE}::{arg.partition('::')[2]}" for arg in config.args if _is_gate_id(config, arg)}
    config.args[:] = [arg for arg in config.args if arg not in ids]
    return list(ids.values())


def _is_gate_id(config: pytest.Config, arg: str) -> bool:
    path, separator, _ = arg.partition("::")
    return bool(separator) and Path(path).name == NODE and not (config.invocation_params.dir / path).exists()


def _from_fixtures(session: pytest.Session) -> tuple[Any, Any]:
    """Return what the fixtures qfair_model and qfair_data give at the root of the session."""
    found: list[Any] = []

    def qfair_inputs(qfair_model: object, qfair_data: object) -> None:
        found.extend((qfair_model, qfair_data))

    probe = pytest.Function.from_parent(session, name="qfair_inputs", callobj=qfair_inputs)
    following = session.items[0] if session.items else None
    reports = runtestprotocol(probe, log=False, nextitem=following)
    for report in reports:
        if not report.passed:
            raise pytest.UsageError(f"the fixtures qfair_model and qfair_data failed: {report.longreprtext}")
    from qfair_check.inputs.data import as_grouped_data
    from qfair_check.inputs.model import as_model

    return as_model(found[0]), as_grouped_data(found[1])


def _with_progress(config: pytest.Config, model: Any, data: Any, precisions: tuple[Precision, ...]) -> Audit:
    from tqdm import tqdm

    with tqdm(total=len(data.labels), desc="qfair", unit=" samples", file=sys.stderr, disable=None, leave=False) as bar:
        return measured_audit(config, model, data, precisions, progress=lambda done: bar.update(done - bar.n))

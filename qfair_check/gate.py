"""The built-in gate: measured once before the tests run, judged by one test item for each limit and precision."""

from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from qfair_check.errors import MeasureError, OptionError, QFairError
from qfair_check.gate_baseline import GateBaseline
from qfair_check.gate_cache import through_cache
from qfair_check.gate_header import curvature_text, limits_text
from qfair_check.gate_items import NODE, GateCollector, GateItem, node_id, take_gate_ids
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.regression import REGRESSION
from qfair_check.judge.text import printable
from qfair_check.judge.verdicts import Verdict, judge_one
from qfair_check.option_table import DEMO
from qfair_check.options import JudgeOptions, judge_options, measure_options
from qfair_check.overrides import inputs_from_fixtures, overridden_fixtures
from qfair_check.overwriting import refuse_overwriting
from qfair_check.plugin_options import (
    audit_path,
    check_command_line_limits,
    check_rootdir,
    given_on_command_line,
    lookup,
    usage_error,
)
from qfair_check.precision import AS_IS, Precision, parse_precisions
from qfair_check.record import Audit
from qfair_check.report.reported import Reported
from qfair_check.sources import (
    NO_DATA,
    NO_MODEL,
    load_configured_data,
    load_configured_model,
    measured_audit,
    saved_audit,
    shared_folder,
)
from qfair_check.summary_file import STEP_SUMMARY, SummaryFile, summary_file
from qfair_check.termination import ended_as_interrupted

_GATE_FILE = "gate.json"
_IS_USED = "qfair_is_used"
_WRITTEN, _READ = ("baseline", "json"), ("audit", "model", "data", "reference", "train_data")
_FIXTURES = frozenset({"qfair_precision", "qfair_audit", "qfair_model", "qfair_data"})


class Gate:
    """What the gate of this run judges: where it comes from, at which precisions, against which limits."""

    def __init__(
        self,
        config: pytest.Config,
        precisions: tuple[Precision, ...],
        judging: JudgeOptions,
        saved: Audit | None,
        against: GateBaseline,
    ) -> None:
        self.config = config
        self.precisions = precisions
        self.judging = judging
        self._against = against
        self._audit = saved
        self._is_saved = saved is not None
        self._overridden = overridden_fixtures(config)
        self._selected = take_gate_ids(config)
        self._judged: set[str] = set()
        self._written: str | None = None
        self._summary: SummaryFile | None = None
        self._told_at_end: list[tuple[str, bool]] = []
        self._is_used = self.is_cut = False
        self.verdict: Callable[[str, str], Verdict] = cache(self._judge)  # asked for by the item and by each report

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
            check_rootdir(config)
            judging = judge_options(get)
            saved = saved_audit(config)
            if saved is None:
                precisions = measure_options(get).precisions
            else:
                bits = get("bits")
                precisions = (
                    parse_precisions(bits) if bits else tuple(Precision(result.precision) for result in saved.quantized)
                )
                for precision in precisions:
                    saved.at(precision)
            check_command_line_limits(config, precisions)
            gate = cls(config, precisions, judging, saved, GateBaseline.from_config(config, precisions))
            gate.check_inputs()
        except QFairError as error:
            raise usage_error(error) from None
        return gate

    def check_inputs(self) -> None:
        """Refuse what can be known to fail before anything is measured.

        Raises
        ------
        OptionError
            Naming it.
        """
        lookup(self.config)("junit_properties")
        if self._is_saved and not self.precisions:
            raise OptionError(
                "the audit holds fp32 alone, which is the baseline: audit the model again with --bits 8,4"
            )
        if self.is_gating and not self.precisions:
            raise OptionError("there is nothing to gate: fp32 is the baseline, give --bits such as 8,4")
        known = [node_id(*pair) for pair in self._bound()]
        for wanted in self._selected:
            if wanted not in known:
                raise OptionError(
                    f"not found: {wanted}\n(the gate has {', '.join(known) or 'no items'}; -k selects too)"
                )
        if self.is_gating and not self._is_saved and not self._data_name():
            raise OptionError(NO_DATA)
        target = lookup(self.config)("json")
        if target and not Path(target).absolute().parent.is_dir():
            raise OptionError(f"--qfair-json {target}: there is no folder {Path(target).absolute().parent}")
        if target and Path(target).is_dir():
            raise OptionError(f"--qfair-json {target} is a folder: name a file in it")
        if summary := lookup(self.config)("summary"):
            self._summary = summary_file(summary)
        self._check_files()

    @property
    def is_gating(self) -> bool:
        """Whether there is something to gate: a model, a saved audit, or an override for the whole run."""
        return self._is_saved or bool(self._model_name())

    @property
    def audit(self) -> Audit:
        """The audit under judgement; in a worker, the one that the controlling process wrote."""
        if self._audit is None:
            folder = shared_folder(self.config)
            if folder is None:
                raise MeasureError("the model has not been measured, since the run did not get to that")
            self._audit = Audit.load(folder / _GATE_FILE)
        return self._audit

    def _judge(self, check: str, precision: str) -> Verdict:
        """Judge one limit at one precision where it binds."""
        if check == REGRESSION:
            return self._against.verdict(self.audit, precision, self.judging.min_group_size)
        limit = self.judging.limits[check].bound(precision)
        if limit is None:
            raise OptionError(f"no limit binds {check} at {precision}")
        least, confidence = self.judging.min_group_size, self.judging.confidence
        return judge_one(self.audit, CHECKS[check], limit, precision, min_group_size=least, confidence=confidence)

    def reported(self) -> Reported | None:
        """Return the audit with the verdicts so far; None where nothing was measured, or nothing judged or used."""
        bound = self._bound()
        verdicts = tuple(self.verdict(*pair) for pair in bound if node_id(*pair) in self._judged)
        is_told = bool(verdicts) or (self._is_used and self.is_gating)
        if not is_told or self._audit is None:
            return None
        return Reported(
            self._audit.inputs.model,
            self._audit,
            verdicts,
            self.judging.insufficient,
            self.judging.min_group_size,
            left_out=len(bound) - len(verdicts),
        )

    def items(self) -> list[tuple[str, str]]:
        """Return check and precision of each item: all, or those whose ids stand on the command line."""
        bound = self._bound()
        return [pair for pair in bound if node_id(*pair) in self._selected] if self._selected else bound

    def pytest_report_header(self) -> list[str]:
        """Say what is gated, and the limits."""
        if not self.is_gating:
            return []
        names = ", ".join(map(str, self.precisions))
        if self._is_saved:
            subject = f"audit {audit_path(self.config)} at {names}"
        else:
            options = measure_options(lookup(self.config))
            mixed = f" ({options.allocation})" if str(options.allocation) else ""
            curved = curvature_text(options.curvature) if options.curvature else ""
            how = f"{options.scheme}{mixed}{curved}"
            if options.precisions == (AS_IS,):
                how = f"reference {options.reference.path if options.reference else 'not named, or beside it'}{curved}"
            subject = f"model {self._model_name()}, data {self._data_name()}, at {names}, {how}"
        return [f"qfair: {subject}", f"qfair limits: {limits_text(self.judging, self._against.limits)}"]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add the gate to what the session collects."""
        report = yield
        if isinstance(collector, pytest.Session) and self.is_gating and report.passed:
            node = GateCollector.from_parent(collector, name=NODE, nodeid=NODE, gate=self)
            report.result = [*report.result, node]
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse data that nothing will use, and note whether any test uses our fixtures."""
        self._is_used = any(_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items)
        config: Any = self.config
        if _is_worker(config):
            config.workeroutput[_IS_USED] = self._is_used
        elif not self.is_gating and not self._is_used and "data" in given_on_command_line(self.config):
            raise pytest.UsageError(NO_MODEL)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Learn from a worker whether its tests used our fixtures."""
        self._is_used |= getattr(node, "workeroutput", {}).get(_IS_USED, True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Measure before the first test, in the controlling process."""
        if self.must_measure(session):
            try:
                with ended_as_interrupted():
                    measure = partial(self._measured, session)
                    self._audit = measure() if self._overridden else through_cache(session, measure)
                    self._publish(self._audit)
            except QFairError as error:
                raise usage_error(error) from None
        if self._must_compare(session):
            try:
                self._against.settle(self.audit, self.precisions)
            except QFairError as error:
                raise usage_error(error) from None
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which limits were judged, in whichever process."""
        if report.when == "call":
            self._judged.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write in the controlling process, whatever the verdict: the baseline, once compared with, and the summary."""
        if _is_worker(self.config) or self.config.option.collectonly:
            return
        is_compared = any(node_id(REGRESSION, precision.name) in self._judged for precision in self.precisions)
        due: dict[str, Callable[[], str | None]] = {"baseline": self._against.write} if is_compared else {}
        if lookup(self.config)("summary"):
            due["summary"] = self._write_summary
        try:
            with ended_as_interrupted():
                for name in tuple(due):
                    self._write(session, due[name])
                    del due[name]
        except KeyboardInterrupt:
            self.is_cut = True
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            self._told_at_end.append((f"qfair: interrupted; no {' and no '.join(due)} was written", True))

    def _write(self, session: pytest.Session, write: Callable[[], str | None]) -> None:
        try:
            if told := write():
                self._told_at_end.append((told, False))
        except QFairError as error:
            self._told_at_end.append((str(error), True))
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _check_files(self) -> None:
        """Refuse to write over a file that this run reads, or writes too."""
        get, written = lookup(self.config), {"--qfair-summary": str(self._summary) if self._summary else None}
        written |= {f"--qfair-{key}": get(key) for key in _WRITTEN if key != "json" or not self._is_saved}
        refuse_overwriting(written, {f"--qfair-{key.replace('_', '-')}": get(key) for key in _READ})

    def _write_summary(self) -> str:
        """Return what became of it."""
        if self._summary is None:
            return f"qfair: no summary was written: {STEP_SUMMARY} is not set, as it is in GitHub Actions"
        reported = self.reported()
        if reported is None:
            return "qfair: no summary was written: nothing was judged"
        from qfair_check.report.markdown import render_markdown

        self._summary.write(render_markdown([reported]))
        return f"summary written to {self._summary}"

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Show groups as rows and precisions as columns, once a limit was judged or a test used the audit."""
        if not self.is_gating and not self._is_used and given_on_command_line(self.config):
            terminalreporter.write_line(
                "qfair: nothing was gated: there is no --qfair-model, and no test used a qfair fixture", yellow=True
            )
        reported = self.reported()
        if reported is not None and self.config.get_verbosity() >= 0:
            from qfair_check.report.terminal import render

            writer = self.config.get_terminal_writer()
            terminalreporter.section("qfair audit")
            table = render(reported.audit, reported.verdicts, width=writer.fullwidth, colour=writer.hasmarkup)
            for line in table.splitlines():
                terminalreporter.write_line(line)
        for line in self._against.told:
            terminalreporter.write_line(printable(line))
        if self._written:
            terminalreporter.write_line(f"audit written to {self._written}")
        for told, is_wrong in self._told_at_end:
            terminalreporter.write_line(printable(told), red=is_wrong)

    def _model_name(self) -> str | None:
        return self._fixture_in("qfair_model") or lookup(self.config)("model")

    def _data_name(self) -> str | None:
        get = lookup(self.config)
        return self._fixture_in("qfair_data") or get("data") or (DEMO if get("model") == DEMO else None)

    def _fixture_in(self, name: str) -> str | None:
        where = self._overridden.get(name)
        return f"of the fixture {name} in {Path(where.__file__ or where.__name__).name}" if where else None

    def _bound(self) -> list[tuple[str, str]]:
        if not self.is_gating:
            return []
        return [
            (check, precision.name)
            for precision in self.precisions
            for check, limit in (dict(self.judging.limits) | dict(self._against.limits)).items()
            if limit.bound(precision.name) is not None
        ]

    def _must_compare(self, session: pytest.Session) -> bool:
        """Whether this process reads the baseline."""
        option = self.config.option
        if _is_worker(self.config) or option.collectonly or self._audit is None:
            return False
        if session.testsfailed and not option.continue_on_collection_errors:
            return False
        return _is_distributed(self.config) or any(_is_regression(item) for item in session.items)

    def must_measure(self, session: pytest.Session) -> bool:
        """Whether this process measures before the first test."""
        option = self.config.option
        if self._is_saved or not self.is_gating or _is_worker(self.config):
            return False
        if option.collectonly or getattr(option, "setuponly", False):
            return False
        if session.testsfailed and not option.continue_on_collection_errors:
            return False
        return _is_distributed(self.config) or any(_needs_audit(item) for item in session.items)

    def _measured(self, session: pytest.Session) -> Audit:
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        capture: Any = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            model, data = self._inputs(session)
            if reporter and self.config.get_verbosity() >= 0:
                for notice in (*_share_notice(self.config, model), *model.notices, *data.notices):
                    reporter.write_line(f"qfair: {printable(notice)}")
            from qfair_check.progress import progress_bar

            with progress_bar() as progress:
                return measured_audit(self.config, model, data, self.precisions, progress=progress)

    def _inputs(self, session: pytest.Session) -> tuple[Any, Any]:
        if self._overridden:
            return inputs_from_fixtures(session, next(iter(self._overridden.values())))
        try:
            model = load_configured_model(self.config)
            return model, load_configured_data(self.config, model)
        except pytest.fail.Exception as failure:
            raise pytest.UsageError(failure.msg or "") from None

    def _publish(self, audit: Audit) -> None:
        target = lookup(self.config)("json")
        if target:
            audit.save(target)
            self._written = target
        folder = shared_folder(self.config)
        if folder is not None:
            audit.save(folder / _GATE_FILE)


def _is_regression(item: pytest.Item) -> bool:
    return isinstance(item, GateItem) and item.check == REGRESSION


def _needs_audit(item: pytest.Item) -> bool:
    return isinstance(item, GateItem) or bool({"qfair", "qfair_audit"} & set(getattr(item, "fixturenames", ())))


def _share_notice(config: pytest.Config, model: Any) -> list[str]:
    from qfair_check.measure.run import audited_share

    if model.module is None:
        return []
    options = measure_options(lookup(config))
    is_as_is = options.precisions == (AS_IS,)
    quantized, parameters = audited_share(model, options.allocation, is_as_is=is_as_is)
    which = "on a grid of its own" if is_as_is else "in layers that are quantized"
    return [f"{quantized / max(parameters, 1):.1%} of {parameters:,} parameters lie {which}"]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _is_distributed(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")

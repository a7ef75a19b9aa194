"""Remedies from pytest: after a broken limit, what ``qfair remediate`` does, at each precision that broke it."""

import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Generator
from contextlib import nullcontext, redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from _pytest._io import TerminalWriter

from qfair_check.console import columns
from qfair_check.errors import FairnessError, OptionError, QFairError
from qfair_check.gate import Gate
from qfair_check.inputs.paths import is_factory
from qfair_check.judge.regression import REGRESSION
from qfair_check.judge.text import printable
from qfair_check.judge.verdicts import Outcome
from qfair_check.option_table import DATA_OPTIONS, DEMO, JUDGE_OPTIONS, MODEL_OPTIONS, PLUGIN_OPTIONS, REMEDIATE_OPTIONS
from qfair_check.options import Lookup
from qfair_check.overrides import overridden_fixtures
from qfair_check.plugin_options import given_on_command_line, lookup, usage_error
from qfair_check.precision import Precision
from qfair_check.remediate_command import remediation, say_comparison
from qfair_check.remediate_options import recipes_of, refuse_over_inputs, remediate_options, training_data
from qfair_check.remedy_text import Told, told_of_remedy
from qfair_check.sources import load_configured_model
from qfair_check.termination import ended_as_interrupted

Bound = tuple[str, Decimal]

_SECTION = "qfair remediate"


class Remediation:
    """Hooks that learn which limits were broken, in whichever process, and train once all tests have run."""

    def __init__(self, gate: Gate, folder: Path) -> None:
        self._gate = gate
        self._config = gate.config
        self._folder = folder
        self._broken: dict[str, dict[Bound, None]] = {}
        self._others: set[str] = set()
        self._is_interrupted = False
        self._is_cut = False
        self._told: list[Told] = []

    @classmethod
    def from_config(cls, config: pytest.Config, gate: Gate) -> "Remediation | None":
        """Read the options; None where no remedy is asked for.

        Raises
        ------
        UsageError
            If they make no sense.
        """
        try:
            folder = lookup(config)("remediate")
            if folder is None:
                _refuse_idle(config)
                return None
            if not hasattr(config, "workerinput"):
                _check(config, gate, Path(folder))
        except QFairError as error:
            raise usage_error(error) from None
        return cls(gate, Path(folder))

    def pytest_report_header(self) -> str:
        """Say what will be trained on what, and when."""
        get = lookup(self._config)
        train = get("train_data") or DEMO
        split = f", split {get('train_split')}" if get("train_split") else ""
        return f"qfair remediate: into {self._folder}, on {train}{split}, where a limit is broken"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Read the training data before anything is measured, so that what is wrong with it is known at once."""
        if self._gate.must_measure(session):
            try:
                self._check_inputs()
            except QFairError as error:
                raise usage_error(error) from None
            except pytest.fail.Exception as failure:
                raise pytest.UsageError(failure.msg or "") from None
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the limits that a test found broken into its report, which workers of pytest-xdist send on."""
        report = yield
        error = call.excinfo.value if call.excinfo else None
        if report.failed and isinstance(error, FairnessError) and error.audit is not None:
            extended: Any = report
            extended.qfair_broken = [
                [_subject(error.audit), verdict.precision, verdict.check, str(verdict.limit)]
                for verdict in error.verdicts
                if verdict.outcome is Outcome.FAIL and verdict.check != REGRESSION  # a baseline knows no new model
            ]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which limits are broken at which integer precision, of the model that can be trained."""
        for subject, precision, check, limit in getattr(report, "qfair_broken", ()):
            if not Precision(precision).is_integer:
                continue
            if subject == _subject(self._gate.audit):
                self._broken.setdefault(precision, {})[check, Decimal(limit)] = None
            else:
                self._others.add(report.nodeid)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note that the user ended the tests; with -x pytest-xdist raises a kind of its own, which is no such end."""
        self._is_interrupted = excinfo.type in (KeyboardInterrupt, pytest.exit.Exception)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Train at each precision that broke a limit, in the controlling process; the failure stays one."""
        is_over = self._is_interrupted or self._gate.is_cut
        if hasattr(self._config, "workerinput") or is_over or not self._broken:
            return
        reporter: Any = self._config.pluginmanager.getplugin("terminalreporter")
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        if reporter:
            _end_line(self._config.get_terminal_writer())
        with (
            capture.global_and_fixture_disabled() if capture else nullcontext(),
            redirect_stdout(sys.stderr),
            warnings.catch_warnings(),
            ended_as_interrupted(),
        ):
            warnings.simplefilter("default")  # a warning while training is no reason to stop, even under -W error
            self._is_cut = not self._remedy_all()
            if self._is_cut:
                session.exitstatus = pytest.ExitCode.INTERRUPTED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Say what came of it."""
        option = self._config.option
        if option.collectonly:
            return
        if self._told or self._others:
            terminalreporter.section(_SECTION)
        elif self._gate.reported() is not None and self._config.get_verbosity() >= 0 and not self._is_interrupted:
            terminalreporter.write_line(
                "qfair remediate: nothing was trained: no test failed by a limit at integer bits"
            )
        for told in self._told:
            headline, *rest = told.lines
            terminalreporter.write_line(headline, **{told.colour: True})
            for line in rest:
                terminalreporter.write_line(line)
        if any(told.colour != "red" for told in self._told) and not self._is_cut:
            terminalreporter.write_line(
                f"this run judged {printable(str(lookup(self._config)('model')))} and stays failed; to gate a new "
                "model name it by --qfair-model, with --qfair-bits asis"
            )
        if self._others:
            names = ", ".join(map(printable, sorted(self._others)))
            terminalreporter.write_line(
                f"not for {names}: what broke a limit there is another model than {lookup(self._config)('model')}, or "
                "other data"
            )

    def _check_inputs(self) -> None:
        model = load_configured_model(self._config)
        if model.architecture is None:
            raise OptionError(
                f"--qfair-remediate: the architecture of {model.source} is not known, and the file of a new model must "
                "name it: give a state dict, with --qfair-arch"
            )
        options = _lookup(self._config, "int8")
        recipes_of(options)
        training_data(remediate_options(options, ""), model)

    def _remedy_all(self) -> bool:
        """Train at one precision after the other; False if the user interrupts it."""
        names = [precision.name for precision in self._gate.precisions if precision.name in self._broken]
        names += [name for name in self._broken if name not in names]
        for index, name in enumerate(names):
            print(f"qfair remediate at {name} ({index + 1} of {len(names)})", file=sys.stderr)
            told = self._remedied(name)
            if told is None:
                self._told.append(self._interrupted(name))
                self._told += [Told((f"{later:<6}was not begun",), "yellow") for later in names[index + 1 :]]
                return False
            self._told.append(told)
        return True

    def _remedied(self, precision: str) -> Told | None:
        """Return what came of training at one precision; None if the user interrupts it."""
        out = self._out(precision)
        try:
            _make_folder(self._folder)
            get, judging = _lookup(self._config, precision), self._gate.judging
            made = remediation(remediate_options(get, str(out)), recipes_of(get), judging)
            say_comparison(made, judging, width=columns())
            return told_of_remedy(precision, made, self._bounds(precision), judging)
        except KeyboardInterrupt:
            return None
        except QFairError as error:
            return Told((f"{precision:<6}no model was made: {error}",), "red")
        except Exception as error:  # the verdicts of this run must be told whatever happens here
            traceback.print_exc()
            return Told((f"{precision:<6}no model was made: {type(error).__name__}: {printable(str(error))}",), "red")

    def _bounds(self, precision: str) -> tuple[Bound, ...]:
        """Return the gate's limits at a precision, then those of assertions that were broken."""
        limits = self._gate.judging.limits.items()
        of_gate = {(name, bound): None for name, limit in limits if (bound := limit.bound(precision)) is not None}
        return tuple(of_gate | self._broken[precision])

    def _interrupted(self, precision: str) -> Told:
        out = self._out(precision)
        if not out.with_suffix(".checkpoint").exists():
            return Told((f"{precision:<6}interrupted before the end of an epoch; no model was made",), "yellow")
        command = printable(_resuming(self._config, precision, out))
        return Told((f"{precision:<6}interrupted; no model was audited. To go on:", f"      {command}"), "yellow")

    def _out(self, precision: str) -> Path:
        return self._folder / _file_name(precision)


def _file_name(precision: str) -> str:
    return f"fair_{precision}.safetensors"


def _end_line(writer: TerminalWriter) -> None:
    """Leave the line of dots, and put out what stdout holds before stderr goes on."""
    if writer.width_of_current_line:
        writer.line()
    writer.flush()


def _refuse_idle(config: pytest.Config) -> None:
    idle = [name for name in ("train-data", "train-split") if name.replace("-", "_") in given_on_command_line(config)]
    if idle:
        names = " and ".join(f"--qfair-{name}" for name in idle)
        raise OptionError(f"{names} would do nothing: add --qfair-remediate FOLDER")


def _check(config: pytest.Config, gate: Gate, folder: Path) -> None:
    """Refuse what can be known to fail before anything is loaded."""
    get = lookup(config)
    overridden = overridden_fixtures(config)
    for name, module in sorted(overridden.items()):
        where = Path(module.__file__ or module.__name__).name
        option = name.replace("qfair_", "--qfair-")
        raise OptionError(
            f"--qfair-remediate trains a model of a file on data of a file, and {name} is a fixture in {where}: name "
            f"a file with {option} in its place, or call qfair_check.remediate from Python"
        )
    if get("audit") and not get("model"):
        raise OptionError("--qfair-remediate needs the model, which a saved audit does not hold: pass --qfair-model")
    if not get("model"):
        raise OptionError("--qfair-remediate needs the model that it is to train anew: pass --qfair-model FILE")
    if not any(precision.is_integer for precision in gate.precisions):
        named = ", ".join(map(str, gate.precisions))
        raise OptionError(
            f"--qfair-remediate trains at integer bits, and {named} is all that is gated: give --qfair-bits such as 4"
        )
    train = get("train_data")
    if train is None and (get("data") or get("model")) != DEMO:
        raise OptionError(
            "--qfair-remediate has nothing to train on: pass --qfair-train-data FILE, of samples that are not audited"
        )
    if train not in (None, DEMO) and not is_factory(str(train)) and not Path(str(train)).exists():
        raise OptionError(f"--qfair-train-data {train}: there is no such file")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--qfair-remediate {folder} is a file: name a folder for the new models")
    for precision in gate.precisions:
        out = folder / _file_name(precision.name)
        if precision.is_integer and out.absolute().parent.is_dir():
            refuse_over_inputs(remediate_options(_lookup(config, precision.name), str(out)), ())
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError(f"--qfair-remediate {folder}: cannot write into {existing}, name another folder")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--qfair-remediate {folder}: {error.strerror or error}") from error


def _lookup(config: pytest.Config, precision: str) -> Lookup:
    """Return what `qfair remediate` would be told at one precision: this run's options, and its defaults."""
    get = lookup(config)
    known = {option.key for option in PLUGIN_OPTIONS}
    train = get("train_data")
    renamed = {"bits": precision, "train": None if train == DEMO else train}
    return lambda key: renamed[key] if key in renamed else get(key) if key in known else None


def _resuming(config: pytest.Config, precision: str, out: Path) -> str:
    """Return the command that goes on."""
    get = _lookup(config, precision)
    parts = ["qfair", "remediate", get("model") or DEMO]
    for option in dict.fromkeys((*MODEL_OPTIONS, *DATA_OPTIONS, *REMEDIATE_OPTIONS, *JUDGE_OPTIONS)):
        value = get(option.key)
        if value:
            parts += [f"--{option.name}"] if option.is_flag else [f"--{option.name}", value]
    return shlex.join([*parts, "--out", str(out), "--resume"])


def _subject(audit: Any) -> str:
    """Return what tells models and data apart."""
    return f"{audit.model.sha256} {audit.data.sha256}"

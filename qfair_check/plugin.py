"""The pytest plugin: options, markers and fixtures; everything else is imported when it is used."""

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from qfair_check.fixture import QFair
    from qfair_check.inputs.data import GroupedData, LabelledData
    from qfair_check.inputs.model import Model
    from qfair_check.precision import Precision
    from qfair_check.record import Audit

_SHORT_BITS = "--bits"
_short_bits_taken = pytest.StashKey[bool]()
_wrong_usage = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer every option as ``--qfair-NAME`` and as ``qfair_NAME`` in the ini file."""
    from qfair_check.option_table import PLUGIN_OPTIONS, not_empty

    group = parser.getgroup("qfair", "fairness of quantized models (FVO: the largest gap in accuracy between groups)")
    for option in PLUGIN_OPTIONS:
        arguments: dict[str, Any] = {"dest": f"qfair_{option.key}", "default": None, "help": option.help}
        if option.is_flag:
            arguments |= {"action": "store_const", "const": "yes"}
        elif option.bare:
            arguments |= {"nargs": "?", "const": option.bare, "choices": option.choices}
        else:
            arguments |= {"type": not_empty, "metavar": option.metavar, "choices": option.choices or None}
        group.addoption(f"--qfair-{option.name}", **arguments)
        parser.addini(f"qfair_{option.key}", f"ini twin of --qfair-{option.name}", default=None)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None]:
    """Add ``--bits`` once every initial conftest has had its say, and only where it is asked for.

    Added always, it would break suites in which a nested conftest owns the name.
    """
    yield
    names = {arg.split("=")[0] for arg in args}
    if not names & {_SHORT_BITS, "--help", "-h"}:
        return
    if _is_taken(parser, _SHORT_BITS):
        early_config.stash[_short_bits_taken] = _SHORT_BITS in names
        return
    from qfair_check.option_table import not_empty

    parser.getgroup("qfair").addoption(
        _SHORT_BITS, dest="qfair_bits", default=None, type=not_empty, metavar="BITS", help="short for --qfair-bits"
    )


def _is_taken(parser: pytest.Parser, name: str) -> bool:
    try:
        _, unknown = parser.parse_known_and_unknown_args([f"{name}=8"])
    except pytest.UsageError:  # it is known and does not take this value
        return True
    return not unknown


def pytest_configure(config: pytest.Config) -> None:
    """Set the gate up where an option asks for it."""
    config.addinivalue_line(
        "markers",
        "qfair(bits=..., max_fvo=..., ...): bits and limits of the qfair fixture in this test; bare, for -m qfair",
    )
    if config.getoption("htmlpath", None) and config.pluginmanager.has_plugin("html"):
        from qfair_check.html_extras import HtmlExtras

        config.pluginmanager.register(HtmlExtras(config), "qfair-html")
    if not _is_in_use(config):
        return
    _refuse_taken_bits(config)
    from qfair_check.gate import Gate

    gate = Gate.from_config(config)
    config.pluginmanager.register(gate, "qfair-gate")
    if not _is_set(config, "remediate", "train_data", "train_split"):
        return
    from qfair_check.plugin_remedy import Remediation

    remediation = Remediation.from_config(config, gate)
    if remediation is not None:
        config.pluginmanager.register(remediation, "qfair-remediation")


def _is_in_use(config: pytest.Config) -> bool:
    from qfair_check.option_table import PLUGIN_OPTIONS

    return _is_set(config, *(option.key for option in PLUGIN_OPTIONS))


def _is_set(config: pytest.Config, *keys: str) -> bool:
    """Whether any of these options of ours is set, on the command line or in the ini file."""
    names = [f"qfair_{key}" for key in keys]
    return any(config.getoption(name) is not None or config.getini(name) for name in names)


def _refuse_taken_bits(config: pytest.Config) -> None:
    if config.stash.get(_short_bits_taken, False) and not (
        config.getoption("qfair_bits") or config.getini("qfair_bits")
    ):
        raise pytest.UsageError(f"{_SHORT_BITS} belongs to another plugin or conftest here: say --qfair-bits instead")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give every worker of pytest-xdist the same folder for audits."""
    from qfair_check.overrides import overridden_fixtures
    from qfair_check.plugin_options import SHARED_FOLDER, shared_folder_key

    if not _is_in_use(node.config) and not overridden_fixtures(node.config):
        return
    folder = node.config.stash.get(shared_folder_key, None)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="qfair-"))
        node.config.stash[shared_folder_key] = folder
        node.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    node.workerinput[SHARED_FOLDER] = str(folder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the qfair fixture once for each precision."""
    if "qfair_precision" not in metafunc.fixturenames:
        return
    from qfair_check.plugin_options import precisions_for

    try:
        precisions = precisions_for(metafunc.config, metafunc.definition)
    except pytest.UsageError:  # told when all tests are collected, since only then it ends the run with exit code 4
        precisions = ()
    metafunc.parametrize("qfair_precision", precisions, ids=[precision.name for precision in precisions])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse options and markers of our tests that make no sense."""
    ours = [item for item in items if item.get_closest_marker("qfair") or _uses_precisions(item)]
    if ours:
        from qfair_check.plugin_options import check_marker

        for item in ours:
            try:
                if _uses_precisions(item):
                    _refuse_taken_bits(item.config)
                check_marker(item)
            except pytest.UsageError as error:
                if not hasattr(item.config, "workerinput"):
                    raise
                item.stash[_wrong_usage] = str(error)  # a worker of pytest-xdist cannot end the run


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose marker makes no sense, in a worker."""
    told = item.stash.get(_wrong_usage, None)
    if told is not None:
        pytest.fail(told, pytrace=False)


def _uses_precisions(item: pytest.Item) -> bool:
    return bool({"qfair_precision", "qfair_audit"} & set(getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def qfair_model(request: pytest.FixtureRequest) -> "Model":
    """The model that ``--qfair-model`` names; override it in a conftest to give another."""
    from qfair_check.sources import load_configured_model

    return load_configured_model(request.config)


@pytest.fixture
def qfair_data(request: pytest.FixtureRequest) -> "GroupedData | LabelledData":
    """The grouped data that ``--qfair-data`` names; override it in a conftest to give other data.

    Read once for all models that name the same classes and preprocessing.
    """
    from qfair_check.sources import load_configured_data

    return load_configured_data(request.config, request.getfixturevalue("qfair_model"))


@pytest.fixture
def qfair_audit(request: pytest.FixtureRequest) -> "Audit":
    """The audit of the model at every requested precision, measured once for the same model and data."""
    from qfair_check.plugin_options import precisions_for
    from qfair_check.sources import audit_for

    return audit_for(request, precisions_for(request.config, request.node))


@pytest.fixture
def qfair_precision() -> "Precision":
    """The precision this test runs at: one of ``--bits``."""
    raise pytest.UsageError(
        "qfair and qfair_quantized run a test once for each of --bits, which needs a test function that names them as "
        "arguments; in a unittest.TestCase, or with request.getfixturevalue, use qfair_audit"
    )


@pytest.fixture
def qfair(request: pytest.FixtureRequest, qfair_precision: "Precision") -> Iterator["QFair"]:
    """Assertions about the model at one precision; the test runs once for each of ``--bits``."""
    from qfair_check.fixture import QFair
    from qfair_check.plugin_options import judging_for, marked_limits, precisions_for
    from qfair_check.sources import audit_for

    audit = audit_for(request, precisions_for(request.config, request.node))
    bound = QFair(audit, qfair_precision, judging_for(request.config, request.node))
    yield bound
    forgotten = marked_limits(request.node, qfair_precision) - bound.judged
    if forgotten and not request.node.stash.get(_call_failed, False):
        names = ", ".join(sorted(forgotten))
        pytest.fail(f"the marker sets {names}, and the test never judged it: call qfair.check()", pytrace=False)


_call_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failed test: its fixture need not complain as well."""
    report = yield
    if report.when == "call" and not report.passed:
        item.stash[_call_failed] = True
    return report


@pytest.fixture
def qfair_quantized(request: pytest.FixtureRequest, qfair_precision: "Precision") -> "nn.Module":
    """A new module: the model quantized to one precision, in eval mode; the test runs once for each of ``--bits``."""
    from qfair_check.sources import quantized_for

    return quantized_for(request, qfair_precision)

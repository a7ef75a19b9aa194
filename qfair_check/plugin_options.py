"""What the command line, a marker and the ini file say, in this order of precedence."""

import os
import shlex
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from _pytest.config.findpaths import determine_setup

from qfair_check.errors import OptionError, QFairError
from qfair_check.inputs.paths import is_factory
from qfair_check.judge.checks import CHECKS, GATE_CHECKS
from qfair_check.judge.limits import Limit, Limits, check_limits_bind, gate_limits
from qfair_check.judge.text import printable
from qfair_check.option_table import DEFAULT_BITS, DEMO, PLUGIN_OPTIONS
from qfair_check.options import JudgeOptions, Lookup, judge_options
from qfair_check.precision import Precision, check_unmixed, parse_precisions
from qfair_check.summary_file import GITHUB

SHARED_FOLDER = "qfair_shared_folder"
shared_folder_key = pytest.StashKey[Path]()

_FILES = ("model", "data", "reference", "audit", "json", "summary", "remediate", "train_data", "baseline")
_FLAGS = tuple(option.key for option in PLUGIN_OPTIONS if option.is_flag)
_CHOICES = {option.key: option.choices for option in PLUGIN_OPTIONS if option.choices}
_LIMIT_KEYWORDS = frozenset(check.keyword for check in GATE_CHECKS)
_FOR_SAVED_AUDITS = _LIMIT_KEYWORDS | {
    "audit",
    "bits",
    "min_group_size",
    "baseline",
    "max_regression",
    "update_baseline",
    "confidence",
    "insufficient",
    "junit_properties",
    "summary",
}
_MARKER_KEYWORDS = _LIMIT_KEYWORDS | {"bits", "min_group_size", "confidence"}


def lookup(config: pytest.Config, marked: Mapping[str, object] | None = None) -> Lookup:
    """Return a function from an option's key to what the user said: command line, then marker, then ini."""

    def get(key: str) -> str | None:
        given = config.getoption(f"qfair_{key}")
        if given is not None:
            return str(given)
        if marked and key in marked:
            return _joined(marked[key])
        written = str(config.getini(f"qfair_{key}") or "")
        if key in _FLAGS:
            return "yes" if _is_on(key, written) else None
        if written and key in _CHOICES and written not in _CHOICES[key]:
            raise OptionError(f"qfair_{key} is {written!r} in the ini file: it is {' or '.join(_CHOICES[key])}")
        if key in _FILES and written and (key, written) != ("summary", GITHUB):
            return _beside_ini(config, written)
        return written or None

    return get


def given_on_command_line(config: pytest.Config) -> set[str]:
    """Return the keys of the options that the command line sets."""
    return {option.key for option in PLUGIN_OPTIONS if config.getoption(f"qfair_{option.key}") is not None}


def audit_path(config: pytest.Config) -> str | None:
    """Return the saved audit that this run gates, if it does; the command line wins over the ini file.

    Raises
    ------
    OptionError
        If options for measuring stand beside it.
    """
    path = lookup(config)("audit")
    given = given_on_command_line(config)
    if path is None or ("audit" not in given and "model" in given):
        return None
    if "audit" not in given and config.getini("qfair_model"):
        raise OptionError("the ini file sets both qfair_model and qfair_audit: leave one out")
    idle = sorted(given - _FOR_SAVED_AUDITS)
    if idle:
        names = ", ".join(f"--qfair-{key.replace('_', '-')}" for key in idle)
        raise OptionError(f"--qfair-audit gates a saved audit, and nothing is measured: leave out {names}")
    return path


def check_rootdir(config: pytest.Config) -> None:
    """Refuse a run in which pytest took one of our files for a place of tests, and so left the ini file behind.

    Before it knows our options, pytest looks for its ini file around every word of the command line that is
    the path of a file; the path after ``--qfair-model`` and a blank is such a word.

    Raises
    ------
    OptionError
        Naming the option, and the spelling that pytest understands.
    """
    here = config.invocation_params.dir
    root, ini = _setup_without_our_words(config)
    is_lost = config.inipath != ini or (config.rootpath != root and (root / "conftest.py").exists())
    if not is_lost:
        return
    words = {*map(str, config.invocation_params.args), *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))}
    for key in _FILES:
        value = config.getoption(f"qfair_{key}")
        if value in words and (here / value).exists():
            raise OptionError(
                f"pytest took {value} for a place of tests, so that its root folder is {config.rootpath} and "
                f"{ini or root / 'conftest.py'} counts for nothing: write --qfair-{key}={value}, with an equals sign"
            )


def _setup_without_our_words(config: pytest.Config) -> tuple[Path, Path | None]:
    """Return the root folder and the ini file that pytest finds from the places of tests alone."""
    option = config.option
    given: dict[str, Any] = {
        "inifile": option.inifilename,
        "override_ini": option.override_ini,
        "args": config.args if config.args_source is config.ArgsSource.ARGS else [],
        "rootdir_cmd_arg": option.rootdir or None,
        "invocation_dir": config.invocation_params.dir,
    }
    known = signature(determine_setup).parameters
    found = determine_setup(**{name: value for name, value in given.items() if name in known})
    return found[0], found[1]


def marked(node: pytest.Item) -> dict[str, object]:
    """Return what the markers of a test say; the closest marker wins."""
    found: dict[str, object] = {}
    for marker in node.iter_markers("qfair"):
        found = dict(marker.kwargs) | found
    return found


def marked_limits(node: pytest.Item, precision: Precision) -> set[str]:
    """Return the keywords of the limits that the markers of a test set and that bind at a precision."""
    limits = _marked_gate_limits(node)
    return {CHECKS[name].keyword for name, limit in limits.items() if limit.bound(precision.name) is not None}


def precisions_for(config: pytest.Config, node: pytest.Item) -> tuple[Precision, ...]:
    """Return the precisions a test runs at.

    Raises
    ------
    UsageError
        If a bit width makes no sense, or none is left besides fp32.
    """
    get = lookup(config, marked(node))
    try:
        saved = audit_path(config)
        if saved and not get("bits"):
            from qfair_check.record import Audit

            return tuple(Precision(result.precision) for result in Audit.load(saved).quantized)
        precisions = parse_precisions(get("bits") or DEFAULT_BITS)
        check_unmixed(precisions)
    except QFairError as error:
        raise pytest.UsageError(f"{_where(node)}{error}") from None
    if not precisions:
        raise pytest.UsageError(f"{_where(node)}there is nothing to judge: fp32 is the baseline, give bits such as 8,4")
    return precisions


def judging_for(config: pytest.Config, node: pytest.Item) -> JudgeOptions:
    """Return how the values of a test are judged."""
    try:
        return judge_options(lookup(config, marked(node)))
    except OptionError as error:
        raise pytest.UsageError(f"{_where(node)}{error}") from None


def check_marker(item: pytest.Item) -> None:
    """Refuse a qfair marker that says nothing, or something unknown: it would pass in silence.

    Raises
    ------
    UsageError
        Naming the test and what is wrong.
    """
    for marker in item.iter_markers("qfair"):
        if marker.args:
            raise pytest.UsageError(f"{_where(item)}the qfair marker takes keywords only, such as bits=4")
        unknown = set(marker.kwargs) - _MARKER_KEYWORDS
        if unknown:
            raise pytest.UsageError(
                f"{_where(item)}the qfair marker knows no {', '.join(sorted(unknown))}: "
                f"it knows {', '.join(sorted(_MARKER_KEYWORDS))}"
            )
        _check_used(item, marker.kwargs)
    judging_for(item.config, item)
    precisions_for(item.config, item)
    _check_marked_limits_bind(item)


def _check_used(item: pytest.Item, keywords: Mapping[str, object]) -> None:
    used = set(getattr(item, "fixturenames", ()))
    judging = [keyword for keyword in keywords if keyword != "bits"]
    if judging and "qfair" not in used:
        raise pytest.UsageError(
            f"{_where(item)}the qfair marker sets {', '.join(judging)}, and the test does not use the qfair fixture: "
            "nothing would be judged"
        )
    if "bits" in keywords and not used & {"qfair_precision", "qfair_audit"}:
        raise pytest.UsageError(f"{_where(item)}the qfair marker sets bits, and the test uses none of our fixtures")


def _check_marked_limits_bind(item: pytest.Item) -> None:
    """Refuse limits that make no sense, and those for a precision that the same markers leave out."""
    try:
        limits, bits = _marked_gate_limits(item), marked(item).get("bits")
        if bits is not None:
            check_limits_bind(limits, [str(precision) for precision in parse_precisions(_joined(bits))])
    except OptionError as error:
        raise pytest.UsageError(f"{_where(item)}{error}") from None


def _marked_gate_limits(node: pytest.Item) -> Limits:
    said = marked(node)
    return {
        check.name: Limit.parse(_joined(said[check.keyword]), check) for check in GATE_CHECKS if check.keyword in said
    }


def check_command_line_limits(config: pytest.Config, precisions: tuple[Precision, ...]) -> None:
    """Refuse a limit on the command line for a precision that is not gated.

    Raises
    ------
    OptionError
        Naming the limit.
    """
    given = {keyword: config.getoption(f"qfair_{keyword}") for keyword in _LIMIT_KEYWORDS}
    limits = gate_limits({keyword: value for keyword, value in given.items() if value is not None})
    check_limits_bind(limits, [precision.name for precision in precisions])


def _joined(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)


def _is_on(key: str, written: str) -> bool:
    value = written.strip().lower()
    if value not in ("", "yes", "true", "on", "1", "no", "false", "off", "0"):
        raise OptionError(f"qfair_{key} is {written!r} in the ini file: it is true or false")
    return value in ("yes", "true", "on", "1")


def _beside_ini(config: pytest.Config, path: str) -> str:
    if path == DEMO or is_factory(path):
        return path
    folder = config.inipath.parent if config.inipath else config.rootpath
    return str(folder / Path(path))


def _where(node: pytest.Item) -> str:
    return f"{node.nodeid}: "


def usage_error(error: Exception) -> pytest.UsageError:
    """Return what ends the run, in characters that cannot command a terminal."""
    return pytest.UsageError("\n".join(map(printable, str(error).split("\n"))))

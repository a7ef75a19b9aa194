"""What the command line, a marker and the ini file say, in this order of precedence."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from qfair_check.errors import OptionError
from qfair_check.judge.limits import GATE_CHECKS, check_limits_bind, gate_limits
from qfair_check.options import (
    DEFAULT_BITS,
    DEMO,
    PLUGIN_OPTIONS,
    JudgeOptions,
    Lookup,
    judge_options,
)
from qfair_check.precision import Precision, parse_precisions

_FILES = ("model", "data", "audit", "json")
_FLAGS = tuple(option.key for option in PLUGIN_OPTIONS if option.is_flag)
_LIMIT_KEYWORDS = frozenset(check.keyword for check in GATE_CHECKS)
_MARKER_KEYWORDS = _LIMIT_KEYWORDS | {"bits", "min_group_size"}


def lookup(config: pytest.Config, marked: Mapping[str, object] | None = None) -> Lookup:
    """Return a function from an option's key to what the user said: command line, then marker, then ini."""

    def get(key: str) -> str | None:
        given = config.getoption(f"qfair_{key}")
        if given is not None:
            return str(given)
        if marked and key in marked:
            value = marked[key]
            return ",".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)
        written = str(config.getini(f"qfair_{key}") or "")
        if key in _FLAGS:
            return "yes" if _is_on(key, written) else None
        if key in _FILES and written:
            return _beside_ini(config, written)
        return written or None

    return get


def is_in_use(config: pytest.Config) -> bool:
    """Whether this run asks for a gate or sets any of our options on the command line."""
    given = any(config.getoption(f"qfair_{option.key}") is not None for option in PLUGIN_OPTIONS)
    return given or bool(config.getini("qfair_model")) or bool(config.getini("qfair_audit"))


def marked(node: pytest.Item) -> dict[str, object]:
    """Return what the markers of a test say; the closest marker wins."""
    found: dict[str, object] = {}
    for marker in node.iter_markers("qfair"):
        found = dict(marker.kwargs) | found
    return found


def marked_limits(node: pytest.Item) -> set[str]:
    """Return the keywords of the limits that the markers of a test set."""
    return set(marked(node)) & _LIMIT_KEYWORDS


def precisions_for(config: pytest.Config, node: pytest.Item) -> tuple[Precision, ...]:
    """Return the precisions a test runs at.

    Raises
    ------
    UsageError
        If a bit width makes no sense, or none is left besides fp32.
    """
    get = lookup(config, marked(node))
    saved = get("audit")
    try:
        if saved and not get("bits"):
            from qfair_check.record import Audit

            return tuple(Precision(result.precision) for result in Audit.load(saved).quantized)
        return parse_precisions(get("bits") or DEFAULT_BITS)
    except OptionError as error:
        raise pytest.UsageError(f"{_where(node)}{error}") from None


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
        if marker.kwargs and "qfair_precision" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(
                f"{_where(item)}the qfair marker sets {', '.join(marker.kwargs)}, and the test does not use the "
                "qfair fixture: nothing would be judged"
            )
    judging_for(item.config, item)


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


def _is_on(key: str, written: str) -> bool:
    value = written.strip().lower()
    if value not in ("", "yes", "true", "on", "1", "no", "false", "off", "0"):
        raise pytest.UsageError(f"qfair_{key} is {written!r} in the ini file: it is true or false")
    return value in ("yes", "true", "on", "1")


def _beside_ini(config: pytest.Config, path: str) -> str:
    if path == DEMO:
        return path
    folder = config.inipath.parent if config.inipath else config.rootpath
    return str(folder / Path(path))


def _where(node: pytest.Item) -> str:
    return f"{node.nodeid}: "

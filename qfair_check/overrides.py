"""The fixtures qfair_model and qfair_data as the user's conftest.py or plugins define them for the whole run."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from qfair_check.inputs.data import GroupedData, LabelledData
    from qfair_check.inputs.model import Model

_NAMES = frozenset({"qfair_model", "qfair_data"})
_OWN = "qfair_check.plugin"


def overridden_fixtures(config: pytest.Config) -> dict[str, ModuleType]:
    """Return which of the two fixtures are overridden, and where: in the rootdir's conftest.py, or in a plugin."""
    return {
        name: module
        for module in _modules(config)
        for attribute, value in list(vars(module).items())
        if (name := _fixture_name(attribute, value)) in _NAMES
    }


def inputs_from_fixtures(session: pytest.Session, where: ModuleType) -> "tuple[Model, GroupedData | LabelledData]":
    """Return what the two fixtures give at the root of the session, as a test in the module `where` would get it.

    Raises
    ------
    UsageError
        If one of them fails or skips.
    InputError
        If what they give is no model or no data.
    """
    found: list[object] = []

    def qfair_inputs(qfair_model: object, qfair_data: object) -> None:
        found.extend((qfair_model, qfair_data))

    parent = pytest.Module.from_parent(session, path=Path(where.__file__ or session.path))
    parent.obj = where
    probe = pytest.Function.from_parent(parent, name="qfair_inputs", callobj=qfair_inputs)
    following = session.items[0] if session.items else None
    for report in runtestprotocol(probe, log=False, nextitem=following):
        if not report.passed:
            raise pytest.UsageError(f"the fixtures qfair_model and qfair_data {_fault(report)}")
    from qfair_check.inputs.data import as_samples
    from qfair_check.inputs.model import as_model

    return as_model(found[0]), as_samples(found[1])


def _modules(config: pytest.Config) -> Iterator[ModuleType]:
    """Yield plugins that are modules, and last, so that it wins, the rootdir's conftest.py."""
    root = config.rootpath / "conftest.py"
    modules = [plugin for plugin in config.pluginmanager.get_plugins() if inspect.ismodule(plugin)]
    for module in sorted(modules, key=lambda module: (module.__name__ == root.stem, module.__name__)):
        file = Path(getattr(module, "__file__", None) or "")
        if module.__name__ != _OWN and (file.name != root.name or file.resolve() == root.resolve()):
            yield module


def _fixture_name(attribute: str, value: object) -> str | None:
    marker = inspect.getattr_static(value, "_fixture_function_marker", None)
    if marker is None:
        marker = inspect.getattr_static(value, "_pytestfixturefunction", None)
    return None if marker is None else getattr(marker, "name", None) or attribute


def _fault(report: pytest.TestReport) -> str:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        return f"were skipped ({reason.removeprefix('Skipped: ')}): the gate cannot do without them"
    return f"failed: {report.longreprtext}"

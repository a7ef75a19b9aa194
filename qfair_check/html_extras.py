"""What pytest-html shows of the gate and of tests that use the qfair fixture; registered where ``--html`` is given."""

import hashlib
import html
import re
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from qfair_check.errors import QFairError

if TYPE_CHECKING:
    from qfair_check.judge.verdicts import Verdict
    from qfair_check.record import Audit

PROVENANCE = "Fairness audit"
_ID_CELL = '<td class="col-testId">'
_FIXTURES = frozenset({"qfair_precision", "qfair_audit", "qfair_model", "qfair_data"})
_REDACTED = "\u2593"  # as pytest-html does


class HtmlExtras:
    """Hooks around pytest-html; without a test or a gate of ours they do nothing, and import nothing.

    pytest-html puts extras, summary, environment and test ids into its page as they are, so that all that comes from
    here is HTML whose names are escaped.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._page: Any = None
        self._is_styled = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Give the report of a test of ours its tables and figures, in whichever process it runs."""
        report = yield
        if _is_ours(item):
            extended: Any = report
            extended.qfair_is_ours = True
            if call.when == "call":
                extended.extras = [*getattr(report, "extras", []), *self._extras(item)]
        return report

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        """Keep what the page is made of, to add the provenance at the end."""
        self._page = report

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[Any]) -> None:
        """Escape the id of a test of ours, which may hold the name of a group."""
        if not getattr(report, "qfair_is_ours", False):
            return
        self._is_styled = True
        start = f"{_ID_CELL}{report.nodeid}"
        for index, cell in enumerate(cells):
            if isinstance(cell, str) and cell.startswith(start):
                from qfair_check.report.fragments.fragments import escaped

                cells[index] = f"{_ID_CELL}{escaped(report.nodeid)}{cell[len(start) :]}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str], summary: list[str]) -> None:
        """Add the overview, and the provenance to the environment."""
        gate: Any = self._config.pluginmanager.get_plugin("qfair-gate")
        is_gating = gate is not None and gate.is_gating
        if not is_gating and not self._is_styled:
            return
        from qfair_check.report.fragments.fragments import overview_of, provenance_of, style, unjudged_overview

        prefix.append(style())
        if not is_gating:
            return
        reported = gate.reported()
        if reported is None:
            prefix.append(unjudged_overview())
            return
        overview = overview_of(reported)
        prefix.append(overview.verdict)
        summary.append(overview.tables)
        if self._page is not None:
            self._page.set_data(
                "environment", {**self._page.data["environment"], **self._redacted(provenance_of(reported.audit))}
            )

    def _redacted(self, facts: dict[str, str]) -> dict[str, Any]:
        patterns = self._config.getini("environment_table_redact_list")
        is_hidden = any(re.match(pattern, PROVENANCE) for pattern in patterns)
        return {PROVENANCE: _REDACTED * 8 if is_hidden else facts}

    def _extras(self, item: pytest.Item) -> list[dict[str, str | None]]:
        try:
            shown = self._shown(item)
        except QFairError:  # the test itself tells of it
            shown = None
        if shown is None:
            return []
        key = f"qfair-{hashlib.sha256(item.nodeid.encode()).hexdigest()[:12]}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what drawing warns of is not the test's, and must not fail under -W error
            try:
                from qfair_check.report.fragments.fragments import item_fragments

                fragments = item_fragments(*shown, key)
            except Exception as error:  # such as a broken set-up of matplotlib, which is no reason to end the run
                fragments = (_undrawn(error),)
        return [
            {"name": None, "format_type": "html", "content": text, "mime_type": None, "extension": None}
            for text in fragments
        ]

    def _shown(self, item: pytest.Item) -> "tuple[Audit, str, tuple[Verdict, ...]] | None":
        """Return the audit, the precision and the verdicts of a test; None if it did not get to them."""
        if self._config.pluginmanager.has_plugin("qfair-gate"):
            from qfair_check.gate_items import GateItem

            if isinstance(item, GateItem):
                return None if item.verdict is None else (item.gate.audit, item.verdict.precision, (item.verdict,))
        from qfair_check.fixture import QFair

        bound = getattr(item, "funcargs", {}).get("qfair")
        return (bound.audit, bound.precision.name, bound.found) if isinstance(bound, QFair) else None


def _is_ours(item: pytest.Item) -> bool:
    return item.nodeid.startswith("qfair::") or not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _undrawn(error: Exception) -> str:
    told = html.escape(f"{type(error).__name__}: {error}")
    return f'<div class="qfair"><p>The tables and figures of this test could not be made: {told}</p></div>'

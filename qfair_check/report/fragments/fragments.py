"""The overview, what belongs to one test, and the provenance, as HTML to be put into a page of others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.text import printable
from qfair_check.judge.verdicts import Verdict
from qfair_check.precision import FP32
from qfair_check.record import Audit
from qfair_check.report.figures.exhibit import Absent, Exhibit
from qfair_check.report.figures.groups import accuracy_exhibit, distance_exhibit
from qfair_check.report.figures.steepness import gradient_exhibit, lambda_exhibit
from qfair_check.report.figures.weights import weight_change_exhibit
from qfair_check.report.page.group_table import GroupTable, accuracy_table
from qfair_check.report.page.verdict import banner_of, limit_rows
from qfair_check.report.page.words import counted
from qfair_check.report.reported import Reported
from qfair_check.report.terminal import notes_of, shown_groups

_UNKNOWN = "unknown: the model is a plain callable"


@dataclass(frozen=True, slots=True)
class Overview:
    """What the page says above all tests: who is hurt, then the limits and every group."""

    verdict: str
    tables: str


def overview_of(reported: Reported) -> Overview:
    """Return the overview of an audit as HTML; names that the user chose are escaped."""
    audit = reported.audit
    verdict = _render("verdict.html", banner=banner_of(reported), name=reported.name)
    tables = _render(
        "tables.html",
        limits=limit_rows(reported),
        groups=_shown_table(audit),
        more=_left_out(audit),
        notes=[line.partition(" ")[2].strip() for line in notes_of(audit, reported.verdicts)],
    )
    return Overview(verdict, tables)


def unjudged_overview() -> str:
    """Return what stands in place of the overview when the gate did not run."""
    return _render("unjudged.html")


def style() -> str:
    """Return the style element that the other parts need once in the page."""
    return _render("style.html")


def item_fragments(audit: Audit, precision: str, verdicts: Sequence[Verdict], key: str) -> tuple[str, ...]:
    """Return what belongs to a test at one precision: its limits with the groups, then its figures, as HTML.

    Parameters
    ----------
    audit : Audit
    precision : str
        Such as ``int4``.
    verdicts : sequence of Verdict
        What the test judged; may be empty.
    key : str
        What ids begin with; distinct within a page.
    """
    pair = replace(audit, precisions=(audit.fp32, audit.at(precision)))
    tables = _render(
        "tables.html",
        limits=limit_rows(Reported(audit.inputs.model, audit, tuple(verdicts))),
        groups=_shown_table(pair),
        more=_left_out(pair),
        notes=[],
    )
    shown = exhibits_for(audit, [verdict.check for verdict in verdicts], precision, key)
    return (tables, *(_render("exhibit.html", shown=one) for one in shown))


def exhibits_for(audit: Audit, checks: Iterable[str], precision: str, key: str) -> tuple[Exhibit | Absent, ...]:
    """Return the figures behind these checks at a precision and fp32, each once."""
    precisions = [FP32.name, precision]
    made: dict[str, Exhibit | Absent] = {}
    for check in checks or ["accuracy"]:
        ratio = CHECKS[check].ratio_of
        if ratio == "lambda_max":
            made.setdefault(ratio, lambda_exhibit(audit, precisions, f"{key}-lambda"))
        elif ratio:
            made.setdefault(ratio, gradient_exhibit(audit, precisions, f"{key}-gradient"))
        elif check == "cosine-distance":
            made.setdefault(check, distance_exhibit(audit, precisions, f"{key}-distance"))
        elif check == "sparsity":
            made.setdefault(check, weight_change_exhibit(audit, f"{key}-weights"))
        elif "accuracy" not in made:
            made["accuracy"] = accuracy_exhibit(audit, precisions, f"{key}-accuracy")
    return tuple(made.values())


def provenance_of(audit: Audit) -> dict[str, str]:
    """Return where the numbers come from, by term; values are HTML, in which names are escaped."""
    settings, inputs, versions = audit.settings, audit.inputs, audit.run.versions
    facts = {
        "model": inputs.model,
        "sha256 of the weights": audit.model.sha256 or _UNKNOWN,
        "fp32 values of": audit.reference.source if audit.reference else "",
        "sha256 of the model that has them": (audit.reference and audit.reference.sha256) or "",
        "data": inputs.data,
        "sha256 of the data": audit.data.sha256,
        "samples": f"{audit.data.samples:,}",
        "groups": f"{counted(len(audit.groups), 'group')} by {' × '.join(inputs.group_by) or 'class'}",
        "scheme": f"{settings.scheme}, {settings.allocation}" if settings.allocation else settings.scheme,
        "precisions": ", ".join(result.precision for result in audit.precisions),
        "seed": str(settings.seed),
        "device": settings.device,
        "created": audit.run.created,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {term: str(escape(printable(fact))) for term, fact in facts.items() if fact}


def escaped(text: str) -> str:
    """Return text as HTML that shows it."""
    return str(escape(printable(text)))


def _shown_table(audit: Audit) -> GroupTable:
    table = accuracy_table(audit)
    shown, _ = shown_groups(audit)
    return replace(table, rows=tuple(table.rows[index] for index in shown))


def _left_out(audit: Audit) -> str:
    _, left_out = shown_groups(audit)
    return f"{counted(left_out, 'group')} with higher accuracy left out: the audit holds them all." if left_out else ""


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("qfair_check.report.fragments"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # drawings are escaped already
    return environment.get_template(template).render(values)


def _finalized(value: object) -> object:
    """Escape what cannot be printed, such as control characters that turn the direction of a line."""
    return printable(value) if type(value) is str else value

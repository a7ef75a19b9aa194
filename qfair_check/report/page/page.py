"""The page: what it says of each audit, put into its templates under a strict content security policy."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qfair_check.errors import QFairError
from qfair_check.judge.text import printable
from qfair_check.report.figures.all import exhibits
from qfair_check.report.figures.exhibit import Absent, Exhibit
from qfair_check.report.figures.front import SOURCE, TITLE, front_exhibit
from qfair_check.report.figures.palette import COLOURS
from qfair_check.report.page.comparison import compare
from qfair_check.report.page.group_table import GroupTable, accuracy_table, curvature_table
from qfair_check.report.page.next_steps import Step, next_steps
from qfair_check.report.page.provenance import Fact, facts_of
from qfair_check.report.page.verdict import Banner, LimitRow, banner_of, limit_rows
from qfair_check.report.page.words import as_command_line, bidi_name, brief, file_name, whole_options
from qfair_check.report.reported import Reported

_PACKAGE = "qfair_check.report.page"
_TAG = re.compile(r"<[^<>]*>")
_ID = re.compile(r'( id="| href="#)')


@dataclass(frozen=True, slots=True)
class _Section:
    """All that the page says of one audit; `prefix` begins its ids, and `whose` ends the labels of its parts."""

    prefix: str
    whose: str
    reported: Reported
    banner: Banner
    limits: tuple[LimitRow, ...]
    steps: tuple[Step, ...]
    accuracies: GroupTable
    curvature: GroupTable | None
    exhibits: tuple[Exhibit, ...]
    absent: tuple[Absent, ...]
    facts: tuple[tuple[str, tuple[Fact, ...]], ...]


def render_page(reported: Sequence[Reported], *, rerun: Sequence[Sequence[str]] = ()) -> str:
    """Return the report as one HTML page: no network, no other file, readable without scripts.

    The page forbids itself all that it does not hold: its policy names the hashes of its own style and script.

    Parameters
    ----------
    reported : sequence of Reported
        At least one; several stand side by side.
    rerun : sequence of sequence of str, optional
        For each of them the arguments of the command that judges it again.
    """
    from qfair_check import __version__

    several = len(reported) > 1
    sections = [
        _section(one, f"audit-{number}-" if several else "", again)
        for number, (one, again) in enumerate(zip(reported, rerun or [()] * len(reported), strict=True), 1)
    ]
    front, no_front = _front(reported) if several else (None, None)
    style, script = _style(), _resource("page.js")
    page = _environment().get_template("page.html")
    return page.render(
        title=_title(reported),
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        sections=sections,
        comparison=compare(reported) if several else None,
        front=front,
        no_front=no_front,
        contents=_contents_of_several(sections, front) if several else _contents(sections[0]),
        version=__version__,
    )


def _section(one: Reported, prefix: str, rerun: Sequence[str]) -> _Section:
    shown, absent = exhibits(one.audit, min_group_size=one.min_group_size)
    return _Section(
        prefix,
        f" of {one.name}" if prefix else "",
        one,
        banner_of(one),
        limit_rows(one),
        next_steps(one),
        accuracy_table(one.audit),
        curvature_table(one.audit),
        tuple(shown),
        tuple(Absent(missing.title, missing.source, as_command_line(missing.reason)) for missing in absent),
        facts_of(one, rerun),
    )


def _front(reported: Sequence[Reported]) -> tuple[Exhibit | None, Absent | None]:
    """Return the front over all audits, or why there is none."""
    try:
        names, audits = [one.name for one in reported], [one.audit for one in reported]
        return front_exhibit(names, audits, min_group_size=reported[0].min_group_size), None
    except QFairError as error:
        return None, Absent(TITLE, SOURCE, str(error))


def _title(reported: Sequence[Reported]) -> str:
    if len(reported) == 1:
        return f"{brief(file_name(reported[0].audit.inputs.model))}: quantization fairness report"
    return f"{', '.join(one.name for one in reported)}: quantization fairness report"


def _contents(section: _Section) -> list[tuple[str, str | Markup]]:
    held: list[tuple[str, str | Markup]] = [("groups", "Every group at every precision")]
    if section.curvature:
        held.append(("curvature", "Gradient norm and curvature"))
    held += [(shown.key, shown.title) for shown in section.exhibits]
    if section.absent:
        held.append(("absent", "What is not in this report"))
    return [*held, ("provenance", "Provenance")]


def _contents_of_several(sections: Iterable[_Section], front: Exhibit | None) -> list[tuple[str, str | Markup]]:
    held: list[tuple[str, str | Markup]] = [("comparison", "Comparison"), ("groups-compared", "Accuracy by group")]
    if front is not None:
        held.append((f"front-{front.key}", front.title))
    return [*held, *((f"{section.prefix}audit", bidi_name(section.reported.name)) for section in sections)]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["brief"] = brief
    environment.filters["file_name"] = file_name
    environment.filters["whole_options"] = whole_options
    environment.filters["svg"] = _with_prefixed_ids
    return environment


def _finalized(value: object) -> object:
    """Escape what cannot be printed, such as control characters that turn the direction of a line."""
    return printable(value) if type(value) is str else value


def _with_prefixed_ids(svg: str, prefix: str) -> Markup:
    """Return the element with a prefix before its ids, so that the drawings of two audits do not share any."""
    if prefix:
        svg = _TAG.sub(lambda tag: _ID.sub(lambda found: found[0] + prefix, tag[0]), svg)
    return Markup(svg)


def _style() -> str:
    """Return the style sheet with the colours of drawings; those for the dark hold on screens alone."""
    light = "".join(f"{colour.variable}:{colour.light};" for colour in COLOURS)
    dark = "".join(f"{colour.variable}:{colour.dark};" for colour in COLOURS)
    drawn = f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return drawn + _resource("page.css")


def _resource(name: str) -> str:
    return files(_PACKAGE).joinpath("static", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

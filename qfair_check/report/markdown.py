"""Audits as GitHub-flavoured markdown, such as for the summary of a job."""

import re
from collections.abc import Iterable, Sequence
from html import unescape

from markupsafe import Markup

from qfair_check.judge.text import printable
from qfair_check.judge.verdicts import Outcome
from qfair_check.record import Audit
from qfair_check.report.page.comparison import compare
from qfair_check.report.page.group_table import LOWEST, Cell, Row, accuracy_table
from qfair_check.report.page.verdict import LimitRow, banner_of, limit_rows
from qfair_check.report.page.words import counted
from qfair_check.report.reported import Reported
from qfair_check.report.terminal import notes_of, shown_groups

_ICONS = {"pass": "✅", "fail": "❌", "insufficient": "⚠️", "none": "➖"}
_WORST, _NOTHING = "▼", "-"
_NUMBER, _TEXT = "---:", "---"

# What GitHub reads as mention, reference or emoji after markdown is done: an element of its own keeps it apart.
_APART = re.compile(r"[@#]|:(?=[\w+-]+:)|(?<=\bGH)-(?=\d)")
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~&$^!]|:(?=\S)|(?<=www)\.|^[-+=]|^\d(?=\d*[.)])", re.IGNORECASE)
_EITHER = re.compile(f"(?P<apart>{_APART.pattern})|{_SPECIAL.pattern}", re.IGNORECASE)
_TAG = re.compile(r"(</?(?:strong|bdi|code)>)")


def render_markdown(reported: Sequence[Reported]) -> str:
    """Return what a person must know of each audit, several after a table that compares them.

    Names that the user chose come out as they are: no markup, links, mentions or references are made of them.

    Parameters
    ----------
    reported : sequence of Reported
        At least one.
    """
    several = len(reported) > 1
    parts = [_comparison(reported)] if several else []
    parts += [_section(one, "###" if several else "##") for one in reported]
    return "\n\n".join(parts) + "\n"


def as_text(text: str) -> str:
    """Return markdown that shows this text on one line, whatever it holds.

    Examples
    --------
    >>> as_text("a|b *c*")
    'a&#124;b &#42;c&#42;'
    >>> as_text("@who")
    '<span>&#64;</span>who'
    """
    return _EITHER.sub(_entity, printable(text.strip()))


def as_name(name: str) -> str:
    """Return markdown that shows a name set apart from the text around it, also in its writing direction.

    Examples
    --------
    >>> as_name("</table>")
    '<code dir="auto">&#60;/table&#62;</code>'
    """
    return f'<code dir="auto">{as_text(name)}</code>'


def _entity(found: re.Match[str]) -> str:
    entity = f"&#{ord(found[0])};"
    return f"<span>{entity}</span>" if found["apart"] else entity


def _from_html(sentence: Markup) -> str:
    """Return the markdown of a sentence of the page."""
    tags = {"<bdi>": '<code dir="auto">', "</bdi>": "</code>"}
    return "".join(
        tags.get(part, part) if _TAG.fullmatch(part) else _inner(unescape(part)) for part in _TAG.split(sentence)
    )


def _inner(text: str) -> str:
    """Return `as_text` with the blanks at both ends."""
    held = text.strip()
    return text.replace(held, as_text(held), 1) if held else text


def _section(one: Reported, level: str) -> str:
    audit, banner = one.audit, banner_of(one)
    parts = [
        f"{level} {_ICONS[banner.tone]} {banner.word}: {as_name(one.name)}",
        f"{banner.meaning[0].upper()}{banner.meaning[1:]}. {_from_html(banner.summary)}",
    ]
    if one.verdicts:
        head = ["limit on", "precision", "measured", "limit", "fp32", "outcome"]
        align = [_TEXT, _TEXT, _NUMBER, _NUMBER, _NUMBER, _TEXT]
        parts.append(_table(head, align, map(_limit, limit_rows(one))))
    parts.append(_groups(audit))
    told = (line.partition(" ") for line in notes_of(audit, one.verdicts))
    notes = [f"- {kind}: {as_text(note)}" for kind, _, note in told]
    if notes:
        parts.append("\n".join(["What to know about these numbers:", "", *notes]))
    parts.append("\n".join(["Where they come from:", "", *_provenance(audit)]))
    return "\n\n".join(parts)


def _limit(row: LimitRow) -> list[str]:
    limit = f"{row.relation} {row.limit}"
    measured = f"{row.measured}<br><sub>{row.bounds}</sub>" if row.bounds else row.measured
    return [row.phrase, row.precision, measured, limit, row.baseline, _outcome(row.outcome)]


def _outcome(outcome: Outcome | None) -> str:
    return _NOTHING if outcome is None else f"{_ICONS[outcome.value]} {outcome.value}"


def _groups(audit: Audit) -> str:
    table = accuracy_table(audit)
    shown, left_out = shown_groups(audit)
    head = ["group", "n", *(result.precision for result in audit.precisions)]
    rows = [_group(audit, as_name(table.rows[index].name), table.rows[index]) for index in shown]
    rows += [_group(audit, f"**{row.name}**", row) for row in table.foot]
    legend = (
        f"Accuracy, its change from fp32 and its 95% interval (Wilson). {_WORST} marks the lowest accuracy at each "
        "precision. FVO is the largest gap in accuracy between two groups."
    )
    if left_out:
        legend += f" {counted(left_out, 'group')} with higher accuracy left out: the audit holds them all."
    return _table(head, [_TEXT, *[_NUMBER] * (len(head) - 1)], rows) + f"\n\n{legend}"


def _group(audit: Audit, name: str, row: Row) -> list[str]:
    cells = iter(row.cells)
    texts = [_cell(next(cells), None if result is audit.fp32 else next(cells)) for result in audit.precisions]
    return [name, "" if row.samples is None else f"{row.samples:,}", *texts]


def _cell(accuracy: Cell, change: Cell | None) -> str:
    text = f"**{accuracy.text}** {_WORST}" if accuracy.mark == LOWEST else accuracy.text
    moved = f" ({change.text})" if change and change.text != _NOTHING else ""
    lines = [text + moved, *(f"<sub>{line}</sub>" for line in accuracy.below)]
    return "<br>".join(line.replace(" ", "&nbsp;") for line in lines)


def _provenance(audit: Audit) -> list[str]:
    inputs, model, settings = audit.inputs, audit.model, audit.settings
    by = " × ".join(map(as_name, inputs.group_by)) or "class"
    weights = f"sha256 `{model.sha256}`" if model.sha256 else "weights unknown (a plain callable)"
    reference = audit.reference
    told = [f"- fp32 values: of {as_name(reference.source)}, sha256 `{reference.sha256}`"] if reference else []
    return [
        f"- model: {as_name(inputs.model)}, {weights}",
        *told,
        f"- data: {as_name(inputs.data)}, sha256 `{audit.data.sha256}`, {audit.data.samples:,} samples, "
        f"{counted(len(audit.groups), 'group')} by {by}",
        f"- measured: {as_text(settings.scheme)}, seed {settings.seed}, on {as_text(settings.device)}, "
        f"{as_text(audit.run.created)}",
    ]


def _comparison(reported: Sequence[Reported]) -> str:
    compared = compare(reported)
    rows = [
        [
            as_name(row.audit),
            row.precision,
            _outcome(row.outcome),
            row.overall,
            row.fvo,
            f"{as_name(row.worst)} (n={row.worst_samples:,})",
            row.worst_accuracy,
        ]
        for row in compared.summary
    ]
    head = ["audit", "precision", "verdict", "overall accuracy", "FVO", "worst group", "its accuracy"]
    align = [_TEXT, _TEXT, _TEXT, _NUMBER, _NUMBER, _TEXT, _NUMBER]
    parts = [f"## {len(reported):,} audits compared", _table(head, align, rows)]
    if compared.notes:
        parts.append("\n".join(f"- {as_text(note)}" for note in compared.notes))
    return "\n\n".join(parts)


def _table(head: Sequence[str], align: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, align, *rows))

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

import qfair_check.report.page.page as page
from qfair_check.judge.limits import gate_limits
from qfair_check.judge.verdicts import judge_audit
from qfair_check.report.figures.exhibit import Absent, Drawing, Exhibit, Table
from qfair_check.report.reported import Reported

VOID = {"br", "link", "meta", "img", "input", "hr"}


@dataclass
class Element:
    """An element of a parsed page."""

    tag: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    inner: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it, with single blanks."""
        return " ".join(self.raw.split())

    @property
    def raw(self) -> str:
        return "".join(part if isinstance(part, str) else part.raw for part in self.inner)

    def __iter__(self) -> Iterator["Element"]:
        for part in self.inner:
            if isinstance(part, Element):
                yield part
                yield from part

    def all(self, tag: str, kind: str | None = None, **attributes: str) -> list["Element"]:
        """Return the elements below it with this tag, class and attributes."""
        return [
            element
            for element in self
            if element.tag == tag
            and (kind is None or kind in (element.attributes.get("class") or "").split())
            and all(element.attributes.get(name.replace("_", "-")) == value for name, value in attributes.items())
        ]

    def one(self, tag: str, kind: str | None = None, **attributes: str) -> "Element":
        """Return the only one."""
        (found,) = self.all(tag, kind, **attributes)
        return found


class Tree(HTMLParser):
    """Builds elements, and refuses tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs))
        self.open[-1].inner.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].inner.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].inner.append(data)


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Element]:
    def parsed(html: str) -> Element:
        tree = Tree()
        tree.feed(html)
        tree.close()
        assert tree.open == [tree.root]
        return tree.root

    return parsed


SVG = '<svg viewBox="0 0 9 9"><defs><path id="m-1" d="M0 0h9"/></defs><use href="#m-1"/><text>x id="m"</text></svg>'


@pytest.fixture(autouse=True)
def drawn(monkeypatch) -> None:
    """Stand in for the drawings, which have tests of their own."""

    def exhibit(key: str, names: list[str]) -> Exhibit:
        rows = [[name, "0.5"] for name in names]
        return Exhibit(
            key, f"Title of {key}", "Fig. 1", "How to read it.", ("A <note>.",), (Drawing(SVG, 'a "drawing"'),),
            Table(["group", "int<4>"], rows),
        )  # fmt: skip

    def exhibits(audit, *, min_group_size):
        absent = Absent("Missing <one>", "Fig. 8", "curvature was not measured: --qfair-curvature")
        return (exhibit("accuracy", list(audit.groups)),), (absent,)

    monkeypatch.setattr(page, "exhibits", exhibits)
    monkeypatch.setattr(page, "front_exhibit", lambda names, audits, *, min_group_size: exhibit("front", list(names)))


@pytest.fixture(scope="session")
def judged() -> Callable[..., Reported]:
    def make(audit, *, name="a.json", min_group_size=30, insufficient="fail", **limits) -> Reported:
        """Return the audit judged by the gate's limits and these: `judged(audit, max_fvo="0.2")`."""
        verdicts = judge_audit(audit, gate_limits(limits), min_group_size=min_group_size)
        return Reported(name, audit, verdicts, insufficient, min_group_size)

    return make

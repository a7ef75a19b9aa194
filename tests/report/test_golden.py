"""A saved audit makes the same report as ever, but for the drawings, whose marks depend on matplotlib's version."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from qfair_check.cli import main

FOLDER = Path(__file__).with_name("golden")
UNSEEN = {"style", "script", "svg", "title"}
BLOCKS = {"p", "h1", "h2", "h3", "h4", "li", "tr", "caption", "pre", "summary", "dt", "section", "nav", "figure"}


class Text(HTMLParser):
    """The text of a page, one line for each block, cells apart by bars."""

    def __init__(self):
        super().__init__()
        self.lines = [""]
        self.unseen = 0

    def handle_starttag(self, tag, attrs):
        self.unseen += tag in UNSEEN
        if tag in BLOCKS:
            self.lines.append("")
        if tag in ("td", "th", "dd"):
            self.lines[-1] += " | "

    def handle_endtag(self, tag):
        self.unseen -= tag in UNSEEN

    def handle_data(self, data):
        if not self.unseen:
            self.lines[-1] += data

    @property
    def text(self):
        return "\n".join(filter(None, (" ".join(line.split()) for line in self.lines))) + "\n"


def page_text(path):
    parser = Text()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    return parser.text


@pytest.mark.parametrize(("form", "golden"), [("html", "report.txt"), ("markdown", "report.md")])
def test_the_report_is_as_it_was(form, golden, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    out = tmp_path / "report"
    assert main(["report", "audit.json", "--max-fvo", "0.2", "--format", form, "--out", str(out)]) == 0
    made = page_text(out) if form == "html" else out.read_text(encoding="utf-8")
    kept = tmp_path / golden
    kept.write_text(made, encoding="utf-8")
    expected = (FOLDER / golden).read_text(encoding="utf-8")
    assert made == expected, f"if it is meant to be so, copy {kept} to {FOLDER / golden}"


def test_an_audit_of_another_schema_version_says_what_to_do(tmp_path, capsys):
    text = (FOLDER / "audit.json").read_text(encoding="utf-8")
    path = tmp_path / "old.json"
    path.write_text(
        text.replace('"schema_version":3', '"schema_version":2').replace('"schema_version": 3', '"schema_version": 2')
    )
    assert main(["report", str(path), "--out", str(tmp_path / "report.html")]) == 4
    told = capsys.readouterr().err
    assert "schema version 2" in told
    assert "audit the model again" in told
    assert not (tmp_path / "report.html").exists()

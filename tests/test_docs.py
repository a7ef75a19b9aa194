import re
from pathlib import Path

import pytest

from qfair_check.cli import main
from qfair_check.option_table import PLUGIN_OPTIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\s*(?:\$ )?qfair (audit|gate|compare|layers|explain|demo)\b(.*)$", re.MULTILINE)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("option", PLUGIN_OPTIONS, ids=lambda option: option.name)
def test_every_option_and_its_ini_twin_are_in_the_table(option):
    rows = [line for line in read(ROOT / "docs" / "options.md").splitlines() if line.startswith("|")]
    assert [
        row for row in rows if re.match(rf"\| `--qfair-{option.name}[ `]", row) and f"| `qfair_{option.key}` |" in row
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_plugin_option_that_a_page_names_exists(page):
    known = {f"--qfair-{option.name}" for option in PLUGIN_OPTIONS}
    assert set(re.findall(r"--qfair-[a-z]+(?:-[a-z]+)*", read(page))) <= known


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_a_page_shows_knows_its_options(page, capsys):
    for command, rest in COMMAND.findall(read(page).replace("\\\n", " ")):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_resolves(page):
    for target in LINK.findall(FENCE.sub("", read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target

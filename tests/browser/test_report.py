"""The standalone page as a reader's browser shows it."""

import time

import pytest
from selenium.common.exceptions import WebDriverException

from qfair_check.cli import main
from qfair_check.record import Audit

HOSTILE = (
    "<script>alert(1)</script>",
    "</table>",
    '"><img src=x onerror=alert(1)>',
    "مجموعة عربية",
    "עברית",
    "日本語のグループ名",
    "한국어",
    "a|b `c` *d* $x^2$",
    "A" * 40,
    "plain",
)
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def report(hostile_audit, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "audit.html"
    assert main(["report", str(hostile_audit), "--max-fvo", "0.3", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def certain(made_up_audit, tmp_path_factory):
    """A page with a limit that the samples cannot tell."""
    folder = tmp_path_factory.mktemp("pages")
    made_up_audit(("White", "Black", "Others"), bits="8", curvature=False).save(folder / "audit.json")
    limits = ["--confidence", "0.95", "--max-fvo", "0.05", "--max-fvo-increase", "0.01"]
    assert main(["report", str(folder / "audit.json"), *limits, "--out", str(folder / "audit.html")]) == 0
    return folder / "audit.html"


@pytest.fixture(scope="module")
def short(made_up_audit, tmp_path_factory):
    """A page of every kind of section, which axe-core walks through in seconds."""
    folder = tmp_path_factory.mktemp("pages")
    made_up_audit(HOSTILE[:3], bits="4,2").save(folder / "short.json")
    assert main(["report", str(folder / "short.json"), "--out", str(folder / "short.html")]) == 0
    return folder / "short.html"


@pytest.fixture(scope="module")
def both(hostile_audit, made_up_audit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    made_up_audit(HOSTILE, seed=0, bits="4", curvature=False).save(folder / "other.json")
    path = folder / "both.html"
    assert main(["report", str(hostile_audit), str(folder / "other.json"), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def hostile_audit(made_up_audit, tmp_path_factory):
    path = tmp_path_factory.mktemp("audits") / "hostile.json"
    made_up_audit(HOSTILE).save(path)
    return path


@SCHEMES
def test_nothing_is_blocked_or_fails(page, report, both, scheme):
    for path in (report, both):
        assert page.open(path, scheme=scheme).complaints() == []


def test_the_verdict_is_seen_without_scrolling(page, report):
    banner = page.open(report).one("[data-verdict]")
    assert banner.is_displayed()
    assert "FAIL" in banner.text
    assert 0 <= banner.rect["y"] < banner.rect["y"] + banner.rect["height"] <= 800


def test_no_name_is_run(page, report, both, hostile_audit):
    for path in (report, both):
        page.open(path)
        assert page.all("img") == []
        assert len(page.all("script")) == 1
        shown = page.one("body").get_property("textContent")
        for name in Audit.load(hostile_audit).groups:
            assert name in shown


def test_a_click_sorts_the_groups(page, report, hostile_audit):
    groups = Audit.load(hostile_audit).groups
    page.open(report)
    rows = "table.accuracy tbody tr th"
    assert [cell.text for cell in page.all(rows)][: len(groups)] == list(groups)
    button = page.all("table.accuracy thead button")[1]  # n
    button.click()
    counts = [int(cell.text.replace(",", "")) for cell in page.all("table.accuracy tbody tr td:nth-of-type(1)")]
    assert counts in (sorted(counts), sorted(counts, reverse=True))
    before = counts
    page.all("table.accuracy thead button")[1].click()
    counts = [int(cell.text.replace(",", "")) for cell in page.all("table.accuracy tbody tr td:nth-of-type(1)")]
    assert counts == before[::-1]


def test_it_is_whole_without_script(page, report):
    page.open(report, script=False)
    ask = page.driver.execute_cdp_cmd

    def nodes(selector):
        root = ask("DOM.getDocument", {})["root"]["nodeId"]
        return ask("DOM.querySelectorAll", {"nodeId": root, "selector": selector})["nodeIds"]

    def is_there():
        try:
            return bool(nodes("footer"))
        except WebDriverException:  # the page before gave way in between
            return False

    waiting = time.monotonic() + 60
    while not is_there() and time.monotonic() < waiting:  # without scripts the driver does not wait for the page
        time.sleep(0.1)
    (verdict,) = nodes("[data-verdict]")
    assert ask("DOM.getBoxModel", {"nodeId": verdict})["model"]["height"] > 0
    assert len(nodes("svg")) >= 10
    assert nodes("table.accuracy thead button") == []


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_fits_the_window(page, report, both, width):
    for path in (report, both):
        page.open(path, width=width)
        assert page.run("return document.documentElement.scrollWidth") <= width


def test_the_limits_are_seen_whole_at_a_thousand_pixels(page, certain):
    page.open(certain, width=1000)
    over = "const box = document.querySelector('table.limits').parentElement; return box.scrollWidth - box.clientWidth"
    assert page.run(over) == 0


def test_no_line_ends_within_an_option(page, certain):
    for width in range(380, 480, 5):
        page.open(certain, width=width)
        assert {len(page.run("return arguments[0].getClientRects()", one)) for one in page.all(".steps .option")} == {1}


@SCHEMES
def test_it_is_accessible(page, short, scheme):
    assert page.open(short, scheme=scheme).violations() == []

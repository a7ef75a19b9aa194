"""The page of pytest-html on a gate and on tests, as a reader's browser shows it."""

import subprocess
import sys

import pytest

from qfair_check.record import Audit

HOSTILE = (
    "<script>window.hurt = 1</script>",
    "</table></div>",
    '"><img src=x onerror="window.hurt = 1">',
    "مجموعة عربية",
    "日本語のグループ名",
    "A" * 40,
)
TESTS = f"""
import pytest

@pytest.mark.parametrize("group", {HOSTILE[:3]!r})
def test_mine(qfair, group):
    print(group)
    qfair.assert_fvo_below(0.01)
    qfair.assert_lambda_max_ratio(1)
"""
LIMITS = ("--qfair-max-fvo=0.01", "--qfair-max-gradient-ratio=1.1", "--qfair-max-lambda-ratio=1.1")


@pytest.fixture(scope="module")
def audit(made_up_audit, tmp_path_factory):
    path = tmp_path_factory.mktemp("audits") / "hostile.json"
    made_up_audit(HOSTILE, bits="4,2").save(path)
    return path


@pytest.fixture(scope="module", params=[("--self-contained-html",), ()], ids=["one", "files"])
def report(audit, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("session")
    (folder / "test_it.py").write_text(TESTS, encoding="utf-8")
    ran = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."),
            *(f"--qfair-audit={audit}", "--html=page.html", *LIMITS, *request.param),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout
    return folder / "page.html"


@pytest.fixture
def opened(page, report):
    return page.open(report)


def test_nothing_is_blocked_or_fails(opened):
    assert opened.complaints() == []  # pytest-html has none of its own either


def test_no_name_is_run(opened, audit):
    opened.one("#show_all_details").click()
    assert opened.run("return window.hurt") is None
    assert len(opened.all("script")) == 1  # of pytest-html
    rows = len(opened.all(".results-table-row"))
    images = opened.all("img, video, iframe, object")
    assert len(images) == 2 * rows  # of pytest-html too: an empty viewer of media in each row
    assert not any(image.is_displayed() for image in images)
    assert opened.complaints() == []
    shown = opened.one("body").get_property("textContent")
    for name in Audit.load(audit).groups:
        assert name in shown


def test_every_row_has_its_tables_and_figures(opened):
    opened.one("#show_all_details").click()
    rows = opened.all(".results-table-row")
    assert len(rows) == 18
    for row in rows:
        assert row.find_element("css selector", ".qfair caption").is_displayed()
        figures = row.find_elements("css selector", ".qfair-exhibit svg")
        assert figures
        assert all(figure.is_displayed() for figure in figures)
        assert row.find_element("css selector", ".qfair tbody th bdi").is_displayed()


def test_the_numbers_of_a_figure_can_be_opened(opened):
    opened.one("#show_all_details").click()
    details = opened.one(".qfair-exhibit details")
    table = details.find_element("css selector", "table")
    assert not table.is_displayed()
    details.find_element("css selector", "summary").click()
    assert table.is_displayed()
    assert len(table.find_elements("css selector", "tbody tr")) >= len(HOSTILE)


def test_a_row_folds_with_its_figures(opened):
    row = opened.one(".results-table-row")
    figure = row.find_element("css selector", ".qfair-exhibit svg")
    assert figure.is_displayed()
    row.find_element("css selector", ".col-testId").click()
    assert opened.all(".results-table-row .qfair-exhibit svg")[0].is_displayed() is False


def test_the_overview_and_the_provenance_are_there(opened, audit):
    banner = opened.one(".qfair-banner")
    assert "FAIL" in banner.text
    assert opened.one(".summary.additional-summary .qfair table").is_displayed()
    assert Audit.load(audit).data.sha256 in opened.one("#environment").text


def test_what_is_ours_is_accessible(opened):
    opened.one("#show_all_details").click()
    opened.run("document.querySelectorAll('.qfair details').forEach(each => each.open = true)")
    assert opened.violations({"include": [[".qfair"]]}) == []


def test_the_limits_are_seen_whole_at_a_thousand_pixels_and_no_word_is_torn(page, report):
    page.open(report, width=1000)
    box = "document.querySelector('.qfair-scroll[aria-label^=Limits]')"
    assert page.run(f"return {box}.scrollWidth - {box}.clientWidth") <= 0
    assert page.run(f"return {box}.querySelector('tbody th').clientWidth") > 90

"""pytest --qfair-confidence, and the command that judges alike."""

from xml.etree import ElementTree

import pytest

from qfair_check.cli import main

AUDIT = "--qfair-audit=few.json"


@pytest.fixture
def few(pytester, make_audit):
    made = make_audit({"A": 60, "B": 50}, fp32={"A": 54, "B": 45}, int4={"A": 53, "B": 44}, int2={"A": 53, "B": 5})
    made.save(pytester.path / "few.json")


def test_what_passes_by_its_value_may_not_be_certain(pytester, few):
    pytester.runpytest(AUDIT, "--bits=4").assert_outcomes(passed=3)
    result = pytester.runpytest(AUDIT, "--bits=4", "--qfair-confidence=0.95")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "qfair limits: *; rates at 95% confidence",
            "worst group's accuracy drop at int4 cannot be judged against the limit 0.05",
            "  because  worst group's accuracy drop at int4 is 0.020 on these samples, and from * at 95% confidence; *",
        ]
    )
    pytester.runpytest(AUDIT, "--bits=4", "--qfair-confidence=0.95", "--qfair-insufficient=pass").assert_outcomes(
        passed=3
    )
    pytester.runpytest(AUDIT, "--bits=4", "--qfair-confidence=0.95", "-n1").assert_outcomes(failed=3)


@pytest.mark.parametrize("confidence", ["0.5", "0.8", "0.95", "0.999"])
def test_the_command_line_tool_judges_alike(pytester, few, capsys, confidence):
    code = main(["gate", "few.json", "--confidence", confidence, "--insufficient", "pass"])
    told = capsys.readouterr().out
    result = pytester.runpytest(AUDIT, f"--qfair-confidence={confidence}", "--qfair-insufficient=pass")
    assert result.ret == code == 1
    assert result.parseoutcomes()["failed"] == sum(line.startswith("FAIL  ") for line in told.splitlines())


def test_the_fixture_and_the_ini_file_know_it(pytester, few):
    pytester.makeini("[pytest]\nqfair_confidence = 0.95\nqfair_audit = few.json")
    pytester.makepyfile("def test_own(qfair): qfair.assert_group_drop_below(0.05)")
    result = pytester.runpytest("--bits=4", "-k", "own")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*at 95% confidence*"])


def test_a_marker_may_say_it(pytester, few):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.qfair(confidence=0.95, max_group_drop=0.05)
        def test_own(qfair):
            qfair.check()
    """)
    pytester.runpytest(AUDIT, "--bits=4", "-k", "own").assert_outcomes(failed=1)


def test_junit_holds_the_bounds(pytester, few):
    pytester.runpytest(AUDIT, "--bits=2", "--qfair-confidence=0.95", "--junitxml=junit.xml")
    case = next(ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testcase"))
    told = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert told["qfair_confidence"] == "0.95"
    assert float(told["qfair_low"]) < float(told["qfair_measured"]) < float(told["qfair_high"])
    assert "qfair_samples_to_settle" not in told
    pytester.runpytest(AUDIT, "--bits=4", "--qfair-confidence=0.95", "--junitxml=junit.xml")
    case = next(ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testcase"))
    told = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert int(told["qfair_samples_to_settle"]) > 60


def test_the_report_shows_the_bounds(pytester, few):
    assert main(["report", "few.json", "--confidence", "0.95", "--out", "few.html"]) == 0
    page = (pytester.path / "few.html").read_text(encoding="utf-8")
    assert "0.020<br><small>[" in page
    assert "at 95% confidence" in page


def test_the_summary_and_the_page_of_pytest_html_show_the_bounds_too(pytester, few):
    files = ("--qfair-summary=few.md", "--html=tests.html", "--self-contained-html")
    pytester.runpytest(AUDIT, "--bits=4", "--qfair-confidence=0.95", *files)
    assert "| 0.020<br><sub>[" in (pytester.path / "few.md").read_text(encoding="utf-8")
    assert "0.020<br><small>[" in (pytester.path / "tests.html").read_text(encoding="utf-8")


def test_nonsense_ends_the_run(pytester, few):
    result = pytester.runpytest(AUDIT, "--qfair-confidence=95")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: confidence is '95': it is a number from 0.5 to 0.999999, such as 0.95"])

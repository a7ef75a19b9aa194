import pytest

import qfair_check.gate
from qfair_check.summary_file import STEP_SUMMARY


@pytest.fixture(autouse=True)
def outside_github(monkeypatch):
    monkeypatch.delenv(STEP_SUMMARY, raising=False)


@pytest.fixture
def step(pytester, monkeypatch):
    """The file that GitHub Actions shows for the step, in which another tool has written."""
    path = pytester.path / "step" / "summary.md"
    path.parent.mkdir()
    path.write_text("# Other\n")
    monkeypatch.setenv(STEP_SUMMARY, str(path))
    return path


def test_it_is_written_when_the_gate_fails(pytester, saved):
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=s.md")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["summary written to s.md"])
    told = (pytester.path / "s.md").read_text(encoding="utf-8")
    assert told.startswith("## ❌ FAIL: ")
    assert "| worst group's accuracy drop | int4 | 0.150 | ≤ 0.05 |" in told


def test_it_replaces_an_older_one(pytester, saved):
    (pytester.path / "s.md").write_text("old")
    pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=s.md", "--qfair-bits=8")
    assert (pytester.path / "s.md").read_text(encoding="utf-8").startswith("## ✅ PASS: ")
    assert sorted(path.name for path in pytester.path.glob("*.md")) == ["s.md"]


def test_a_measured_gate_writes_it(pytester, gate):
    gate("--bits=8,2", "--qfair-summary=s.md").assert_outcomes(passed=3, failed=3)
    assert "tiny.safetensors" in (pytester.path / "s.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["github", "step/summary.md", "step/../step/summary.md"])
def test_what_github_shows_is_appended_to(pytester, saved, step, where):
    for _ in range(2):
        pytester.runpytest("--qfair-audit=audit.json", f"--qfair-summary={where}")
    told = step.read_text(encoding="utf-8")
    assert told.startswith("# Other\n\n## ❌ FAIL: ")
    assert told.count("\n\n## ❌ FAIL: ") == 2


def test_another_file_is_replaced_in_github_too(pytester, saved, step):
    (pytester.path / "s.md").write_text("# Older")
    pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=s.md")
    assert "# Older" not in (pytester.path / "s.md").read_text(encoding="utf-8")
    assert step.read_text() == "# Other\n"


def test_outside_github_the_run_goes_on_and_says_so(pytester, saved):
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=github", "--qfair-bits=8")
    assert result.ret == 0
    lines = [line for line in result.outlines if "summary" in line]
    assert lines == ["qfair: no summary was written: GITHUB_STEP_SUMMARY is not set, as it is in GitHub Actions"]
    assert not (pytester.path / "github").exists()


def test_the_ini_file_names_it_beside_itself(pytester, saved):
    pytester.makeini("[pytest]\nqfair_audit = audit.json\nqfair_summary = s.md")
    inner = pytester.mkdir("inner")
    pytester.chdir()
    result = pytester.runpytest(f"--rootdir={pytester.path}", "-c", "tox.ini", str(inner))
    assert result.ret == 1
    assert (pytester.path / "s.md").exists()


def test_the_ini_file_may_say_github(pytester, saved, step):
    pytester.makeini("[pytest]\nqfair_audit = audit.json\nqfair_summary = github")
    pytester.runpytest()
    assert "FAIL" in step.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("nowhere/s.md", "--qfair-summary nowhere/s.md: there is no folder */nowhere"),
        (".", "--qfair-summary .: * is a folder, name a file in it"),
    ],
)
def test_where_it_cannot_go_is_known_before_anything_is_measured(gate, where, told):
    result = gate("--bits=8", f"--qfair-summary={where}", "--qfair-json=a.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert "a.json" not in result.stdout.str()


@pytest.mark.parametrize("key", ["audit", "json"])
def test_it_takes_no_place_of_another_file(pytester, saved, key):
    before = (pytester.path / "audit.json").read_bytes()
    options = ["--qfair-audit=audit.json"] if key == "audit" else ["--qfair-model=demo", "--qfair-json=audit.json"]
    result = pytester.runpytest(*options, "--qfair-summary=audit.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: --qfair-summary audit.json is the file of --qfair-{key}: name another"])
    assert (pytester.path / "audit.json").read_bytes() == before


def test_a_link_to_another_file_takes_no_place_of_it(pytester, saved):
    before = (pytester.path / "audit.json").read_bytes()
    (pytester.path / "link.md").symlink_to("audit.json")
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=link.md")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-summary link.md is the file of --qfair-audit: name another"])
    assert (pytester.path / "audit.json").read_bytes() == before


def test_a_lost_step_summary_is_a_usage_error(pytester, saved, monkeypatch):
    monkeypatch.setenv(STEP_SUMMARY, "nowhere/s.md")
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=github")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-summary github: there is no folder */nowhere"])


def test_what_fails_at_the_end_is_told_and_stops_the_release(pytester, saved):
    pytester.makepyfile("def test_it():\n    import os; os.mkdir('s.md')")
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-bits=8", "--qfair-summary=s.md")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["cannot write the summary s.md: *"])


def test_workers_do_not_write_it(pytester, saved, step):
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=github", "-n2")
    assert result.ret == 1
    assert step.read_text(encoding="utf-8").count("FAIL") == 1


def test_what_was_not_judged_has_none(pytester, saved):
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=s.md", "-k", "plain")
    result.stdout.fnmatch_lines(["qfair: no summary was written: nothing was judged"])
    assert not (pytester.path / "s.md").exists()


def test_a_collection_alone_writes_none(pytester, saved):
    result = pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=s.md", "--collect-only")
    assert "summary" not in result.stdout.str()


def test_each_limit_is_judged_once_for_items_table_page_and_summary(pytester, saved, monkeypatch):
    judged = []
    judge = qfair_check.gate.judge_one

    def counted(audit, check, limit, precision, **options):
        judged.append((check.name, precision))
        return judge(audit, check, limit, precision, **options)

    monkeypatch.setattr(qfair_check.gate, "judge_one", counted)
    pytester.runpytest("--qfair-audit=audit.json", "--qfair-summary=s.md", "--html=page.html")
    assert len(judged) == len(set(judged)) == 6

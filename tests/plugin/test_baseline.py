"""pytest --qfair-baseline, step by step, and the command that judges alike."""

import json
import re

import pytest

from qfair_check.cli import main
from qfair_check.record import Audit

SIZES = {"A": 500, "B": 400}
LOOSE = ("--qfair-max-group-drop=1", "--qfair-max-fvo-increase=1", "--qfair-max-accuracy-drop=1")
AUDIT, BASE = "--qfair-audit=audit.json", "--qfair-baseline=base.json"
FAILURE = """\
regression from the baseline at int4 is 0.080, above the limit 0.010
  B        n=400  accuracy 0.800 → 0.720  32 lost, 0 gained
  overall  n=900  accuracy 0.856 → 0.820  32 lost, 0 gained
  FVO 0.100 → 0.180
  lost: samples that were right and are wrong now; gained: the other way round
  the model is the same"""


@pytest.fixture
def save(pytester, make_audit):
    def save(b=320):
        make_audit(SIZES, fp32=SIZES, int4={"A": 450, "B": b}).save(pytester.path / "audit.json")

    return save


@pytest.fixture
def gate(pytester, save):
    def gate(*arguments, b=320):
        save(b)
        return pytester.runpytest(AUDIT, BASE, *LOOSE, *arguments)

    return gate


@pytest.mark.parametrize("spread", [(), ("-n2",)], ids=["one process", "two workers"])
def test_missing_pass_changed_update_pass(gate, pytester, spread):
    base = pytester.path / "base.json"
    first = gate(*spread)
    first.assert_outcomes(passed=3, failed=1)
    first.stdout.fnmatch_lines(
        [
            "regression from the baseline at int4 cannot be judged against the limit 0.01",
            "  because  there was no baseline to compare with",
            "  cure     look at the baseline that was written, commit it, and run again",
            "there was no baseline *base.json: it is written now; look at it, and commit it",
        ]
    )
    written = base.read_text()
    gate(*spread).assert_outcomes(passed=4)
    changed = gate(*spread, b=288)
    changed.assert_outcomes(passed=3, failed=1)
    assert FAILURE in changed.stdout.str()
    assert base.read_text() == written
    updated = gate(*spread, "--qfair-update-baseline", b=288)
    updated.assert_outcomes(passed=4)
    updated.stdout.fnmatch_lines(
        [
            "the baseline *base.json is updated:",
            "  int4 absmax/symmetric/per-tensor: accuracy 0.8556 → 0.8200",
            "    B  n=400  accuracy 0.8000 → 0.7200",
        ]
    )
    assert gate(*spread, b=288).ret == 0
    assert len(list(pytester.path.glob("base.*.outcomes.npy"))) == 1


def test_the_insufficient_option_does_not_let_a_missing_baseline_pass(gate):
    gate("--qfair-insufficient=pass").assert_outcomes(passed=3, failed=1)


def test_a_rise_passes_and_a_tie_with_the_limit_too(gate):
    gate()
    gate(b=340).assert_outcomes(passed=4)
    gate("--qfair-max-regression=0.08", b=288).assert_outcomes(passed=4)
    gate("--qfair-max-regression=0.08", b=287).assert_outcomes(passed=3, failed=1)
    gate("--qfair-max-regression=0,int4=0.08", b=288).assert_outcomes(passed=4)


def test_new_only_adds_and_changes_nothing(gate, pytester, make_audit):
    gate()
    before = json.loads((pytester.path / "base.json").read_text())["entries"]
    counts = {"A": 450, "B": 288}
    make_audit(SIZES, fp32=SIZES, int4=counts, int2=counts).save(pytester.path / "audit.json")
    result = pytester.runpytest(AUDIT, BASE, *LOOSE)
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(["  because  the baseline holds no int2 absmax/*: it holds int4 absmax/*"])
    result = pytester.runpytest(AUDIT, BASE, *LOOSE, "--qfair-update-baseline=new-only")
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["the baseline *base.json is updated:", "  int2 absmax/symmetric/per-tensor: new"])
    after = json.loads((pytester.path / "base.json").read_text())["entries"]
    assert [entry["precision"] for entry in after] == ["int2", "int4"]
    assert after[1] == before[0]


def test_a_precision_that_is_not_audited_is_told(gate, pytester, make_audit):
    counts = {"A": 450, "B": 320}
    make_audit(SIZES, fp32=SIZES, int8=counts, int4=counts).save(pytester.path / "audit.json")
    pytester.runpytest(AUDIT, BASE, *LOOSE)
    result = gate()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["the baseline *base.json also holds int8, not compared in this run"])


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"A": 500, "B": 400, "C": 100}, "group C is not in the baseline"),
        ({"A": 500}, "group B of the baseline is gone"),
    ],
)
def test_a_vanished_or_new_group_fails(gate, save, pytester, make_audit, sizes, told):
    gate()
    counts = {group: size - 20 for group, size in sizes.items()}
    make_audit(sizes, fp32=sizes, int4=counts).save(pytester.path / "audit.json")
    result = pytester.runpytest(AUDIT, BASE, *LOOSE, "-k", "regression")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"  because  {told}", "  cure     --qfair-update-baseline, if other groups are meant"])


def test_other_data_is_refused_and_may_replace_it(gate, pytester):
    gate()
    text = (pytester.path / "base.json").read_text()
    (pytester.path / "base.json").write_text(text.replace("d" * 64, "e" * 64))
    result = gate()
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: the baseline is of other data (eeeeeeeeeeee) than this audit (dddddddddddd): name that of these *"]
    )
    assert gate("--qfair-update-baseline=new-only").ret == 4
    assert gate("--qfair-update-baseline").ret == 0
    assert gate().ret == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda text: text.replace('"qfair_baseline": 1', '"qfair_baseline": 2'),
            "is a baseline of schema 2, and this *",
        ),
        (lambda text: text[:-20], "is no baseline that qfair_check wrote, or is damaged (*"),
        (lambda text: "{}", "is no baseline that qfair_check wrote, or is damaged (*"),
        (lambda text: "[" * 10**6, "is no baseline that qfair_check wrote, or is damaged (*"),
        (
            lambda text: text.replace('"correct": 320', '"correct": 319'),
            "contradicts itself (the accuracy of B at int4 *",
        ),
        (lambda text: text.replace("int4", "int99"), "contradicts itself (there is no precision 'int99'): *"),
    ],
)
def test_a_damaged_baseline_is_refused(gate, pytester, change, told):
    gate()
    base = pytester.path / "base.json"
    base.write_text(change(base.read_text()))
    result = gate()
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: *base.json {told}"])
    assert gate("--qfair-update-baseline").ret == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--qfair-max-regression=0.1"], "--qfair-max-regression would do nothing: add --qfair-baseline FILE"),
        (["--qfair-update-baseline"], "--qfair-update-baseline would do nothing: add --qfair-baseline FILE"),
        ([BASE, "--qfair-max-regression=2"], "max_regression is '2': a limit is a number from 0 to 1"),
        ([BASE, "--qfair-max-regression=int2=0.1"], "max_regression sets a limit for int2, which is not audited: *"),
        (["--qfair-baseline=no/base.json"], "--qfair-baseline no/base.json: there is no folder *no"),
        (["--qfair-baseline=."], "--qfair-baseline . is a folder: name a file in it"),
    ],
)
def test_what_makes_no_sense_ends_the_run(pytester, save, arguments, told):
    save()
    result = pytester.runpytest(AUDIT, *arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert not (pytester.path / "base.json").exists()


def test_an_ini_file_that_would_let_every_run_pass_is_refused(pytester, save):
    save()
    pytester.makeini("[pytest]\nqfair_update_baseline = all")
    result = pytester.runpytest(AUDIT, BASE)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: qfair_update_baseline in the ini file would let every run pass against *"])
    assert not (pytester.path / "base.json").exists()


def test_a_word_after_the_bare_option_is_no_way_to_update(pytester, save):
    save()
    result = pytester.runpytest(AUDIT, BASE, "--qfair-update-baseline", "tests")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*argument --qfair-update-baseline: invalid choice: 'tests' *"])


@pytest.mark.parametrize(
    ("select", "code"),
    [
        (("--collect-only",), 0),
        (("--setup-only",), 0),
        (("-k", "group-drop"), 0),
        (("-n2", "-k", "group-drop"), 0),
        (("--deselect", "qfair::regression[int4]"), 0),
        (("-n2", "--deselect", "qfair::regression[int4]"), 0),
        (("-x", "--qfair-max-fvo=0"), 1),
        (("test_broken.py",), 2),
    ],
)
@pytest.mark.parametrize("update", [(), ("--qfair-update-baseline",)], ids=["missing", "update"])
def test_nothing_is_written_where_nothing_is_compared(gate, pytester, select, code, update):
    if code == 2:
        pytester.makepyfile(test_broken="import nothing_of_this_name")
    result = gate(*select, *update)
    assert result.ret == code
    assert not (pytester.path / "base.json").exists()
    assert "base.json: it is written" not in result.stdout.str()
    assert "base.json is updated" not in result.stdout.str()


def test_where_it_cannot_be_written_the_verdicts_are_told_all_the_same(gate, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qfair_check.baseline_file.replace_file", full)
    result = gate("--qfair-update-baseline")
    assert result.ret == 4
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["cannot write the baseline *base.json: No space left on device"])


def test_the_header_tells_the_limit(gate):
    result = gate("--qfair-max-regression=0.02,int4=0.05")
    result.stdout.fnmatch_lines(["qfair limits: *, regression from the baseline <= 0.02, int4=0.05"])


def test_its_item_can_be_selected(gate, pytester):
    gate()
    gate("qfair::regression[int4]").assert_outcomes(passed=1)
    result = gate("--collect-only", "-q")
    assert "qfair::regression[int4]" in result.outlines


@pytest.mark.parametrize("b", [320, 288])
def test_the_command_line_tool_judges_alike(gate, pytester, capsys, b):
    gate()
    code = gate(b=b).ret
    capsys.readouterr()
    loose = ("--max-group-drop", "1", "--max-fvo-increase", "1", "--max-accuracy-drop", "1")
    assert main(["gate", "audit.json", *loose, "--baseline", "base.json"]) == code
    told = capsys.readouterr().out
    assert ("FAIL  regression" in told) == (code == 1)
    assert main(["gate", "audit.json", *loose, "--baseline", "base.json", "--update-baseline"]) == 0
    assert main(["gate", "audit.json", *loose, "--baseline", "new.json"]) == 1
    assert main(["gate", "audit.json", "--update-baseline"]) == 4


def test_a_measured_model_is_compared_too(pytester):
    measured = ("--qfair-model=demo", "--bits=8", "--qfair-baseline=base.json")
    pytester.runpytest(*measured).assert_outcomes(passed=3, failed=1)
    pytester.runpytest(*measured).assert_outcomes(passed=4)
    pytester.runpytest(*measured, "-n2").assert_outcomes(passed=4)
    pytester.makeini("[pytest]\nqfair_baseline = base.json\nqfair_max_regression = 0")
    pytester.runpytest("--qfair-model=demo", "--bits=8").assert_outcomes(passed=4)


def test_a_failed_regression_is_in_the_report_and_in_junit(gate, pytester):
    gate()
    result = gate("--html=report.html", "--junitxml=junit.xml", b=288)
    assert result.ret == 1
    assert "regression from the baseline" in (pytester.path / "report.html").read_text(encoding="utf-8")
    assert 'name="qfair_check" value="regression"' in (pytester.path / "junit.xml").read_text(encoding="utf-8")


def test_summaries_blame_the_baseline_and_not_fp32(gate, pytester):
    def summary(**given):
        gate("--qfair-summary=s.md", "--html=report.html", **given)
        return (pytester.path / "s.md").read_text(encoding="utf-8")

    assert (
        "Regression from the baseline at int4 cannot be judged against the limit 0.01: there was no baseline to "
        "compare with." in summary()
    )
    told = summary(b=288)
    assert "Regression from the baseline at int4 is 0.080, above the limit 0.010." in told
    assert "falls by" not in told
    page = (pytester.path / "report.html").read_text(encoding="utf-8")
    assert "0.800 in the baseline → 0.720 [0.674, 0.762]" in page
    assert page.count("1.000 → 0.720") == 2  # of the limits on what was lost from fp32


def test_names_of_groups_cannot_command_a_terminal(pytester, make_audit):
    sizes = {"A": 500, "\x1b[31mB": 400}
    for b in (320, 288):
        counts = {"A": 450, "\x1b[31mB": b}
        make_audit(sizes, fp32=sizes, int4=counts).save(pytester.path / "audit.json")
        result = pytester.runpytest(AUDIT, BASE, *LOOSE)
    assert result.ret == 1
    assert re.search(r"\\x1b\[31mB", result.stdout.str())
    assert "\x1b[31mB" not in result.stdout.str()


def test_without_outcomes_it_is_compared_by_counts(gate, pytester):
    gate()
    for side in pytester.path.glob("*.outcomes.npy"):
        side.unlink()
    assert not Audit.load(pytester.path / "audit.json").outcomes
    assert pytester.runpytest(AUDIT, BASE, *LOOSE).ret == 0
    result = pytester.runpytest(AUDIT, BASE, *LOOSE, "--qfair-max-regression=0", "--qfair-max-fvo=0")
    assert result.ret == 1


def test_names_in_a_refused_baseline_cannot_command_a_terminal(pytester, make_audit):
    sizes = {"A": 500, "\x1b[31mB": 400}
    make_audit(sizes, fp32=sizes, int4=sizes).save(pytester.path / "audit.json")
    pytester.runpytest(AUDIT, BASE, *LOOSE)
    text = (pytester.path / "base.json").read_text()
    (pytester.path / "base.json").write_text(
        text.replace('"correct": 400, "samples": 400', '"correct": 399, "samples": 399')
    )
    result = pytester.runpytest(AUDIT, BASE, *LOOSE)
    assert result.ret == 4
    assert r"it has 399 samples of group \x1b[31mB" in result.stderr.str()


@pytest.mark.parametrize("key", ["audit", "json", "summary", "model", "data", "reference"])
def test_a_baseline_takes_no_place_of_another_file(pytester, save, key):
    save()
    before = (pytester.path / "audit.json").read_bytes()
    (pytester.path / "link").symlink_to("audit.json")
    subject = [] if key == "audit" else ["--qfair-model=demo"] if key != "model" else ["--qfair-data=demo"]
    subject += ["--bits=asis"] if key == "reference" else []
    result = pytester.runpytest(
        *subject, f"--qfair-{key}=link", "--qfair-baseline=audit.json", "--qfair-update-baseline"
    )
    assert result.ret == 4
    one, other = ("summary", "baseline") if key == "summary" else ("baseline", key)
    result.stderr.fnmatch_lines([f"ERROR: --qfair-{one} * is the file of --qfair-{other}: name another"])
    assert (pytester.path / "audit.json").read_bytes() == before


def test_an_audit_takes_no_place_of_the_model(pytester, save, capsys):
    save()
    result = pytester.runpytest("--qfair-model=audit.json", "--qfair-data=demo", "--qfair-json=./audit.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-json ./audit.json is the file of --qfair-model: name another"])
    assert main(["audit", "demo", "--data", "audit.json", "--out", "./audit.json"]) == 4
    assert main(["gate", "audit.json", "--baseline", "audit.json", "--update-baseline"]) == 4
    told = capsys.readouterr().err
    assert "--out ./audit.json is the file of the data: name another" in told
    assert "--baseline audit.json is the file of the audit: name another" in told
    Audit.load(pytester.path / "audit.json")


def test_an_audit_that_the_ini_file_would_write_may_be_read(pytester, save):
    save()
    pytester.makeini("[pytest]\nqfair_json = audit.json")
    assert pytester.runpytest(AUDIT, *LOOSE).ret == 0

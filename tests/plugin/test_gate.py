import xml.etree.ElementTree as ET

import pytest

from qfair_check.record import Audit

INT2 = """\
FVO increase at int2 is 0.750, above the limit 0.050 (fp32: 0.000, int2: 0.750)
  worst  B  n=40   accuracy 1.000 → 0.250  [0.142, 0.402]
  best   A  n=40   accuracy 1.000 → 1.000  [0.912, 1.000]"""


def ids(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("qfair::")]


def test_every_limit_holds(gate):
    result = gate("--bits", "8,4")
    result.assert_outcomes(passed=6)
    assert result.ret == 0


def test_a_broken_limit_fails_the_run_and_says_who_is_hurt(gate):
    result = gate("--bits", "8,2")
    result.assert_outcomes(passed=3, failed=3)
    assert result.ret == 1
    assert INT2 in result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "FAILED qfair::fvo-increase[[]int2] - FVO increase at int2 is 0.750, above *",
            "FAILED qfair::group-drop[[]int2] - accuracy drop of B at int2 is 0.750, ab*",
            "FAILED qfair::accuracy-drop[[]int2] - overall accuracy drop at int2 is 0.3*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_header_says_what_is_gated_against_which_limits(gate):
    gate("--bits=4", "--qfair-max-fvo=0.3").stdout.fnmatch_lines(
        [
            "qfair: model tiny.safetensors, data tiny.npz, at int4, absmax/symmetric/per-tensor",
            "qfair limits: FVO <= 0.3, FVO increase <= 0.05, worst group's accuracy drop <= 0.05, "
            "overall accuracy drop <= 0.02",
        ]
    )


def test_the_table_shows_groups_and_precisions(gate):
    table = gate("--bits", "8,2").stdout.str().partition(" qfair audit ===")[2]
    assert (
        """
group     n  fp32   int8          int2
A        40  1.000  1.000 +0.000  1.000 +0.000
B        40  1.000  1.000 +0.000  0.250 -0.750 *
overall  80  1.000  1.000 +0.000  0.625 -0.375
FVO          0.000  0.000 +0.000  0.750 +0.750
gate         -      pass          FAIL
"""
        in table
    )


def test_items_stand_beside_the_tests_of_the_user(gate, pytester):
    pytester.makepyfile("def test_mine(): pass")
    result = gate("--bits=2", "-v")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["*collected 4 items", "*::test_mine PASSED*", "qfair::fvo-increase[[]int2] FAILED*"])


def test_collect_only_lists_the_items_and_measures_nothing(gate, pytester):
    result = gate("--bits=8,4", "--collect-only", "-q", "--qfair-json=audit.json")
    assert ids(result) == [
        "qfair::fvo-increase[int8]",
        "qfair::group-drop[int8]",
        "qfair::accuracy-drop[int8]",
        "qfair::fvo-increase[int4]",
        "qfair::group-drop[int4]",
        "qfair::accuracy-drop[int4]",
    ]
    assert not (pytester.path / "audit.json").exists()


@pytest.mark.parametrize(
    ("arguments", "outcomes"),
    [
        (("-k", "int8"), {"passed": 3, "deselected": 4}),
        (("-k", "group-drop"), {"passed": 1, "failed": 1, "deselected": 5}),
        (("-m", "qfair"), {"passed": 3, "failed": 3, "deselected": 1}),
        (("-m", "not qfair"), {"passed": 1, "deselected": 6}),
        (("--deselect", "qfair::group-drop[int2]"), {"passed": 4, "failed": 2, "deselected": 1}),
        (("--deselect", "qfair"), {"passed": 1, "deselected": 6}),
        (("-x",), {"passed": 4, "failed": 1}),
        (("--maxfail=2",), {"passed": 4, "failed": 2}),
        (("-n", "2"), {"passed": 4, "failed": 3}),
        (("-p", "no:cacheprovider", "-W", "error"), {"passed": 4, "failed": 3}),
        (("-p", "no:terminal"), None),
        (("-s",), {"passed": 4, "failed": 3}),
        (("-p", "no:capture"), {"passed": 4, "failed": 3}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_pytests_own_options_select_and_run_the_items(gate, pytester, arguments, outcomes):
    pytester.makepyfile("def test_mine(): pass")
    result = gate("--bits=8,2", *arguments)
    if outcomes is not None:
        result.assert_outcomes(**outcomes)
    assert result.ret == (1 if outcomes is None or "failed" in outcomes else 0)
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_nothing_is_measured_when_every_item_is_deselected(gate, pytester):
    pytester.makepyfile("def test_mine(): pass")
    gate("--bits=8", "-m", "not qfair", "--qfair-json=audit.json").assert_outcomes(passed=1, deselected=3)
    assert not (pytester.path / "audit.json").exists()


def test_last_failed_runs_the_failed_items_again(gate):
    gate("--bits=8,2").assert_outcomes(passed=3, failed=3)
    gate("--bits=8,2", "--lf").assert_outcomes(failed=3, deselected=3)


def test_a_mended_gate_leaves_nothing_failed(gate):
    gate("--bits=8,2").assert_outcomes(passed=3, failed=3)
    loose = ("--qfair-max-fvo-increase=1", "--qfair-max-group-drop=1", "--qfair-max-accuracy-drop=1")
    gate("--bits=8,2", "--lf", *loose).assert_outcomes(passed=3, deselected=3)
    gate("--bits=8,2", "--lf", *loose).assert_outcomes(passed=6)


@pytest.mark.parametrize("prefix", ["", "../../"])
def test_a_pasted_id_selects_its_item(gate, pytester, prefix):
    pytester.mkdir("qfair")
    result = gate("--bits=8,2", f"{prefix}qfair::group-drop[int2]")
    result.assert_outcomes(failed=1)


@pytest.mark.parametrize("arguments", [(), ("-n2",)])
def test_a_pasted_id_that_is_not_there_is_a_usage_error_that_lists_those_that_are(gate, arguments):
    result = gate("--bits=8", "qfair::group-drop[int2]", *arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        [
            "ERROR: not found: qfair::group-drop[[]int2]",
            "(the gate has qfair::fvo-increase[[]int8], qfair::group-drop[[]int8], qfair::accuracy-drop[[]int8]; "
            "-k selects too)",
        ]
    )


def test_the_audit_is_written_where_asked(gate, pytester):
    gate("--bits=4,2", "--qfair-json=out.json").stdout.fnmatch_lines(["audit written to out.json"])
    audit = Audit.load(pytester.path / "out.json")
    assert [result.precision for result in audit.precisions] == ["fp32", "int4", "int2"]
    assert audit.at("int2").fvo == 0.75
    assert audit.right("int2").sum() == 50
    assert audit.run.command[0] == "pytest"


def test_workers_share_one_audit(gate, pytester):
    pytester.makeconftest(
        """
        import pathlib

        import qfair_check.measure.run as run

        measured = run.audit

        def counted(*args, **kwargs):
            with pathlib.Path("measured.txt").open("a") as file:
                file.write("once\\n")
            return measured(*args, **kwargs)

        def pytest_configure():
            run.audit = counted

        def pytest_unconfigure():
            run.audit = measured
        """
    )
    pytester.makepyfile("def test_a(qfair): qfair.check()\ndef test_b(qfair_audit): assert qfair_audit.at(8)")
    gate("--bits=8", "-n", "2").assert_outcomes(passed=5)
    assert (pytester.path / "measured.txt").read_text() == "once\n"


def test_junit_holds_the_measured_values(gate, pytester):
    gate("--bits=2", "--junitxml=junit.xml")
    cases = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    found = {
        case.get("name"): {item.get("name"): item.get("value") for item in case.iter("property")} for case in cases
    }
    assert found["group-drop[int2]"] == {
        "qfair_check": "group-drop",
        "qfair_precision": "int2",
        "qfair_limit": "0.05",
        "qfair_measured": "0.75",
        "qfair_outcome": "fail",
    }


def test_junit_properties_can_be_left_out(gate, pytester):
    gate("--bits=2", "--junitxml=junit.xml", "--qfair-junit-properties=off")
    assert "qfair_outcome" not in (pytester.path / "junit.xml").read_text()


def test_limits_may_differ_by_precision(gate):
    limits = ("--qfair-max-fvo-increase=0,int2=0.75", "--qfair-max-group-drop=int2=0.75")
    gate("--bits=4,2", *limits, "--qfair-max-accuracy-drop=0.02,int2=0.375").assert_outcomes(passed=6)
    gate("--bits=4,2", *limits, "--qfair-max-accuracy-drop=0.02,int2=0.3749").assert_outcomes(passed=5, failed=1)


def test_absolute_limits_bind_only_when_set(gate):
    result = gate("--bits=4", "--qfair-max-fvo=0.1", "--qfair-min-accuracy=0.9")
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize(("mode", "code", "warned"), [("fail", 1, 0), ("warn", 0, 3), ("pass", 0, 0)])
def test_what_cannot_be_judged_fails_unless_told_otherwise(gate, mode, code, warned):
    result = gate("--bits=4", "--qfair-min-group-size=90", f"--qfair-insufficient={mode}", "-Wdefault")
    assert result.ret == code
    outcomes = {"failed": 3} if mode == "fail" else {"passed": 3}
    result.assert_outcomes(**outcomes, warnings=warned)
    if mode != "pass":
        result.stdout.fnmatch_lines(["*group B has 40 samples, and judging needs 90*"])


def test_verbosity_below_zero_leaves_the_table_out(gate):
    result = gate("--bits=8", "-q")
    assert "qfair audit" not in result.stdout.str()
    assert "3 passed" in result.stdout.str()


def test_an_error_while_collecting_the_users_tests_comes_before_measuring(gate, pytester):
    pytester.makepyfile("import does_not_exist")
    result = gate("--bits=8", "--qfair-json=out.json")
    assert result.ret == 2
    assert not (pytester.path / "out.json").exists()


@pytest.mark.parametrize("arguments", [(), ("-n2",)])
def test_a_run_that_asks_for_qfair_and_judges_nothing_says_so(pytester, arguments):
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest("--qfair-max-fvo=0.2", *arguments)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["qfair: nothing was gated: there is no --qfair-model, and no test used a qfair fixture"]
    )


def test_an_ini_file_with_limits_alone_is_no_reason_to_speak(pytester):
    pytester.makeini("[pytest]\nqfair_max_fvo = 0.2\n")
    pytester.makepyfile("def test_mine(): pass")
    pytester.runpytest().stdout.no_fnmatch_line("qfair*")


def test_the_table_tells_only_what_was_judged(gate):
    text = gate("--bits=8,2", "-k", "int8").stdout.str()
    assert "gate         -      pass          -" in text
    assert "qfair audit" not in gate("--bits=8,2", "-k", "nothing").stdout.str()


@pytest.mark.parametrize("arguments", [(), ("-n2",)])
def test_without_the_items_of_the_gate_the_audit_of_the_tests_is_told_and_written(gate, pytester, arguments):
    pytester.makepyfile("def test_mine(qfair): assert qfair.bits == 8")
    result = gate("--bits=8", "-k", "test_mine", "--qfair-json=out.json", *arguments)
    result.assert_outcomes(passed=1, **({} if arguments else {"deselected": 3}))
    text = result.stdout.str()
    assert "overall  80  1.000  1.000 +0.000" in text
    assert "audit written to out.json" in text
    assert Audit.load(pytester.path / "out.json").at(8)


def test_a_broken_test_file_does_not_keep_the_gate_from_judging_when_told_to_go_on(gate, pytester):
    pytester.makepyfile("import does_not_exist")
    gate("--bits=8", "--continue-on-collection-errors").assert_outcomes(passed=3, errors=1)


def test_a_plan_measures_nothing(gate, pytester):
    gate("--bits=8", "--setup-plan", "--qfair-json=out.json")
    assert not (pytester.path / "out.json").exists()


def test_the_path_of_a_file_far_away_does_not_hide_the_ini_file(pytester, tiny, tmp_path_factory, monkeypatch):
    pytester.makeini("[pytest]\nqfair_max_group_drop = 0\n")
    pytester.makepyfile(test_mine="def test_mine(): pass")
    far = tmp_path_factory.mktemp("far") / "tiny.npz"
    far.write_bytes((tiny / "tiny.npz").read_bytes())
    (far.parent / "pytest.ini").write_text("[pytest]\n")
    model = "--qfair-model=tiny.safetensors"
    told = f"ERROR: pytest took {far} for *pytest.ini counts for nothing: write --qfair-data={far}, with an equals sign"
    for more in ((), ("--rootdir=.",)):
        result = pytester.runpytest(model, "--qfair-data", str(far), "--bits=8", *more)
        assert result.ret == 4
        result.stderr.fnmatch_lines([told.replace("pytest.ini", "tox.ini")])
    result = pytester.runpytest(model, f"--qfair-data={far}", "--bits=8", "test_mine.py")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*worst group's accuracy drop <= 0,*"])
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--qfair-data {far}")
    assert pytester.runpytest(model, "--bits=8").ret == 4


def test_the_path_of_a_file_far_away_does_not_hide_the_conftest(pytester, tiny, tmp_path_factory):
    pytester.makeconftest("")
    far = tmp_path_factory.mktemp("far") / "tiny.npz"
    far.write_bytes((tiny / "tiny.npz").read_bytes())
    result = pytester.runpytest("--qfair-model=tiny.safetensors", "--qfair-data", str(far))
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: *conftest.py counts for nothing: write --qfair-data={far}*"])


def test_where_nothing_is_lost_paths_may_stand_alone(pytester, tiny, tmp_path_factory, monkeypatch):
    far = tmp_path_factory.mktemp("far") / "tiny.npz"
    far.write_bytes((tiny / "tiny.npz").read_bytes())
    (tiny / "setup.py").touch()
    monkeypatch.chdir(pytester.mkdir("deeper"))
    pytester.syspathinsert(str(tiny))
    pytester.runpytest("--qfair-model", "../tiny.safetensors", "--qfair-data", str(far)).assert_outcomes(passed=3)


def test_a_terminal_that_knows_ascii_alone_gets_lines(gate, pytester, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = pytester.runpytest_subprocess("--qfair-model=demo", "--bits=8", "-p", "no:hypothesispytest")
    result.stdout.fnmatch_lines(["group      n*", "zero      89*", "gate   *pass"])


@pytest.mark.parametrize("target", ["nowhere/out.json", "."])
def test_an_audit_that_cannot_be_written_is_refused_before_measuring(gate, pytester, target):
    before = sorted(pytester.path.iterdir())
    result = gate("--bits=8", f"--qfair-json={target}")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: --qfair-json {target}*folder*"])
    assert [path for path in sorted(pytester.path.iterdir()) if path.name != ".pytest_cache"] == before

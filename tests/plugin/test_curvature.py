from xml.etree import ElementTree

import pytest

import qfair_check.measure.run
from qfair_check.cli import main
from qfair_check.measure.curvature_options import CurvatureOptions

SAMPLES = {"A": 50, "B": 40}
RIGHT = {"A": 45, "B": 36}
AUDIT = "--qfair-audit=audit.json"
MODEL = ("--qfair-model=tiny.safetensors", "--qfair-data=tiny.npz")

TEXT = """\
λmax at int4 is 3.1 times as large for B (12.4) as for A (4), above the limit 2 (fp32: 1.25), on a subsample
  largest   B  n=40                      λmax 5 → 12.4  residual 0.01 → 0.01  gradient norm 1 → 1.5
  smallest  A  n=40, a subsample of 50   λmax 4 → 4  residual 0.01 → 0.01  gradient norm 1 → 1"""
CURE = "*cure     audit the model again with --qfair-curvature"


@pytest.fixture
def curved(pytester, make_audit, make_curvature):
    """An audit in audit.json, in which λmax of B grows at int4, on 40 samples of each group."""
    before = {"A": make_curvature(40), "B": make_curvature(40, lambda_max=5.0)}
    after = {"A": make_curvature(40), "B": make_curvature(40, lambda_max=12.4, gradient_norm=1.5)}
    audit = make_audit(SAMPLES, curvature={"fp32": before, "int4": after}, fp32=RIGHT, int4=RIGHT)
    audit.save(pytester.path / "audit.json")
    return audit


@pytest.fixture
def asked(monkeypatch):
    """What `audit` is asked to measure of curvature; it measures none."""
    measure, seen = qfair_check.measure.run.audit, []

    def audit(*given, curvature, **rest):
        seen.append(curvature)
        return measure(*given, **rest)

    monkeypatch.setattr(qfair_check.measure.run, "audit", audit)
    return seen


def test_the_gate_judges_ratios_where_limits_are_set(pytester, curved):
    limits = ("--qfair-max-lambda-ratio=2", "--qfair-max-gradient-ratio=2,int4=1.5")
    result = pytester.runpytest(AUDIT, *limits, "--junitxml=report.xml", "-v")
    result.assert_outcomes(passed=4, failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*qfair::lambda-max[[]int4[]] FAILED*", "*qfair::gradient-norm[[]int4[]] PASSED*"])
    result.stdout.fnmatch_lines(
        ["qfair limits: *, λmax ratio between groups <= 2, gradient norm ratio between groups*"]
    )
    assert TEXT in result.stdout.str()
    root = ElementTree.parse(pytester.path / "report.xml").getroot()
    (case,) = root.findall(".//testcase[@name='lambda-max[int4]']")
    told = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert (told["qfair_check"], told["qfair_measured"], told["qfair_outcome"]) == ("lambda-max", "3.1", "fail")
    of_subsample = root.findall(".//property[@name='qfair_subsample'][@value='yes']/../..")
    assert {case.get("name") for case in of_subsample} == {"lambda-max[int4]", "gradient-norm[int4]"}


def test_the_command_line_tool_judges_alike(pytester, curved, capsys):
    assert main(["gate", "audit.json", "--max-lambda-ratio", "2", "--max-gradient-ratio", "1.5"]) == 1
    told = capsys.readouterr().out
    assert f"FAIL  {TEXT}" in told
    assert "PASS  gradient norm at int4 is 1.5 times as large for B (1.5) as for A (1), within the limit 1.5" in told


def test_an_audit_without_curvature_is_insufficient_with_the_cure(pytester, saved, capsys):
    result = pytester.runpytest(AUDIT, "--qfair-max-lambda-ratio=2", "--bits=8")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["λmax ratio between groups at int8 cannot be judged against the limit 2", CURE])
    pytester.runpytest(AUDIT, "--qfair-max-lambda-ratio=2", "--bits=8", "--qfair-insufficient=pass").assert_outcomes(
        passed=4
    )
    assert main(["gate", "audit.json", "--bits", "8", "--max-gradient-ratio", "2"]) == 1
    assert "  cure     audit the model again with --curvature\n" in capsys.readouterr().out


def test_the_methods_of_the_fixture(pytester, curved):
    pytester.makepyfile(
        """
        def test_groups(qfair):
            qfair.assert_lambda_max_ratio(3.2)
            qfair.assert_gradient_norm_ratio(1.5)

        def test_precisions(qfair):
            qfair.assert_lambda_max_ratio(2.5, between="precisions")
            qfair.assert_gradient_norm_ratio(1.5, between="precisions")

        def test_broken(qfair):
            qfair.assert_lambda_max_ratio(2, between="precisions")

        def test_no_limit(qfair):
            qfair.assert_lambda_max_ratio()

        def test_no_limit_to_fp32(qfair):
            qfair.assert_gradient_norm_ratio(between="precisions")

        def test_nonsense(qfair):
            qfair.assert_gradient_norm_ratio(2, between="layers")
        """
    )
    result = pytester.runpytest(AUDIT, "-k", "test_")
    result.assert_outcomes(passed=2, failed=4, deselected=3)
    result.stdout.fnmatch_lines(
        [
            "*λmax of B at int4 (12.4) is 2.48 times that at fp32 (5), above the limit 2",
            "*no max_lambda_ratio is set for int4: give it to the assertion, the marker or --qfair-max-lambda-ratio",
            "*no max_gradient_ratio_to_fp32 is set for int4: give it to the assertion",
            "*between is 'layers': it is groups or precisions",
        ]
    )


def test_a_limit_of_the_options_serves_the_fixture(pytester, curved):
    pytester.makepyfile("def test_mine(qfair): qfair.assert_lambda_max_ratio()")
    pytester.makeini("[pytest]\nqfair_max_lambda_ratio = 2,int4=4\n")
    pytester.runpytest(AUDIT, "-k", "test_mine").assert_outcomes(passed=1, deselected=4)


def test_a_marker_judges_what_was_measured_and_names_the_cure(pytester, tiny, asked):
    pytester.makepyfile(
        "import pytest\n@pytest.mark.qfair(bits=4, max_lambda_ratio=2)\ndef test_mine(qfair): qfair.check()"
    )
    result = pytester.runpytest(*MODEL, "-k", "test_mine")
    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(["*λmax ratio between groups at int4 cannot be judged against the limit 2", CURE])
    assert set(asked) == {None}


@pytest.mark.parametrize(
    ("given", "expected", "header"),
    [
        (("--qfair-curvature",), CurvatureOptions(), "with curvature"),
        (
            ("--qfair-max-lambda-ratio=2", "--qfair-curvature-samples=20", "--qfair-hessian=pyhessian"),
            CurvatureOptions(20, method="pyhessian"),
            "with curvature on at most 20 samples a group",
        ),
        (
            ("--qfair-max-gradient-ratio=int8=2", "--qfair-curvature-memory=1MB"),
            CurvatureOptions(memory=10**6),
            "with curvature",
        ),
    ],
)
def test_curvature_is_measured_as_the_options_say(pytester, tiny, asked, given, expected, header):
    result = pytester.runpytest(*MODEL, *given)
    assert asked == [expected]
    result.stdout.fnmatch_lines([f"qfair: model tiny.safetensors, * absmax/symmetric/per-tensor, {header}"])


def test_the_ini_file_asks_for_curvature_too(pytester, tiny, asked):
    pytester.makeini("[pytest]\nqfair_curvature = true\nqfair_curvature_samples = 20\n")
    pytester.runpytest(*MODEL)
    pytester.makeini("[pytest]\nqfair_max_gradient_ratio = 5\n")
    pytester.runpytest(*MODEL)
    assert asked == [CurvatureOptions(20), CurvatureOptions()]


def test_the_command_qfair_audit_asks_alike(pytester, asked):
    assert main(["audit", "demo", "--bits", "8", "--curvature", "--curvature-samples", "20", "--out", "a.json"]) == 0
    assert main(["audit", "demo", "--bits", "8", "--out", "a.json"]) == 0
    assert asked == [CurvatureOptions(20), None]


def test_options_that_would_do_nothing_are_a_usage_error(pytester, tiny, capsys):
    told = "would do nothing, since curvature is not measured: add"
    result = pytester.runpytest(*MODEL, "--qfair-curvature-samples=20")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: --qfair-curvature-samples {told} --qfair-curvature"])
    capsys.readouterr()
    assert main(["audit", "demo", "--hessian", "lanczos", "--out", "a.json"]) == 4
    assert capsys.readouterr().err == f"qfair: error: --hessian {told} --curvature\n"


def test_an_ini_file_may_say_how_for_runs_that_measure(pytester, curved):
    pytester.makeini("[pytest]\nqfair_curvature_samples = 20\n")
    pytester.runpytest(AUDIT).assert_outcomes(passed=3)


def test_a_ratio_under_one_is_a_usage_error(pytester, tiny):
    result = pytester.runpytest(*MODEL, "--qfair-max-lambda-ratio=0.5")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: max_lambda_ratio is '0.5': a limit is a number from 1 to 1,000,000"])

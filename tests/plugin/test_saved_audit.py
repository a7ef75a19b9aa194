import json

import pytest

from qfair_check.cli import main

TEXT = """\
accuracy drop of B at int4 is 0.150, above the limit 0.050
  worst  B  n=40   accuracy 0.900 → 0.750  [0.598, 0.858]"""


def test_the_verdicts_are_those_of_the_audit(pytester, saved):
    result = pytester.runpytest("--qfair-audit=audit.json")
    result.assert_outcomes(passed=3, failed=3)
    assert result.ret == 1
    assert TEXT in result.stdout.str()
    result.stdout.fnmatch_lines(["qfair: audit audit.json at int8, int4"])


@pytest.mark.parametrize(
    "limits", [(), ("--max-group-drop", "0.15"), ("--max-fvo", "0.1"), ("--min-accuracy", "0.8"), ("--bits", "8")]
)
def test_the_command_line_tool_judges_alike(pytester, saved, limits, capsys):
    code = main(["gate", "audit.json", *limits])
    told = capsys.readouterr().out
    result = pytester.runpytest("--qfair-audit=audit.json", *(arg.replace("--", "--qfair-") for arg in limits))
    assert result.ret == code
    for outcome in ("passed", "failed"):
        word = {"passed": "PASS  ", "failed": "FAIL  "}[outcome]
        count = sum(line.startswith(word) for line in told.splitlines())
        assert result.parseoutcomes().get(outcome, 0) == count


def test_a_precision_it_lacks_is_a_usage_error(pytester, saved):
    result = pytester.runpytest("--qfair-audit=audit.json", "--bits=2")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: the audit holds no int2: it holds fp32, int8, int4; audit the model again with --bits int2"]
    )


def test_a_metric_it_lacks_is_insufficient(pytester, saved):
    path = pytester.path / "audit.json"
    held = json.loads(path.read_text())
    for result in held["precisions"]:
        for group in result["groups"]:
            group["flip_rate"] = None
    path.write_text(json.dumps(held))
    pytester.makepyfile("def test_flips(qfair): qfair.assert_flip_rate_below(0.5)")
    result = pytester.runpytest("--qfair-audit=audit.json", "--bits=8", "-k", "flips")
    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(["*worst group's flip rate at int8 cannot be judged against the limit 0.5*"])
    result.stdout.fnmatch_lines(["*group A: the audit holds no flip_rate*"])


def test_workers_read_it_too(pytester, saved):
    pytester.makepyfile("def test_mine(qfair): qfair.assert_fvo_below(0.2)")
    result = pytester.runpytest("--qfair-audit=audit.json", "-n2")
    result.assert_outcomes(passed=5, failed=3)


@pytest.mark.parametrize(
    "option",
    ["model=demo", "json=b.json", "scheme=mse", "data=demo", "arch=resnet18", "curvature", "hessian=lanczos"],
)
def test_options_for_measuring_beside_it_are_a_usage_error(pytester, saved, option):
    result = pytester.runpytest("--qfair-audit=audit.json", f"--qfair-{option}")
    assert result.ret == 4
    name = option.partition("=")[0]
    result.stderr.fnmatch_lines(
        [f"ERROR: --qfair-audit gates a saved audit, and nothing is measured: leave out --qfair-{name}"]
    )


def test_the_command_line_wins_over_the_ini_file(pytester, saved):
    pytester.makeini("[pytest]\nqfair_model = demo\n")
    pytester.runpytest("--qfair-audit=audit.json", "--bits=8").assert_outcomes(passed=3)
    pytester.makeini("[pytest]\nqfair_audit = audit.json\n")
    pytester.runpytest("--qfair-model=demo", "--bits=8").stdout.fnmatch_lines(["qfair: model demo, data demo*"])


def test_it_holds_no_weights_to_quantize(pytester, saved):
    pytester.makepyfile("def test_mine(qfair_quantized): pass")
    result = pytester.runpytest("--qfair-audit=audit.json", "-k", "mine")
    result.stdout.fnmatch_lines(["*a saved audit holds no weights: qfair_quantized needs --qfair-model*"])
    assert result.ret == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no audit file audit.json: qfair audit --out and --qfair-json write one"),
        ("", "audit.json is not an audit that qfair_check wrote*"),
        ("{}", "audit.json is not an audit that qfair_check wrote*"),
        ("[1, 2", "audit.json is not an audit that qfair_check wrote*"),
        ('{"schema_version": 99}', "audit.json has schema version 99, and this qfair_check reads 3*"),
        ("\x00\x01", "audit.json is not an audit that qfair_check wrote*"),
    ],
)
def test_what_is_no_audit_is_a_usage_error(pytester, content, told):
    if content is not None:
        (pytester.path / "audit.json").write_text(content)
    result = pytester.runpytest("--qfair-audit=audit.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_the_front_against_other_audits(pytester, saved, make_audit):
    counts = {"A": 45, "B": 36}
    make_audit({"A": 50, "B": 40}, fp32=counts, int4={"A": 44, "B": 31}).save(pytester.path / "other.json")
    make_audit({"A": 50, "B": 41}, fp32=counts, int4=counts).save(pytester.path / "elsewhere.json")
    pytester.makepyfile(
        """
        import qfair_check

        def test_file(qfair):
            qfair.assert_on_pareto_front("other.json")

        def test_audit(qfair):
            qfair.assert_on_pareto_front(qfair_check.Audit.load("other.json"))

        def test_nothing(qfair):
            qfair.assert_on_pareto_front()

        def test_other_samples(qfair):
            qfair.assert_on_pareto_front("elsewhere.json")
        """
    )
    options = ("--qfair-audit=audit.json", "--deselect=qfair::")
    result = pytester.runpytest(*options, "--bits=8,4", "-k", "test_file or test_audit")
    result.assert_outcomes(passed=2, failed=2, deselected=10)
    result.stdout.fnmatch_lines(
        [
            "*int4 of the audit is not on the Pareto front: overall accuracy 0.822, FVO 0.130",
            "*  worst   B  n=40   accuracy 0.750  [[]0.598, 0.858[]]",
            "*  better  int4 of others[[]0[]]: overall accuracy 0.833 (+0.011), FVO 0.105 (-0.025)",
            "*  worst   B  n=40   accuracy 0.775  [[]0.625, 0.877[]]",
        ]
    )
    result = pytester.runpytest(*options, "--bits=8", "-k", "test_nothing or test_other")
    result.assert_outcomes(failed=2, deselected=5)
    result.stdout.fnmatch_lines(["*there is nothing to compare with: give other audits, or the files that hold them"])
    result.stdout.fnmatch_lines(
        ["*the audit and others[[]0[]] cannot be compared: group B has 40 samples in the audit *"]
    )
    result = pytester.runpytest(*options, "--bits=8", "--qfair-min-group-size=45", "-k", "test_file")
    result.assert_outcomes(failed=1, deselected=6)
    result.stdout.fnmatch_lines(["*  because  group B has 40 samples, and judging needs 45"])
    warned = (*options, "--bits=8", "--qfair-min-group-size=45", "--qfair-insufficient=warn", "-k", "test_file")
    pytester.runpytest(*warned, "-Wdefault").assert_outcomes(passed=1, deselected=6, warnings=1)

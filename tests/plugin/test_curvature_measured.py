"""Curvature that a run measures, judged by the gate and by fixtures: no value is made up here."""

import re
import shlex
from pathlib import Path

import pytest

from qfair_check.record import Audit

PAGE = (Path(__file__).parents[2] / "docs" / "howto-tests.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
DEMO = ("--qfair-model=demo", "--qfair-bits=4", "--qfair-curvature-samples=20", "-k=lambda or gradient")
LIMITS = ("--qfair-max-lambda-ratio=100000", "--qfair-max-gradient-ratio=1.5")


@pytest.mark.parametrize("spread", [(), ("-n=2",)], ids=["one process", "two workers"])
def test_the_gate_judges_what_it_measured(pytester, spread):
    result = pytester.runpytest(*DEMO, *LIMITS, "--qfair-min-group-size=20", "--qfair-json=audit.json", *spread)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1
    audit = Audit.load(pytester.path / "audit.json")
    found = audit.at(4).curvature
    assert [group.samples for group in found] == [20] * 10
    norms = [group.gradient_norm for group in found]
    result.stdout.fnmatch_lines(
        [
            f"gradient norm at int4 is {max(norms) / min(norms):.3g} times as large for eight ({max(norms):.3g}) as "
            f"for zero ({min(norms):.3g}), above the limit 1.5 (fp32: *), on a subsample",
            "  largest   eight  n=20, a subsample of 87   λmax *",
            "  smallest  zero   n=20, a subsample of 89   λmax *",
        ]
    )


def test_too_small_a_subsample_cannot_be_judged(pytester):
    result = pytester.runpytest(*DEMO, *LIMITS)
    result.assert_outcomes(failed=2)
    told = "λmax ratio between groups at int4 cannot be judged against the limit *"
    result.stdout.fnmatch_lines([told, "*group zero was measured on 20 of its 89 samples, and judging needs 30*"])
    assert pytester.runpytest(*DEMO, *LIMITS, "--qfair-insufficient=pass").ret == 0


def test_methods_of_the_fixture_on_what_was_measured(gate, pytester):
    pytester.makepyfile(
        """
        import pytest

        def test_ratios(qfair):
            groups = qfair.result.curvature
            values = [group.lambda_max for group in groups]
            qfair.assert_lambda_max_ratio(max(values) / min(values) * 1.001)
            norms = [group.gradient_norm for group in groups]
            qfair.assert_gradient_norm_ratio(max(norms) / min(norms) * 1.001)
            qfair.assert_lambda_max_ratio(2, between="precisions")
            with pytest.raises(AssertionError, match="above the limit"):
                qfair.assert_gradient_norm_ratio(max(norms) / min(norms) * 0.999)

        def test_account(qfair):
            assert qfair.result.moved == ("weight",)
            for group in qfair.result.curvature:
                assert group.account.predicted == pytest.approx(group.account.measured, abs=1e-3)
        """
    )
    gate("--bits=8,4", "--qfair-curvature", "-k=test_").assert_outcomes(passed=4, deselected=6)


def test_too_little_memory_is_a_usage_error(gate):
    result = gate("--qfair-curvature", "--qfair-curvature-memory=100B")
    assert result.ret == 4
    result = gate("--qfair-curvature", "--qfair-curvature-memory=0.1KB")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: measuring curvature of this model takes * KiB for one sample, and --qfair-*"])


def test_the_example_of_the_page(pytester):
    (code,) = [text for language, text in BLOCKS if language == "python" and text.startswith("# test_curvature.py")]
    (command,) = [text for _, text in BLOCKS if "test_curvature.py" in text and text.startswith("pytest")]
    (pytester.path / "test_curvature.py").write_text(code)
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    pytester.runpytest(*arguments, "-k=test_").assert_outcomes(passed=2, deselected=3)

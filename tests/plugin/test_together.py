"""Beside plugins that people combine it with, which `nox -s together` installs; xdist and html have tests elsewhere."""

import pytest

GATE = ("--qfair-model=demo", "--bits=8,4", "--qfair-max-fvo-increase=0.2")
TEST = """
def test_own(qfair):
    qfair.assert_fvo_below(0.9)

def test_other():
    pass
"""


@pytest.fixture
def run(pytester):
    pytester.makepyfile(TEST)

    def run(plugin, *arguments):
        pytest.importorskip(plugin)
        return pytester.runpytest_subprocess(*GATE, *arguments)

    return run


def assert_as_ever(result):
    assert result.ret == 1
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["FAILED qfair::group-drop[[]int4[]]*"])


def test_with_coverage(run):
    result = run("pytest_cov", "--cov=qfair_check", "--cov-report=term")
    assert_as_ever(result)
    result.stdout.fnmatch_lines(["*judge/verdicts.py*"])


def test_with_coverage_and_xdist(run):
    assert_as_ever(run("pytest_cov", "--cov=qfair_check", "-n2"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_randomly(run, seed):
    assert_as_ever(run("pytest_randomly", "-p", "randomly", f"--randomly-seed={seed}"))


def test_with_timeout(run):
    assert_as_ever(run("pytest_timeout", "--timeout=100"))


def test_with_rerunfailures(run):
    result = run("pytest_rerunfailures", "--reruns=2")
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"], outcomes["rerun"]) == (8, 1, 2)

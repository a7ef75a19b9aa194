import sys

import pytest

HEAVY = ("torch", "torchvision", "numpy", "pandas", "scipy", "matplotlib", "safetensors", "PIL", "tqdm", "msgspec")


def test_an_empty_folder_stays_empty(pytester):
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "collected 0 items" in result.stdout.str()
    assert not [line for line in result.outlines if "qfair" in line and not line.startswith("plugins:")]
    assert result.stderr.str() == ""


def test_nothing_heavy_is_imported_until_it_is_used(pytester):
    pytester.makeconftest(
        f"""
        import sys

        def pytest_unconfigure():
            print("imported:", sorted(set(sys.modules) & {set(HEAVY)!r}))
        """
    )
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["imported: []"])


def test_a_saved_audit_is_gated_without_torch(pytester, saved):
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("imported:", sorted(set(sys.modules) & {"torch", "torchvision", "pandas", "matplotlib"}))
        """
    )
    pytester.makepyfile("def test_mine(qfair): qfair.assert_fvo_below(0.2)")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "--qfair-audit=audit.json")
    result.assert_outcomes(passed=5, failed=3)
    result.stdout.fnmatch_lines(["imported: []"])


def test_help_lists_every_option_and_the_short_name(pytester):
    text = pytester.runpytest("--help").stdout.str()
    for part in ("--qfair-model=FILE", "--bits=BITS", "--qfair-max-fvo=LIMIT", "qfair_max_fvo (string)"):
        assert part in text


def test_the_marker_and_the_fixtures_are_listed(pytester):
    assert "@pytest.mark.qfair(bits=..., max_fvo=..., ...):" in pytester.runpytest("--markers").stdout.str()
    listed = pytester.runpytest("--fixtures").stdout.str()
    for name in ("qfair", "qfair_model", "qfair_data", "qfair_audit", "qfair_quantized"):
        assert f"\n{name}" in listed


def test_strict_markers_know_the_marker(pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.qfair\ndef test_mine(): pass")
    pytester.runpytest("--strict-markers", "--strict-config").assert_outcomes(passed=1)


def test_a_suite_with_fixtures_of_the_same_names_keeps_its_own(pytester):
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef qfair(): return 'mine'")
    pytester.makepyfile("def test_mine(qfair): assert qfair == 'mine'")
    pytester.runpytest().assert_outcomes(passed=1)

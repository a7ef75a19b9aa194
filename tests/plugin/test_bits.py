import pytest

RIVAL = """
def pytest_addoption(parser):
    parser.addoption("--bits", dest="rival_bits", default="none")
"""
RIVAL_TEST = "def test_mine(request): assert request.config.getoption('rival_bits') == '3'"


@pytest.mark.parametrize("given", [("--bits", "4"), ("--bits=4",), ("--qfair-bits", "int4")])
def test_every_spelling_means_the_same(gate, given):
    gate(*given, "--collect-only", "-q").stdout.fnmatch_lines(["qfair::group-drop[[]int4]"])


def test_eight_bits_are_gated_unless_told_otherwise(gate):
    result = gate("--collect-only", "-q")
    assert [line for line in result.outlines if "group-drop" in line] == ["qfair::group-drop[int8]"]


def test_addopts_may_hold_the_short_name(gate, pytester):
    pytester.makeini("[pytest]\naddopts = --bits 4\n")
    gate("--collect-only", "-q").stdout.fnmatch_lines(["qfair::group-drop[[]int4]"])


def test_the_environment_may_hold_the_short_name(gate, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--bits=4")
    gate("--collect-only", "-q").stdout.fnmatch_lines(["qfair::group-drop[[]int4]"])


def test_a_rival_plugin_keeps_its_name(pytester):
    pytester.makepyfile(rival=RIVAL)
    pytester.makepyfile(RIVAL_TEST)
    pytester.syspathinsert()
    pytester.runpytest("-p", "rival", "--bits", "3").assert_outcomes(passed=1)
    pytester.runpytest("-p", "rival", "--help").stdout.fnmatch_lines(["*--qfair-bits=BITS*"])


def test_the_conftest_in_the_rootdir_keeps_its_name(pytester):
    pytester.makeconftest(RIVAL)
    pytester.makepyfile(RIVAL_TEST)
    pytester.runpytest("--bits=3").assert_outcomes(passed=1)
    assert pytester.runpytest("--help").ret == 0


def test_a_rival_that_knows_few_values_keeps_its_name(pytester):
    pytester.makeconftest(RIVAL.replace('default="none"', 'choices=["3"]'))
    pytester.makepyfile(RIVAL_TEST)
    pytester.runpytest("--bits=3").assert_outcomes(passed=1)


def test_a_nested_conftest_keeps_its_name(pytester):
    folder = pytester.mkpydir("nested")
    (folder / "conftest.py").write_text(RIVAL)
    (folder / "test_nested.py").write_text(RIVAL_TEST)
    pytester.runpytest("nested", "--bits=3").assert_outcomes(passed=1)


def test_a_nested_conftest_that_is_found_late_is_not_disturbed(pytester):
    (pytester.mkpydir("first") / "test_first.py").write_text("def test_first(): pass")
    folder = pytester.mkpydir("nested")
    (folder / "conftest.py").write_text(RIVAL)
    (folder / "test_nested.py").write_text("def test_nested(): pass")
    pytester.runpytest().assert_outcomes(passed=2)


def test_where_the_name_is_taken_the_long_one_serves(gate, pytester):
    pytester.makeconftest(RIVAL)
    result = gate("--bits=4")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --bits belongs to another plugin or conftest here: say --qfair-bits instead"])
    gate("--bits=9", "--qfair-bits=4").assert_outcomes(passed=3)


def test_where_the_name_is_taken_the_ini_file_serves_too(gate, pytester):
    pytester.makeconftest(RIVAL)
    pytester.makeini("[pytest]\nqfair_bits = 4\n")
    gate("--bits=9", "--collect-only", "-q").stdout.fnmatch_lines(["qfair::group-drop[[]int4]"])


def test_where_the_name_is_taken_a_test_does_not_run_at_other_bits_in_silence(pytester, saved):
    pytester.makeconftest(RIVAL)
    pytester.makeini("[pytest]\nqfair_audit = audit.json\n")
    pytester.makepyfile("def test_mine(qfair): pass")
    assert pytester.runpytest("--bits=4").ret == 4


def test_where_the_name_is_taken_help_is_still_shown(pytester):
    pytester.makeconftest(RIVAL)
    pytester.makeini("[pytest]\nqfair_model = demo\n")
    assert pytester.runpytest("--help").ret == 0


@pytest.mark.parametrize("bits", ["1", "0", "-4", "12", "64", "four", "8,,4", "int9", "4.0", "True"])
def test_bits_that_make_no_sense_are_a_usage_error(gate, bits):
    result = gate(f"--bits={bits}")
    assert result.ret == 4
    text = result.stderr.str()
    assert "2 to 8" in text
    assert "Traceback" not in text + result.stdout.str()


def test_fp32_alone_leaves_nothing_to_gate(gate):
    result = gate("--bits=32")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: there is nothing to gate: fp32 is the baseline, give --bits such as 8,4"])


def test_half_precision_is_audited_and_said_to_be_emulated(gate):
    result = gate("--bits=fp16,bf16")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["note    fp16, emulated", "note    bf16, emulated"])


def test_an_empty_value_is_a_usage_error(gate):
    for option in ("--bits=", "--qfair-bits= ", "--qfair-max-fvo="):
        result = gate(option)
        assert result.ret == 4
        assert "the value is empty: leave the option out for its default" in result.stderr.str()

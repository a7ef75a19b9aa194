import pytest

OPTIONS = ("--qfair-model=tiny.safetensors", "--qfair-data=tiny.npz", "-k", "test_mine")


def marked(marker: str, body: str = "qfair.check()", argument: str = "qfair") -> str:
    return f"import pytest\n@pytest.mark.qfair({marker})\ndef test_mine({argument}): {body}"


def test_bits_and_limits_are_those_of_the_marker(pytester, tiny):
    loose = "max_fvo_increase=0.75, max_group_drop=0.75, max_accuracy_drop=0.375"
    pytester.makepyfile(marked(f"bits=[4, 2], {loose}"))
    pytester.runpytest(*OPTIONS).assert_outcomes(passed=2, deselected=3)
    pytester.makepyfile(marked(f"bits='int2', {loose}, max_fvo=0.7"))
    pytester.runpytest(*OPTIONS).assert_outcomes(failed=1, deselected=3)


def test_limits_may_be_a_list(pytester, tiny):
    pytester.makepyfile(marked("bits=[8, 4], max_fvo=['0.9', 'int4=0.8']"))
    pytester.runpytest(*OPTIONS).assert_outcomes(passed=2, deselected=3)


def test_a_wrong_limit_is_refused_also_where_the_command_line_wins(pytester, tiny):
    for marker in ("bits=4, max_fvo='abc'", "max_fvo='abc'"):
        pytester.makepyfile(marked(marker))
        result = pytester.runpytest(*OPTIONS, "--qfair-max-fvo=0.9")
        assert result.ret == 4
        result.stderr.fnmatch_lines(["*::test_mine*: max_fvo is 'abc': a limit is a number from 0 to 1"])


def test_the_command_line_wins_over_the_marker(pytester, tiny):
    pytester.makepyfile(marked("bits=2, max_fvo=0"))
    pytester.runpytest(*OPTIONS, "--bits=8").assert_outcomes(passed=1, deselected=3)
    pytester.runpytest(*OPTIONS, "--bits=8", "--qfair-max-fvo=1").assert_outcomes(passed=1, deselected=4)


def test_the_marker_of_the_function_wins_over_that_of_its_class(pytester, tiny):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.qfair(bits=2, max_fvo=0.1)
        class TestMine:
            @pytest.mark.qfair(max_fvo=0.75)
            def test_mine(self, qfair): qfair.assert_fvo_below()
        """
    )
    pytester.runpytest(*OPTIONS).assert_outcomes(passed=1, deselected=3)


def test_a_limit_that_the_test_never_judges_is_an_error(pytester, tiny):
    pytester.makepyfile(marked("bits=8, max_fvo=0.5", "qfair.assert_flip_rate_below(1)"))
    result = pytester.runpytest(*OPTIONS)
    result.assert_outcomes(passed=1, errors=1, deselected=3)
    assert "the marker sets max_fvo, and the test never judged it: call qfair.check()" in result.stdout.str()


def test_a_limit_binds_only_at_the_precisions_it_names(pytester, tiny):
    pytester.makepyfile(marked("bits=[8, 4], max_fvo='int4=0.9'"))
    pytester.runpytest(*OPTIONS).assert_outcomes(passed=2, deselected=3)


def test_a_limit_for_one_precision_is_not_missed_at_the_others(pytester, tiny):
    body = "qfair.bits == 4 and qfair.assert_group_accuracy_drop_below()"
    pytester.makepyfile(marked("bits=[8, 4], max_group_drop='int4=0.9'", body))
    pytester.runpytest(*OPTIONS).assert_outcomes(passed=2, deselected=3)


def test_a_failed_test_is_not_blamed_twice(pytester, tiny):
    pytester.makepyfile(marked("bits=8, max_fvo=0.5", "assert False"))
    pytester.runpytest(*OPTIONS).assert_outcomes(failed=1, deselected=3)


@pytest.mark.parametrize(
    ("marker", "argument", "told"),
    [
        ("4", "qfair", "the qfair marker takes keywords only, such as bits=4"),
        ("bitz=4", "qfair", "the qfair marker knows no bitz: it knows bits, confidence, max_accuracy_drop, *"),
        ("max_fvo=2", "qfair", "max_fvo is '2': a limit is a number from 0 to 1"),
        ("max_fvo=float('nan')", "qfair", "max_fvo is 'nan': a limit is a number from 0 to 1"),
        ("max_fvo=None", "qfair", "max_fvo is 'None': a limit is a number from 0 to 1"),
        ("bits=9", "qfair", "'9' is not a bit width: *"),
        ("bits=[]", "qfair", "no bit width given; *"),
        ("bits=''", "qfair", "no bit width given; *"),
        ("bits=32", "qfair", "there is nothing to judge: fp32 is the baseline, give bits such as 8,4"),
        ("min_group_size=0", "qfair", "min_group_size is '0': it is a whole number of at least 1"),
        (
            "bits=8, max_fvo='int4=0.1'",
            "qfair",
            "max_fvo sets a limit for int4, which is not audited: audited are int8",
        ),
        (
            "max_fvo=0.1",
            "qfair_quantized",
            "the qfair marker sets max_fvo, and the test does not use the qfair fixture*",
        ),
        ("max_fvo=0.1", "request", "the qfair marker sets max_fvo, and the test does not use the qfair fixture*"),
        ("bits=4", "request", "the qfair marker sets bits, and the test uses none of our fixtures"),
    ],
)
def test_a_marker_that_makes_no_sense_is_a_usage_error(pytester, tiny, marker, argument, told):
    pytester.makepyfile(marked(marker, "pass", argument))
    result = pytester.runpytest(*OPTIONS)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*::test_mine*: {told}"])


def test_a_bare_marker_only_selects(pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.qfair\ndef test_mine(): pass\ndef test_other(): pass")
    pytester.runpytest("-m", "qfair").assert_outcomes(passed=1, deselected=1)


def test_a_bare_marker_on_a_module_needs_no_fixture(pytester):
    pytester.makepyfile("import pytest\npytestmark = pytest.mark.qfair\ndef test_mine(): pass")
    pytester.runpytest().assert_outcomes(passed=1)


def test_in_a_worker_a_marker_that_makes_no_sense_fails_its_test(pytester, tiny):
    pytester.makepyfile(marked("bits=9") + "\n\ndef test_other(): pass")
    result = pytester.runpytest("--qfair-data=tiny.npz", "--qfair-model=tiny.safetensors", "-n2", "-k", "test_")
    assert result.ret == 1
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*::test_mine*: '9' is not a bit width: *"])

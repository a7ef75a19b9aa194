import pytest

OPTIONS = ("--qfair-model=tiny.safetensors", "--qfair-data=tiny.npz", "-m", "not qfair")
NO_MODEL = "no model is given: pass --qfair-model FILE, or override the fixture qfair_model in a conftest.py"


def test_a_test_runs_once_for_each_precision(pytester, tiny):
    pytester.makepyfile(
        "def test_mine(qfair): assert qfair.bits in (8, 2) and str(qfair.precision)[3:] == str(qfair.bits)"
    )
    result = pytester.runpytest(*OPTIONS, "--bits=8,2", "-v")
    result.assert_outcomes(passed=2, deselected=6)
    result.stdout.fnmatch_lines(["*::test_mine[[]int8] PASSED*", "*::test_mine[[]int2] PASSED*"])


def test_every_assertion_is_a_method(pytester, tiny):
    pytester.makepyfile(
        """
        def test_mine(qfair):
            qfair.assert_fvo_below(0.75)
            qfair.assert_fvo_increase_below(0.75)
            qfair.assert_overall_accuracy_above(0.625)
            qfair.assert_accuracy_drop_below(0.375)
            qfair.assert_group_accuracy_drop_below(0.75)
            qfair.assert_worst_group_accuracy_above(0.25)
            qfair.assert_flip_rate_below(0.75)
            qfair.assert_sparsity_below(0.75)
            qfair.assert_cosine_distance_below(0.8)
        """
    )
    pytester.runpytest(*OPTIONS, "--bits=2").assert_outcomes(passed=1, deselected=3)


@pytest.mark.parametrize(
    ("call", "headline"),
    [
        ("fvo_below(0.7)", "FVO at int2 is 0.750, above the limit 0.700 (fp32: 0.000, so quantization added 0.750)"),
        ("fvo_increase_below(0.7)", "FVO increase at int2 is 0.750, above the limit 0.700 (fp32: 0.000, int2: 0.750)"),
        ("overall_accuracy_above(0.7)", "overall accuracy at int2 is 0.625, below the limit 0.700 (fp32: 1.000)"),
        (
            "accuracy_drop_below(0.3)",
            "overall accuracy drop at int2 is 0.375, above the limit 0.300 (fp32: 1.000, int2: 0.625)",
        ),
        ("group_accuracy_drop_below(0.7)", "accuracy drop of B at int2 is 0.750, above the limit 0.700"),
        ("worst_group_accuracy_above(0.3)", "worst group's accuracy at int2 is 0.250, below the limit 0.300"),
        ("flip_rate_below(0.7)", "worst group's flip rate at int2 is 0.750, above the limit 0.700"),
        ("sparsity_below(0.7)", "sparsity at int2 is 0.750, above the limit 0.700"),
    ],
)
def test_a_broken_assertion_shows_its_text_without_the_plugins_code(pytester, tiny, call, headline):
    pytester.makepyfile(f"def test_mine(qfair):\n    qfair.assert_{call}")
    result = pytester.runpytest(*OPTIONS, "--bits=2")
    result.assert_outcomes(failed=1, deselected=3)
    text = result.stdout.str()
    assert f"FairnessError: {headline}" in text
    assert "fixture.py" not in text
    assert "assertions.py" not in text


def test_check_judges_every_limit_that_binds(pytester, tiny):
    pytester.makepyfile("def test_mine(qfair): qfair.check()")
    result = pytester.runpytest(*OPTIONS, "--bits=2")
    for check in ("FVO increase", "accuracy drop of B", "overall accuracy drop"):
        result.stdout.fnmatch_lines([f"E  *{check} at int2 is *"])


def test_an_assertion_without_a_limit_needs_one_from_elsewhere(pytester, tiny):
    pytester.makepyfile("def test_mine(qfair): qfair.assert_fvo_below()")
    result = pytester.runpytest(*OPTIONS, "--bits=2")
    result.stdout.fnmatch_lines(
        ["*OptionError: no max_fvo is set for int2: give it to the assertion, the marker or --qfair-max-fvo"]
    )
    pytester.runpytest(*OPTIONS, "--bits=2", "--qfair-max-fvo=0.8").assert_outcomes(passed=1, deselected=4)


def test_the_audit_and_a_quantized_module_are_fixtures(pytester, tiny):
    pytester.makepyfile(
        """
        def test_audit(qfair_audit):
            assert [result.precision for result in qfair_audit.precisions] == ["fp32", "int8", "int2"]

        def test_module(qfair_quantized, qfair_precision, qfair_model):
            levels = qfair_quantized.weight.unique().numel()
            assert levels <= 2 ** qfair_precision.bits
            assert not qfair_quantized.training
            assert qfair_model.module.weight[1, 1] == 0.3

        def test_data(qfair_data):
            assert qfair_data.group_names == ("A", "B")
        """.replace("== 0.3", ".item() > 0.29")
    )
    pytester.runpytest(*OPTIONS, "--bits=8,2").assert_outcomes(passed=4, deselected=6)


@pytest.mark.parametrize("name", ["qfair", "qfair_audit", "qfair_model", "qfair_data", "qfair_quantized"])
def test_without_a_model_a_test_errors_with_the_name_of_the_option(pytester, name):
    pytester.makepyfile(f"def test_mine({name}): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    assert result.ret == 1
    assert NO_MODEL in result.stdout.str()
    assert "qfair_check/" not in result.stdout.str()


def test_without_data_a_test_errors_with_the_name_of_the_option(pytester, tiny):
    pytester.makeconftest("import pytest\nfrom network import make\n@pytest.fixture\ndef qfair_model(): return make()")
    pytester.syspathinsert()
    pytester.makepyfile("def test_mine(qfair): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no grouped data is given: pass --qfair-data FILE*"])
    assert "During handling" not in result.stdout.str()


def test_test_cases_of_unittest_can_use_the_audit(pytester, tiny):
    pytester.makepyfile(
        """
        import unittest
        import pytest

        class TestMine(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _audit(self, qfair_audit):
                self.audit = qfair_audit

            def test_mine(self):
                self.assertEqual(self.audit.at(2).fvo, 0.75)
        """
    )
    pytester.runpytest(*OPTIONS, "--bits=2").assert_outcomes(passed=1, deselected=3)


def test_a_test_case_of_unittest_that_asks_for_qfair_is_told_what_to_do(pytester, tiny):
    pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.mark.usefixtures("qfair")
        class TestMine(unittest.TestCase):
            def test_mine(self): pass
        """
    )
    result = pytester.runpytest(*OPTIONS, "--bits=2")
    result.assert_outcomes(errors=1, deselected=3)
    result.stdout.fnmatch_lines(["*in a unittest.TestCase, or with request.getfixturevalue, use qfair_audit*"])

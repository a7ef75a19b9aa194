import warnings
from functools import partial

import pytest

import qfair_check
from qfair_check.errors import FairnessError, OptionError
from qfair_check.judge.assertions import InsufficientDataWarning

CASES = {
    "assert_fvo_below": (0.4, 0.39),
    "assert_fvo_increase_below": (0.3, 0.29),
    "assert_overall_accuracy_above": (0.7, 0.71),
    "assert_accuracy_drop_below": (0.15, 0.14),
    "assert_group_accuracy_drop_below": (0.3, 0.29),
    "assert_worst_group_accuracy_above": (0.5, 0.51),
    "assert_flip_rate_below": (0.3, 0.29),
    "assert_sparsity_below": (0.25, 0.24),
    "assert_cosine_distance_below": (0.011, 0.009),
}


@pytest.fixture
def audit(make_audit):
    return make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 80}, int8={"A": 90, "B": 80}, int4={"A": 90, "B": 50})


@pytest.mark.parametrize("name", CASES)
def test_holds_at_the_limit_and_raises_beyond(audit, name):
    check, (holds, breaks) = getattr(qfair_check, name), CASES[name]
    check(audit, holds, bits=4)
    with pytest.raises(FairnessError, match="the limit"):
        check(audit, breaks, bits=4)


def test_a_traceback_ends_where_the_assertion_is_called(pytester, audit):
    audit.save("audit.json")
    tests = [f"def test_{name}(): qfair_check.{name}(AUDIT, {breaks}, bits=4)" for name, (_, breaks) in CASES.items()]
    pytester.makepyfile("\n".join(["import qfair_check", "AUDIT = qfair_check.Audit.load('audit.json')", *tests]))
    result = pytester.runpytest("-q")
    result.assert_outcomes(failed=len(CASES))
    assert "assertions.py" not in result.stdout.str()


@pytest.mark.parametrize(
    "check",
    [partial(qfair_check.assert_fvo_below, max_fvo=0.9), qfair_check.assert_on_pareto_front],
    ids=["a limit", "the front"],
)
def test_a_warning_points_to_where_the_assertion_is_called(audit, check):
    with pytest.warns(InsufficientDataWarning) as told:
        check(audit, bits=4, min_group_size=200, insufficient="warn")
    assert [warning.filename for warning in told] == [__file__]


def test_every_assertion_with_a_limit_is_tried_here():
    named = {name for name in qfair_check.__all__ if name.startswith("assert_")}
    elsewhere = {"assert_on_pareto_front", "assert_lambda_max_ratio", "assert_gradient_norm_ratio"}
    assert named - elsewhere == set(CASES)


def test_all_precisions_by_default_and_every_breach_in_the_message(audit):
    qfair_check.assert_fvo_below(audit, 0.1, bits="int8")
    with pytest.raises(FairnessError) as caught:
        qfair_check.assert_fvo_below(audit, 0.05)
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines() if "FVO" in line] == [
        "FVO at int8",
        "FVO at int4",
    ]


def test_it_is_an_assertion_error(audit):
    with pytest.raises(AssertionError):
        qfair_check.assert_fvo_below(audit, 0, bits=4)


def test_a_limit_by_precision(audit):
    qfair_check.assert_fvo_below(audit, "0.1,int4=0.4")
    with pytest.raises(OptionError, match=r"max_fvo is 'int4=0\.4': it sets no limit for int8"):
        qfair_check.assert_fvo_below(audit, "int4=0.4")
    with pytest.raises(OptionError, match="int2, which is not audited"):
        qfair_check.assert_fvo_below(audit, "0.1,int2=0.4")


def test_insufficient_fails_warns_or_passes(make_audit):
    audit = make_audit({"A": 100, "B": 10}, fp32={"A": 90, "B": 8}, int4={"A": 90, "B": 8})
    with pytest.raises(FairnessError, match="group B has 10 samples"):
        qfair_check.assert_fvo_below(audit, 0.5)
    with pytest.warns(InsufficientDataWarning, match="group B has 10 samples"):
        qfair_check.assert_fvo_below(audit, 0.5, insufficient="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qfair_check.assert_fvo_below(audit, 0.5, insufficient="pass")
    qfair_check.assert_fvo_below(audit, 0.5, min_group_size=10)
    with pytest.raises(OptionError, match="insufficient is 'ignore'"):
        qfair_check.assert_fvo_below(audit, 0.5, insufficient="ignore")


def test_fp32_is_never_judged(audit):
    with pytest.raises(OptionError, match="nothing to judge"):
        qfair_check.assert_fvo_below(audit, 0.5, bits=32)

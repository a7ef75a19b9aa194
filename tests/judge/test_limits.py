from decimal import Decimal

import numpy as np
import pytest

from qfair_check.errors import OptionError
from qfair_check.judge.checks import CHECKS, GATE_CHECKS
from qfair_check.judge.limits import Limit, check_limits_bind, gate_limits, parse_confidence

FVO = CHECKS["fvo"]


@pytest.mark.parametrize("given", [0.1, "0.1", Decimal("0.1"), np.float64(0.1), np.float32(0.1), " 0.1 "])
def test_a_limit_is_the_decimal_that_was_typed(given):
    assert Limit.parse(given, FVO).bound("int8") == Decimal("0.1")


def test_a_precision_may_have_its_own_limit():
    limit = Limit.parse("0.1, int4=0.15, 2=0.5", FVO)
    assert [limit.bound(name) for name in ("int8", "int4", "int2")] == [Decimal("0.1"), Decimal("0.15"), Decimal("0.5")]
    assert str(limit) == "0.1, int4=0.15, int2=0.5"


def test_without_a_general_limit_the_other_precisions_are_free():
    assert Limit.parse("int4=0.15", FVO).bound("int8") is None


@pytest.mark.parametrize(
    "given", ["nan", "inf", "-inf", "-0.1", "1.1", "", "abc", "0.1,", "int4=", "sNaN", True, None, "1e999", "0,1,2"]
)
def test_anything_else_is_refused_with_what_was_given(given):
    with pytest.raises(OptionError, match="max_fvo is") as caught:
        Limit.parse(given, FVO)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize("given", ["1e-99999999", "int4=0e99999999", "0e-1001", f"0.{'1' * 1001}"])
def test_a_limit_that_would_take_hours_as_a_fraction_is_refused(given):
    with pytest.raises(OptionError) as caught:
        Limit.parse(given, FVO)
    assert str(caught.value) == f"max_fvo is {given!r}: a limit has at most 1,000 decimals"


@pytest.mark.parametrize("given", [5e-324, "1e-1000", f"0.{'1' * 1000}"])
def test_every_float_is_a_limit(given):
    assert Limit.parse(given, FVO).bound("int8") == Decimal(str(given))


@pytest.mark.parametrize(("given", "part"), [("0.1,0.2", "all precisions twice"), ("4=0.1,int4=0.2", "int4 twice")])
def test_the_same_limit_twice_is_refused(given, part):
    with pytest.raises(OptionError, match=part):
        Limit.parse(given, FVO)


def test_an_unknown_precision_is_refused():
    with pytest.raises(OptionError, match="'int12' is not a bit width"):
        Limit.parse("int12=0.1", FVO)


def test_both_ends_of_the_range_are_limits():
    assert Limit.parse(0, FVO).bound("int8") == 0
    assert Limit.parse(1, FVO).bound("int8") == 1
    assert Limit.parse(2, CHECKS["cosine-distance"]).bound("int8") == 2


@pytest.mark.parametrize("given", ["0.5", 0.95, "0.999999"])
def test_a_confidence_may_be_a_half(given):
    assert parse_confidence(given) == Decimal(str(given))


def test_defaults_judge_what_quantization_adds():
    defaults = {name: str(limit) for name, limit in gate_limits({}).items()}
    assert defaults == {"fvo-increase": "0.05", "group-drop": "0.05", "accuracy-drop": "0.02"}


def test_given_limits_replace_and_join_the_defaults():
    limits = gate_limits({"max_fvo": "0.3", "max_group_drop": "0.1", "min_accuracy": 0.8})
    assert {name: str(limit) for name, limit in limits.items()} == {
        "fvo": "0.3",
        "fvo-increase": "0.05",
        "group-drop": "0.1",
        "accuracy": "0.8",
        "accuracy-drop": "0.02",
    }


def test_a_limit_for_a_precision_that_is_not_audited_is_refused():
    limits = gate_limits({"max_fvo": "int4=0.3"})
    check_limits_bind(limits, ["int8", "int4"])
    with pytest.raises(OptionError, match="max_fvo sets a limit for int4, which is not audited: audited are int8"):
        check_limits_bind(limits, ["int8"])


RATIO = CHECKS["lambda-max"]


def test_a_ratio_between_groups_is_never_under_one():
    assert Limit.parse("1, int4=1000000", RATIO).bound("int4") == 10**6
    for given in ("0.99", "0", "1000000.1", "inf", "1e999999999"):
        with pytest.raises(OptionError) as caught:
            Limit.parse(given, RATIO)
        assert str(caught.value) == f"max_lambda_ratio is {given!r}: a limit is a number from 1 to 1,000,000"


def test_a_ratio_to_fp32_may_be_under_one():
    assert Limit.parse("0.5", CHECKS["gradient-norm-to-fp32"]).bound("int4") == Decimal("0.5")
    with pytest.raises(OptionError, match="a limit is a number from 0 to 1,000,000"):
        Limit.parse("-0.1", CHECKS["gradient-norm-to-fp32"])


def test_the_gate_has_seven_limits():
    assert [check.keyword for check in GATE_CHECKS] == [
        "max_fvo",
        "max_fvo_increase",
        "max_group_drop",
        "min_accuracy",
        "max_accuracy_drop",
        "max_lambda_ratio",
        "max_gradient_ratio",
    ]


def test_a_limit_for_one_precision_leaves_the_default_at_the_others():
    limits = gate_limits({"max_group_drop": "int4=0.2", "max_fvo": "int4=0.3"})
    assert [limits["group-drop"].bound(name) for name in ("int8", "int4")] == [Decimal("0.05"), Decimal("0.2")]
    assert [limits["fvo"].bound(name) for name in ("int8", "int4")] == [None, Decimal("0.3")]

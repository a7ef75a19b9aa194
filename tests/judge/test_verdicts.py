from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import OptionError
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.limits import Limit, gate_limits
from qfair_check.judge.verdicts import Outcome, judge_audit, judge_one

PASS, FAIL, INSUFFICIENT = Outcome.PASS, Outcome.FAIL, Outcome.INSUFFICIENT


def verdict(audit, check, limit, precision="int4", **options):
    return judge_one(audit, CHECKS[check], Decimal(str(limit)), precision, **options)


@pytest.fixture
def audit(make_audit):
    return make_audit(
        {"A": 100, "B": 200, "C": 50},
        fp32={"A": 90, "B": 190, "C": 40},
        int4={"A": 88, "B": 192, "C": 25},
    )


@pytest.mark.parametrize(
    ("check", "value", "baseline", "lowest", "highest"),
    [
        ("fvo", Fraction(192, 200) - Fraction(1, 2), Fraction(190, 200) - Fraction(4, 5), 2, 1),
        ("fvo-increase", Fraction(46, 100) - Fraction(15, 100), Fraction(15, 100), 2, 1),
        ("group-drop", Fraction(15, 50), None, 2, None),
        ("accuracy", Fraction(305, 350), Fraction(320, 350), None, None),
        ("accuracy-drop", Fraction(15, 350), Fraction(320, 350), None, None),
        ("worst-group-accuracy", Fraction(1, 2), Fraction(4, 5), 2, None),
        ("flip-rate", Fraction(15, 50), None, 2, None),
        ("sparsity", Fraction(1, 4), Fraction(1, 4), None, None),
        ("cosine-distance", Fraction(0.01), None, 0, None),
    ],
)
def test_values_by_hand(audit, check, value, baseline, lowest, highest):
    found = verdict(audit, check, "0.5")
    assert (found.measured, found.baseline, found.lowest, found.highest) == (value, baseline, lowest, highest)


@pytest.mark.parametrize("check", ["fvo", "fvo-increase", "group-drop", "accuracy-drop", "flip-rate", "sparsity"])
def test_a_tie_passes_and_the_next_decimal_fails(make_audit, check):
    audit = make_audit({"A": 1000, "B": 1000}, fp32={"A": 800, "B": 800}, int4={"A": 800, "B": 500})
    value = {"accuracy-drop": "0.15", "sparsity": "0.25"}.get(check, "0.3")
    assert verdict(audit, check, value).outcome is PASS
    assert verdict(audit, check, Decimal(value) - Decimal("1e-25")).outcome is FAIL


@pytest.mark.parametrize("check", ["accuracy", "worst-group-accuracy"])
def test_a_tie_with_a_floor_passes(make_audit, check):
    audit = make_audit({"A": 1000, "B": 1000}, fp32={"A": 800, "B": 800}, int4={"A": 700, "B": 700})
    assert verdict(audit, check, "0.7").outcome is PASS
    assert verdict(audit, check, Decimal("0.7") + Decimal("1e-25")).outcome is FAIL


def test_floats_would_get_this_tie_wrong(make_audit):
    audit = make_audit({"A": 10, "B": 10}, fp32={"A": 9, "B": 9}, int4={"A": 9, "B": 6})
    assert 9 / 10 - 6 / 10 > 0.3
    assert verdict(audit, "fvo", 0.3, min_group_size=1).outcome is PASS


@given(
    groups=st.lists(st.tuples(st.integers(30, 400), st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8),
    limit=st.decimals(0, 1, places=3),
)
def test_order_of_groups_changes_nothing(make_audit, groups, limit):
    def build(ordered):
        samples = {name: n for name, (n, _, _) in ordered}
        before, after = ({name: int(row[0] * row[which]) for name, row in ordered} for which in (1, 2))
        return make_audit(samples, fp32=before, int4=after)

    named = list(zip("ABCDEFGH", groups, strict=False))
    audit, turned = build(named), build(named[::-1])
    for check in ("fvo", "fvo-increase", "group-drop", "worst-group-accuracy"):
        one, other = verdict(audit, check, limit), verdict(turned, check, limit)
        assert (one.measured, one.outcome) == (other.measured, other.outcome)


@given(groups=st.lists(st.tuples(st.integers(30, 400), st.floats(0, 1)), min_size=2, max_size=8))
def test_fvo_is_zero_iff_all_accuracies_are_equal_and_never_above_one(make_audit, groups):
    samples = {name: n for name, (n, _) in zip("ABCDEFGH", groups, strict=False)}
    right = {name: int(n * share) for name, (n, share) in zip("ABCDEFGH", groups, strict=False)}
    found = verdict(make_audit(samples, fp32=right, int4=right), "fvo", "1")
    rates = {Fraction(right[name], samples[name]) for name in samples}
    assert 0 <= found.measured <= 1
    assert (found.measured == 0) == (len(rates) == 1)


def test_a_small_group_is_insufficient_with_its_size(make_audit):
    audit = make_audit({"A": 100, "B": 100, "C": 29}, fp32={"A": 90, "B": 90, "C": 20}, int4={"A": 90, "B": 89, "C": 0})
    found = verdict(audit, "group-drop", "0.05")
    assert found.outcome is INSUFFICIENT
    assert found.reasons == ("group C has 29 samples, and judging needs 30",)
    assert found.measured == Fraction(1, 100)
    assert verdict(audit, "group-drop", "0.05", min_group_size=29).outcome is FAIL


@pytest.mark.parametrize("check", ["fvo", "fvo-increase", "group-drop", "flip-rate"])
def test_what_the_judgeable_groups_break_is_a_failure_whatever_the_small_one_does(make_audit, check):
    audit = make_audit({"A": 100, "B": 100, "C": 3}, fp32={"A": 90, "B": 90, "C": 3}, int4={"A": 90, "B": 40, "C": 3})
    assert verdict(audit, check, "0.1").outcome is FAIL


@pytest.mark.parametrize("check", ["fvo", "fvo-increase", "group-drop", "worst-group-accuracy", "flip-rate"])
def test_an_empty_group_is_insufficient(make_audit, check):
    audit = make_audit({"A": 100, "B": 100, "C": 0}, fp32={"A": 90, "B": 90, "C": 0}, int4={"A": 90, "B": 90, "C": 0})
    limit = "0.1" if check == "worst-group-accuracy" else "0.9"
    found = verdict(audit, check, limit)
    assert found.outcome is INSUFFICIENT
    assert "group C" in found.reasons[0]
    assert "no samples" in found.reasons[0]


def test_a_nan_in_a_group_never_makes_a_gap_smaller(make_audit):
    audit = make_audit(
        {"A": 100, "B": 100, "C": 50}, fp32={"A": 90, "B": 90, "C": 40}, int4={"A": 90, "B": 90, "C": None}
    )
    for check in ("fvo", "fvo-increase", "group-drop", "accuracy", "accuracy-drop"):
        limit = "0" if check == "accuracy" else "1"
        assert verdict(audit, check, limit).outcome is INSUFFICIENT, check


def test_one_group_has_no_gap(make_audit):
    audit = make_audit({"A": 100}, fp32={"A": 90}, int4={"A": 90})
    for check in ("fvo", "fvo-increase"):
        found = verdict(audit, check, "1")
        assert found.outcome is INSUFFICIENT
        assert found.reasons == ("a gap needs two groups, and there is only one to judge",)


def test_a_metric_that_the_audit_does_not_hold_is_insufficient(audit):
    stripped = replace(
        audit,
        precisions=tuple(
            replace(result, groups=tuple(replace(group, cosine_distance=None) for group in result.groups))
            for result in audit.precisions
        ),
    )
    found = verdict(stripped, "cosine-distance", "1")
    assert found.outcome is INSUFFICIENT
    assert found.reasons[0] == "group A: the audit holds no cosine_distance"


def test_too_few_samples_in_all(make_audit):
    audit = make_audit({"A": 10, "B": 10}, fp32={"A": 9, "B": 9}, int4={"A": 9, "B": 9})
    found = verdict(audit, "accuracy-drop", "0.5")
    assert found.outcome is INSUFFICIENT
    assert found.reasons == ("there are 20 samples, and judging needs 30",)


def test_every_limit_at_every_precision_and_never_fp32(make_audit):
    counts = {"A": 90, "B": 90}
    audit = make_audit({"A": 100, "B": 100}, fp32=counts, int8=counts, int4=counts)
    told = judge_audit(audit, gate_limits({"max_fvo": "int4=0.5"}))
    assert [(one.check, one.precision) for one in told] == [
        ("fvo-increase", "int8"),
        ("group-drop", "int8"),
        ("accuracy-drop", "int8"),
        ("fvo", "int4"),
        ("fvo-increase", "int4"),
        ("group-drop", "int4"),
        ("accuracy-drop", "int4"),
    ]


def test_a_precision_that_the_audit_lacks(audit):
    with pytest.raises(OptionError, match="the audit holds no int2: it holds fp32, int4"):
        verdict(audit, "fvo", "0.5", "int2")


def test_a_group_size_that_makes_no_sense(audit):
    with pytest.raises(OptionError, match="at least 1"):
        verdict(audit, "fvo", "0.5", min_group_size=0)


def test_limits_of_another_kind_do_not_bind(audit):
    assert judge_audit(audit, {"fvo": Limit.parse("int8=0.5", CHECKS["fvo"])}) == ()


def test_where_all_groups_lack_a_value_for_another_reason_than_the_reference_each_is_named(make_audit):
    nothing = make_audit({"A": 40, "B": 40}, fp32={"A": 36, "B": 30}, int4={"A": None, "B": None})
    found = verdict(nothing, "group-drop", "0.05")
    assert found.outcome is INSUFFICIENT
    assert [reason.partition(":")[0] for reason in found.reasons] == ["group A", "group B"]
    assert found.fault.name == "NAN"


def test_without_flips_their_rate_is_zero(make_audit):
    same = {"A": 40, "B": 30}
    audit = make_audit({"A": 50, "B": 50}, fp32=same, int4=same)
    assert judge_one(audit, CHECKS["flip-rate"], Decimal(0), "int4").measured == 0

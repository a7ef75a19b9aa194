from dataclasses import replace
from decimal import Decimal

import pytest

from qfair_check import assert_fvo_below
from qfair_check.errors import FairnessError, OptionError
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.limits import gate_limits, parse_confidence
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Outcome, judge_audit, judge_one

PASS, FAIL, INSUFFICIENT = Outcome.PASS, Outcome.FAIL, Outcome.INSUFFICIENT
SURE = Decimal("0.95")


@pytest.fixture
def audit(make_audit):
    return make_audit(
        {"A": 1000, "B": 2000, "C": 500},
        fp32={"A": 900, "B": 1900, "C": 400},
        int4={"A": 890, "B": 1910, "C": 300},
    )


def verdict(audit, check, limit, **options):
    return judge_one(audit, CHECKS[check], Decimal(str(limit)), "int4", **{"confidence": SURE} | options)


@pytest.mark.parametrize(
    ("check", "certainly", "perhaps", "certainly_not"),
    [
        ("fvo", 0.5, 0.36, 0.2),
        ("fvo-increase", 0.4, 0.2, 0.05),
        ("group-drop", 0.3, 0.21, 0.1),
        ("accuracy", 0.8, 0.885, 0.95),
        ("accuracy-drop", 0.1, 0.03, 0.01),
        ("worst-group-accuracy", 0.5, 0.6, 0.7),
        ("flip-rate", 0.3, 0.21, 0.1),
    ],
)
def test_a_rate_passes_or_fails_only_where_that_is_certain(audit, check, certainly, perhaps, certainly_not):
    limits = (certainly, perhaps, certainly_not)
    assert [verdict(audit, check, limit).outcome for limit in limits] == [PASS, INSUFFICIENT, FAIL]
    assert all(verdict(audit, check, limit, confidence=None).outcome is not INSUFFICIENT for limit in limits)
    known = verdict(audit, check, certainly)
    assert known.certainty.low < float(known.measured) < known.certainty.high
    assert known.certainty.confidence == SURE


@pytest.mark.parametrize(("check", "limit"), [("fvo", 1), ("group-drop", 1), ("flip-rate", 1), ("accuracy", 0)])
def test_a_limit_that_nothing_can_break_is_kept(audit, check, limit):
    assert verdict(audit, check, limit).outcome is PASS


def test_what_is_uncertain_says_how_many_samples_would_tell(audit):
    found = verdict(audit, "group-drop", "0.21")
    assert describe(found, audit) == (
        "worst group's accuracy drop at int4 cannot be judged against the limit 0.21\n"
        "  because  worst group's accuracy drop at int4 is 0.200 on these samples, and from 0.162 to 0.232 at 95% "
        "confidence; at these rates 4,600 samples of each group would tell\n"
        "  worst  C  n=500   accuracy 0.800 → 0.600  [0.556, 0.642]\n"
        "  cure     that many samples, or no --qfair-confidence; --qfair-insufficient=warn goes on all the same"
    )
    assert not found.is_partial
    assert 4500 < found.certainty.samples_to_settle <= 4600


def test_so_many_samples_do_tell(make_audit):
    def drawn(c):
        return make_audit(
            {"A": 5000, "B": 5000, "C": c},
            fp32={"A": 4500, "B": 4500, "C": c * 8 // 10},
            int4={"A": 4450, "B": 4450, "C": c * 6 // 10},
        )

    assert verdict(drawn(4600), "group-drop", "0.21").outcome is PASS
    assert verdict(drawn(4200), "group-drop", "0.21").outcome is INSUFFICIENT


def test_at_the_limit_no_number_of_samples_tells(audit):
    found = verdict(audit, "group-drop", "0.2")
    assert found.outcome is INSUFFICIENT
    (reason,) = found.reasons
    assert reason.endswith("at these rates not even 10,000,000 samples of each group would tell")
    assert "cure     another limit, set by what the model is for and not by what was measured" in describe(found, audit)


def test_of_all_samples_the_number_is_of_all(audit):
    (reason,) = verdict(audit, "accuracy", "0.885").reasons
    assert reason.endswith(" samples would tell")
    assert "of each group" not in reason


def test_a_certain_verdict_tells_its_bounds(audit):
    told = describe(verdict(audit, "fvo", "0.2"), audit).splitlines()
    assert told[0] == "FVO at int4 is 0.355, above the limit 0.200 (fp32: 0.150, so quantization added 0.205)"
    assert told[1] == "  at 95% confidence it lies from 0.301 to 0.393"


def test_a_group_that_cannot_be_judged_comes_first(audit, make_audit):
    small = make_audit({"A": 1000, "B": 10}, fp32={"A": 900, "B": 9}, int4={"A": 895, "B": 9})
    found = verdict(small, "group-drop", "0.5")
    assert found.outcome is INSUFFICIENT
    assert found.reasons == ("group B has 10 samples, and judging needs 30",)
    assert verdict(small, "group-drop", "0.5", min_group_size=5).outcome is PASS


def test_without_paired_counts_a_change_is_not_certain(audit):
    quantized = audit.at("int4")
    bare = tuple(replace(group, right_to_wrong=None, wrong_to_right=None) for group in quantized.groups)
    unpaired = replace(audit, precisions=(audit.fp32, replace(quantized, groups=bare)))
    found = verdict(unpaired, "group-drop", "0.9")
    assert found.outcome is INSUFFICIENT
    assert "outcomes of each sample" in found.reasons[0]
    assert "among the other groups" not in describe(found, unpaired)
    assert verdict(unpaired, "fvo", "0.5").outcome is PASS


def test_curvature_of_a_subsample_is_not_certain(make_audit, make_curvature):
    def measured(drawn):
        groups = {"A": make_curvature(drawn, lambda_max=4.0), "B": make_curvature(drawn, lambda_max=2.0)}
        sizes = {"A": 100, "B": 100}
        return make_audit(sizes, fp32=sizes, int4=sizes, curvature={"fp32": groups, "int4": groups})

    assert verdict(measured(100), "lambda-max", 3).outcome is PASS
    found = verdict(measured(50), "lambda-max", 3)
    assert found.outcome is INSUFFICIENT
    assert "curvature was measured on a subsample" in describe(found, measured(50))
    assert verdict(measured(50), "lambda-max", 3, confidence=None).outcome is PASS


def test_what_is_no_rate_is_judged_by_its_value(audit):
    assert verdict(audit, "sparsity", "0.3").outcome is PASS
    assert verdict(audit, "sparsity", "0.3").certainty is None


def test_assertions_take_a_confidence(audit):
    assert_fvo_below(audit, 0.36)
    with pytest.raises(FairnessError, match=r"from 0\.301 to 0\.393 at 95% confidence"):
        assert_fvo_below(audit, 0.36, confidence=0.95)
    assert_fvo_below(audit, 0.36, confidence="0.6", insufficient="pass")


def test_all_limits_of_the_gate_are_judged_so(audit):
    found = judge_audit(audit, gate_limits({"max_fvo": "0.36"}), confidence=SURE)
    assert {one.check: one.outcome for one in found}["fvo"] is INSUFFICIENT
    assert all(one.certainty is not None for one in found)


@pytest.mark.parametrize("given", ["1", "0.49", "nan", "-1", "95", "", "high", 1e-9])
def test_a_confidence_is_a_number_from_a_half_to_less_than_one(given):
    with pytest.raises(OptionError, match=r"it is a number from 0\.5 to 0\.999999, such as 0\.95"):
        parse_confidence(given)

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.report.page.page import render_page
from qfair_check.report.page.verdict import banner_of, hurt_most, limit_rows, precisions_that
from qfair_check.report.page.words import MINUS
from qfair_check.report.reported import Reported

SAMPLES = {"zero": 89, "eight": 87}
FP32 = {"zero": 89, "eight": 56}


@pytest.fixture
def audit(make_audit):
    int4, int2 = {"zero": 89, "eight": 45}, {"zero": 10, "eight": 56}
    return make_audit(SAMPLES, fp32=FP32, int8=FP32, int4=int4, int2=int2)


def test_a_broken_limit_says_who_is_hurt_and_how_much_and_at_which_precision(audit, judged):
    banner = banner_of(judged(audit))
    assert (banner.word, banner.tone, banner.meaning) == ("FAIL", "fail", "6 of 9 limits are broken, at int4 and int2")
    assert banner.summary == (
        "At int4, the accuracy of <strong><bdi>eight</bdi></strong> (n=87) falls by 0.126, from 0.644 to 0.517; "
        "overall it falls by 0.062, from 0.824 to 0.761. "
        "At int2, the accuracy of <strong><bdi>zero</bdi></strong> (n=89) falls by 0.888, from 1.000 to 0.112. "
        "int8 holds every limit."
    )


def test_a_limit_can_be_broken_without_a_loss(make_audit, judged):
    counts = {"A": 50, "B": 30}
    made = make_audit({"A": 50, "B": 50}, fp32=counts, int8=counts)
    banner = banner_of(judged(made, max_fvo="0.1"))
    assert (banner.word, banner.meaning) == ("FAIL", "1 of 4 limits is broken, at int8")
    assert banner.summary == (
        "FVO at int8 is 0.400, above the limit 0.100 (fp32: 0.400, so quantization added 0.000). "
        "No group lost accuracy there."
    )


def test_when_all_limits_hold_the_largest_loss_is_told(make_audit, judged):
    made = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 90}, int8={"A": 89, "B": 90}, int4={"A": 90, "B": 88})
    banner = banner_of(judged(made))
    assert (banner.word, banner.tone, banner.meaning) == ("PASS", "pass", "all of 6 limits hold")
    assert banner.summary == (
        "No group lost more than the limits allow at int8 and int4. The largest loss is at int4, the accuracy of "
        "<strong><bdi>B</bdi></strong> (n=100) falls by 0.020, from 0.900 to 0.880."
    )
    same = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 90}, int8={"A": 91, "B": 90})
    assert banner_of(judged(same)).summary.endswith("No group lost accuracy.")


def test_limits_that_a_run_left_out_are_no_pass(make_audit, judged):
    counts = {"A": 90, "B": 90}
    made = make_audit({"A": 100, "B": 100}, fp32=counts, int8=counts)
    whole = judged(made)
    part = replace(whole, verdicts=whole.verdicts[:1], left_out=2)
    banner = banner_of(part)
    assert (banner.word, banner.tone) == ("INCOMPLETE", "insufficient")
    assert banner.meaning == "1 limit holds, others were not judged"
    assert banner.summary.endswith("2 limits were not judged in this run: left out, or it ended before.")
    none = banner_of(replace(whole, verdicts=(), left_out=3))
    assert (none.word, none.meaning) == ("NOT JUDGED", "no limit was judged in this run")


def test_a_broken_limit_wins_over_those_left_out(audit, judged):
    banner = banner_of(replace(judged(audit), left_out=1))
    assert banner.word == "FAIL"
    assert banner.summary.endswith(
        "int8 holds every limit that was judged. 1 limit was not judged in this run: left out, or it ended before."
    )


def test_what_cannot_be_judged_says_why(make_audit, judged):
    counts = {"A": 20, "B": 10}
    made = make_audit({"A": 25, "B": 20}, fp32=counts, int8=counts)
    banner = banner_of(judged(made))
    assert (banner.word, banner.tone) == ("INSUFFICIENT", "insufficient")
    assert banner.meaning == "2 of 3 limits cannot be judged, and none is broken"
    assert banner.summary == (
        "At int8: group A has 25 samples, and judging needs 30 (and 2 reasons more). Limits that can be judged hold."
    )
    lenient = banner_of(judged(made, insufficient="warn"))
    assert lenient.summary.endswith("A gate with <code>--insufficient=warn</code> goes on.")


def test_a_reason_is_told_of_the_precisions_where_it_holds(make_audit, judged):
    counts = {"A": 40, "B": 40}
    made = make_audit({"A": 50, "B": 50}, fp32=counts, int8={"A": 40, "B": None}, int4={"A": None, "B": 40})
    summary = banner_of(judged(made)).summary
    assert summary.startswith("At int8: group B")
    assert "Not every limit can be judged at int4 either." in summary
    assert "Limits that can be judged hold." not in summary


def test_what_cannot_be_judged_is_told_beside_what_is_broken(make_audit, judged):
    counts = {"A": 45, "B": 45, "C": 20}
    made = make_audit({"A": 50, "B": 50, "C": 25}, fp32=counts, int8=counts, int4={"A": 20, "B": 45, "C": 20})
    banner = banner_of(judged(made, min_group_size=20, max_accuracy_drop="0.5"))
    assert banner.meaning == "2 of 6 limits are broken, at int4"
    banner = banner_of(judged(made, max_accuracy_drop="0.5"))
    assert (banner.word, banner.meaning) == ("FAIL", "2 of 6 limits are broken, at int4; 2 cannot be judged")
    assert banner.summary.endswith("Not every limit can be judged at int8.")


def test_a_group_whose_accuracy_is_not_defined_is_not_said_to_have_lost_none(make_audit):
    made = make_audit({"A": 50, "B": 50}, fp32={"A": 40, "B": 40}, int8={"A": 40, "B": None})
    sparse = Verdict("sparsity", "int8", Decimal("0.5"), Fraction(0), None, Outcome.PASS, None, None, ())
    banner = banner_of(Reported("a.json", made, (sparse,)))
    assert banner.summary == "Every limit holds at int8. No group is known to have lost accuracy."
    broken = replace(sparse, measured=Fraction(3, 4), outcome=Outcome.FAIL)
    assert banner_of(Reported("a.json", made, (broken,))).summary.endswith(
        "No group is known to have lost accuracy there."
    )


def test_where_nothing_can_be_judged_nothing_is_said_to_hold(make_audit, judged):
    counts = {"A": 20, "B": 20}
    banner = banner_of(judged(make_audit({"A": 20, "B": 2}, fp32=counts | {"B": 2}, int8=counts | {"B": 2})))
    assert banner.meaning == "3 of 3 limits cannot be judged, and none is broken"
    assert "hold" not in banner.summary


def test_a_small_loss_that_breaks_a_limit_is_told_with_digits_enough(make_audit, judged):
    samples = {"A": 10_000, "B": 10_000}
    made = make_audit(samples, fp32={"A": 9003, "B": 9001}, int8={"A": 8997, "B": 9001})
    assert banner_of(judged(made, max_group_drop="0.0001")).summary == (
        "At int8, the accuracy of <strong><bdi>A</bdi></strong> (n=10,000) falls by 0.0006, from 0.9003 to 0.8997; "
        "overall it falls by 0.0003, from 0.9002 to 0.8999."
    )


def test_without_a_limit_nothing_is_judged(audit, make_audit):
    banner = banner_of(Reported("a.json", audit, ()))
    assert (banner.word, banner.tone) == ("NOT JUDGED", "none")
    assert banner.summary.startswith("The largest loss is at int2, the accuracy of <strong><bdi>zero</bdi>")
    alone = banner_of(Reported("a.json", make_audit(SAMPLES, fp32=FP32), ()))
    assert alone.summary == "The audit holds fp32 alone, which is the baseline and is never judged."


def test_names_in_the_summary_are_text(make_audit, judged):
    name = "<b>&"
    made = make_audit({name: 50, "B": 50}, fp32={name: 50, "B": 50}, int4={name: 10, "B": 50})
    assert "<bdi>&lt;b&gt;&amp;</bdi>" in banner_of(judged(made)).summary


def test_broken_limits_come_first(audit, judged):
    rows = limit_rows(judged(audit))
    assert [row.outcome for row in rows] == [Outcome.FAIL] * 6 + [Outcome.PASS] * 3
    assert [(row.phrase, row.precision, row.measured, row.limit, row.baseline) for row in rows[:3]] == [
        ("FVO increase", "int4", "0.126", "0.05", "FVO 0.356"),
        ("worst group's accuracy drop", "int4", "0.126", "0.05", "-"),
        ("overall accuracy drop", "int4", "0.062", "0.02", "accuracy 0.824"),
    ]
    concerned = [(one.role, one.name, one.samples, one.value) for one in rows[0].concerned]
    assert concerned == [
        ("worst", "eight", 87, "0.644 → 0.517 [0.414, 0.619]"),
        ("best", "zero", 89, "1.000 → 1.000 [0.959, 1.000]"),
    ]
    assert [one.role for one in rows[2].concerned] == ["all samples"]


def test_a_floor_is_told_from_a_ceiling(audit, judged):
    relations = {row.phrase: row.relation for row in limit_rows(judged(audit, min_accuracy="0.5"))}
    assert relations["overall accuracy"] == "≥"
    assert relations["FVO increase"] == "≤"


def test_a_ratio_names_the_largest_and_the_smallest(make_audit, make_curvature, judged):
    steep = {"zero": make_curvature(40, lambda_max=9.0), "eight": make_curvature(87, lambda_max=4.0)}
    made = make_audit(SAMPLES, fp32=FP32, int4=FP32, curvature={"fp32": steep, "int4": steep})
    (row,) = [row for row in limit_rows(judged(made, max_lambda_ratio="2")) if "ratio" in row.phrase]
    assert (row.measured, row.limit, row.baseline, row.outcome) == ("2.25", "2", "2.25", Outcome.FAIL)
    assert [(one.role, one.name, one.samples, one.value) for one in row.concerned] == [
        ("largest", "zero", 40, "9"),
        ("smallest", "eight", 87, "4"),
    ]


def test_a_value_of_some_groups_alone_is_told_from_that_of_all(make_audit, judged, parse):
    counts = {"A": 40, "B": 40, "C": 10}
    reported = judged(make_audit(counts, fp32=counts, int8=counts))
    assert [row.is_partial for row in limit_rows(reported)] == [True, True, False]
    parsed = parse(render_page([reported])).one("table", "limits")
    assert [row.inner[3].text for row in parsed.one("tbody").all("tr")] == ["0.000among the other groups"] * 2 + [
        "0.000"
    ]


def test_what_cannot_be_judged_has_no_number(make_audit, judged):
    counts = {"A": 20, "B": 10}
    rows = limit_rows(judged(make_audit({"A": 25, "B": 20}, fp32=counts, int8=counts)))
    assert [(row.outcome, row.measured, row.concerned) for row in rows[:2]] == [
        (Outcome.INSUFFICIENT, "not known", ())
    ] * 2
    assert "--qfair-" not in rows[0].told
    assert "--min-group-size" in rows[0].told


@given(st.fractions(-1, 1, max_denominator=10**6), st.decimals(0, 1, places=4))
def test_a_number_is_on_the_side_of_its_limit_that_the_value_is_on(audit_of_two, measured, limit):
    verdict = Verdict("fvo-increase", "int4", limit, measured, None, Outcome.PASS, None, None, ())
    (row,) = limit_rows(Reported("a.json", audit_of_two, (verdict,)))
    shown = Fraction(row.measured.replace(MINUS, "-"))
    assert (shown > Fraction(limit)) == (measured > Fraction(limit))
    assert abs(shown - measured) <= Fraction(1, 2000)


@pytest.fixture(scope="session")
def audit_of_two(make_audit):
    return make_audit({"A": 50, "B": 50}, fp32={"A": 40, "B": 40}, int4={"A": 40, "B": 30})


def test_which_precisions_fare_how(audit, judged):
    reported = judged(audit)
    assert precisions_that(reported, Outcome.FAIL) == ["int4", "int2"]
    assert precisions_that(reported, Outcome.PASS) == ["int8"]
    one = replace(reported, verdicts=tuple(v for v in reported.verdicts if v.precision == "int2"))
    assert precisions_that(one, Outcome.PASS) == []


def test_who_lost_most(make_audit):
    made = make_audit(
        {"A": 50, "B": 50, "C": 50},
        fp32={"A": 40, "B": 40, "C": 40},
        int8={"A": 40, "B": 44, "C": 40},
        int4={"A": None, "B": 30, "C": 20},
    )
    assert [hurt_most(result) for result in made.quantized] == [None, 2]

from dataclasses import replace
from decimal import Decimal

import pytest

import qfair_check
from qfair_check.errors import FairnessError
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.reasons import Fault, Reason, cure, first_fault
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Outcome, judge_one
from qfair_check.reference_record import NO_REFERENCE

MORE_SAMPLES = (
    "  cure     more samples of such groups, or a lower --qfair-min-group-size; "
    "--qfair-insufficient=warn goes on all the same"
)
LIKE_REASONS = [
    "without curvature",
    "NaN",
    "the audit holds no",
    "no quantized weights",
    "not converged pyhessian",
    "a ratio needs one above 0",
    "was measured on",
]


def cure_told(audit, check):
    verdict = judge_one(audit, CHECKS[check], Decimal(2), "int4")
    assert verdict.outcome is Outcome.INSUFFICIENT
    return describe(verdict, audit).splitlines()[-1]


@pytest.mark.parametrize("name", LIKE_REASONS)
def test_a_group_named_like_a_reason_does_not_change_the_cure(make_audit, name):
    samples = {"A": 100, "B": 100, name: 12}
    audit = make_audit(samples, fp32=samples, int4=samples)
    assert cure_told(audit, "cosine-distance") == MORE_SAMPLES
    assert cure_told(audit, "flip-rate") == MORE_SAMPLES
    with pytest.raises(FairnessError) as raised:
        qfair_check.assert_on_pareto_front(audit, bits=4)
    assert str(raised.value).splitlines()[-1] == MORE_SAMPLES


@pytest.mark.parametrize("name", LIKE_REASONS)
@pytest.mark.parametrize("check", ["lambda-max", "lambda-max-to-fp32"])
def test_nor_does_it_where_curvature_is_judged(make_audit, make_curvature, check, name):
    samples = {"A": 100, "B": 100, name: 12}
    measured = {group: make_curvature(size) for group, size in samples.items()}
    audit = make_audit(samples, curvature={"fp32": measured, "int4": measured}, fp32=samples, int4=samples)
    assert cure_told(audit, check) == MORE_SAMPLES


def test_what_is_not_defined_for_another_reason_is_not_cured_by_samples(make_audit, make_curvature):
    samples = {"A": 100, "B": 100}
    reason = "the model is a plain callable, and has no gradients"
    measured = dict.fromkeys(samples, make_curvature(100, lambda_max=None, undefined={"lambda_max": reason}))
    audit = make_audit(samples, curvature={"fp32": measured, "int4": measured}, fp32=samples, int4=samples)
    assert cure_told(audit, "lambda-max") == (
        "  cure     leave this limit out; --qfair-insufficient=warn goes on all the same"
    )


def test_a_missing_reference_is_told_once_for_all_groups(make_audit):
    made = make_audit({"A": 90, "B": 90}, fp32={"A": 80, "B": 80}, int4={"A": 70, "B": 70})
    fp32, int4 = made.precisions
    groups = tuple(
        replace(group, accuracy_drop=None, undefined={"accuracy_drop": NO_REFERENCE}) for group in int4.groups
    )
    audit = replace(made, precisions=(fp32, replace(int4, groups=groups)))
    verdict = judge_one(audit, CHECKS["group-drop"], Decimal(2), "int4")
    assert (verdict.reasons, verdict.fault) == ((NO_REFERENCE,), Fault.NO_REFERENCE)


def test_every_fault_has_a_cure_of_its_own():
    assert len({cure(fault) for fault in Fault}) == len(Fault)


def test_the_first_fault_does_not_depend_on_the_order_of_reasons():
    reasons = [Reason(fault, "") for fault in (Fault.FEW_GROUPS, Fault.NAN, Fault.SMALL_GROUP)]
    assert first_fault(reasons) is first_fault(reasons[::-1]) is Fault.NAN
    assert first_fault([]) is None

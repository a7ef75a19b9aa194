from dataclasses import replace

import pytest

from qfair_check.judge.verdicts import Outcome
from qfair_check.report.page.comparison import compare

SAMPLES = {"zero": 89, "eight": 87}
FP32 = {"zero": 89, "eight": 56}


@pytest.fixture
def old(make_audit):
    return make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 89, "eight": 45})


def test_every_precision_of_every_audit(old, make_audit, judged):
    new = make_audit(SAMPLES, fp32=FP32, int4=FP32)
    compared = compare([judged(old, name="old"), judged(new, name="new")])
    assert [(row.audit, row.precision, row.outcome) for row in compared.summary] == [
        ("old", "fp32", None),
        ("old", "int8", Outcome.PASS),
        ("old", "int4", Outcome.FAIL),
        ("new", "fp32", None),
        ("new", "int4", Outcome.PASS),
    ]
    row = compared.summary[2]
    assert (row.overall, row.fvo, row.fvo_increase) == ("0.761", "0.483", "+0.126")
    assert (row.worst, row.worst_samples, row.worst_accuracy) == ("eight", 87, "0.517 [0.414, 0.619]")
    assert compared.notes == ()


def test_groups_are_matched_by_name_not_by_place(old, make_audit, judged):
    new = make_audit({"eight": 87, "zero": 89}, fp32={"eight": 40, "zero": 80}, int4={"eight": 30, "zero": 70})
    table = compare([judged(old, name="old"), judged(new, name="new")]).groups
    assert [(name, len(columns)) for name, columns in table.heads] == [("old", 3), ("new", 2)]
    assert [(row.name, [cell.text for cell in row.cells]) for row in table.rows] == [
        ("zero", ["1.000", "1.000", "1.000", "0.899", "0.787"]),
        ("eight", ["0.644", "0.644", "0.517", "0.460", "0.345"]),
    ]


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ({"zero": 89, "nine": 87}, "old and new are of different groups, so they do not stand in one table"),
        ({"zero": 89, "eight": 88}, "old and new hold other numbers of samples of the same groups"),
    ],
)
def test_other_groups_are_told(old, make_audit, judged, samples, told):
    new = make_audit(samples, fp32=samples, int4=samples)
    compared = compare([judged(old, name="old"), judged(new, name="new")])
    assert compared.groups is None
    assert compared.why_no_groups.startswith(told)
    assert len(compared.summary) == 5


def test_what_makes_a_comparison_doubtful_is_noted(old, judged):
    other = replace(old, data=replace(old.data, sha256="e" * 64))
    twin = replace(old, run=replace(old.run, seconds=9.0))
    compared = compare([judged(old, name="a"), judged(other, name="b"), judged(twin, name="c")])
    assert compared.notes == (
        "a and b are of different inputs, labels or classes (the hashes of their data differ): compare them only if "
        "you know why",
        "a and c hold the same measurements",
    )

from fractions import Fraction

import pytest

from qfair_check.judge.pareto import Candidate
from qfair_check.judge.pareto_text import who_cannot_be_judged, worst_group

NAMES = ["a.json", "b.json"]


def candidate(precision, *reasons, audit=0):
    return Candidate(audit, precision, Fraction(1, 2), Fraction(0), reasons)


def test_who_cannot_be_judged_is_told_once_for_each_set_of_reasons():
    told = who_cannot_be_judged(
        [candidate("int8"), candidate("int4", "A is small"), candidate("int4", "A is small", audit=1)], NAMES
    )
    assert told == ["int4 of a.json, int4 of b.json cannot be judged: A is small"]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "r1"),
        (3, "r1; r2; r3"),
        (4, "r1; r2; r3; and 1 more"),
        (1005, "r1; r2; r3; and 1,002 more"),
    ],
)
def test_three_reasons_are_told_and_the_others_counted(count, told):
    reasons = [f"r{number}" for number in range(1, count + 1)]
    assert who_cannot_be_judged([candidate("int4", *reasons)], NAMES[:1]) == [f"int4 cannot be judged: {told}"]


def test_the_worst_group_is_one_whose_accuracy_is_not_defined_or_else_the_lowest(make_audit):
    sizes = {"A": 10, "B": 10, "C": 10}
    assert worst_group(make_audit(sizes, fp32=sizes, int4={"A": 9, "B": 3, "C": 4}).at(4)) == 1
    assert worst_group(make_audit(sizes, fp32=sizes, int4={"A": 9, "B": 0, "C": None}).at(4)) == 2

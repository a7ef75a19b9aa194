from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.baseline_record import Baseline, Entry, Tally, changes
from qfair_check.errors import OptionError
from qfair_check.judge.regression import judge_regression
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Flips, Outcome
from qfair_check.outcome_rows import pack_bits

SIZES = {"A": 100, "B": 200, "C": 50}


@pytest.fixture
def audit(make_audit):
    return make_audit(SIZES, fp32=SIZES, int4={"A": 88, "B": 192, "C": 25})


def baseline(audit, **correct):
    """Return the baseline of an audit, with other counts for these groups."""
    made = Baseline.of(audit)
    (entry,) = made.entries
    groups = tuple(
        replace(tally, correct=correct.get(name, tally.correct))
        for name, tally in zip(made.groups, entry.groups, strict=True)
    )
    starts = np.cumsum([0, *SIZES.values()])
    right = np.zeros(starts[-1], np.bool_)
    for start, tally in zip(starts, groups, strict=False):
        right[start : start + tally.correct] = True
    return with_outcomes(replace(made, entries=(replace(entry, groups=groups),)), right)


def with_outcomes(made, right):
    """Return a baseline with these samples right; with none known if that is None."""
    return replace(made, entries=(replace(made.entries[0], right=b"" if right is None else pack_bits(right)),))


def judged(audit, against, limit="0.01", **options):
    return judge_regression(audit, against, Decimal(limit), "int4", **options)


@given(before=st.tuples(*[st.integers(0, size) for size in SIZES.values()]), limit=st.integers(0, 100))
def test_it_is_the_largest_fall_of_a_group_or_the_rise_of_fvo_exactly(make_audit, before, limit):
    audit = make_audit(SIZES, fp32=SIZES, int4={"A": 88, "B": 192, "C": 25})
    now = [Fraction(88, 100), Fraction(192, 200), Fraction(25, 50)]
    was = [Fraction(count, size) for count, size in zip(before, SIZES.values(), strict=True)]
    found = judged(audit, baseline(audit, **dict(zip(SIZES, before, strict=True))), f"{limit}e-2")
    falls = [one - other for one, other in zip(was, now, strict=True)]
    expected = max(*falls, (max(now) - min(now)) - (max(was) - min(was)))
    assert found.measured == expected
    assert found.outcome is (Outcome.FAIL if expected > Fraction(limit, 100) else Outcome.PASS)


def test_a_fall_is_told_with_who_and_how_many(audit):
    told = describe(judged(audit, baseline(audit, B=198, C=30)), audit)
    assert told == (
        "regression from the baseline at int4 is 0.100, above the limit 0.010\n"
        "  C        n=50  accuracy 0.600 → 0.500  5 lost, 0 gained\n"
        "  B        n=200  accuracy 0.990 → 0.960  6 lost, 0 gained\n"
        "  overall  n=350  accuracy 0.903 → 0.871  11 lost, 0 gained\n"
        "  FVO 0.390 → 0.460\n"
        "  lost: samples that were right and are wrong now; gained: the other way round\n"
        "  the model is the same"
    )


def test_what_a_group_lost_and_gained_is_told_where_its_accuracy_stayed(audit):
    right = audit.right("int4")
    moved = right.copy()
    moved[[0, 99]] = moved[[99, 0]]  # both of A, of which the first 88 are right
    moved[[100, 299]] = moved[[299, 100]]
    moved[[101, 298]] = moved[[298, 101]]
    found = judged(audit, with_outcomes(Baseline.of(audit), moved))
    assert found.outcome is Outcome.PASS
    assert found.comparison.flips == Flips(3, 3)
    assert [(change.name, change.drop, change.flips) for change in found.comparison.changed] == [
        ("A", 0, Flips(1, 1)),
        ("B", 0, Flips(2, 2)),
    ]


def test_without_the_groups_of_samples_flips_are_those_of_all(audit):
    unknown = replace(audit, outcomes_hold_groups=False, group_bits=())
    told = describe(judged(unknown, baseline(audit, C=30)), audit)
    assert "  C        n=50  accuracy 0.600 → 0.500\n" in told
    assert "accuracy 0.886 → 0.871  5 lost, 0 gained\n" in told


def test_without_outcomes_no_flips_are_told(audit):
    for against, now in (
        (with_outcomes(baseline(audit, C=30), None), audit),
        (baseline(audit, C=30), replace(audit, outcomes={}, group_bits=())),
    ):
        told = describe(judged(now, against), audit)
        assert "sample by sample: not known, since no outcomes lie beside the baseline or the audit" in told
        assert "lost" not in told


def test_it_names_the_group_that_fell_most_or_those_between_which_fvo_rose(audit):
    fell = judged(audit, baseline(audit, B=198, C=30))
    assert (fell.lowest, fell.highest, fell.measured) == (2, None, Fraction(1, 10))
    rose = judged(audit, baseline(audit, A=90, B=180))  # C stayed, A fell by 0.02, B rose by 0.06
    assert (rose.lowest, rose.highest, rose.measured) == (2, 1, Fraction(6, 100))


def test_counts_that_are_not_those_of_the_outcomes_beside_them_are_refused(audit):
    edited = with_outcomes(baseline(audit, C=29), audit.right("int4"))
    told = "was edited: 29 samples of group C are right at int4, and 25 in the outcomes beside it; write it anew"
    with pytest.raises(OptionError, match=told):
        judged(audit, edited)


def test_many_groups_are_not_compared_each_with_each(make_audit):
    compared = []

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            compared.append(other)
            return str.__eq__(self, other)

    sizes = {Name(f"g{index}"): 40 for index in range(200)}
    made = make_audit(sizes, fp32=sizes, int4=sizes)
    compared.clear()
    assert judged(made, Baseline.of(made)).outcome is Outcome.PASS
    assert len(compared) < 10 * len(sizes)


def test_no_baseline_entry_or_group_fails(audit):
    missing = judged(audit, None)
    other_bits = replace(Baseline.of(audit), entries=(replace(Baseline.of(audit).entries[0], precision="int2"),))
    fewer = replace(Baseline.of(audit), groups=("A", "B", "D"))
    assert {judged(audit, against).outcome for against in (None, other_bits, fewer)} == {Outcome.FAIL}
    assert missing.reasons == ("there was no baseline to compare with",)
    assert judged(audit, fewer).reasons == ("group D of the baseline is gone", "group C is not in the baseline")


def test_other_data_in_the_same_groups_is_an_error(audit):
    with pytest.raises(OptionError, match=r"the baseline is of other data \(eeeeeeeeeeee\)"):
        judged(audit, replace(Baseline.of(audit), data="e" * 64))


def test_a_small_group_cannot_be_judged_unless_the_rest_fails(audit):
    assert judged(audit, baseline(audit), min_group_size=60).outcome is Outcome.INSUFFICIENT
    found = judged(audit, baseline(audit, A=95), min_group_size=60)
    assert found.outcome is Outcome.FAIL
    assert found.reasons == ("group C has 50 samples, and judging needs 60",)


def test_an_undefined_accuracy_is_no_better(audit):
    undefined = baseline(audit)
    entry = undefined.entries[0]
    against = replace(undefined, entries=(replace(entry, groups=(*entry.groups[:2], Tally(50, None))),))
    found = judged(audit, against)
    assert found.outcome is Outcome.INSUFFICIENT
    assert found.reasons == ("the accuracy of group C is not defined in the baseline",)


def test_the_order_of_groups_does_not_matter(audit):
    made = baseline(audit, C=30)
    turned = replace(
        made, groups=made.groups[::-1], entries=(replace(made.entries[0], groups=made.entries[0].groups[::-1]),)
    )
    assert judged(audit, turned).measured == judged(audit, made).measured == Fraction(1, 10)


def test_another_model_is_told(audit):
    made = Baseline.of(audit)
    other = replace(made, entries=(replace(made.entries[0], model="f" * 64),))
    assert "the model is another one" in describe(judged(audit, other), audit)
    assert judged(audit, other).comparison.is_same_model is False


def test_baselines_are_joined_by_their_keys():
    one, other = (
        Baseline("d" * 64, ("A",), (Entry("int4", "absmax", "", None, (Tally(9, right),)),)) for right in (5, 6)
    )
    more = replace(other, entries=(*other.entries, Entry("int8", "absmax", "", None, (Tally(9, 7),))))
    assert [entry.groups[0].correct for entry in one.updated(more).entries] == [6, 7]
    assert [entry.groups[0].correct for entry in one.updated(more, new_only=True).entries] == [5, 7]
    assert changes(one, one.updated(more)) == [
        "int4 absmax: accuracy 0.5556 → 0.6667",
        "  A  n=9  accuracy 0.5556 → 0.6667",
        "int8 absmax: new",
    ]
    assert changes(more, one)[-1] == "int8 absmax: gone"
    with pytest.raises(OptionError, match="of other data"):
        one.updated(replace(more, data="e" * 64))


def test_other_numbers_of_samples_in_the_same_data_are_refused(audit):
    (entry,) = baseline(audit).entries
    edited = replace(entry, groups=(*entry.groups[:2], Tally(40, 36)))
    told = "the baseline was edited: it has 40 samples of group C, and the same data have 50; write it anew"
    with pytest.raises(OptionError, match=told):
        judged(audit, replace(baseline(audit), entries=(edited,)))

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import InputError, OptionError
from qfair_check.judge.pareto import Candidate, candidates_of, dominates, standings
from qfair_check.judge.verdicts import Outcome

SAMPLES = {"A": 100, "B": 50}
FP32 = {"A": 90, "B": 40}

shares = st.integers(0, 6).map(lambda part: Fraction(part, 6))
judged = st.builds(Candidate, st.just(0), st.just("int4"), shares, shares)
unjudged = st.builds(Candidate, st.just(1), st.just("int2"), shares, shares, st.just(("group B: no samples",)))
several = st.lists(judged | unjudged, max_size=12)


def numbers(candidates):
    values = [(float(one.accuracy), float(one.fvo), not one.reasons) for one in candidates]
    return np.array(values).reshape(-1, 3).T


@given(several)
def test_the_front_is_what_numpy_finds(candidates):
    accuracy, fvo, is_judged = numbers(candidates)
    as_good = (accuracy[:, None] >= accuracy) & (fvo[:, None] <= fvo)
    beats = as_good & ~as_good.T
    beaten = (beats & (is_judged == 1)[:, None]).any(axis=0)
    doubted = (beats & (is_judged == 0)[:, None]).any(axis=0)
    expected = np.where(beaten, "fail", np.where(doubted | (is_judged == 0), "insufficient", "pass"))
    assert [standing.outcome.value for standing in standings(candidates)] == expected.tolist()


@given(several)
def test_the_front_is_what_all_pairs_say(candidates):
    """A point is on the front if every other is worse in one respect, or equal in both."""
    known = [one for one in candidates if not one.reasons]
    for standing in standings(candidates):
        one = standing.candidate
        holds = all(
            other.accuracy < one.accuracy
            or other.fvo > one.fvo
            or (other.accuracy == one.accuracy and other.fvo == one.fvo)
            for other in known
        )
        assert (standing.outcome is not Outcome.FAIL) == holds
        assert bool(standing.better) == (not holds)
        assert all(dominates(other, one) and not other.reasons for other in standing.better)


@given(several)
def test_someone_who_can_be_judged_is_never_beaten(candidates):
    told = [standing for standing in standings(candidates) if not standing.candidate.reasons]
    assert not told or any(standing.outcome is not Outcome.FAIL for standing in told)


@given(several, st.randoms(use_true_random=False))
def test_order_does_not_matter(candidates, random):
    order = list(range(len(candidates)))
    random.shuffle(order)
    told, shuffled = standings(candidates), standings([candidates[index] for index in order])
    assert [told[index].outcome for index in order] == [standing.outcome for standing in shuffled]


@given(several, st.data())
def test_one_more_that_is_beaten_changes_nothing(candidates, data):
    known = [one for one in candidates if not one.reasons]
    if known:
        better = data.draw(st.sampled_from(known))
        worse = Candidate(2, "int3", better.accuracy, better.fvo + Fraction(1, 7))
        assert standings([*candidates, worse])[:-1] == standings(candidates)


@given(several, st.data())
def test_a_twin_stands_where_its_twin_does(candidates, data):
    if candidates:
        one = data.draw(st.sampled_from(candidates))
        told = standings([*candidates, replace(one, audit=3)])
        assert told[-1].outcome == told[candidates.index(one)].outcome
        assert [standing.outcome for standing in told[:-1]] == [standing.outcome for standing in standings(candidates)]


@given(several)
def test_who_is_better_is_on_the_front(candidates):
    told = standings(candidates)
    outcome = {id(standing.candidate): standing.outcome for standing in told}
    for standing in told:
        assert all(outcome[id(other)] is not Outcome.FAIL for other in standing.better)


def test_floats_have_no_say():
    """0.1 + 0.2 > 0.3 in floats: exactly, the two are equal, and both on the front."""
    one = Candidate(0, "int8", Fraction(1, 2), Fraction(1, 10) + Fraction(2, 10))
    other = Candidate(1, "int8", Fraction(1, 2), Fraction(3, 10))
    assert [standing.outcome for standing in standings([one, other])] == [Outcome.PASS, Outcome.PASS]


def test_candidates_are_exact_and_leave_fp32_out(make_audit):
    audit = make_audit(SAMPLES, fp32=FP32, int8={"A": 90, "B": 39}, int4={"A": 70, "B": 20})
    assert candidates_of([audit], ["a"]) == (
        Candidate(0, "int8", Fraction(129, 150), Fraction(12, 100)),
        Candidate(0, "int4", Fraction(90, 150), Fraction(30, 100)),
    )


def test_bits_leave_the_others_out(make_audit):
    one = make_audit(SAMPLES, fp32=FP32, int8=FP32, int4=FP32)
    other = make_audit(SAMPLES, fp32=FP32, int4=FP32)
    found = candidates_of([one, other], ["a", "b"], bits="8,4")
    assert [(candidate.audit, candidate.precision) for candidate in found] == [(0, "int8"), (0, "int4"), (1, "int4")]


def test_what_bits_must_name(make_audit):
    one = make_audit(SAMPLES, fp32=FP32, int8=FP32)
    other = make_audit(SAMPLES, fp32=FP32, int4=FP32)
    bare = make_audit(SAMPLES, fp32=FP32)
    with pytest.raises(OptionError) as caught:
        candidates_of([one, other], ["a", "b"], bits="8,2")
    assert str(caught.value) == "no audit holds int2: audit a model again with --bits int2"
    with pytest.raises(OptionError) as caught:
        candidates_of([one, other], ["a", "b"], bits="8")
    assert str(caught.value) == "there is nothing to compare in b: it holds fp32, int4, and fp32 is the baseline"
    with pytest.raises(OptionError) as caught:
        candidates_of([one, bare], ["a", "b"])
    assert str(caught.value) == "there is nothing to compare in b: it holds fp32, and fp32 is the baseline"
    with pytest.raises(OptionError, match="there is nothing to compare in a: it holds fp32, int8"):
        candidates_of([one], ["a"], bits="32")
    with pytest.raises(OptionError, match="the smallest group size is 0: it is at least 1"):
        candidates_of([one], ["a"], min_group_size=0)


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ({"A": 100, "B": 51}, "group B has 50 samples in a.json and 51 in b.json"),
        ({"A": 100}, "group B is in a.json and not in b.json"),
        ({"A": 100, "B": 50, "C": 10}, "group C is in b.json and not in a.json"),
        ({"A": 100, "b": 50}, "group B is in a.json and not in b.json"),
        ({"A": 100, "B": 50, "\x1b[2J": 10}, "group \\x1b[2J is in b.json and not in a.json"),
    ],
)
def test_other_groups_cannot_be_compared(make_audit, samples, told):
    one = make_audit(SAMPLES, fp32=FP32, int8=FP32)
    counts = dict.fromkeys(samples, 5)
    other = make_audit(samples, fp32=counts, int8=counts)
    with pytest.raises(InputError) as caught:
        candidates_of([one, one, other], ["a.json", "x.json", "b.json"])
    assert str(caught.value) == (
        f"a.json and b.json cannot be compared: {told}; audit both models on the same data with the same groups"
    )


def test_the_order_of_groups_does_not_matter(make_audit):
    one = make_audit(SAMPLES, fp32=FP32, int8=FP32)
    other = make_audit({"B": 50, "A": 100}, fp32={"B": 40, "A": 90}, int8={"B": 40, "A": 90})
    first, second = candidates_of([one, other], ["a", "b"])
    assert replace(second, audit=0) == first


def outcomes(*audits, **options):
    names = [f"audit {index}" for index in range(len(audits))]
    return [standing.outcome.value for standing in standings(candidates_of(audits, names, **options))]


def test_a_small_group_cannot_be_judged_whatever_the_rest(make_audit):
    samples = SAMPLES | {"C": 12}
    audit = make_audit(samples, fp32=FP32 | {"C": 9}, int8=FP32 | {"C": 9}, int4={"A": 50, "B": 5, "C": 1})
    told = candidates_of([audit], ["a"])
    assert [candidate.reasons for candidate in told] == [("group C has 12 samples, and judging needs 30",)] * 2
    assert outcomes(audit) == ["insufficient", "insufficient"]
    assert outcomes(audit, min_group_size=12) == ["pass", "fail"]


def test_what_cannot_be_judged_is_taken_at_its_best(make_audit):
    audit = make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"A": 70, "B": None})
    _, unknown = candidates_of([audit], ["a"])
    assert (unknown.accuracy, unknown.fvo) == (Fraction(120, 150), 0)
    assert unknown.reasons[0] == "group B: 1 of them has NaN or infinite logits"


@pytest.mark.parametrize(
    ("int4", "expected"),
    [
        ({"A": 95, "B": None}, ["insufficient", "insufficient"]),  # at best 145 of 150: it could beat int8
        ({"A": 70, "B": None}, ["pass", "insufficient"]),  # at best 120 of 150: it could not
        ({"A": None, "B": None}, ["insufficient", "insufficient"]),
    ],
)
def test_doubt_spreads_only_where_it_matters(make_audit, int4, expected):
    assert outcomes(make_audit(SAMPLES, fp32=FP32, int8=FP32, int4=int4)) == expected


def test_who_is_beaten_even_at_its_best_fails(make_audit):
    samples = {"A": 100, "B": 100, "C": 50}
    even, split = dict.fromkeys(samples, 45), {"A": 5, "B": 90, "C": None}
    audit = make_audit(samples, fp32=even, int8={"A": 90, "B": 90, "C": 45}, int4=split)
    assert outcomes(audit) == ["pass", "fail"]


def test_without_samples_the_best_that_could_be_is_taken(make_audit):
    nobody = {"A": 0, "B": 0}
    (found,) = candidates_of([make_audit(nobody, fp32=nobody, int4=nobody)], ["a"])
    assert (found.accuracy, found.fvo) == (1, 0)
    assert found.reasons


def test_one_group_or_none_cannot_be_judged(make_audit):
    alone = make_audit({"A": 100}, fp32={"A": 90}, int8={"A": 90})
    empty = make_audit({"A": 0, "B": 0}, fp32={"A": 0, "B": 0}, int8={"A": 0, "B": 0})
    assert candidates_of([alone], ["a"])[0].reasons == ("a gap needs two groups, and there is only one to judge",)
    assert candidates_of([empty], ["a"])[0].reasons == (
        "group A: no samples",
        "group B: no samples",
        "there is no group to judge",
    )
    assert outcomes(alone) == outcomes(empty) == ["insufficient"]

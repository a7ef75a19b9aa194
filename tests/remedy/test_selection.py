import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import InputError
from qfair_check.remedy.selection import (
    Candidate,
    GroupCounts,
    contenders,
    eligible,
    epochs_without_gain,
    is_better,
    reason,
    select,
)


def made(epoch, *correct, statistics="running", of=100):
    return Candidate(epoch, statistics, GroupCounts(correct, (of,) * len(correct)))


def test_the_fairest_that_is_accurate_enough_is_chosen():
    accurate, fair, useless = made(1, 95, 65), made(2, 80, 72), made(3, 50, 50)
    assert select([accurate, fair, useless]) is fair
    assert useless not in eligible([accurate, fair, useless])
    assert select([accurate, useless]) is accurate


def test_the_floor_is_of_trained_candidates_since_rounding_keeps_what_was_learned_by_heart():
    rounded, trained = made(None, 99, 80), made(1, 80, 75)
    assert select([rounded, trained]) is trained
    assert select([rounded]) is rounded
    assert select([made(None, 99, 98), trained]).epoch is None


def test_exactly_five_points_below_the_best_is_accurate_enough():
    assert select([made(1, 90, 70), made(2, 75, 75)]).epoch == 2
    assert select([made(1, 90, 70), made(2, 74, 75)]).epoch == 1


def test_ties_go_to_accuracy_then_to_the_later_epoch_then_to_the_first():
    assert select([made(1, 80, 70), made(2, 81, 71)]).epoch == 2
    assert select([made(2, 80, 70), made(1, 80, 70), made(None, 80, 70)]).epoch == 2
    first = made(1, 80, 70, statistics="re-estimated")
    assert select([first, made(1, 80, 70)]) is first


def test_a_tie_is_not_better():
    assert not is_better(made(3, 80, 70), made(None, 80, 70))
    assert is_better(made(3, 81, 71), made(None, 80, 70))
    assert is_better(made(3, 70, 70), made(None, 80, 70))


counts = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: GroupCounts(pair, (6, 6)))


@given(st.lists(st.tuples(st.booleans(), counts), min_size=1, max_size=12))
def test_what_is_thrown_away_on_the_way_is_never_chosen_in_the_end(drawn):
    every, kept = [], []
    for index, (trained, counted) in enumerate(drawn):
        every.append(Candidate(index + 1 if trained else None, "running", counted, str(index)))
        still = contenders(every)
        assert set(still) <= {*kept, every[-1]}
        kept = still
        assert select(every) in kept


def test_epochs_without_gain_count_from_the_one_that_would_be_taken():
    candidates = [made(None, 100, 100), made(1, 80, 60), made(2, 80, 70), made(3, 80, 65)]
    assert epochs_without_gain(candidates, 3) == 1
    assert epochs_without_gain(candidates[:1], 0) == 0


def test_the_reason_has_the_figures():
    candidates = [made(None, 99, 80), made(1, 80, 75), made(2, 60, 60)]
    assert reason(candidates[1], candidates) == (
        "epoch 1, running BatchNorm statistics: the least FVO on held-out samples, 0.050 at an overall accuracy of "
        "0.775, among 2 of 3 candidates, those within 0.05 of the best overall accuracy of a trained one"
    )


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(InputError, match="no candidate"):
        select([])
    with pytest.raises(InputError, match="hold out some of every group"):
        GroupCounts((0, 1), (0, 1))

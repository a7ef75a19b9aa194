from fractions import Fraction

import pytest

from qfair_check.baseline_record import Tally
from qfair_check.judge.regression_text import comparison_rows
from qfair_check.judge.verdicts import Comparison, Flips, GroupChange, Outcome, Verdict

ALL = Tally(1000, 900), Tally(1000, 850)


def rows(changed=(), fvo=(Fraction(1, 10), Fraction(1, 5)), flips=None, is_same_model=None):
    found = Comparison(*ALL, *fvo, tuple(changed), flips, is_same_model)
    return comparison_rows(
        Verdict("regression", "int4", None, None, None, Outcome.PASS, None, None, (), comparison=found)
    )


def change(name, flips=None):
    return GroupChange(name, Tally(100, 90), Tally(100, 80), flips)


@pytest.mark.parametrize(
    ("count", "shown", "more"),
    [(10, 10, []), (11, 10, ["1 group more changed"]), (1500, 10, ["1,490 groups more changed"])],
)
def test_ten_groups_are_told_and_the_others_counted(count, shown, more):
    told = rows(change(f"g{number}") for number in range(count))
    assert [row.split()[0] for row in told[:shown]] == [f"g{number}" for number in range(shown)]
    assert told[shown : shown + len(more)] == more
    assert told[shown + len(more)].startswith("overall")


def test_losses_and_gains_stand_beside_each_group_and_are_explained():
    assert rows([change("A", Flips(1200, 3))], flips=Flips(1210, 7), is_same_model=True) == [
        "A        n=100  accuracy 0.900 → 0.800  1,200 lost, 3 gained",
        "overall  n=1000  accuracy 0.900 → 0.850  1,210 lost, 7 gained",
        "FVO 0.100 → 0.200",
        "lost: samples that were right and are wrong now; gained: the other way round",
        "the model is the same",
    ]


@pytest.mark.parametrize("fvo", [(None, Fraction(1, 5)), (Fraction(1, 10), None), (None, None)])
def test_an_undefined_fvo_is_left_out(fvo):
    assert not [row for row in rows(fvo=fvo) if row.startswith("FVO")]

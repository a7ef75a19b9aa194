import pytest

from qfair_check.remedy.budget import Iterations, Seconds


def test_iterations_pass_one_by_one():
    assert [Iterations(4).passed(iteration) for iteration in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_seconds_pass_on_a_clock_and_those_spent_before_count():
    now = 50.0
    budget = Seconds.start(20.0, spent=5.0, clock=lambda: now)
    assert budget.passed(99) == pytest.approx(0.25)
    now = 60.0
    assert budget.passed(0) == pytest.approx(0.75)
    assert budget.spent == pytest.approx(15.0)
    now = 70.0
    assert budget.passed(0) > 1


def test_the_clock_is_real_by_default():
    budget = Seconds.start(1000.0)
    assert 0 <= budget.passed(0) <= budget.passed(0) < 1

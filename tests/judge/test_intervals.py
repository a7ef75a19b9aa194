import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, multinomial
from statsmodels.stats.proportion import proportion_confint

from qfair_check.judge.intervals import Estimate, change, independent_sum, negative, proportion

ALPHA = 0.05


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1e-9, 0.5))
def test_a_proportion_has_the_bounds_that_statsmodels_gives(counts, alpha):
    low, high = proportion_confint(*counts, alpha=2 * alpha, method="beta")
    found = proportion(*counts, alpha)
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-7, atol=1e-12)
    assert found.low <= found.value <= found.high


def test_the_upper_bound_of_no_success_is_the_closed_form_at_a_tiny_alpha():
    alpha = 2.0**-21
    assert proportion(0, 256, alpha).high == pytest.approx(1 - alpha ** (1 / 256), rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "rate", "difference"),
    [(20, 20, 0.9, 0.2), (50, 50, 0.95, 0.05), (200, 50, 0.8, 0.1), (20, 200, 0.6, 0.3), (500, 20, 0.99, 0.1)],
)
def test_bounds_of_a_difference_are_missed_at_most_as_often_as_asked(first, second, rate, difference):
    """By the probability of every outcome."""
    x, y = np.arange(first + 1), np.arange(second + 1)
    one, other = proportion(x, first, ALPHA), proportion(y, second, ALPHA)
    rows = Estimate(one.value[:, None], one.low[:, None], one.high[:, None])
    found = independent_sum([rows, negative(other)])
    chance = binom.pmf(x, first, rate)[:, None] * binom.pmf(y, second, rate - difference)
    assert chance[found.high < difference].sum() <= ALPHA
    assert chance[found.low > difference].sum() <= ALPHA


@pytest.mark.parametrize("n", [10, 40, 80])
def test_bounds_of_a_change_are_missed_at_most_as_often_as_asked(n):
    gained, lost = (counts.ravel() for counts in np.indices((n + 1, n + 1)))
    gained, lost = (counts[gained + lost <= n] for counts in (gained, lost))
    found = change(gained, lost, n, ALPHA)
    outcomes = np.stack([gained, lost, n - gained - lost], 1)
    for p in (0.001, 0.01, 0.05, 0.3):
        for q in (0.001, 0.01, 0.1, 0.6):
            chance = multinomial.pmf(outcomes, n, [p, q, 1 - p - q])
            assert chance[found.high < p - q - 1e-12].sum() <= ALPHA
            assert chance[found.low > p - q + 1e-12].sum() <= ALPHA


def test_a_change_in_one_direction_alone_is_bounded_by_that_share():
    """Without gains, the upper bound of a loss is that of Clopper and Pearson, but for what gains may still be."""
    alone, found = proportion(12, 100, ALPHA), change(0, 12, 100, ALPHA)
    assert found.value == -alone.value
    assert found.low == pytest.approx(-alone.high)
    assert found.high == pytest.approx(-0.12 + np.hypot(0.12 - alone.low, proportion(0, 100, ALPHA).high))

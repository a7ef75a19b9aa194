import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.report.figures.scales import axis_name, limits, plain, spans_magnitudes

POSITIVE = st.lists(st.floats(1e-12, 1e12), min_size=1)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1))
def test_limits_hold_every_value(values):
    low, high = limits(values, log=False)
    assert low < min(values) <= max(values) < high


@given(POSITIVE)
def test_limits_of_a_log_axis_hold_every_value_and_are_positive(values):
    low, high = limits(values, log=True)
    assert 0 < low < min(values) <= max(values) < high


@pytest.mark.parametrize("log", [False, True])
def test_nothing_has_limits_too(log):
    low, high = limits([], log=log)
    assert (0.1 if log else 0) <= low < high


@given(POSITIVE, st.floats(0.1, 10))
def test_magnitudes_do_not_depend_on_the_unit(values, unit):
    ratio = max(values) / min(values)
    if not 99 < ratio < 101:
        assert spans_magnitudes([value * unit for value in values]) is (ratio > 100)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-3, "0.001"),
        (2e-5, "2e-5"),
        (-1e-7, "−1e-7"),
        (-0.5, "−0.5"),
        (1 - 1e-4, "0.9999"),
        (99999, "99999"),
        (1e12, "1e12"),
        (123450, "1.2345e5"),
        (0.1 + 0.2, "0.3"),
        (12.345675, "12.345675"),
    ],
)
def test_ticks_are_short(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("room", "log", "text"), [(300, True, "loss, log scale"), (60, True, "loss (log)"), (60, False, "loss")]
)
def test_an_axis_says_that_it_is_logarithmic(room, log, text):
    assert axis_name("loss", room, log=log) == text


@pytest.mark.parametrize("values", [[1e-320, 1.0], [1.0, 1e308], [-1e308, 1e308], [5e-324, 1.7e308], [1e-320]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_ends_at_finite_numbers_whatever_the_values(values, log):
    low, high = limits([value for value in values if value > 0] if log else values, log=log)
    assert math.isfinite(high - low)
    assert low < high
    assert low > 0 or not log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qfair_check.quantize.grid import SortedWeights, step
from qfair_check.quantize.spec import GRIDS, integer_range

SINGLE, DOUBLE = np.dtype("float32"), np.dtype("float64")


@pytest.mark.parametrize(
    ("low", "high", "bits", "grid", "scale", "zero_point"),
    [
        (-7.0, 7.0, 4, "symmetric", 1.0, 0),
        (-2.0, 3.5, 4, "symmetric", 0.5, 0),
        (-8.0, 8.0, 4, "full", 1.0, 0),
        (-1.0, 1.0, 2, "full", 0.5, 0),
        (-5.0, 10.0, 4, "asymmetric", 1.0, 5),
        (2.0, 7.5, 4, "asymmetric", 0.5, 0),
        (-7.5, -2.0, 4, "asymmetric", 0.5, 15),
        (0.0, 0.0, 4, "symmetric", 1.0, 0),
        (0.0, 0.0, 4, "asymmetric", 1.0, 0),
    ],
)
def test_scale_and_zero_point_by_hand(low, high, bits, grid, scale, zero_point):
    found = step(np.array([low]), np.array([high]), bits, grid, SINGLE)
    assert (found[0].item(), found[1].item()) == (scale, zero_point)
    assert found[0].dtype == SINGLE


def test_ranges_are_treated_one_by_one():
    low, high = np.array([-7.0, 0.0, -1.4]), np.array([7.0, 0.0, 0.7])
    scale, zero_point = step(low, high, 4, "symmetric", DOUBLE)
    np.testing.assert_allclose(scale, [1.0, 1.0, 0.2], rtol=1e-15)
    assert zero_point.tolist() == [0, 0, 0]


def test_the_scale_is_a_normal_number():
    scale, _ = step(np.array([-1e-44]), np.array([1e-44]), 4, "symmetric", SINGLE)
    assert scale.item() == np.finfo(np.float32).smallest_normal


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.floats(-10, 10)),
    st.floats(0.01, 4),
    st.integers(2, 8),
    st.sampled_from(GRIDS),
    st.data(),
)
def test_the_error_is_that_of_rounding_each_weight(values, scale, bits, grid, data):
    lowest, highest = integer_range(bits, grid)
    zero = data.draw(st.integers(lowest, highest)) if grid == "asymmetric" else 0
    levels = (np.arange(lowest, highest + 1) - zero) * scale
    direct = ((values[:, None] - levels) ** 2).min(axis=1).mean()
    found = SortedWeights.of(values).mean_squared_error(np.array([scale]), np.array([float(zero)]), bits, grid)
    assert found.item() == pytest.approx(direct, rel=1e-9, abs=1e-11)


def test_the_error_of_float32_weights_is_summed_in_float64():
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    scales = np.array([0.01, 0.05, 0.3], np.float32)
    wide = values.astype(np.float64)[:, None]
    direct = ((wide - scales * np.clip(np.rint(wide / scales), -127, 127)) ** 2).mean(axis=0)
    found = SortedWeights.of(values).mean_squared_error(scales, np.zeros(3), 8, "symmetric")
    np.testing.assert_allclose(found, direct, rtol=1e-8)


def test_a_range_beyond_float32_has_a_scale_in_it():
    scale, _ = step(np.array([-6e38]), np.array([6e38]), 2, "symmetric", np.dtype("float32"))
    assert scale.item() == np.finfo(np.float32).max

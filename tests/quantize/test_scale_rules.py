from math import erf, exp, pi, sqrt

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from qfair_check.quantize.grid import SortedWeights, step
from qfair_check.quantize.scale_rules import absmax, aciq, clipping_range, laplace_clip, mse, normal_clip, percentile
from qfair_check.quantize.spec import GRIDS, RULES, Scheme, integer_range

SYMMETRIC = ("symmetric", "full")
CONSTANTS = {
    2: (2.83068, 1.71064),
    3: (3.89723, 2.15159),
    4: (5.02864, 2.55914),
    8: (9.89676, 3.92404),
}


def draws(kind, size=4096):
    generator = np.random.default_rng(7)
    values = {
        "normal": lambda: generator.normal(0.1, 0.3, size),
        "laplace": lambda: generator.laplace(0.0, 0.2, size),
        "heavy": lambda: generator.standard_t(3, size),
        "one-sided": lambda: generator.gamma(2.0, 1.0, size),
        "uniform": lambda: generator.uniform(-1, 1, size),
        "outlier": lambda: np.append(generator.normal(0.0, 0.01, size - 1), 3.0),
    }
    return values[kind]().astype(np.float32)


def direct_error(values, clip, bits, grid):
    """Mean squared error, written out in float64 from the definition of each grid."""
    wide, (low, high) = values.astype(np.float64), clip
    lowest, highest = integer_range(bits, grid)
    if grid == "asymmetric":
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (2**bits - 1)
        zero = np.clip(np.rint(-low / scale), lowest, highest)
    else:
        scale, zero = high / (2 ** (bits - 1) - (grid == "symmetric")), 0
    codes = np.clip(np.rint(wide / scale) + zero, lowest, highest)
    return ((wide - scale * (codes - zero)) ** 2).mean()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("values", [np.zeros(5), np.zeros(0)])
def test_nothing_but_zeros_has_no_range(rule, grid, values):
    assert clipping_range(values, 4, Scheme(rule, grid)) == (0.0, 0.0)


def test_absmax_by_hand():
    values = np.array([0.25, -3.0, 2.0])
    assert [absmax(values, grid) for grid in GRIDS] == [(-3.0, 3.0), (-3.0, 3.0), (-3.0, 2.0)]
    assert absmax(np.array([1.0, 2.0]), "asymmetric") == (1.0, 2.0)


@pytest.mark.parametrize("kind", ["normal", "laplace", "heavy", "one-sided", "uniform", "outlier"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_is_as_good_as_brute_force(kind, grid, bits):
    values = draws(kind)
    low, high = absmax(values, grid)
    found = direct_error(values, mse(values, bits, grid), bits, grid)
    brute = min(direct_error(values, (low * f, high * f), bits, grid) for f in np.linspace(0, 1.5, 301)[1:])
    assert found <= brute * (1 + 1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_mse_is_never_worse_than_absmax(grid, bits, size):
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
        found = direct_error(values, mse(values, bits, grid), bits, grid)
        assert found <= direct_error(values, absmax(values, grid), bits, grid) + 1e-14


def test_mse_shrinks_both_ends_by_one_factor():
    values = draws("one-sided")
    values[0] = -1.0
    low, high = mse(values, 3, "asymmetric")
    assert low / values.min() == pytest.approx(high / values.max(), rel=1e-12)
    assert high < values.max()


def test_mse_finds_the_levels_that_weights_already_lie_on():
    values = 0.1 * np.random.default_rng(0).integers(-3, 4, 500)
    assert direct_error(values, mse(values, 4, "symmetric"), 4, "symmetric") < 1e-9


@pytest.mark.parametrize(("bits", "expected"), CONSTANTS.items())
def test_aciq_constants(bits, expected):
    assert (laplace_clip(bits), normal_clip(bits)) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_aciq_constants_are_where_the_published_error_is_flat(bits):
    def laplace_slope(a):
        return -2 * exp(-a) + 2 * a / (3 * 4**bits)

    def normal_slope(a):
        return 2 * a * (1 - erf(a / sqrt(2))) - 2 * sqrt(2 / pi) * exp(-a * a / 2) + 2 * a / (3 * 4**bits)

    assert laplace_clip(bits) == pytest.approx(optimize.brentq(laplace_slope, 0.5, 20), abs=1e-6)
    assert normal_clip(bits) == pytest.approx(optimize.brentq(normal_slope, 0.5, 8), abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "grid", "which"), [("laplace", "symmetric", 0), ("normal", "asymmetric", 1), ("laplace", "asymmetric", 0)]
)
def test_aciq_follows_the_distribution_that_errs_less(kind, grid, which):
    values = draws(kind, 100_000) + np.float32(0.1 if grid == "asymmetric" else 0)
    wide = values.astype(np.float64)
    centre = wide.mean() if grid == "asymmetric" else 0.0
    alphas = CONSTANTS[4][0] * np.abs(wide - wide.mean()).mean(), CONSTANTS[4][1] * wide.std()
    errors = [direct_error(values, (centre - alpha, centre + alpha), 4, grid) for alpha in alphas]
    assert np.argmin(errors) == which
    assert aciq(values, 4, grid) == pytest.approx((centre - alphas[which], centre + alphas[which]), rel=1e-5)


def test_aciq_is_centred_on_the_mean_only_if_the_grid_is():
    values = draws("normal") + np.float32(2)
    low, high = aciq(values, 4, "asymmetric")
    assert (low + high) / 2 == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    for grid in SYMMETRIC:
        low, high = aciq(values, 4, grid)
        assert low == -high


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [1, 1000])
def test_aciq_of_equal_weights_is_absmax(grid, size):
    values = np.full(size, -0.1, np.float32)
    assert aciq(values, 4, grid) == absmax(values, grid)


def test_aciq_promises_more_than_a_restricted_grid_keeps_at_two_bits():
    alpha = laplace_clip(2)
    predicted = 2 * exp(-alpha) + alpha**2 / (3 * 4**2)
    density = stats.laplace.pdf

    def restricted(x):
        return (x - alpha * np.clip(np.rint(x / alpha), -1, 1)) ** 2 * density(x)

    actual = 2 * integrate.quad(restricted, 0, 60, points=[alpha / 2, alpha], limit=200)[0]
    half = alpha / 2
    below, above = 2 - exp(-half) * (half**2 + 2 * half + 2), exp(-half) * (half**2 - 2 * half + 2)
    assert actual == pytest.approx(below + above, rel=1e-9)
    assert (predicted, actual) == pytest.approx((0.285, 0.625), abs=5e-4)

    sample = SortedWeights.of(stats.laplace.ppf((np.arange(200_000) + 0.5) / 200_000))
    scale, zero = step(np.array([-alpha]), np.array([alpha]), 2, "symmetric", np.dtype("float64"))
    assert sample.mean_squared_error(scale, zero, 2, "symmetric").item() == pytest.approx(actual, abs=1e-3)


def test_percentile_by_hand():
    values = np.append(np.arange(-50.0, 50.0), 50.0)
    assert percentile(values, 100, "symmetric") == (-50.0, 50.0)
    assert percentile(np.arange(1001.0), 99, "full") == (-990.0, 990.0)
    assert percentile(values, 90, "asymmetric") == pytest.approx((-45.0, 45.0))


@pytest.mark.parametrize("grid", GRIDS)
def test_percentile_keeps_its_share_of_weights_inside(grid):
    values = draws("heavy", 100_001)
    low, high = percentile(values, 98.5, grid)
    inside = ((values >= low) & (values <= high)).mean()
    assert inside == pytest.approx(0.985, abs=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_percentile_of_mostly_zeros_is_absmax(grid):
    values = np.zeros(10_000)
    values[:2] = -2.0, 5.0
    assert percentile(values, 99.9, grid) == absmax(values, grid)

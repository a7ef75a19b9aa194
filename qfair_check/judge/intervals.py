"""Bounds of proportions and of their differences, each of them missed at most as often as is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Values with a lower and an upper bound, each of which errs with a probability of alpha.

    Parameters
    ----------
    value, low, high : float arrays of one shape
    """

    value: Floats
    low: Floats
    high: Floats

    @property
    def below(self) -> Floats:
        """How far the lower bound lies under the value."""
        return self.value - self.low

    @property
    def above(self) -> Floats:
        """How far the upper bound lies over the value."""
        return self.high - self.value


def proportion(successes: ArrayLike, n: ArrayLike, alpha: float) -> Estimate:
    """Return a proportion with the exact bounds of Clopper and Pearson.

    low is the alpha quantile of Beta(x, n - x + 1), and 0 where x = 0; high is the 1 - alpha quantile of
    Beta(x + 1, n - x), and 1 where x = n. Counts may be fractions, as those of a sample that is yet to be drawn.

    Parameters
    ----------
    successes, n : arrays
        x and n: 0 <= x <= n and n > 0.
    alpha : float
        One-sided, in (0, 1).

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934) 404.

    Examples
    --------
    >>> found = proportion([9, 0], [234, 20], 0.025)
    >>> found.low.round(3).tolist(), found.high.round(3).tolist()
    ([0.018, 0.0], [0.072, 0.168])
    """
    x, size = np.asarray(successes, np.float64), np.asarray(n, np.float64)
    none, every = x <= 0, x >= size
    low = np.where(none, 0.0, betaincinv(np.where(none, 1.0, x), size - x + 1, alpha))
    high = np.where(every, 1.0, 1 - betaincinv(np.where(every, 1.0, size - x), x + 1, alpha))
    return Estimate(x / size, low, high)


def change(gained: ArrayLike, lost: ArrayLike, n: ArrayLike, alpha: float) -> Estimate:
    """Return how a proportion changed on the same samples: (gained - lost) / n.

    MOVER on the bounds of `proportion` of both shares, with their correlation in a multinomial,
    r = -sqrt(p q / ((1 - p)(1 - q))).

    Parameters
    ----------
    gained, lost, n : arrays
        Samples that became right, samples that became wrong, and all samples.
    alpha : float
        One-sided.

    Source: G. Y. Zou and A. Donner, Stat. Med. 27 (2008) 1693; with a correlation G. Y. Zou, Psychol. Methods 12
    (2007) 399.

    Examples
    --------
    >>> found = change(2, 12, 100, 0.05)
    >>> found.value.round(2), found.low.round(3), found.high.round(3)
    (np.float64(-0.1), np.float64(-0.17), np.float64(-0.034))
    """
    up, down = proportion(gained, n, alpha), proportion(lost, n, alpha)
    odds = up.value * down.value / np.maximum((1 - up.value) * (1 - down.value), np.finfo(np.float64).tiny)
    correlation = -np.sqrt(np.minimum(odds, 1.0))
    value = up.value - down.value
    low = value - _joint(up.below, down.above, correlation)
    high = value + _joint(up.above, down.below, correlation)
    return Estimate(value, np.maximum(low, -1.0), np.minimum(high, 1.0))


def negative(one: Estimate) -> Estimate:
    """Return the estimate of what has the other sign."""
    return Estimate(-one.value, -one.high, -one.low)


def independent_sum(parts: Sequence[Estimate]) -> Estimate:
    """Return the sum of what was estimated on different samples; shapes broadcast.

    MOVER: the distances of the bounds from the values add by squares.

    Source: G. Y. Zou and A. Donner, Stat. Med. 27 (2008) 1693.

    Examples
    --------
    >>> found = independent_sum([proportion(40, 50, 0.05), negative(proportion(30, 50, 0.05))])
    >>> found.value.round(2), found.low.round(3), found.high.round(3)
    (np.float64(0.2), np.float64(0.036), np.float64(0.353))
    """
    zero: Floats = np.zeros(())
    value = sum((part.value for part in parts), zero)
    below = np.sqrt(sum((part.below**2 for part in parts), zero))
    above = np.sqrt(sum((part.above**2 for part in parts), zero))
    return Estimate(value, value - below, value + above)


def dependent_sum(one: Estimate, other: Estimate) -> Estimate:
    """Return the sum of what was estimated on the same samples, whose dependence may be any.

    The bounds are those of a correlation of 1: the distances add.

    Examples
    --------
    >>> half = proportion(5, 10, 0.1)
    >>> dependent_sum(half, half).high == 2 * half.high
    np.True_
    """
    return Estimate(one.value + other.value, one.low + other.low, one.high + other.high)


def _joint(one: Floats, other: Floats, correlation: Floats) -> Floats:
    return np.sqrt(one**2 + other**2 - 2 * correlation * one * other)

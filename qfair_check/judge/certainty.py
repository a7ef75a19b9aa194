"""Bounds of what a population would show, from the samples that were drawn, and how many samples would settle it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qfair_check.judge.intervals import (
    Estimate,
    Floats,
    change,
    dependent_sum,
    independent_sum,
    negative,
    proportion,
)

Bounds = tuple[float, float]
MOST_SAMPLES = 10**7
_PAIRED_SHARE = 0.9
_PRECISE = 1.005


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Counts of each group, float arrays of shape (groups,).

    Parameters
    ----------
    samples, right : arrays
        All, and those that the quantized model gets right.
    gained, lost : arrays
        Those that it gets right and the model at fp32 did not, and the other way round.
    flips : array
        Those whose prediction changed.
    """

    samples: Floats
    right: Floats
    gained: Floats
    lost: Floats
    flips: Floats

    @property
    def was_right(self) -> Floats:
        """Those that the model at fp32 gets right."""
        return self.right - self.gained + self.lost

    def at_least(self, samples: float) -> "Counts":
        """Return the counts of as many samples, where there are fewer, at the same rates."""
        times = np.maximum(samples / self.samples, 1.0)
        return Counts(*(part * times for part in (self.samples, self.right, self.gained, self.lost, self.flips)))


def gap(counts: Counts, alpha: float) -> Bounds:
    """Return bounds of the FVO, the largest gap between any two groups.

    The upper bound is the largest of the upper bounds of all pairs, each at alpha: the pair that has the largest gap is
    one of them (Berger's intersection-union). The lower bound is the largest lower bound of an ordered pair, each at
    alpha / (G (G - 1)), which is the first step of Holm.

    Parameters
    ----------
    counts : Counts
        Of two groups at least.
    alpha : float
        With which each bound may err.

    Source: R. L. Berger, Technometrics 24 (1982) 295; S. Holm, Scand. J. Stat. 6 (1979) 65.

    Examples
    --------
    >>> none = np.zeros(2)
    >>> low, high = gap(Counts(np.array([1000.0, 200.0]), np.array([900.0, 140.0]), none, none, none), 0.05)
    >>> round(low, 3), round(high, 3)
    (0.134, 0.26)
    """
    high = _pairs(proportion(counts.right, counts.samples, alpha)).high
    low = _pairs(proportion(counts.right, counts.samples, alpha / _ordered_pairs(counts))).low
    return max(0.0, _largest(low)), min(1.0, _largest(high))


def gap_increase(counts: Counts, alpha: float) -> Bounds:
    """Return bounds of FVO at this precision - FVO at fp32.

    Upper bound: the largest over pairs of that of abs(d_q) - abs(d_o), which is never less than the increase. It is
    max over s of min over t of s d_q - t d_o, with s and t each +1 or -1; t = s compares the same samples and has 0.9
    of alpha, t = -s has 0.1. Lower bound: for the pair with the largest gap d_q, the least lower bound of d_q - d_o
    over all pairs, at alpha / (G (G - 1)).

    Examples
    --------
    >>> counts = Counts(*map(np.array, ([500.0, 500.0], [400.0, 300.0], [0.0, 0.0], [0.0, 100.0], [0.0, 100.0])))
    >>> low, high = gap_increase(counts, 0.05)
    >>> round(low, 3), round(high, 3)
    (0.092, 0.233)
    """
    return _least_increase(counts, alpha), _greatest_increase(counts, alpha)


def group_drop(counts: Counts, alpha: float) -> Bounds:
    """Return bounds of the largest drop of a group's accuracy, on the same samples."""
    return _of_largest(lambda level: change(counts.lost, counts.gained, counts.samples, level), counts, alpha)


def flip_rate(counts: Counts, alpha: float) -> Bounds:
    """Return bounds of the largest share of a group whose predictions changed."""
    return _of_largest(lambda level: proportion(counts.flips, counts.samples, level), counts, alpha)


def worst_accuracy(counts: Counts, alpha: float) -> Bounds:
    """Return bounds of the least accuracy of a group."""
    low, high = _of_largest(lambda level: negative(proportion(counts.right, counts.samples, level)), counts, alpha)
    return -high, -low


BOUNDS: dict[str, Callable[[Counts, float], Bounds]] = {
    "fvo": gap,
    "fvo-increase": gap_increase,
    "group-drop": group_drop,
    "accuracy": worst_accuracy,
    "accuracy-drop": group_drop,
    "worst-group-accuracy": worst_accuracy,
    "flip-rate": flip_rate,
}
"""By name of each check that is a rate; those of all samples are those of one group."""


def samples_to_settle(counts: Counts, bounds: Callable[[Counts], Bounds], limit: float) -> int | None:
    """Return how many samples each group needs, at the rates that were seen, for the limit to lie outside the bounds.

    Within 1%; None if 10 million do not settle it, as where the value is the limit.

    Parameters
    ----------
    counts : Counts
    bounds : callable
        Such as `gap` at one alpha.
    limit : float

    Examples
    --------
    >>> counts = Counts(*map(np.array, ([100.0] * 2, [80.0, 72.0], [0.0] * 2, [0.0] * 2, [0.0] * 2)))
    >>> [samples_to_settle(counts, lambda more: gap(more, 0.05), limit) for limit in (0.2, 0.1, 0.08)]
    [100, 2508, None]
    """

    def is_settled(samples: float) -> bool:
        low, high = bounds(counts.at_least(samples))
        return limit < low or limit >= high

    few = enough = float(counts.samples.min())
    while not is_settled(enough):
        if enough >= MOST_SAMPLES:
            return None
        few, enough = enough, min(2 * enough, MOST_SAMPLES)
    while enough > few * _PRECISE:
        middle = (few * enough) ** 0.5
        few, enough = (few, middle) if is_settled(middle) else (middle, enough)
    return int(np.ceil(enough))


def _ordered_pairs(counts: Counts) -> int:
    groups = len(counts.samples)
    return groups * (groups - 1)


def _pairs(rates: Estimate) -> Estimate:
    """Return the difference of each pair, shape (groups, groups)."""
    return independent_sum([_rows(rates), negative(_columns(rates))])


def _rows(rates: Estimate) -> Estimate:
    return Estimate(rates.value[:, None], rates.low[:, None], rates.high[:, None])


def _columns(rates: Estimate) -> Estimate:
    return Estimate(rates.value[None], rates.low[None], rates.high[None])


def _largest(of_pairs: Floats) -> float:
    apart = ~np.eye(len(of_pairs), dtype=bool)
    return float(of_pairs[apart].max())


def _of_largest(estimate: Callable[[float], Estimate], counts: Counts, alpha: float) -> Bounds:
    return float(estimate(alpha / len(counts.samples)).low.max()), float(estimate(alpha).high.max())


def _greatest_increase(counts: Counts, alpha: float) -> float:
    paired = _pairs(change(counts.gained, counts.lost, counts.samples, alpha * _PAIRED_SHARE)).high
    rest = alpha * (1 - _PAIRED_SHARE)
    both = dependent_sum(
        proportion(counts.right, counts.samples, rest), proportion(counts.was_right, counts.samples, rest)
    )
    bound = np.minimum(paired, _pairs(both).high)  # of an ordered pair: s = +1; the other order is s = -1
    return min(1.0, _largest(np.maximum(bound, bound.T)))


def _least_increase(counts: Counts, alpha: float) -> float:
    level, n = alpha / _ordered_pairs(counts), counts.samples
    after, before = proportion(counts.right, n, level), proportion(counts.was_right, n, level)
    changed, both = change(counts.gained, counts.lost, n, level), dependent_sum(after, before)
    high, low = int(after.value.argmax()), int(after.value.argmin())
    if high == low:
        high, low = 0, 1
    groups = np.arange(len(n))
    # (after of high - after of low) - (before of k - before of l): k in rows, l in columns
    value = after.value[high] - after.value[low] - (before.value[:, None] - before.value[None])
    squares = before.above[:, None] ** 2 + before.below[None] ** 2
    squares = squares + after.below[high] ** 2 + after.above[low] ** 2
    squares += _replaced(groups == high, changed.below[high], after.below[high], before.above[high])[:, None]
    squares += _replaced(groups == low, both.above[low], after.above[low], before.above[low])[:, None]
    squares += _replaced(groups == high, both.below[high], after.below[high], before.below[high])[None]
    squares += _replaced(groups == low, changed.above[low], after.above[low], before.below[low])[None]
    apart = ~np.eye(len(n), dtype=bool)
    return max(-1.0, float((value - np.sqrt(squares))[apart].min()))


def _replaced(where: NDArray[np.bool_], joint: np.float64, *parts: np.float64) -> Floats:
    """Return what to add to squared distances where one group gives two terms, which are not independent."""
    return np.where(where, joint**2 - sum(part**2 for part in parts), 0.0)

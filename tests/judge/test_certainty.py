import itertools
from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from qfair_check.judge.certainty import (
    BOUNDS,
    Counts,
    flip_rate,
    gap,
    gap_increase,
    group_drop,
    samples_to_settle,
    worst_accuracy,
)

ALPHA = 0.05


def made(*groups):
    """Return counts of groups given as (both right, lost, gained, neither); whatever changed is a flip."""
    both, lost, gained, neither = np.array(groups, np.float64).T
    return Counts(both + lost + gained + neither, both + gained, gained, lost, lost + gained)


def only(*groups):
    """Return counts of groups given as (right, samples), of which nothing changed."""
    return made(*((right, 0, 0, samples - right) for right, samples in groups))


group_counts = st.tuples(*[st.integers(0, 300)] * 4).filter(lambda counts: sum(counts) > 0)
some_groups = st.lists(group_counts, min_size=2, max_size=5)


def clopper_pearson(x, n, alpha):
    return (beta.ppf(alpha, x, n - x + 1) if x else 0.0), (beta.ppf(1 - alpha, x + 1, n - x) if x < n else 1.0)


def change_of(group, alpha):
    """Return value, lower and upper bound of (gained - lost) / n."""
    _, lost, gained, _ = group
    n = sum(group)
    p, q = gained / n, lost / n
    (p_low, p_high), (q_low, q_high) = clopper_pearson(gained, n, alpha), clopper_pearson(lost, n, alpha)
    r = -sqrt(p * q / ((1 - p) * (1 - q))) if p < 1 and q < 1 else 0.0
    below, above = (
        sqrt(one**2 + other**2 - 2 * r * one * other)
        for one, other in ((p - p_low, q_high - q), (p_high - p, q - q_low))
    )
    return p - q, max(p - q - below, -1), min(p - q + above, 1)


@given(some_groups)
def test_the_bounds_of_a_gap_are_those_of_its_pairs_one_by_one(groups):
    low, high = gap(made(*groups), ALPHA)
    pairs = list(itertools.permutations(range(len(groups)), 2))
    expected = [0.0, 0.0]
    for i, j in pairs:
        (a, m), (b, n) = ((groups[k][0] + groups[k][2], sum(groups[k])) for k in (i, j))
        for place, alpha in enumerate((ALPHA / len(pairs), ALPHA)):
            (l1, u1), (l2, u2) = clopper_pearson(a, m, alpha), clopper_pearson(b, n, alpha)
            d = a / m - b / n
            bound = (
                d - sqrt((a / m - l1) ** 2 + (u2 - b / n) ** 2)
                if place == 0
                else (d + sqrt((u1 - a / m) ** 2 + (b / n - l2) ** 2))
            )
            expected[place] = max(expected[place], bound)
    assert (low, high) == pytest.approx((expected[0], min(expected[1], 1.0)), abs=1e-9)


@given(some_groups)
def test_the_upper_bound_of_an_increase_is_that_of_its_pairs_one_by_one(groups):
    expected = -inf
    for i, j in itertools.combinations(range(len(groups)), 2):
        for s in (1, -1):
            one, other = (i, j) if s == 1 else (j, i)
            (d1, _, u1), (d2, l2, _) = change_of(groups[one], 0.9 * ALPHA), change_of(groups[other], 0.9 * ALPHA)
            paired = d1 - d2 + sqrt((u1 - d1) ** 2 + (d2 - l2) ** 2)
            total, aside = 0.0, []
            for k, sign in ((one, 1), (other, -1)):
                both, lost, gained, _ = groups[k]
                n = sum(groups[k])
                off = 0.0
                for x in (both + gained, both + lost):
                    bounds = clopper_pearson(x, n, 0.1 * ALPHA)
                    total += sign * x / n
                    off += bounds[1] - x / n if sign == 1 else x / n - bounds[0]
                aside.append(off)
            expected = max(expected, min(paired, total + sqrt(aside[0] ** 2 + aside[1] ** 2)))
    assert gap_increase(made(*groups), ALPHA)[1] == pytest.approx(min(expected, 1.0), abs=1e-9)


@given(some_groups)
def test_the_lower_bound_of_an_increase_is_that_of_its_terms_one_by_one(groups):
    """Of (q_i - q_j) - (o_k - o_l), where the terms of one group are joined first."""
    alpha = ALPHA / (len(groups) * (len(groups) - 1))
    after = [(both + gained) / (both + lost + gained + rest) for both, lost, gained, rest in groups]
    i, j = int(np.argmax(after)), int(np.argmin(after))
    if i == j:
        i, j = 0, 1
    expected = inf
    for k, m in itertools.permutations(range(len(groups)), 2):
        value, squares = 0.0, 0.0
        for group, counts in enumerate(groups):
            both, lost, gained, _ = counts
            n = sum(counts)
            q, o = (group == i) - (group == j), (group == m) - (group == k)
            (q_low, q_high), (o_low, o_high) = (clopper_pearson(x, n, alpha) for x in (both + gained, both + lost))
            at_q, at_o = (both + gained) / n, (both + lost) / n
            value += q * at_q + o * at_o
            down = {1: at_q - q_low, -1: q_high - at_q, 0: 0.0}[q], {1: at_o - o_low, -1: o_high - at_o, 0: 0.0}[o]
            if q and o and q != o:
                moved, low, high = change_of(counts, alpha)
                squares += (moved - low if q == 1 else high - moved) ** 2
            elif q and o:
                squares += sum(down) ** 2
            else:
                squares += down[0] ** 2 + down[1] ** 2
        expected = min(expected, value - sqrt(squares))
    assert gap_increase(made(*groups), ALPHA)[0] == pytest.approx(max(expected, -1.0), abs=1e-9)


@given(some_groups, st.sampled_from(sorted(BOUNDS)))
def test_bounds_hold_the_value_and_widen_with_confidence_whatever_the_order_of_groups(groups, name):
    counts, bounds = made(*groups), BOUNDS[name]
    after, before = counts.right / counts.samples, counts.was_right / counts.samples
    value = {
        "fvo": np.ptp(after),
        "fvo-increase": np.ptp(after) - np.ptp(before),
        "group-drop": (before - after).max(),
        "accuracy-drop": (before - after).max(),
        "accuracy": after.min(),
        "worst-group-accuracy": after.min(),
        "flip-rate": (counts.flips / counts.samples).max(),
    }[name]
    low, high = bounds(counts, ALPHA)
    assert low - 1e-12 <= value <= high + 1e-12
    surer = bounds(counts, ALPHA / 10)
    assert surer[0] <= low + 1e-12
    assert high <= surer[1] + 1e-12
    turned = bounds(made(*groups[::-1]), ALPHA)
    if name != "fvo-increase" or len({round(rate, 12) for rate in after}) == len(groups):  # ties choose another pair
        assert turned == pytest.approx((low, high))


@pytest.mark.parametrize("limit", [0.1, 0.3])
@pytest.mark.parametrize("sizes", [(25, 25), (60, 20)])
def test_a_gap_at_its_limit_is_rarely_certain(sizes, limit):
    """By the probability of every outcome of two groups."""
    wrong_pass = wrong_fail = 0.0
    for x, y in itertools.product(*(range(size + 1) for size in sizes)):
        chance = binom.pmf(x, sizes[0], 0.85) * binom.pmf(y, sizes[1], 0.85 - limit)
        low, high = gap(only((x, sizes[0]), (y, sizes[1])), ALPHA)
        wrong_pass += chance * (high <= limit)
        wrong_fail += chance * (low > limit)
    assert wrong_pass <= ALPHA
    assert wrong_fail <= ALPHA


@pytest.mark.parametrize("groups", [2, 8])
def test_an_increase_at_its_limit_is_rarely_certain(groups):
    """By drawing, which has a standard error of 0.007 here."""
    shares = np.tile([0.78, 0.07, 0.02, 0.13], (groups, 1))
    shares[0] = [0.72, 0.13, 0.02, 0.13]  # loses 0.06 more than the others, from the same accuracy
    drawn = np.random.default_rng(0).multinomial(150, shares, (1000, groups))
    found = [gap_increase(made(*one), ALPHA) for one in drawn]
    assert sum(high <= 0.06 for _, high in found) / 1000 <= ALPHA + 0.02
    assert sum(low > 0.06 for low, _ in found) / 1000 <= ALPHA + 0.02


@given(some_groups, st.sampled_from([gap, group_drop, flip_rate, worst_accuracy]), st.floats(0.01, 0.9))
def test_as_many_samples_as_are_named_settle_it_and_clearly_fewer_do_not(groups, quantity, limit):
    counts = made(*groups)

    def is_settled(samples):
        low, high = quantity(counts.at_least(samples), ALPHA)
        return limit < low or limit >= high

    needed = samples_to_settle(counts, lambda more: quantity(more, ALPHA), limit)
    if needed is None:
        assert not is_settled(1e7)
    else:
        assert is_settled(needed)
        assert needed <= counts.samples.min() + 1 or not is_settled(0.97 * needed)


def test_what_ten_million_samples_settle_is_not_called_hopeless():
    counts = only((80, 100), (72, 100))
    assert gap(counts.at_least(1e7), ALPHA)[1] < 0.08035 < gap(counts.at_least(6.5e6), ALPHA)[1]
    assert 6.5e6 < samples_to_settle(counts, lambda more: gap(more, ALPHA), 0.08035) <= 1e7


def test_what_the_decision_says_of_power():
    """Numbers of docs/adr/0022-confidence.md and docs/howto-ci.md."""
    counts = made((450, 0, 0, 50), (250, 100, 0, 150))
    at_fp32 = only((450, 500), (350, 500))
    split = gap(counts, ALPHA / 2)[0] - gap(at_fp32, ALPHA / 2)[1]
    assert (round(gap_increase(counts, ALPHA)[0], 3), round(split, 3)) == (0.164, 0.09)
    bounds = [group_drop(made((0.87 * n, 0.03 * n, 0.01 * n, 0.09 * n)), ALPHA)[1] for n in (100, 200)]
    assert bounds[1] < 0.05 < bounds[0]


def test_counts_grow_at_their_rates_and_never_shrink():
    grown = made((30, 5, 5, 10), (300, 50, 50, 100)).at_least(200)
    assert grown.samples.tolist() == [200, 500]
    assert grown.right.tolist() == [140, 350]
    assert grown.was_right.tolist() == [140, 350]

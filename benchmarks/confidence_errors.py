"""How often verdicts at 95% confidence are wrong, by simulation with fixed seeds: the table of docs/statistics.md.

Each population lies exactly at its limit, where both a PASS and a FAIL are an error; farther off errors are rarer. The
limit is that of one group or pair alone, which is the worst for PASS, or of as many as can be, the worst for FAIL.
Groups have 20 to 5,000 samples, equally many or from that down to a hundredth. Predictions flip at the rate that the
change of accuracy needs, and at 0.5% or 4% in both directions on top. A share is right if it is at most
0.05 + 0.005 + 3 standard errors of the simulation.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from qfair_check.judge.certainty import Bounds, Counts, flip_rate, gap, gap_increase, group_drop, worst_accuracy

ALPHA, TOLERANCE = 0.05, 0.005
GROUPS, SIZES = (2, 5, 20), (20, 50, 200, 1000, 5000)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Rates of each group, of which a quantity is the limit."""

    quantity: str
    bounds: Callable[[Counts, float], Bounds]
    limit: float
    before: Floats
    after: Floats
    flips: float


def main() -> None:
    """Print the table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="samples drawn from each population")
    draws = parser.parse_args().draws
    allowed = ALPHA + TOLERANCE + 3 * sqrt(ALPHA * (1 - ALPHA) / draws)
    worst: dict[tuple[str, int], list[tuple[float, float, int]]] = defaultdict(list)
    for groups in GROUPS:
        for most in SIZES:
            for sizes in group_sizes(groups, most):
                for population in populations(groups):
                    wrong_pass, wrong_fail = errors(population, sizes, draws)
                    worst[population.quantity, groups].append((wrong_pass, wrong_fail, most))
    print(f"{draws:,} draws from each of {sum(map(len, worst.values()))} populations; allowed: {allowed:.4f}\n")
    print("| quantity | groups | populations | most wrong PASS | most wrong FAIL |\n| --- | --- | --- | --- | --- |")
    for (quantity, groups), found in worst.items():
        passes, fails = max(found), max(found, key=lambda one: one[1])
        print(
            f"| {quantity} | {groups} | {len(found)} | {passes[0]:.4f}, up to {passes[2]:,} samples a group | "
            f"{fails[1]:.4f}, up to {fails[2]:,} |"
        )
    highest = max(max(one[:2]) for found in worst.values() for one in found)
    raise SystemExit(0 if highest <= allowed else f"a share of {highest:.4f} is above {allowed:.4f}")


def group_sizes(groups: int, most: int) -> Iterator[NDArray[np.int64]]:
    """Yield equal and unequal sizes."""
    yield np.full(groups, most)
    if most > min(SIZES):
        yield np.maximum(min(SIZES), (most * np.linspace(1, 0.1, groups) ** 2).astype(np.int64))


def populations(groups: int) -> Iterator[Population]:
    """Yield what may be drawn from, each at its limit."""
    first, half = np.arange(groups) == 0, np.arange(groups) % 2 == 0
    for top, limit in ((0.95, 0.05), (0.8, 0.1), (0.9, 0.4)):
        one = np.where(first, top, np.where(np.arange(groups) == groups - 1, top - limit, top - limit / 2))
        many = np.where(half, top, top - limit)
        yield Population("FVO", gap, limit, one, one, 0.005)
        yield Population("FVO", gap, limit, many, many, 0.005)
        for flips in (0.005, 0.04):
            level = np.where(first, 0.8, 0.86)
            yield Population("FVO increase", gap_increase, limit, level, level - limit * first, flips)
            yield Population("FVO increase", gap_increase, limit, level * 0 + 0.85, 0.85 - limit * half, flips)
            yield Population("FVO increase", gap_increase, limit, 0.85 - limit * half, 0.85 - 2 * limit * half, flips)
            yield Population("group drop", group_drop, limit, level, level - limit * first, flips)
            yield Population("group drop", group_drop, limit, level, level - limit, flips)
    for limit in (0.5, 0.9):
        alone = np.where(first, limit, limit + 0.05)
        yield Population("worst accuracy", worst_accuracy, limit, alone, alone, 0.005)
        yield Population("worst accuracy", worst_accuracy, limit, alone * 0 + limit, alone * 0 + limit, 0.005)
    for flips in (0.005, 0.04):
        yield Population("flip rate", flip_rate, 2 * flips, np.full(groups, 0.8), np.full(groups, 0.8), flips)


def errors(population: Population, sizes: NDArray[np.int64], draws: int) -> tuple[float, float]:
    """Return the shares of draws that pass, and that fail."""
    lost = np.maximum(population.before - population.after, 0) + population.flips
    gained = lost - (population.before - population.after)
    kept = population.before - lost
    shares = np.stack([kept, lost, gained, 1 - kept - lost - gained], 1)
    if shares.min() < -1e-12:
        raise SystemExit(f"no such population: {population}")
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(sizes, np.maximum(shares, 0), (draws, len(sizes))).astype(np.float64)
    passed = failed = 0
    is_floor = population.bounds is worst_accuracy
    for both, only_before, only_after, _ in np.moveaxis(drawn, 2, 1):
        counts = Counts(sizes.astype(np.float64), both + only_after, only_after, only_before, only_before + only_after)
        low, high = population.bounds(counts, ALPHA)
        passed += low >= population.limit if is_floor else high <= population.limit
        failed += high < population.limit if is_floor else low > population.limit
    return passed / draws, failed / draws


if __name__ == "__main__":
    main()

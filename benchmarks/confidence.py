"""Certifying every limit on 100 groups (4,950 pairs) at 6 precisions, against a loop over pairs with statsmodels.

The loop is what one would write: the bounds of Clopper and Pearson by `proportion_confint`, and of every pair by hand;
it does FVO alone, at one precision, and counts six times. `ratio` is ours / the loop, `seconds` has ours for FVO, FVO
increase, group drop and flip rate at all six, with how many samples would settle what is not certain.
"""

import argparse
import json
import time
from collections.abc import Callable
from decimal import Decimal
from itertools import combinations

from made_up_audit import made_up_audit
from statsmodels.stats.proportion import proportion_confint
from user_loop import circumstances

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.verdicts import judge_one

LIMITS = {"fvo": "0.3", "fvo-increase": "0.05", "group-drop": "0.05", "flip-rate": "0.2"}
BITS = "fp16,8,6,4,3,2"


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=100)
    options = parser.parse_args()
    audit = made_up_audit([f"group {index}" for index in range(options.groups)], bits=BITS, curvature=False)
    names = [result.precision for result in audit.quantized]

    def ours(checks: list[str]) -> None:
        for name in names:
            for check in checks:
                judge_one(audit, CHECKS[check], Decimal(LIMITS[check]), name, confidence=Decimal("0.95"))

    def loop() -> None:
        counts = [(group.correct, group.samples) for group in audit.at(names[0]).groups]
        for (a, m), (b, n) in combinations(counts, 2):
            (low, high), (least, most) = (proportion_confint(x, of, 0.1, "beta") for x, of in ((a, m), (b, n)))
            gap = a / m - b / n
            upper = gap + ((high - a / m) ** 2 + (b / n - least) ** 2) ** 0.5
            lower = gap - ((a / m - low) ** 2 + (most - b / n) ** 2) ** 0.5
            assert lower <= gap <= upper

    ours(list(LIMITS))
    seconds = {"all limits": [], "FVO": [], "loop": []}
    for _ in range(options.rounds):
        seconds["all limits"].append(taken(lambda: ours(list(LIMITS))))
        seconds["FVO"].append(taken(lambda: ours(["fvo"])))
        seconds["loop"].append(taken(loop) * len(names))
    least = {name: round(min(measured), 4) for name, measured in seconds.items()}
    print(
        json.dumps(
            {
                "benchmark": "confidence",
                "ratio": round(least["FVO"] / least["loop"], 4),
                "seconds": least,
                "groups": options.groups,
                "pairs": options.groups * (options.groups - 1) // 2,
                "precisions": len(names),
                "rounds": options.rounds,
                **circumstances("scipy", "statsmodels", "qfair_check"),
            }
        )
    )


def taken(work: Callable[[], None]) -> float:
    """Return the seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

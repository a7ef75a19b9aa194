"""Comparing an audit of 100 groups at 6 precisions and 100,000 samples with its baseline, reading the file included.

`seconds` is the least of the rounds, `process_seconds` that of `qfair gate --baseline` as a process, Python's start
included, and `ratio` that process / the same without a baseline.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from made_up_audit import made_up_audit
from user_loop import circumstances

from qfair_check.baseline_file import read_baseline, write_baseline
from qfair_check.baseline_record import Baseline
from qfair_check.judge.regression import judge_regression

BITS = "fp16,8,6,4,3,2"


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--samples", type=int, default=100_000)
    options = parser.parse_args()
    names = [f"group {index}" for index in range(options.groups)]
    audit = made_up_audit(names, size=options.samples // options.groups, bits=BITS, curvature=False)
    with tempfile.TemporaryDirectory() as folder:
        path, base = Path(folder, "audit.json"), Path(folder, "base.json")
        audit.save(path)
        write_baseline(Baseline.of(audit), base)

        def compare() -> None:
            found = read_baseline(base)
            for result in audit.quantized:
                judge_regression(audit, found, Decimal("0.01"), result.precision)

        def gate(*arguments: str) -> None:
            command = [sys.executable, "-m", "qfair_check", "gate", str(path), *arguments]
            subprocess.run(command, check=False, capture_output=True)

        seconds = {
            "compare": least(options.rounds, compare),
            "with": least(options.rounds, lambda: gate("--baseline", str(base))),
            "without": least(options.rounds, gate),
        }
    print(
        json.dumps(
            {
                "benchmark": "baseline",
                "seconds": round(seconds["compare"], 4),
                "process_seconds": round(seconds["with"], 3),
                "ratio": round(seconds["with"] / seconds["without"], 3),
                "samples": audit.data.samples,
                "groups": options.groups,
                "precisions": len(audit.quantized),
                "rounds": options.rounds,
                **circumstances("qfair_check"),
            }
        )
    )


def least(rounds: int, work: Callable[[], None]) -> float:
    """Return the least seconds of several rounds."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    main()

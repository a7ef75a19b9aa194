"""`pytest --qfair-model demo --bits 8,4` as a process where the audit is in the cache, against measuring anew.

`seconds` has the least of the rounds of each, and of `pytest --collect-only` in the same folder, which is pytest's own
start; `ratio` is with the cache / without.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

from user_loop import circumstances

GATE = ("--qfair-model=demo", "--bits=8,4", "--qfair-max-fvo-increase=1", "--qfair-max-group-drop=1")


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:

        def run(*arguments: str) -> float:
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", *arguments], cwd=folder, check=False, capture_output=True
            )
            return time.perf_counter() - started

        run(*GATE)
        measured = {"cached": [], "measured": [], "pytest": []}
        for _ in range(rounds):
            measured["cached"].append(run(*GATE))
            measured["measured"].append(run(*GATE, "--qfair-no-cache"))
            measured["pytest"].append(run("--collect-only"))
    seconds = {name: round(min(values), 3) for name, values in measured.items()}
    print(
        json.dumps(
            {
                "benchmark": "cached_gate",
                "ratio": round(seconds["cached"] / seconds["measured"], 3),
                "seconds": seconds,
                "rounds": rounds,
                **circumstances("pytest", "qfair_check"),
            }
        )
    )


if __name__ == "__main__":
    main()

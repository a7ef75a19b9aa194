"""What a report costs: `qfair report` as a whole process, its page, and what the plugin adds where none is asked for.

`seconds` is the median time of the process on an audit of 100 groups at six precisions, with curvature; `page_mb` is
the size of that page, and `small_page_mb` that of one of 10 groups. `session_end_ms` is the median time of what the
plugin does at the end of a gate run on the large audit without ``--html``: its part of the terminal summary.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from made_up_audit import made_up_audit
from versions import versions

BITS = ("32", "16", "8", "4", "3", "2")
PROBE = """
import sys
import time
import pytest
from qfair_check.gate import Gate

summarize, seconds = Gate.pytest_terminal_summary, []

def timed(self, terminalreporter):
    started = time.perf_counter()
    summarize(self, terminalreporter)
    seconds.append(time.perf_counter() - started)

Gate.pytest_terminal_summary = timed
code = pytest.main(["-p", "no:cacheprovider", "--qfair-audit=" + sys.argv[1]])
print(*seconds, int(code))
"""


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large.json"), Path(folder, "small.json")
        made_up_audit([f"group {index:03d} with a name of 40 characters" for index in range(options.groups)]).save(
            large
        )
        made_up_audit([f"group {index}" for index in range(10)]).save(small)
        report(small)
        seconds = [report(large) for _ in range(options.rounds)]
        ends = [session_end(large) for _ in range(options.rounds)]
        print(
            json.dumps(
                {
                    "benchmark": "report",
                    "seconds": round(median(seconds), 2),
                    "page_mb": round(page_of(large).stat().st_size / 1e6, 2),
                    "small_page_mb": round(page_of(small).stat().st_size / 1e6, 2),
                    "session_end_ms": round(1000 * median(ends), 1),
                    "groups": options.groups,
                    "precisions": len(BITS),
                    "rounds": options.rounds,
                    **versions("matplotlib", "jinja2", "qfair_check"),
                }
            )
        )


def page_of(audit: Path) -> Path:
    """Return where the report of an audit lies."""
    return audit.with_suffix(".html")


def report(audit: Path) -> float:
    """Write the report, and return the seconds that the process took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "qfair_check", "report", str(audit), "--out", str(page_of(audit))]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def session_end(audit: Path) -> float:
    """Return the seconds of our hooks after the last test of a run that gates the saved audit."""
    command = [sys.executable, "-c", PROBE, str(audit)]
    ran = subprocess.run(command, cwd=audit.parent, capture_output=True, text=True, check=True)
    seconds, code = ran.stdout.splitlines()[-1].split()
    if code not in ("0", "1"):
        sys.exit(f"the gate ended with {code}:\n{ran.stdout}")
    return float(seconds)


if __name__ == "__main__":
    main()

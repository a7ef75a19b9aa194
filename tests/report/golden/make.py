"""Make the audit of this folder anew, as after a change of the schema: ``python tests/report/golden/make.py``.

The reports beside it are what `qfair report` makes of it; test_golden.py tells where it left new ones.
"""

import sys
from dataclasses import replace
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[2] / "benchmarks"))

from made_up_audit import made_up_audit  # noqa: E402 (its folder is no package)


def main() -> None:
    """Write audit.json, without what tells of this machine."""
    made = made_up_audit(["north", "<b>south</b>", "east | west"], size=60, bits="8,2")
    run = replace(
        made.run, created="2026-01-01T00:00:00+00:00", command=("qfair", "audit"), seconds=1.0, platform="", versions={}
    )
    replace(made, run=run).save(FOLDER / "audit.json")


if __name__ == "__main__":
    main()

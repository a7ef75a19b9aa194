"""What the installed plugin costs a pytest run that does not use it: `pytest --collect-only` in an empty folder.

Runs with the plugin and with `-p no:qfair` take turns; other plugins are left out. `added_ms` is the median of the
differences. `added_modules` are what the plugin imports beyond pytest, of which none may be heavy.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import entry_points
from statistics import median

from versions import versions

NAME = "qfair"
HEAVY = {"torch", "torchvision", "numpy", "pandas", "scipy", "matplotlib", "safetensors", "pyarrow", "PIL", "tqdm"}
PROBE = """
import sys, pytest
pytest.main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    (plugin,) = entry_points(group="pytest11", name=NAME)
    with_plugin = ("-p", plugin.value)
    with tempfile.TemporaryDirectory() as folder:
        collect(folder, with_plugin)
        pairs = [(collect(folder, with_plugin), collect(folder, ())) for _ in range(options.rounds)]
        modules = imported(folder, with_plugin) - imported(folder, ())
    heavy = sorted(modules & HEAVY)
    print(
        json.dumps(
            {
                "benchmark": "import_cost",
                "added_ms": round(1000 * median(one - other for one, other in pairs), 1),
                "ms": {
                    "with": round(1000 * median(one for one, _ in pairs), 1),
                    "without": round(1000 * median(other for _, other in pairs), 1),
                },
                "added_modules": sorted(modules),
                "heavy": heavy,
                "rounds": options.rounds,
                **versions("pytest", "qfair_check"),
            }
        )
    )
    if heavy:
        sys.exit(f"the unused plugin imports {', '.join(heavy)}")


def collect(folder: str, plugin: tuple[str, ...]) -> float:
    """Return the seconds of one run."""
    started = time.perf_counter()
    run(folder, [sys.executable, "-m", "pytest", *arguments(plugin)])
    return time.perf_counter() - started


def imported(folder: str, plugin: tuple[str, ...]) -> set[str]:
    """Return the top-level modules that one run has imported at its end."""
    return set(run(folder, [sys.executable, "-c", PROBE, *arguments(plugin)]).split())


def arguments(plugin: tuple[str, ...]) -> list[str]:
    """Return the arguments of pytest."""
    return ["--collect-only", "--quiet", "-p", "no:cacheprovider", *(plugin or ("-p", f"no:{NAME}"))]


def run(folder: str, command: list[str]) -> str:
    """Run a command in the folder, without the plugins of others, and return what it wrote to stderr."""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if "no tests collected" not in ran.stdout:
        sys.exit(f"pytest said {ran.stdout}{ran.stderr}")
    return ran.stderr


if __name__ == "__main__":
    main()

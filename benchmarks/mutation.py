"""Which mutants of the judge, the quantizers and the tally are killed by their tests.

A mutant is one file of the package with one change that cosmic-ray makes: an operator, a number, a condition. The tests
of its package run on it in a copy of the tree, those of the file first. It is killed if one of them fails, ends the
process, or takes four times as long as all do without it. Changes of annotations are left out: `int + None` ends every
test, and proves nothing. Needs `pip install '.[test]' cosmic-ray`; each mutant runs in a fork of this process,
so that torch is imported once.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
STYLE = [
    f"tests/test_architecture.py::test_{name}"
    for name in ("records_are_frozen_and_slotted", "every_parameter_may_be_given_by_name")
]
PACKAGES = {"judge": "tests/judge", "quantize": "tests/quantize", "measure/tally.py": "tests/measure/test_tally.py"}
COPIED = ("qfair_check", "tests", "fixtures", "benchmarks", "docs", "conftest.py", "pyproject.toml", "README.md")
OWN = ("qfair_check", "tests", "conftest")
SECONDS_AT_LEAST, BYTES = 30, 12 * 2**30


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file, whose content has this hash."""

    file: str
    operator: str
    occurrence: int
    line: int
    source: str


def main() -> None:
    """Print one JSON object; a fate goes to a file of lines as it is known, and those that survived are run again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--sample", type=int, help="so many mutants of each file, chosen by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fates", type=Path, default=Path("mutants.jsonl"), help="one line a mutant; gone on with")
    options = parser.parse_args()
    files = [file for file in mutable_files() if options.only in file]
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        preload(tree)
        for file in files:
            judge_file(tree, file, options)
    fates = [json.loads(line) for line in options.fates.read_text(encoding="utf-8").splitlines()]
    latest = {tuple(fate[name] for name in Mutant.__slots__): fate for fate in fates if fate["file"] in files}
    print(json.dumps(summary(list(latest.values()))))


def mutable_files() -> list[str]:
    """Return the files whose mutants are made, by path in the repository."""
    paths = (ROOT / "qfair_check" / package for package in PACKAGES)
    files = (file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path]))
    return [str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py"]


def copied(folder: Path) -> Path:
    """Return a copy of the tree, for mutants to be written into."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def preload(tree: Path) -> None:
    """Import here what the tests import of others, so that forks have it."""
    names = tree / "modules.json"
    in_fork(lambda: run_tests(tree, ["--collect-only", *PACKAGES.values()]) + record_modules(names), limit=600)
    for name in json.loads(names.read_text(encoding="utf-8")):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def record_modules(names: Path) -> int:
    """Write the names of the modules that are loaded and not ours."""
    found = [name for name in sys.modules if name.split(".")[0] not in OWN]
    return names.write_text(json.dumps(found), encoding="utf-8")


def judge_file(tree: Path, file: str, options: argparse.Namespace) -> None:
    """Run the mutants of one file and append what became of them."""
    path = tree / file
    source = path.read_text(encoding="utf-8")
    tests = tests_of(tree, file)
    start = time.monotonic()
    fate = fate_of(tree, tests, limit=600)
    if fate != "survived":
        sys.exit(f"{file}: its tests do not pass as it is ({fate})")
    limit = max(SECONDS_AT_LEAST, 4 * (time.monotonic() - start))
    killed = killed_before(options.fates)
    for mutant, changed in chosen(file, source, options):
        if mutant in killed:
            continue
        path.write_text(changed, encoding="utf-8")
        forget_bytecode(path)
        start = time.monotonic()
        record = {**asdict(mutant), "fate": fate_of(tree, tests, limit)}
        record["seconds"] = round(time.monotonic() - start, 2)
        if record["fate"] == "survived":
            record["change"] = change(source, changed)
        with options.fates.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
    path.write_text(source, encoding="utf-8")
    forget_bytecode(path)


def tests_of(tree: Path, file: str) -> list[str]:
    """Return what pytest is told to run: doctests of the file, its own tests, then all of its package."""
    folder = next(tests for package, tests in PACKAGES.items() if file.startswith(f"qfair_check/{package}"))
    own = f"tests/{Path(file).parent.name}/test_{Path(file).name}"
    return [file, *([own] if (tree / own).exists() else []), *STYLE, *([folder] if folder != own else [])]


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Yield the changes that cosmic-ray's operators without arguments can make."""
    nodes, digest = list(ast_nodes(get_ast(source))), hashlib.sha256(source.encode()).hexdigest()[:16]
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name.endswith("/NoOp"):
            continue
        places = (start[0] for node in nodes for start, _ in operator().mutation_positions(node))
        for occurrence, line in enumerate(places):
            yield Mutant(file, name, occurrence, line, digest)


def chosen(file: str, source: str, options: argparse.Namespace) -> Iterator[tuple[Mutant, str]]:
    """Yield mutants and what they make of the source, in an order of the seed: a part of a run is a sample too."""
    found = list(mutants(file, source))
    plain = without_annotations(source)
    told = 0
    for mutant in random.Random(str(options.seed)).sample(found, len(found)):
        changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
        if changed and without_annotations(changed) not in (None, plain):
            yield mutant, changed
            told += 1
        if told == options.sample:
            return


def without_annotations(source: str) -> str | None:
    """Return the syntax tree of a source without its annotations; None if it has none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def killed_before(fates: Path) -> set[Mutant]:
    """Return the mutants of which an earlier run tells that they were killed."""
    lines = fates.read_text(encoding="utf-8").splitlines() if fates.exists() else []
    told = [json.loads(line) for line in lines]
    return {Mutant(*(fate[name] for name in Mutant.__slots__)) for fate in told if fate["fate"] != "survived"}


def fate_of(tree: Path, tests: Sequence[str], limit: float) -> str:
    """Say what the tests make of the tree."""
    code = in_fork(lambda: run_tests(tree, tests), limit)
    if code == 0:
        return "survived"
    return "killed, too slow" if code == -signal.SIGKILL else "killed"


def in_fork(task: Callable[[], int], limit: float) -> int:
    """Return what a task returns in a fork of this process, 70 if it raises, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            os._exit(task())
        finally:
            os._exit(70)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_tests(tree: Path, tests: Sequence[str]) -> int:
    """Run pytest on the tree until something fails."""
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip
    ignored = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported by now
    return int(pytest.main(["-xq", "-W", ignored, "-p", "no:cacheprovider", "--hypothesis-profile=mutation", *tests]))


def forget_bytecode(path: Path) -> None:
    """Remove what was compiled of a file: a mutant of the same length in the same second would go unseen."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def change(source: str, changed: str) -> list[str]:
    """Return the lines that differ, before and after."""
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    return next([before.strip(), after.strip()] for before, after in pairs if before != after)


def summary(fates: Sequence[dict[str, object]]) -> dict[str, object]:
    """Return the share that was killed, in all and by file."""
    by_file = {
        file: Counter(str(fate["fate"]) for fate in fates if fate["file"] == file)
        for file in sorted({str(fate["file"]) for fate in fates})
    }
    total = sum(by_file.values(), Counter())
    return {
        "benchmark": "mutation",
        "killed_share": share(total),
        "fates": dict(total),
        "by_file": {file: {"killed_share": share(counts), **counts} for file, counts in by_file.items()},
        "survivors": [fate for fate in fates if fate["fate"] == "survived"],
    }


def share(counts: Counter[str]) -> float | None:
    """Return killed / (killed + survived)."""
    killed = counts["killed"] + counts["killed, too slow"]
    return round(killed / (killed + counts["survived"]), 4) if killed + counts["survived"] else None


if __name__ == "__main__":
    main()

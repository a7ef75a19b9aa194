"""Versions and plugins that the tests run with; CI runs the newest. `nox -l` lists the sessions."""

import tomllib
from pathlib import Path

import nox

nox.options.sessions = ["newest"]
OLDEST_PYTHON, PYTHONS = "3.11", ("3.12", "3.13")
PLUGINS = ("pytest-cov", "pytest-randomly", "pytest-timeout", "pytest-rerunfailures")
BESIDE_OLDEST = ("pyparsing<3.3",)  # a later one deprecates what matplotlib 3.9 calls
ESSENTIAL = ("tests/plugin", "tests/judge", "tests/measure", "tests/inputs", "tests/quantize", "tests/remedy")


@nox.session(python=OLDEST_PYTHON)
def newest(session: nox.Session) -> None:
    """All tests, with the latest of everything."""
    session.install(".[test]")
    session.run("pytest", "-q", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS)
def python(session: nox.Session) -> None:
    """All tests on other Pythons."""
    session.install(".[test]")
    session.run("pytest", "-q", "-n", "2", *session.posargs)


@nox.session(python=OLDEST_PYTHON)
def oldest(session: nox.Session) -> None:
    """What matters most, with the oldest version of each dependency that is allowed."""
    session.install(".[test]", *oldest_versions(), *BESIDE_OLDEST)
    session.run("pytest", "-q", "-n", "2", *(session.posargs or ESSENTIAL))


@nox.session(python=OLDEST_PYTHON)
def together(session: nox.Session) -> None:
    """The plugin beside others that people combine it with."""
    session.install(".[test]", *PLUGINS)
    session.run("pytest", "-q", "-p", "no:randomly", "tests/plugin/test_together.py", *session.posargs)


@nox.session(python=OLDEST_PYTHON)
def mutants(session: nox.Session) -> None:
    """Which mutants of judge, quantizers and tally their tests kill; a sample of 30 a file takes two hours."""
    session.install(".[test]", "cosmic-ray>=8.4")
    session.run("python", "benchmarks/mutation.py", *(session.posargs or ("--sample", "30")))


def oldest_versions() -> list[str]:
    """Return the requirements of the package, each at its lower bound."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [required.replace(">=", "==") for required in project["dependencies"]]

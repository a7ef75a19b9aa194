import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "96", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_two_commands_come_first():
    language, text = BLOCKS[0]
    assert language == "sh"
    assert [line.split("#")[0].strip() for line in text.splitlines()] == [
        "pip install . && qfair demo",
        "pip install '.[test]' && pytest",
    ]


def test_the_tests_in_the_readme_pass_on_the_demo(pytester: pytest.Pytester):
    pytester.makepyfile(PYTHON[0])
    pytester.runpytest(
        "--qfair-model", "demo", "--bits", "8", "-k", "test_no_group_pays or test_fairness"
    ).assert_outcomes(passed=2, deselected=3)


def test_the_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(PYTHON[1], "README.md", "exec"), names)
    assert (tmp_path / "audit.json").exists()
    assert list(names["frame"].columns) == ["precision", "group", "metric", "value", "n"]


def test_the_demo_prints_what_the_readme_shows(tmp_path):
    shown = next(text for language, text in BLOCKS if language == "console" and "$ qfair demo" in text)
    demo = run(sys.executable, "-m", "qfair_check", "demo", cwd=tmp_path)
    assert demo.returncode == 0, demo.stderr
    assert (tmp_path / "qfair-demo" / "audit.json").exists()
    printed = demo.stdout
    missing = [
        line
        for line in shown.splitlines()
        if line not in ("...", "$ qfair demo") and _without_numbers(line) not in _without_numbers(printed)
    ]
    assert missing == []
    assert _numbers(_table(printed)) == pytest.approx(_numbers(_table(shown)), abs=0.03)


def _without_numbers(text: str) -> str:
    """Last digits may differ between processors, and with them the worst group."""
    return re.sub(r" \*(?= |$)", "  ", re.sub(r"[-+]?\d\.\d{3}", "#", text), flags=re.MULTILINE).replace(" ", "")


def _table(text: str) -> str:
    return text[text.index("group      n") : text.index("gate   ")]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d\.\d{3}", text)]


def test_remediate_prints_what_the_readme_shows(tmp_path):
    shown = next(text for language, text in BLOCKS if language == "console" and "$ qfair remediate" in text)
    command = ["remediate", "demo", "--bits", "2", "--out", "fair.safetensors"]
    ran = run(sys.executable, "-m", "qfair_check", *command, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    table = [
        line for line in shown.splitlines() if line.startswith(("audit ", "rounded", "mixed", "fair-qat", "it", "its"))
    ]
    printed = _without_numbers(ran.stdout)
    assert [line for line in table if _without_numbers(line) not in printed] == []
    trained = next(line for line in ran.stdout.splitlines() if line.startswith("fair-qat"))
    told = next(line for line in table if line.startswith("fair-qat"))
    assert _numbers(trained)[-3:] == pytest.approx(_numbers(told)[-3:], abs=0.1)

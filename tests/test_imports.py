import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "pandas", "scipy", "matplotlib", "sklearn", "safetensors", "PIL", "pyarrow"}
LIGHT = [
    "qfair_check",
    "qfair_check.errors",
    "qfair_check.record",
    "qfair_check.audit_file",
    "qfair_check.judge.assertions",
    "qfair_check.judge.pareto_assertion",
    "qfair_check.report.compare",
    "qfair_check.report.layers",
    "qfair_check.report.terminal",
    "qfair_check.cli",
    "qfair_check.commands",
    "qfair_check.plugin",
    "qfair_check.gate",
    "qfair_check.fixture",
]


def imported(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_importing_is_light(module):
    assert not imported(f"import {module}") & HEAVY


@pytest.mark.parametrize("module", ["qfair_check", "qfair_check.plugin"])
def test_what_every_pytest_run_imports_is_of_the_standard_library(module):
    assert not imported(f"import {module}") & (HEAVY | {"numpy", "msgspec", "tqdm", "wcwidth", "filelock"})


def test_judging_in_python_needs_no_torch():
    names = "Audit, assert_fvo_below, assert_on_pareto_front, judge_audit, gate_limits, describe, Outcome"
    assert not imported(f"from qfair_check import {names}") & HEAVY


def test_every_public_name_is_there():
    import qfair_check

    assert set(qfair_check.__all__) <= set(dir(qfair_check))
    for name in qfair_check.__all__:
        assert getattr(qfair_check, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'assert_nothing'"):
        _ = qfair_check.assert_nothing


SOCKETS = """
import socket

def blocked(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = blocked
"""


def test_nothing_uses_the_network(tmp_path):
    code = SOCKETS + (
        "from qfair_check.cli import main\n"
        "import qfair_check\n"
        "assert main(['audit', 'demo', '--bits', '16,4', '--out', 'audit.json']) == 0\n"
        "assert main(['gate', 'audit.json']) == 1\n"
        "import torchvision\n"
        "net = torchvision.models.resnet18(num_classes=2)\n"
        "qfair_check.save_model(net, 'net.safetensors', arch='resnet18')\n"
        "qfair_check.load_model('net.safetensors')\n"
        "import pytest\n"
        "assert pytest.main(['--qfair-model=demo', '-p', 'no:cacheprovider', '--rootdir=.']) == 0\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr

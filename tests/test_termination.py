import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import qfair_check
from qfair_check import audit_file
from qfair_check.termination import ended_as_interrupted


def test_a_request_to_end_is_an_interruption_within_the_block_alone():
    before = signal.getsignal(signal.SIGTERM)
    with ended_as_interrupted(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_of_somebody_else_stays(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with ended_as_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_another_thread_is_left_alone():
    done = []

    def work():
        with ended_as_interrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def heed_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job and what it starts ignore them


def started(folder, *command):
    return subprocess.Popen(
        [sys.executable, "-u", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def test_a_command_that_is_asked_to_end_says_how_to_go_on_and_leaves_nothing_half_written(tmp_path):
    run = started(tmp_path, "-m", "qfair_check", "remediate", "demo", "--bits", "2", "--out", "fair.safetensors")
    while "epoch   1" not in (line := run.stdout.readline()):
        assert line, run.stderr.read()
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "qfair: interrupted; no model was audited; the same command with --resume goes on" in told
    assert [path.name for path in tmp_path.iterdir()] == ["fair.checkpoint"]


SLOW = """
import time
from pathlib import Path

import torch


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        Path("begun").touch()
        time.sleep(0.05)
        return {"x": torch.zeros(3), "label": index % 2}


data = Slow


def net():
    return torch.nn.Linear(3, 2)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_pytest_ends_as_interrupted_while_it_measures(tmp_path, how):
    (tmp_path / "slow.py").write_text(SLOW)
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "net.pt")
    options = ("--qfair-model=net.pt", "--qfair-arch=slow:net", "--qfair-data=slow:data", "--qfair-json=audit.json")
    run = started(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", *options)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(how)
    told, errors = run.communicate(timeout=60)
    assert run.returncode == 2, told + errors
    assert "KeyboardInterrupt" in told
    assert not (tmp_path / "audit.json").exists()
    assert not list(tmp_path.glob(".audit*"))


CUT = """
import signal

from qfair_check import {module} as module


def cut(path, content, write=module.replace_file):
    if path.name == "cut.json":
        signal.raise_signal(signal.{how})
    write(path, content)


module.replace_file = cut
"""
GATED = ("-m", "pytest", "-p", "no:cacheprovider", "--qfair-model=demo", "--qfair-bits=4")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("baseline_file", ("--qfair-baseline=cut.json", "--qfair-remediate=fair")),
        ("summary_file", ("--qfair-summary=cut.json",)),
        ("audit_file", ("--qfair-json=cut.json",)),
    ],
)
def test_pytest_ends_as_interrupted_while_it_writes_and_leaves_nothing(tmp_path, how, module, options):
    (tmp_path / "conftest.py").write_text(CUT.format(module=module, how=how))
    run = started(tmp_path, "-B", *GATED, *options)
    told, errors = run.communicate(timeout=120)
    assert run.returncode == 2, told + errors
    assert [path.name for path in tmp_path.iterdir()] == ["conftest.py"]
    if module != "audit_file":
        assert f"qfair: interrupted; no {module.removesuffix('_file')} was written" in told
        assert "Traceback" not in told + errors


def test_both_files_that_are_due_are_told_where_the_first_is_cut(tmp_path):
    (tmp_path / "conftest.py").write_text(CUT.format(module="baseline_file", how="SIGTERM"))
    run = started(tmp_path, "-B", *GATED, "--qfair-baseline=cut.json", "--qfair-summary=s.md")
    told, errors = run.communicate(timeout=120)
    assert run.returncode == 2, told + errors
    assert "qfair: interrupted; no baseline and no summary was written" in told


def test_an_audit_that_is_cut_off_leaves_no_side_file(tmp_path, monkeypatch):
    audit = qfair_check.audit("demo", "demo", 8)
    write = audit_file.replace_file

    def cut(path, content):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(audit_file, "replace_file", cut)
    with pytest.raises(KeyboardInterrupt):
        audit.save(tmp_path / "audit.json")
    assert list(tmp_path.iterdir()) == []

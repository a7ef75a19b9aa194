import os
import signal
import subprocess
import sys
import threading
import time

import pytest

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
    assert "qfair: interrupted; no model was written; the same command with --resume goes on" in told
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

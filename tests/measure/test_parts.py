import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from qfair_check import audit
from qfair_check.errors import MeasureError
from qfair_check.measure.parts import Parts


class Hungry(nn.Module):
    """Runs out of memory above some samples, the first time at the third chunk."""

    def __init__(self, most, error):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.most, self.error = most, error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return self.fc(x)


def data(n=200):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
]


@pytest.mark.parametrize("error", ERRORS, ids=["python", "cuda", "cpu"])
@pytest.mark.parametrize(("most", "rows"), [(63, 32), (20, 16), (1, 1)])
def test_chunks_are_halved_until_they_fit_and_the_audit_says_so(error, most, rows):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = Hungry(64, error)
        hungry = Hungry(most, error)
    hungry.load_state_dict(whole.state_dict())
    expected, found = audit(whole, data(), 4), audit(hungry, data(), 4)
    assert found.at(4).overall.correct == expected.at(4).overall.correct
    assert found.at(4).overall.loss == pytest.approx(expected.at(4).overall.loss)
    told = [notice for notice in found.inputs.notices if "memory ran out" in notice]
    assert len(told) == 2
    assert f"at int4 with 64 samples at a time, and chunks went through the model {rows} sample" in told[1]
    assert not any("memory ran out" in notice for notice in expected.inputs.notices)


def test_one_sample_that_does_not_fit_is_an_error():
    with pytest.raises(MeasureError, match="MemoryError"):
        audit(Hungry(0, MemoryError()), data(), 4)


def test_other_errors_are_not_tried_again():
    calls = []

    def fail(batch):
        calls.append(len(batch))
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Parts().run(fail, torch.zeros(64, 3))
    assert calls == [64]


LIMITED = """
import resource

import numpy as np
import torch
from torch import nn

import qfair_check


class Hungry(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x) + 0 * torch.empty(len(x), 12 * 2**20)[:, :2].nan_to_num()  # 48 MiB a sample


x = np.zeros((100, 3), np.float32)
x[:, 0] = np.arange(100) - 50
y = (x[:, 0] > 0).astype(np.int64)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))
audit = qfair_check.audit(Hungry(), (x, y), 8)
print([notice for notice in audit.inputs.notices if "memory" in notice][-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_under_a_limit_of_address_space_it_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert (
        "memory ran out at int8 with 64 samples at a time, and chunks went through the model 32 samples" in done.stdout
    )

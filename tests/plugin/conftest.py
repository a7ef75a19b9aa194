from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qfair_check.record import Audit

NETWORK = """
from torch import nn

def make():
    return nn.Linear(2, 2, bias=False)
"""


@pytest.fixture
def tiny(pytester: pytest.Pytester) -> Path:
    """A model that is right about everyone at fp32, int8 and int4; at int2 it is wrong about 30 of 40 in group B."""
    pytester.makepyfile(network=NETWORK)
    metadata = {"qfair_check": "1", "architecture": "network:make", "classes": '["no", "yes"]', "preprocessing": "null"}
    save_file({"weight": torch.tensor([[1.0, 0.0], [0.0, 0.3]])}, pytester.path / "tiny.safetensors", metadata)
    x = np.array([[1.0, 0.0]] * 40 + [[0.1, 1.0]] * 30 + [[-1.0, 1.0]] * 10, np.float32)
    np.savez(pytester.path / "tiny.npz", x=x, y=[0] * 40 + [1] * 40, group=["A"] * 40 + ["B"] * 40)
    return pytester.path


@pytest.fixture
def gate(pytester: pytest.Pytester, tiny: Path) -> Callable[..., pytest.RunResult]:
    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest("--qfair-model=tiny.safetensors", "--qfair-data=tiny.npz", *arguments)

    return run


@pytest.fixture
def saved(pytester: pytest.Pytester, make_audit: Callable[..., Audit]) -> Audit:
    """An audit in audit.json, with int4 worse for B."""
    audit = make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int8={"A": 45, "B": 36}, int4={"A": 44, "B": 30})
    audit.save(pytester.path / "audit.json")
    return audit

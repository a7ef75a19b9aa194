import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from qfair_check.fingerprint import fingerprint


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = scale
        self.offset = torch.zeros(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.inner(x) + self.offset


class Shifted(Scaled):
    pass


class Forgetful(Scaled):
    def __getstate__(self) -> dict[str, object]:
        return {}


@pytest.fixture
def make():
    def made(kind: type[Scaled] = Scaled, scale: float = 1.0) -> Scaled:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return kind(scale)

    return made


def test_equal_models_are_the_same(make):
    assert fingerprint(make()) == fingerprint(make())


def test_a_weight_an_attribute_a_tensor_a_mode_and_a_class_count(make):
    changed = [make(), make(), make(Shifted), make(scale=2.0), make()]
    changed[0].inner.weight.data[0, 0] += 1
    changed[1].offset[0] = 1
    changed[4].inner.register_buffer("extra", torch.zeros(1))
    prints = [fingerprint(model) for model in (make(), *changed)]
    assert len(set(prints)) == len(prints)


def test_a_buffer_that_is_not_saved_counts(make):
    prints = set()
    for value in (0.0, 1.0):
        model = make()
        model.register_buffer("mask", torch.tensor([value]), persistent=False)
        prints.add(fingerprint(model))
    assert len(prints) == 2


def test_weights_that_pickle_leaves_out_count(make):
    first, second = make(Forgetful), make(Forgetful)
    second.inner.weight.data += 1
    assert fingerprint(first) != fingerprint(second)


def test_the_order_of_parameters_in_a_list_counts(make):
    prints = set()
    for reverse in (False, True):
        model = make()
        model.order = sorted(model.parameters(), key=lambda value: value.numel(), reverse=reverse)
        prints.add(fingerprint(model))
    assert len(prints) == 2


def test_functions_count_by_name():
    assert fingerprint(torch.relu) == fingerprint(torch.relu) != fingerprint(torch.sigmoid)


def test_what_cannot_be_pickled_is_equal_to_itself_alone():
    first, second = (lambda x: x), (lambda x: x)
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)

    class Local(nn.Module):
        pass

    model = Local()
    assert fingerprint(model) == fingerprint(model) != fingerprint(Local())


def test_what_is_neither_picklable_nor_hashable_is_equal_to_nothing():
    class Odd:
        __hash__ = None

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x

    odd = Odd()
    assert fingerprint(odd) != fingerprint(odd)


def test_what_a_partial_binds_counts():
    prints = {fingerprint(functools.partial(torch.add, other)) for other in (1, 2)}
    assert len(prints) == 2


def test_another_process_finds_the_same():
    code = (
        "import torch, hashlib\nfrom qfair_check.demo.network import digits_cnn\n"
        "from qfair_check.fingerprint import fingerprint\ntorch.manual_seed(0)\n"
        "print(hashlib.sha256(fingerprint(digits_cnn())).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""

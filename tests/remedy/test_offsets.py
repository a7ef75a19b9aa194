import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qfair_check.errors import InputError
from qfair_check.remedy.offsets import equalizing_offsets, moved_bias, output_bias

seeds = st.integers(0, 2**32 - 1)


def outputs(seed, sizes, lean=2.0):
    """Logits of a model that knows classes, and leans towards the first of them."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    logits = generator.normal(size=(len(labels), len(sizes)))
    logits[np.arange(len(labels)), labels] += 2
    logits[:, 0] += lean
    return torch.from_numpy(logits), torch.from_numpy(labels)


def recalls(logits, labels):
    right = logits.argmax(1) == labels
    return [float(right[labels == label].double().mean()) for label in labels.unique()]


def gap(logits, labels):
    return max(recalls(logits, labels)) - min(recalls(logits, labels))


@given(seeds, st.lists(st.integers(20, 80), min_size=2, max_size=5), st.floats(-3, 3))
def test_classes_come_to_about_one_recall(seed, sizes, lean):
    logits, labels = outputs(seed, sizes, lean)
    offsets = equalizing_offsets(logits, labels)
    assert gap(logits + offsets, labels) <= min(gap(logits, labels), 0.3)
    assert float(offsets.mean()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_are_as_equal_as_an_exhaustive_search_makes_them(seed):
    logits, labels = outputs(seed, [60, 25])
    margins = (logits[:, 0] - logits[:, 1]).sort().values.tolist()
    cuts = [(low + high) / 2 for low, high in itertools.pairwise(margins)]
    least = min(gap(logits + torch.tensor([0.0, cut]), labels) for cut in cuts)
    assert gap(logits + equalizing_offsets(logits, labels), labels) <= least + 0.05


@given(seeds, st.floats(0.01, 100))
def test_they_scale_with_the_logits(seed, factor):
    logits, labels = outputs(seed, [30, 30, 30])
    one, other = equalizing_offsets(logits, labels), equalizing_offsets(factor * logits, labels)
    torch.testing.assert_close(factor * one, other, rtol=1e-6, atol=1e-9)


def test_a_class_without_samples_is_left_where_it_is_among_the_others():
    logits, labels = outputs(0, [40, 40])
    wide = torch.cat([logits, torch.full((80, 1), -50.0)], dim=1)
    offsets = equalizing_offsets(wide, labels)
    assert gap(wide + offsets, labels) <= 0.1
    assert offsets.shape == (3,)


def test_what_is_equal_is_left_alone():
    logits = torch.eye(3).repeat(4, 1) * 5
    assert equalizing_offsets(logits, torch.arange(3).repeat(4)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("broken", [torch.empty(0, 2), torch.tensor([[float("nan"), 0.0]])])
def test_nothing_is_fitted_to_what_is_not_there(broken):
    with pytest.raises(InputError, match="offsets need samples, and logits that are finite numbers"):
        equalizing_offsets(broken, torch.zeros(len(broken), dtype=torch.int64))


class Behind(nn.Module):
    """The layer that gives logits is not the last that is named."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Linear(5, 4)
        self.norm = nn.LayerNorm(3)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.head(self.body(x).relu())


def test_the_bias_is_found_by_what_it_does():
    assert output_bias(Behind().eval(), torch.randn(6, 5)) == "head.bias"
    assert output_bias(Behind(2.0).eval(), torch.randn(6, 5)) is None
    assert output_bias(nn.Linear(5, 3, bias=False), torch.randn(6, 5)) is None
    assert output_bias(nn.Sequential(nn.Linear(5, 3), nn.ReLU()), torch.randn(6, 5)) is None


class Aside(nn.Module):
    """A head that is not used has as many biases as there are logits, which are large."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.aside = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(1e5 * x)


def test_a_bias_that_moves_nothing_is_not_taken_however_large_the_logits_are():
    assert output_bias(Aside().eval(), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))) == "head.bias"


@pytest.mark.parametrize("outputs_of_model", [1, 3])
def test_moving_the_bias_moves_the_logits(outputs_of_model):
    module, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, outputs_of_model)), torch.randn(6, 5)
    before, state = module(x), {name: value.clone() for name, value in module.state_dict().items()}
    name = output_bias(module, x)
    assert name == "2.bias"
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    offsets = torch.tensor([0.5, -0.25, 1.0] if outputs_of_model > 1 else [0.5, -0.25], dtype=torch.float64)
    module.load_state_dict({**state, name: moved_bias(state[name], offsets)})
    change = module(x) - before
    wanted = offsets.float() if outputs_of_model > 1 else torch.tensor([-0.75])
    torch.testing.assert_close(change, wanted.expand_as(change))

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from qfair_check.errors import InputError, OptionError
from qfair_check.remedy.loss import group_weights, group_weights_from_difficulty, weighted_cross_entropy

seeds = st.integers(0, 2**32 - 1)


def made(seed, groups=3, classes=4, samples=20):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    of_sample = torch.randint(groups, (samples,), generator=generator)
    weights = torch.rand(groups, generator=generator, dtype=torch.float64)
    return logits, labels, of_sample, weights / weights.sum()


@given(seeds)
def test_where_classes_are_groups_it_is_torchs_weighted_sum_over_m(seed):
    logits, labels, _, weights = made(seed, groups=4)
    wanted = functional.cross_entropy(logits, labels, weight=weights, reduction="sum") / len(labels)
    assert torch.allclose(weighted_cross_entropy(logits, labels, labels, weights), wanted, rtol=1e-12)


@given(seeds)
def test_the_weight_follows_the_group_of_the_sample(seed):
    logits, labels, groups, weights = made(seed)
    loss = 0.0
    for row, label, group in zip(logits.numpy(), labels.tolist(), groups.tolist(), strict=True):
        loss -= weights[group].item() * (row[label] - np.logaddexp.reduce(row))
    assert math.isclose(weighted_cross_entropy(logits, labels, groups, weights).item(), loss / len(labels))


def test_the_gradient_of_a_sample_is_scaled_by_the_weight_of_its_group():
    logits, labels, groups, weights = made(5)
    logits.requires_grad_()
    weighted_cross_entropy(logits, labels, groups, weights).backward()
    plain = torch.softmax(logits, 1) - functional.one_hot(labels, 4)
    assert torch.allclose(logits.grad, weights[groups, None] * plain.detach() / len(labels))


def test_a_batch_of_one_group_keeps_its_weight():
    logits, labels = torch.zeros(3, 2), torch.tensor([1, 1, 1])
    assert weighted_cross_entropy(logits, labels, labels, [0.9, 0.1]).item() == pytest.approx(0.1 * math.log(2))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "the weights of the groups sum to 1.1, not 1: divide each by 1.1"),
        ([1.5, -0.5], "a group's weight is -0.5: give numbers that are not negative"),
        ([math.nan, 0.5], "a group's weight is nan: give numbers that are not negative"),
    ],
)
def test_weights_that_make_no_sense(weights, message):
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    for given_weights in (weights, torch.tensor(weights, dtype=torch.float64)):
        with pytest.raises(OptionError) as error:
            weighted_cross_entropy(logits, labels, labels, given_weights)
        assert str(error.value) == message
    with pytest.raises(OptionError) as error:
        group_weights(dict(zip("ab", weights, strict=True)), "ab")
    assert str(error.value) == message


def test_weights_in_float32_sum_to_one_closely_enough():
    weights = group_weights({str(group): 1 / 300 for group in range(300)}, [str(group) for group in range(300)])
    labels = torch.tensor([0])
    assert weighted_cross_entropy(torch.zeros(1, 2), labels, labels, weights).isfinite()


@pytest.mark.parametrize(("groups", "place"), [([0, 2], 2), ([-1, 0], -1)])
def test_a_group_without_weight(groups, place):
    with pytest.raises(InputError, match=f"a sample is of group {place}, and there are 2 weights"):
        weighted_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor(groups), [0.5, 0.5])


def test_no_samples_have_no_loss():
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(InputError, match="there are no samples"):
        weighted_cross_entropy(torch.zeros(0, 2), empty, empty, [0.5, 0.5])


def test_names_are_put_in_the_order_of_the_groups():
    assert group_weights({"b": 0.75, "a": 0.25}, ["a", "b"]).tolist() == [0.25, 0.75]


def test_names_of_unknown_groups_are_refused():
    with pytest.raises(OptionError) as error:
        group_weights({"Other": 0.6, "White": 0.4}, ["White", "Others"])
    assert str(error.value) == (
        "there is a weight for 'Other', which is no group: did you mean Others? Groups are White, Others"
    )
    with pytest.raises(OptionError, match="Others has no weight: give one for each group"):
        group_weights({"White": 1.0}, ["White", "Others"])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).filter(sum), min_size=1, max_size=6))
def test_weights_from_difficulty_grow_with_the_error_and_can_be_used(counts):
    correct, samples = [right for right, _ in counts], [right + wrong for right, wrong in counts]
    weights = group_weights_from_difficulty(correct, samples)
    assert (weights > 0).all()
    errors = [(wrong + 1) / (right + wrong + 2) for right, wrong in counts]
    assert weights.tolist() == pytest.approx([error / sum(errors) for error in errors], rel=1e-6)
    labels = torch.tensor([0])
    weighted_cross_entropy(torch.zeros(1, 2), labels, labels, weights)


@pytest.mark.parametrize(
    ("correct", "samples", "message"),
    [
        ([1], [1, 2], "there are 1 counts of correct predictions and 2 of samples"),
        ([], [], "there are 0 counts"),
        ([3], [2], "3 of 2 held-out samples are correct"),
        ([0], [0], "0 of 0 held-out samples are correct: hold out samples of every group"),
    ],
)
def test_counts_that_contradict_each_other(correct, samples, message):
    with pytest.raises(InputError, match=message):
        group_weights_from_difficulty(correct, samples)

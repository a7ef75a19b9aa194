import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qfair_check.errors import InputError
from qfair_check.quantize.allocation import Allocation
from qfair_check.remedy.attach import attach_lsq
from qfair_check.remedy.batchnorm import reestimate_batchnorm


def batches(seed, sizes, *shape):
    generator = torch.Generator().manual_seed(seed)
    return [3 + 2 * torch.randn(size, *shape, generator=generator) for size in sizes]


def two_pass(given_batches):
    """Mean and variance of each batch in float64, in two passes, averaged by count."""
    means, variances, counts = [], [], []
    for batch in given_batches:
        channels = np.moveaxis(batch.double().numpy(), 1, 0).reshape(batch.shape[1], -1)
        mean = channels.sum(axis=1) / channels.shape[1]
        means.append(mean)
        variances.append(((channels - mean[:, None]) ** 2).sum(axis=1) / (channels.shape[1] - 1))
        counts.append(channels.shape[1])
    return np.average(means, axis=0, weights=counts), np.average(variances, axis=0, weights=counts)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)
    )


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_statistics_are_those_of_each_batch_averaged_by_count(seed, sizes):
    data = batches(seed, sizes, 3, 4, 2)
    norm = reestimate_batchnorm(nn.BatchNorm2d(3), data)
    mean, variance = two_pass(data)
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.running_var, variance, rtol=1e-5)


def test_a_second_layer_sees_what_the_first_has_normalized_by_the_batch():
    module, data = net().eval(), batches(1, (8, 5, 2), 2, 7, 7)
    again = reestimate_batchnorm(module, data)
    with torch.no_grad():
        first = [module[0](batch) for batch in data]
        plain = nn.BatchNorm2d(3, track_running_stats=False)
        second = [module[4](torch.relu(plain(batch))) for batch in first]
    for norm, seen in ((again[1], first), (again[5], second)):
        mean, variance = two_pass(seen)
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.running_var, variance, rtol=1e-4)


def test_the_order_of_batches_changes_nothing():
    data = batches(1, (8, 5, 2), 2, 7, 7)
    one, other = reestimate_batchnorm(net(), data), reestimate_batchnorm(net(), data[::-1])
    for name, value in one.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], rtol=1e-6), name


def test_one_value_far_from_the_others_is_not_lost():
    shifted = [1e4 + batch for batch in batches(2, (30, 40), 3)]
    norm = reestimate_batchnorm(nn.BatchNorm1d(3), shifted)
    np.testing.assert_allclose(norm.running_var, two_pass(shifted)[1], rtol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_module_stays_and_the_copy_differs_in_statistics_alone(training):
    module = net().train(training)
    module[3].train(not training)
    module[1].momentum = None
    module[1].num_batches_tracked.fill_(7)
    calls = []
    module[1].register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    again = reestimate_batchnorm(module, batches(1, (8, 5), 2, 7, 7))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    changed = {name for name, value in again.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}
    assert [part.training for part in again.modules()] == [part.training for part in module.modules()]
    assert (again[1].momentum, again[5].momentum) == (None, 0.1)
    assert len(again[1]._forward_hooks) == len(module[1]._forward_hooks) == 1
    assert not any(part._forward_pre_hooks for part in again.modules())
    assert all(value.grad is None for value in again.parameters())
    assert not any(value.requires_grad for value in again.buffers())


def test_the_copy_trains_on():
    again = reestimate_batchnorm(net(), batches(1, (8, 5), 2, 7, 7))
    again(batches(2, (4,), 2, 7, 7)[0]).sum().backward()
    assert again[1].num_batches_tracked == 1


def test_without_running_statistics_it_is_returned_and_no_batch_read():
    for module in (nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.GroupNorm(1, 2)):
        assert reestimate_batchnorm(module, None) is module


def test_broken_statistics_do_not_last():
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(torch.nan)
    norm.running_var.fill_(torch.inf)
    again = reestimate_batchnorm(norm, batches(1, (8,), 2))
    assert torch.isfinite(again.running_mean).all()
    assert torch.isfinite(again.running_var).all()


def test_a_layer_used_twice_averages_both_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, one, other):
            return self.norm(one), self.norm(other)

    data = batches(1, (8, 5), 2)
    again = reestimate_batchnorm(Twice(), [tuple(data)])
    np.testing.assert_allclose(again.norm.running_mean, two_pass(data)[0], rtol=1e-5)


def test_a_layer_that_no_batch_reaches_keeps_its_statistics():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.used(x)

    module = Branches()
    module.unused.running_mean.fill_(3.0)
    again = reestimate_batchnorm(module, batches(1, (8,), 2))
    assert again.unused.running_mean.tolist() == [3.0, 3.0]
    assert again.used.running_mean.tolist() != [0.0, 0.0]


def test_a_model_with_learned_grids_keeps_them():
    module = attach_lsq(net(), 2, allocation=Allocation()).eval()
    data = batches(1, (8, 5), 2, 7, 7)
    again = reestimate_batchnorm(module, data)
    assert not torch.equal(again(data[0]), module(data[0]))
    assert torch.equal(again[0].weight, module[0].weight)


def test_dictionaries_are_keywords():
    norm = reestimate_batchnorm(nn.BatchNorm1d(2), [{"input": batches(1, (8,), 2)[0]}])
    assert norm.running_mean.tolist() != [0.0, 0.0]


def test_no_batches():
    with pytest.raises(InputError, match="there are no batches to estimate BatchNorm statistics from"):
        reestimate_batchnorm(nn.BatchNorm1d(2), [])


def test_a_batch_without_variance():
    with pytest.raises(InputError) as error:
        reestimate_batchnorm(nn.Sequential(nn.BatchNorm1d(2)), batches(1, (8, 1), 2))
    assert str(error.value) == (
        "a batch gives 0 a single value of each channel, which has no variance: give larger batches, and leave out "
        "a last one of a single sample (drop_last=True)"
    )


def test_synchronized_layers_of_one_process_are_batchnorm():
    given_batches = batches(4, [8, 5], 3, 4, 4)
    one = reestimate_batchnorm(nn.BatchNorm2d(3), given_batches)
    other = reestimate_batchnorm(nn.SyncBatchNorm(3), given_batches)
    assert torch.equal(one.running_mean, other.running_mean)
    assert torch.equal(one.running_var, other.running_var)
    assert other.num_batches_tracked == 0

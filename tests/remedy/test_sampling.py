from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from qfair_check.errors import InputError, OptionError
from qfair_check.remedy.sampling import GroupBalancedSampler

some_groups = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(some_groups, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_every_group_and_every_sample_in_it_comes_equally_often(groups, size, seed, epoch):
    sampler = GroupBalancedSampler(groups, size=size, seed=seed)
    sampler.set_epoch(epoch)
    drawn = Counter(sampler)
    assert len(sampler) == drawn.total()
    for group in set(groups):
        members = [index for index, own in enumerate(groups) if own == group]
        times = Counter(drawn[index] for index in members)
        whole, rest = divmod(size, len(members))
        assert times == +Counter({whole: len(members) - rest, whole + 1: rest})


@given(some_groups, st.integers(1, 5))
def test_shards_partition_the_epoch(groups, world_size):
    whole = GroupBalancedSampler(groups, seed=3)
    shards = [GroupBalancedSampler(groups, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert Counter(whole) == sum((Counter(shard) for shard in shards), Counter())
    lengths = [len(list(shard)) for shard in shards]
    assert lengths == [len(shard) for shard in shards]
    assert max(lengths) - min(lengths) <= 1


def test_the_size_is_the_mean_group_size():
    groups = [0] * 70 + [1] * 20 + [2] * 11
    assert GroupBalancedSampler(groups).size == 34
    assert Counter(groups[index] for index in GroupBalancedSampler(groups)) == {0: 34, 1: 34, 2: 34}


def test_an_epoch_depends_on_seed_and_epoch_alone():
    def epoch(seed, number):
        sampler = GroupBalancedSampler([0] * 50 + [1] * 50, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    np.random.seed(0)  # noqa: NPY002 (the global state, which must not matter)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch(0, 1)
    np.random.seed(1)  # noqa: NPY002
    assert epoch(0, 1) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(epoch(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_iterating_twice_gives_the_same_epoch():
    sampler = GroupBalancedSampler([0, 0, 1], seed=1)
    assert list(sampler) == list(sampler)


def test_batches_mix_the_groups():
    groups = [0] * 400 + [1] * 400
    firsts = [groups[index] for index in list(GroupBalancedSampler(groups))[:100]]
    assert 30 <= sum(firsts) <= 70


def test_groups_may_be_names_arrays_or_tensors():
    for groups in (["b", "a", "b"], np.array([1, 0, 1]), torch.tensor([1, 0, 1])):
        assert list(GroupBalancedSampler(groups, size=2)) == list(GroupBalancedSampler([7, 3, 7], size=2))


def test_a_loader_takes_it():
    data = TensorDataset(torch.arange(6))
    loader = DataLoader(data, batch_size=2, sampler=GroupBalancedSampler([0, 0, 0, 0, 1, 1]))
    seen = torch.cat([batch for (batch,) in loader])
    assert len(seen) == 6
    assert set(seen.tolist()) >= {4, 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "0 samples of each group make no epoch: give a size of 1 or more"),
        ({"seed": -1}, "the seed is -1: give 0 or more"),
        ({"rank": 2, "world_size": 2}, "there is no rank 2 among 2: ranks are 0 to world_size - 1"),
        ({"rank": -1}, "there is no rank -1 among 1: ranks are 0 to world_size - 1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError) as error:
        GroupBalancedSampler([0, 1], **options)
    assert str(error.value) == message


def test_no_samples():
    with pytest.raises(InputError, match="there are no samples to draw from"):
        GroupBalancedSampler([])


def test_a_negative_epoch():
    with pytest.raises(OptionError, match="the epoch is -1: give 0 or more"):
        GroupBalancedSampler([0]).set_epoch(-1)

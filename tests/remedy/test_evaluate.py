import copy

import numpy as np
import torch
from torch import nn

from qfair_check.inputs.data import grouped_data
from qfair_check.quantize.allocation import Allocation
from qfair_check.remedy.attach import attach_lsq, freeze_lsq
from qfair_check.remedy.evaluate import ADJUSTMENTS, Bench, count_correct, made_candidates
from qfair_check.remedy.holdout import split_by_group
from qfair_check.remedy.samples import read_samples


def bench_of(size=150, batch_size=16):
    generator = np.random.default_rng(0)
    x = (5 + 3 * generator.normal(size=(size, 4))).astype(np.float32)
    group = np.where(np.arange(size) < 120, "many", "few")
    samples = read_samples(grouped_data(x, (x.sum(1) > 20).astype(np.int64), group, classes=["low", "high"]))
    split = split_by_group(samples.labels, samples.groups, samples.group_names, share=0.2, seed=0)
    return Bench(samples, split, torch.device("cpu"), batch_size, 0)


def normed():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()


def test_counts_by_group_are_exact_and_nan_is_wrong():
    bench = bench_of()
    module = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))  # always the second class, inputs being positive
    counts = count_correct(module, bench, bench.split.held_out)
    held = bench.split.held_out
    x = bench.samples.inputs[held]
    right = (x.sum(1) > 0).numpy() == bench.samples.labels[held]
    for group in range(2):
        mine = bench.samples.groups[held] == group
        assert counts.samples[group] == mine.sum()
        assert counts.correct[group] == right[mine].sum()
    module.weight.data.fill_(float("nan"))
    assert count_correct(module, bench, held).correct == (0, 0)


def test_statistics_come_from_samples_that_are_trained_on_in_natural_distribution():
    bench = bench_of(size=150, batch_size=17)  # 120 are trained on: 7 batches of 17 and a single sample
    batches = list(bench.statistics_batches())
    assert [len(batch) for batch in batches] == [17] * 7
    seen = {tuple(row) for batch in batches for row in batch.inputs.tolist()}
    fit = {tuple(row) for row in bench.samples.inputs[bench.split.fit].tolist()}
    assert len(seen) == 119
    assert seen < fit


def test_the_part_for_difficulty_is_as_large_as_what_is_held_out():
    bench = bench_of()
    part = bench.fit_part()
    groups = bench.samples.groups
    assert np.bincount(groups[part]).tolist() == np.bincount(groups[bench.split.held_out]).tolist()
    assert set(part) <= set(bench.split.fit)


def test_a_model_with_batchnorm_makes_two_candidates_and_another_one():
    bench = bench_of()
    frozen = freeze_lsq(attach_lsq(normed(), 4, allocation=Allocation()))
    again, running = made_candidates(frozen, bench, 3)
    assert (again.candidate.statistics, running.candidate.statistics) == ("re-estimated", "running")
    assert again.candidate.epoch == 3
    assert running.model is frozen
    assert frozen.module[1].running_mean.tolist() == [0.0] * 8
    assert again.model.module[1].running_mean.abs().sum() > 1
    assert again.model.grids is frozen.grids
    plain = freeze_lsq(attach_lsq(nn.Sequential(nn.Linear(4, 2)), 4, allocation=Allocation()))
    assert [made.candidate.statistics for made in made_candidates(plain, bench, None)] == ["running"]


def bench_of_classes(size=400):
    generator = np.random.default_rng(3)
    y = np.repeat([0, 1], [size * 3 // 4, size // 4])
    x = (generator.normal(size=(size, 3)) + y[:, None]).astype(np.float32)
    samples = read_samples(grouped_data(x, y, np.where(y, "rare", "common"), classes=["a", "b"]))
    split = split_by_group(samples.labels, samples.groups, samples.group_names, share=0.5, seed=0)
    return Bench(samples, split, torch.device("cpu"), 16, 0)


def leaning():
    """A linear model that takes nearly all for the first class."""
    module = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[0.0] * 3, [1.0] * 3]))
        module[0].bias.copy_(torch.tensor([3.5, 0.0]))
    return freeze_lsq(attach_lsq(module.eval(), 8, allocation=Allocation()))


def test_adjusted_candidates_are_the_model_with_its_bias_moved():
    bench, frozen = bench_of_classes(), leaning()
    plain, *moved = made_candidates(frozen, bench, 1, adjusts=True)
    assert [made.candidate.adjusted for made in moved] == list(ADJUSTMENTS)
    assert plain.candidate.adjusted == 0
    assert not plain.changed
    gaps = [float(made.candidate.counts.fvo) for made in (plain, *moved)]
    assert gaps[-1] < 0.15 < 0.3 < gaps[0]
    bias = frozen.module[0].bias.clone()
    for made in moved:
        changed = copy.deepcopy(frozen.module)
        changed.load_state_dict({**changed.state_dict(), **made.changed})
        assert count_correct(changed, bench, bench.split.held_out) == made.candidate.counts
    assert torch.equal(frozen.module[0].bias, bias)


class TwoNames(nn.Module):
    """A layer of outputs that has two names, and so its bias in the state dict."""

    def __init__(self):
        super().__init__()
        self.inner = leaning().module[0]
        self.head = self.inner

    def forward(self, x):
        return self.head(x)


def test_a_bias_of_two_names_is_moved_under_both():
    bench, module = bench_of_classes(), TwoNames().eval()
    frozen = freeze_lsq(attach_lsq(module, 8, allocation=Allocation()))
    _, *moved = made_candidates(frozen, bench, 1, adjusts=True)
    assert len(moved) == len(ADJUSTMENTS)
    for made in moved:
        changed = copy.deepcopy(frozen.module)
        saved = {name: value.clone() for name, value in changed.state_dict().items()}
        changed.load_state_dict({**saved, **made.changed})
        assert count_correct(changed, bench, bench.split.held_out) == made.candidate.counts


def test_nothing_is_adjusted_unless_classes_are_groups_and_the_outputs_are_finite():
    assert bench_of_classes().classes_are_groups
    assert not bench_of().classes_are_groups
    few = freeze_lsq(attach_lsq(nn.Sequential(nn.Linear(4, 2)), 4, allocation=Allocation()))
    assert len(made_candidates(few, bench_of(), 1, adjusts=True)) == 1
    assert len(made_candidates(leaning(), bench_of_classes(), 1)) == 1
    without = freeze_lsq(attach_lsq(nn.Sequential(nn.Linear(3, 2, bias=False)), 4, allocation=Allocation()))
    assert len(made_candidates(without, bench_of_classes(), 1, adjusts=True)) == 1
    broken = leaning()
    broken.module[0].bias.data.fill_(float("nan"))
    (made,) = made_candidates(broken, bench_of_classes(), 1, adjusts=True)
    assert made.candidate.counts.correct == (0, 0)

import numpy as np
import torch
from torch import nn

from qfair_check.inputs.data import grouped_data
from qfair_check.remedy.fair_qat import remediate
from qfair_check.remedy.holdout import split_by_group
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.record import training_record
from qfair_check.remedy.samples import read_samples
from qfair_check.training_record import contradiction_in


def network(*, normed):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(8)] if normed else []
        return nn.Sequential(nn.Linear(4, 8), *norm, nn.ReLU(), nn.Linear(8, 2)).eval()


def arrays(size=200):
    x = np.random.default_rng(0).normal(size=(size, 4)).astype(np.float32)
    rare = np.arange(size) % 4 == 0
    return x, np.where(rare, x[:, 0] > x[:, 1], x[:, 2] > 0).astype(np.int64), np.where(rare, "rare", "common")


def test_what_is_held_out_is_counted_as_the_taken_model_answers():
    x, y, group = arrays()
    remedy = remediate(network(normed=False), (x, y, group), Recipe.of("fair-qat", 4, epochs=3, batch_size=16))
    record = training_record(remedy)
    samples = read_samples(grouped_data(x, y, group))
    split = split_by_group(samples.labels, samples.groups, samples.group_names, share=0.2, seed=0)
    held = split.held_out
    right = remedy.module(torch.from_numpy(x[held])).argmax(dim=1).numpy() == y[held]
    epoch = record.epochs[record.chosen - 1]
    assert record.held_out_samples == tuple(int((group[held] == name).sum()) for name in record.groups)
    assert epoch.held_out == tuple(int(right[group[held] == name].sum()) for name in record.groups)
    assert contradiction_in(record) is None


def test_outputs_are_not_moved_and_statistics_are_estimated_anew():
    x, y, _ = arrays()
    remedy = remediate(network(normed=True), (x, y), Recipe.of("fair-qat", 2, epochs=3, batch_size=16))
    record = training_record(remedy)
    assert any(candidate.adjusted for kept in remedy.epochs for candidate in kept.candidates)
    for epoch, kept in zip(record.epochs, remedy.epochs, strict=True):
        (plain,) = [one for one in kept.candidates if not one.adjusted and one.statistics == "re-estimated"]
        assert epoch.held_out == plain.counts.correct


def test_rounding_alone_has_no_training():
    x, y, group = arrays()
    assert training_record(remediate(network(normed=True), (x, y, group), Recipe.of("ptq", 4))) is None

import copy
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from qfair_check import audit
from qfair_check.demo.train import training_data
from qfair_check.errors import InputError, MeasureError, OptionError
from qfair_check.inputs.data import grouped_data
from qfair_check.inputs.model import Model
from qfair_check.inputs.quantized_file import StoredGrid
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.model import quantize_model
from qfair_check.remedy.checkpoint import EpochRecord
from qfair_check.remedy.epoch import Step
from qfair_check.remedy.evaluate import Bench, count_correct
from qfair_check.remedy.fair_qat import remediate
from qfair_check.remedy.holdout import split_by_group
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import read_samples

RECIPE = Recipe.of("fair-qat", 2, epochs=4, batch_size=16, patience=4)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8), nn.ReLU()
        return nn.Sequential(*parts, nn.Linear(8, 2)).eval()


class Watched(nn.Module):
    """Notes what it is trained on; copies share the note."""

    seen = set()  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        if self.training:
            self.seen.update(tuple(row) for row in x.tolist())
        return self.inner(x)


def arrays(size=160, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(size, 4)).astype(np.float32)
    rare = np.arange(size) % 5 == 0
    y = np.where(rare, x[:, 0] > x[:, 1], x[:, 2] > 0).astype(np.int64)
    return x, y, np.where(rare, "rare", "common")


def state_of(remedy):
    return remedy.module.state_dict()


def assert_same(one, other):
    assert one.epochs == other.epochs
    assert one.chosen == other.chosen
    assert one.notices == other.notices
    assert state_of(one).keys() == state_of(other).keys()
    assert all(torch.equal(value, state_of(other)[name]) for name, value in state_of(one).items())
    for name, learned in one.grids.items():
        assert torch.equal(learned.tensor.codes, other.grids[name].tensor.codes)
        assert torch.equal(learned.tensor.scale, other.grids[name].tensor.scale)


class StopError(Exception):
    pass


def stopping_at(epoch, batch):
    def progress(told):
        if isinstance(told, Step) and (told.epoch, told.batch) == (epoch, batch):
            raise StopError

    return progress


@pytest.mark.parametrize("strategy", ["fair-base", "mpqat", "fair-qat"])
def test_a_run_that_is_interrupted_in_mid_epoch_ends_as_if_it_had_not_been(strategy, tmp_path):
    recipe = replace(RECIPE, strategy=strategy)
    whole = remediate(network(), arrays(), recipe)
    path = tmp_path / "run.pt"
    for epoch in (1, 3, 4):
        with pytest.raises(StopError):
            remediate(network(), arrays(), recipe, checkpoint=path, progress=stopping_at(epoch, 2))
    resumed = []
    assert_same(whole, remediate(network(), arrays(), recipe, checkpoint=path, progress=resumed.append))
    assert [told.epoch for told in resumed if isinstance(told, EpochRecord)] == [4]
    assert_same(whole, remediate(network(), arrays(), recipe, checkpoint=path))  # nothing is left to do


def pictures(size=96, seed=0):
    """Images whose classes are the groups, one of them rare."""
    generator = np.random.default_rng(seed)
    y = (np.arange(size) % 4 == 0).astype(np.int64)
    x = generator.normal(size=(size, 1, 32, 32)).astype(np.float32)
    x[y == 1, :, 8:24, 8:24] += 1.5
    return x, y, np.where(y, "rare", "common")


def of_pictures():
    """A model that measures brightness and takes it for the common class too often."""
    body = nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()
    module = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer, value in ((module[0], 1 / 9), (module[2], 1 / 36)):
            layer.weight.fill_(value)
            layer.bias.zero_()
        module[-1].weight.copy_(torch.tensor([[0.0] * 4, [4.0] * 4]))
        module[-1].bias.copy_(torch.tensor([12.0, 0.0]))
    return module.eval()


@pytest.mark.parametrize("amp", [False, True])
def test_images_that_are_changed_at_random_are_so_again_after_an_interruption(amp, tmp_path):
    recipe = replace(RECIPE, epochs=2, amp=amp)
    whole = remediate(of_pictures(), pictures(), recipe)
    assert (whole.recipe.balance, whole.recipe.distillation) == ("outputs", 0.5)
    assert whole.recipe.augmentation
    path = tmp_path / "run.pt"
    with pytest.raises(StopError):
        remediate(of_pictures(), pictures(), recipe, checkpoint=path, progress=stopping_at(2, 2))
    assert_same(whole, remediate(of_pictures(), pictures(), recipe, checkpoint=path))
    plain = remediate(of_pictures(), pictures(), replace(recipe, augmentation=()))
    assert plain.epochs[0].loss != whole.epochs[0].loss


def test_a_candidate_with_moved_outputs_is_the_model_that_comes_out():
    x, y, group = pictures()
    remedy = remediate(of_pictures(), (x, y, group), replace(RECIPE, learning_rate=1e-9, step_learning_rate=1e-9))
    assert any(candidate.adjusted for candidate in remedy.epochs[0].candidates)
    assert remedy.chosen.adjusted > 0
    samples = read_samples(grouped_data(x, y, group))
    split = split_by_group(samples.labels, samples.groups, samples.group_names, share=0.2, seed=0)
    bench = Bench(samples, split, torch.device("cpu"), 16, 0)
    assert count_correct(remedy.module, bench, split.held_out) == remedy.chosen.counts
    assert all(value.is_contiguous() for value in remedy.module.parameters())


def test_a_budget_in_minutes_ends_on_the_clock_and_what_was_spent_counts(tmp_path, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr("qfair_check.remedy.training.clock", lambda: float(next(ticks)))
    recipe = Recipe.of("fair-qat", 2, batch_size=16, minutes=0.25, patience=9)
    path = tmp_path / "run.pt"
    told = []
    whole = remediate(network(), arrays(), recipe, progress=told.append)
    steps = [step for step in told if isinstance(step, Step)]
    assert 10 <= len(steps) <= 15
    assert 1 <= len(whole.epochs) == steps[-1].epoch
    with pytest.raises(StopError):
        remediate(network(), arrays(), recipe, checkpoint=path, progress=stopping_at(2, 1))
    again = []
    remediate(network(), arrays(), recipe, checkpoint=path, progress=again.append)
    assert len([step for step in again if isinstance(step, Step)]) <= 6
    remediate(network(), arrays(), recipe, checkpoint=path, progress=again.append)
    assert next(step.epoch for step in again if isinstance(step, Step)) == 2


def test_a_run_that_is_killed_goes_on(tmp_path):
    path = tmp_path / "run.pt"
    program = f"""
        import importlib.util, os, signal, sys
        spec = importlib.util.spec_from_file_location("case", {__file__!r})
        case = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(case)
        def progress(told):
            if isinstance(told, case.Step) and (told.epoch, told.batch) == (3, 2):
                os.kill(os.getpid(), signal.SIGKILL)
        case.remediate(case.network(), case.arrays(), case.RECIPE, checkpoint={str(path)!r}, progress=progress)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=dict(os.environ), check=False)
    assert ended.returncode == -signal.SIGKILL
    resumed = []
    remedy = remediate(network(), arrays(), RECIPE, checkpoint=path, progress=resumed.append)
    assert [told.epoch for told in resumed if isinstance(told, EpochRecord)] == [3, 4]
    assert_same(remediate(network(), arrays(), RECIPE), remedy)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recipe": replace(RECIPE, seed=5)}, "a run with another recipe: give what that run had"),
        ({"train": arrays(seed=1)}, "a run with other training data"),
        ({"model": nn.Linear(4, 2)}, "a run with another model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, told, tmp_path):
    path = tmp_path / "run.pt"
    given = {"model": network(), "train": arrays(), "recipe": RECIPE}
    remediate(*given.values(), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=told):
        remediate(*(given | changes).values(), checkpoint=path)
    assert path.read_bytes() == before


def test_samples_that_are_there_twice_are_told():
    x, y, group = arrays()
    twice = tuple(np.concatenate([part, part[:40]]) for part in (x, y, group))
    (notice,) = [told for told in remediate(network(), twice, RECIPE).notices if "the same input" in told]
    split = split_by_group(twice[1], (twice[2] == "rare").astype(int), ["common", "rare"], share=0.2, seed=0)
    apart = sum(index % 160 in split.fit % 160 for index in split.held_out.tolist())
    assert notice.startswith(f"{apart} of {len(split.held_out)} held-out samples have the same input as one that")
    assert not any("the same input" in told for told in remediate(network(), arrays(), RECIPE).notices)


@pytest.mark.parametrize("strategy", ["fair-base", "mpqat", "fair-qat"])
def test_held_out_samples_are_never_trained_on(strategy, monkeypatch):
    monkeypatch.setattr(Watched, "seen", set())
    x, y, group = arrays()
    remediate(Watched(), (x, y, group), replace(RECIPE, strategy=strategy))
    samples = read_samples(grouped_data(x, y, group))
    split = split_by_group(samples.labels, samples.groups, samples.group_names, share=0.2, seed=0)
    fit = {tuple(row) for row in x[split.fit].tolist()}
    assert Watched.seen <= fit
    assert len(Watched.seen) > len(fit) / 2  # a large group is undersampled


def test_the_model_and_random_numbers_of_the_caller_stay_as_they_are():
    module = network().train()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    remediate(module, arrays(), RECIPE)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in module.parameters())


def test_what_comes_out_is_plain_and_lies_on_its_grids():
    remedy = remediate(network(), arrays(), RECIPE)
    assert type(remedy.module[0]) is nn.Linear
    assert remedy.module.state_dict().keys() == network().state_dict().keys()
    for name, learned in remedy.grids.items():
        assert torch.equal(remedy.module.get_parameter(name), learned.tensor.dequantize())
    if remedy.chosen.is_trained:
        assert {name: learned.bits for name, learned in remedy.grids.items()} == {
            "0.weight": 8,
            "4.weight": 2,
            "6.weight": 8,
        }


def test_the_counts_are_those_of_the_module_that_comes_out():
    x, y, group = arrays()
    remedy = remediate(network(), (x, y, group), RECIPE)
    every = remedy.module(torch.from_numpy(x)).argmax(1).numpy() == y
    counted = remedy.chosen.counts
    for index, name in enumerate(remedy.group_names):
        assert counted.samples[index] == round(0.2 * (group == name).sum())
        assert counted.correct[index] <= every[group == name].sum()


def test_ptq_is_that_of_the_audit_and_claims_nothing():
    module = network()
    remedy = remediate(module, arrays(), Recipe.of("ptq", 2, allocation=Allocation()))
    wanted = quantize_model(module, 2, "mse").module
    assert (remedy.epochs, remedy.better_than_ptq) == ((), False)
    assert [candidate.allocation for candidate in remedy.rounded] == ["", ""]
    for name in remedy.grids:
        assert torch.equal(remedy.module.get_parameter(name), wanted.get_parameter(name))


def test_better_than_ptq_means_better_than_every_rounded_one():
    remedy = remediate(network(), arrays(), replace(RECIPE, epochs=15, patience=15, learning_rate=0.1))
    assert len(remedy.rounded) == 4
    assert remedy.better_than_ptq == (
        remedy.chosen.is_trained
        and all(
            (remedy.chosen.counts.fvo, -remedy.chosen.counts.overall_accuracy)
            < (candidate.counts.fvo, -candidate.counts.overall_accuracy)
            for candidate in remedy.rounded
        )
    )


def test_rounding_that_is_fairer_and_useless_is_told_with_its_own_numbers():
    generator = np.random.default_rng(0)
    y = np.arange(200) % 2
    group = np.where(np.arange(200) % 4 < 2, "easy", "hard")
    signal = np.where(group == "easy", 2.0, 0.2) * y
    x = (generator.normal(size=(200, 4)) + signal[:, None]).astype(np.float32)
    module = network()
    with torch.no_grad():
        module[6].weight.zero_()
        module[6].bias.copy_(torch.tensor([1.0, 0.0]))  # always the first class: half of each group is wrong
    recipe = replace(RECIPE, balance="samples", epochs=6, learning_rate=0.1)
    remedy = remediate(module, (x, y, group), recipe)
    rounded, counts = remedy.rounded[0].counts, remedy.chosen.counts
    assert (rounded.fvo, float(rounded.overall_accuracy)) == (0, 0.5)
    assert counts.fvo > 0
    assert not remedy.better_than_ptq
    accuracy = float(counts.overall_accuracy)
    assert remedy.notices[-1].startswith(
        f"the held-out samples do not show that training is better than rounding: it comes to {float(counts.fvo):.3f} "
        f"FVO at an overall accuracy of {accuracy:.3f}, and rounding to 0.000 FVO at an overall accuracy of 0.500; "
    )


def test_training_that_diverges_keeps_the_epochs_before(tmp_path):
    kept = []

    def poison(told):
        kept.append(told)
        if isinstance(told, EpochRecord) and told.epoch == 2:
            samples.inputs.fill_(float("nan"))

    samples = read_samples(grouped_data(*arrays()))
    remedy = remediate(network(), samples, RECIPE, progress=poison)
    assert len(remedy.epochs) == 2
    assert remedy.notices[0].startswith("training stopped: the loss became nan at batch 1 of epoch 3")
    assert all(bool(torch.isfinite(value).all()) for value in remedy.module.parameters())


def test_training_stops_when_nothing_is_gained():
    recipe = replace(RECIPE, epochs=30, patience=1, learning_rate=0.5)
    remedy = remediate(network(), arrays(), recipe)
    assert len(remedy.epochs) < 30
    assert any("training stopped after epoch" in notice for notice in remedy.notices)


def test_audited_data_is_looked_at_for_overlap_and_groups_alone():
    x, y, group = arrays()
    remedy = remediate(network(), (x, y, group), RECIPE, audited=arrays(seed=9))
    assert_same(remediate(network(), (x, y, group), RECIPE), remedy)
    with pytest.raises(InputError, match="160 of 160 audited samples are also in the training data, above 1%"):
        remediate(network(), (x, y, group), RECIPE, audited=(x, y, group))
    fresh, labels, names = arrays(seed=9)
    names = np.where(np.arange(160) < 3, "other", names)
    with pytest.raises(InputError, match=r"^other has no samples in the training data"):
        remediate(network(), (x, y, group), RECIPE, audited=(fresh, labels, names))


def test_a_group_that_is_trained_on_and_not_audited_is_told():
    x, y, group = arrays()
    wider = np.where(np.arange(160) % 7 == 0, "third", group)
    fresh = arrays(seed=9)
    (notice,) = [told for told in remediate(network(), (x, y, wider), RECIPE, audited=fresh).notices if "third" in told]
    assert notice == "the gap that epochs are chosen by has groups that the audited data lacks: third"


def test_weights_of_groups_change_the_result_and_unknown_ones_are_refused():
    weighted = replace(RECIPE, group_weights=(("rare", 0.9), ("common", 0.1)))
    plain, changed = (remediate(network(), arrays(), recipe) for recipe in (RECIPE, weighted))
    assert plain.epochs[0].loss != changed.epochs[0].loss
    with pytest.raises(OptionError, match="'raer', which is no group: did you mean rare"):
        remediate(network(), arrays(), replace(RECIPE, group_weights=(("raer", 0.9), ("common", 0.1))))


def test_training_data_without_a_class_of_the_model_is_refused_before_it_is_trained_on():
    x, _, group = arrays()
    wide = network()
    wide[6] = nn.Linear(8, 3)
    shifted = grouped_data(x, np.where(x[:, 0] > 0, "a", "c"), group, classes=["a", "c"])
    with pytest.raises(InputError, match=r"has 2 classes \(a, c\) and the model 3 outputs"):
        remediate(wide, shifted, RECIPE)
    with pytest.raises(InputError, match=r"class '2' \(index 2\), and the model has 2 outputs"):
        remediate(network(), (x, np.arange(160) % 3, group), RECIPE)
    one, other = (grouped_data(x, np.where(x[:, 0] > 0, "a", name), group, classes=["a", name]) for name in "bc")
    with pytest.raises(InputError, match="has the classes a, b and the audited data a, c"):
        remediate(network(), one, RECIPE, audited=other)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(InputError, match="plain callable"):
        remediate(lambda x: x, arrays(), RECIPE)
    with pytest.raises(InputError, match="no parameter of Sequential takes a gradient"):
        remediate(network().requires_grad_(False), arrays(), RECIPE)
    with pytest.raises(InputError, match="has no weights to quantize"):
        remediate(nn.Sequential(nn.BatchNorm1d(4)), arrays(), RECIPE)
    with pytest.raises(OptionError, match="the device 'nowhere' cannot be used"):
        remediate(network(), arrays(), replace(RECIPE, device="nowhere"))


class Answering(nn.Module):
    """A model of the tests whose forward pass is given."""

    def __init__(self, forward):
        super().__init__()
        self.inner = network()
        self.forwards = forward

    def forward(self, x):
        return self.forwards(self.inner, x, self.training)


def fails_in_training(inner, x, training):
    if training:
        raise ValueError("not made for training")
    return inner(x)


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda inner, x, _: inner(x[:, :3]), r"in eval mode failed on training data, .*\(8, 4\) .*: RuntimeError"),
        (fails_in_training, "in training mode failed on training data, .*: ValueError: not made for training"),
        (lambda inner, x, _: inner(x).detach(), "the outputs of the model take no gradient"),
    ],
)
def test_a_model_that_fails_is_named_as_such(forward, told):
    with pytest.raises(MeasureError, match=told):
        remediate(Answering(forward), arrays(), RECIPE)


def test_a_model_that_changes_its_input_is_trained_as_one_that_does_not():
    recipe = replace(RECIPE, epochs=2, balance="outputs")
    x, y, _ = arrays()
    one = remediate(Answering(lambda inner, x, _: inner(x.mul_(2).sub_(1))), (x, y), recipe)
    other = remediate(Answering(lambda inner, x, _: inner(x * 2 - 1)), (x, y), recipe)
    assert_same(one, other)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_a_model_of_another_precision_is_trained_in_float32(kind):
    module, half = network(), network().to(kind)
    with torch.no_grad():
        for value, wanted in zip(module.parameters(), half.parameters(), strict=True):
            value.copy_(wanted)
    recipe = replace(RECIPE, epochs=1)
    assert_same(remediate(module, arrays(), recipe), remediate(half, arrays(), recipe))
    assert next(half.parameters()).dtype == kind


def test_a_model_on_a_grid_of_its_own_is_refused():
    weight = quantize_model(network(), 4).grids["0.weight"].tensor
    grid = StoredGrid(4, "symmetric", weight.codes.to(torch.int8), weight.scale, weight.zero_point.to(torch.int8))
    with pytest.raises(
        OptionError, match="lies on a grid of its own already, of 4 bits, and cannot be quantized again"
    ):
        remediate(Model(network(), grids={"0.weight": grid}), arrays(), RECIPE)


def test_volumes_are_trained_in_bfloat16():
    x = np.random.default_rng(0).normal(size=(24, 1, 4, 5, 6)).astype(np.float32)
    module = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    remedy = remediate(module, (x, np.arange(24) % 2), replace(RECIPE, epochs=1, amp=True))
    assert len(remedy.epochs) == 1


def test_vectors_cannot_be_changed_as_images_are():
    with pytest.raises(InputError, match="holds no images, which flip and shift would change"):
        remediate(network(), arrays(), replace(RECIPE, augmentation=("flip", "shift")))


def test_a_checkpoint_in_a_folder_that_is_not_there_is_refused_before_training(tmp_path):
    told = []
    with pytest.raises(InputError, match=r"the folder of the checkpoint .* is not there"):
        remediate(network(), arrays(), RECIPE, checkpoint=tmp_path / "none" / "run.pt", progress=told.append)
    assert not told


def test_a_single_group_has_no_gap_to_close_and_that_is_said():
    x, y, _ = arrays()
    alone = (x, y, np.full(160, "all"))
    assert "has one group, all: there is no gap to close" in remediate(network(), alone, RECIPE).notices[0]
    plain = remediate(network(), alone, replace(RECIPE, strategy="mpqat"))
    assert not any("one group" in notice for notice in plain.notices)


def test_the_demo_at_two_bits_becomes_fairer_than_its_ptq_and_than_fp32():
    remedy = remediate("demo", training_data(), Recipe.of("fair-qat", 2), audited="demo")
    origin = audit("demo", "demo", 2)
    after = audit(remedy.module, "demo", 32).at("fp32")
    before, rounded = origin.at("fp32"), origin.at("int2")
    drops = [old.accuracy - new.accuracy for old, new in zip(before.groups, after.groups, strict=True)]
    assert after.fvo < before.fvo < rounded.fvo
    assert after.overall.accuracy > before.overall.accuracy > rounded.overall.accuracy
    assert max(drops) <= 0.05

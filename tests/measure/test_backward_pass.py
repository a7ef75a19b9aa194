import copy
import math
import random
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import Dataset, IterableDataset
from transformers import BertConfig, BertForSequenceClassification

from qfair_check import audit
from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.model import read_model
from qfair_check.inputs.options import ModelOptions
from qfair_check.measure.chunks import CHUNK
from qfair_check.measure.curvature import measure_group
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.footprint import Plan
from qfair_check.measure.group_loss import Point
from qfair_check.quantize.allocation import Allocation
from qfair_check.record import Audit

SIZE = 150
RNG = np.random.default_rng(5)
IMAGES = RNG.normal(size=(SIZE, 3, 6, 6)).astype(np.float32)
FLAT = IMAGES.reshape(SIZE, -1)[:, :6].copy()
IDS = torch.from_numpy(RNG.integers(1, 20, (SIZE, 5)))
LENGTHS = torch.from_numpy(RNG.integers(1, 6, SIZE))
Y = RNG.integers(3, size=SIZE)
GROUP = np.array(["young", "old", "other"])[RNG.choice(3, size=SIZE, p=[0.5, 0.3, 0.2])]
ALL = CurvatureOptions()


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))


def conv_net():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3)
    )
    nn.init.normal_(net[1].running_mean, std=0.1)
    return net


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(20, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


class SqueezeExcite(nn.Module):
    """The block of MobileNetV3: a depthwise convolution, hardswish, and a gate by hardsigmoid."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Hardswish(inplace=True)
        self.depthwise, self.squeeze = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1)
        self.gate, self.head = nn.Hardsigmoid(inplace=True), nn.Linear(6, 3)

    def forward(self, x):
        x = self.depthwise(self.act(self.norm(self.conv(x))))
        x = x * self.gate(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))


def bert():
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=3, **small))


class Rows(Dataset):
    """Samples that bring their own class and group."""

    def __init__(self, *parts, order=range(SIZE)):
        self.parts, self.order = parts, order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        row = self.order[index]
        inputs = tuple(torch.as_tensor(part[row]) for part in self.parts)
        return inputs if len(inputs) > 1 else inputs[0], int(Y[row]), str(GROUP[row])


class ByName(Rows):
    def __getitem__(self, index):
        (ids, mask), label, group = super().__getitem__(index)
        return {"input_ids": ids, "attention_mask": mask}, label, group


class Stream(IterableDataset):
    """The same, one after the other, without a length."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return (self.rows[index] for index in range(len(self.rows)))


def curved(model, data, bits=(8, 4), options=ALL, **how):
    made = audit(model, data, list(bits), curvature=options, **how)
    assert all(len(result.curvature) == len(made.groups) for result in made.precisions)
    return made


def by_precision(made):
    return {result.precision: (result.curvature, result.moved) for result in made.precisions}


@pytest.fixture(scope="module")
def made():
    return curved(conv_net(), (IMAGES, Y, GROUP), options=CurvatureOptions(40))


def test_values_stand_in_the_order_of_the_groups(made):
    assert made.groups == ("old", "other", "young")
    assert [group.samples for group in made.fp32.curvature] == [min(40, sum(name == GROUP)) for name in made.groups]
    assert sum(GROUP == "young") > 40 > sum(GROUP == "other")
    for group in (group for result in made.precisions for group in result.curvature):
        assert group.converged
        assert not group.undefined
        assert group.residual <= 0.05
        assert group.lambda_min < group.lambda_max
        assert group.hvps >= 6
    assert (made.settings.curvature.samples, made.settings.curvature.parameters) == (40, 3 * 36 + 8 + 65 * 3)


def test_on_all_samples_loss_is_that_of_the_forward_pass():
    made = curved(conv_net(), (IMAGES, Y, GROUP))
    for result in made.precisions:
        losses = [group.loss for group in result.groups]
        assert [group.loss for group in result.curvature] == pytest.approx(losses, rel=1e-6)
    assert made.settings.curvature.samples is None


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2), (200, 0)])
def test_values_do_not_depend_on_how_samples_are_loaded(made, batch_size, workers):
    again = curved(conv_net(), (IMAGES, Y, GROUP), options=CurvatureOptions(40), batch_size=batch_size, workers=workers)
    assert by_precision(again) == by_precision(made)


@pytest.mark.parametrize("bits", [[8], [4], ["fp16", 4, 2, 8]])
def test_values_do_not_depend_on_which_other_precisions_are_asked_for(made, bits):
    again = by_precision(curved(conv_net(), (IMAGES, Y, GROUP), bits, CurvatureOptions(40)))
    assert {name: told for name, told in by_precision(made).items() if name in again} == {
        name: again[name] for name in ("fp32", "int8", "int4") if name in again
    }


def test_values_do_not_depend_on_the_memory_where_the_chunk_is_the_same(made, monkeypatch):
    """Without memory for graphs each product computes them anew."""
    assert made.settings.curvature.chunk == 64
    monkeypatch.setattr("qfair_check.measure.backward_pass.plan", lambda *args: Plan(64, 32, 0))
    again = curved(conv_net(), (IMAGES, Y, GROUP), options=CurvatureOptions(40))
    assert by_precision(again) == by_precision(made)


def test_a_group_larger_than_the_memory_has_the_same_values_but_for_rounding():
    whole = curved(mlp(), (FLAT, Y, GROUP))
    small = curved(mlp(), (FLAT, Y, GROUP), options=CurvatureOptions(memory=9_000))
    assert small.settings.curvature.chunk <= 16 < whole.settings.curvature.chunk
    for result, expected in zip(small.precisions, whole.precisions, strict=True):
        for group, other in zip(result.curvature, expected.curvature, strict=True):
            assert group.samples == other.samples
            assert group.loss == pytest.approx(other.loss, rel=1e-5)
            assert group.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
            assert group.lambda_max == pytest.approx(other.lambda_max, rel=1e-4)


def test_too_little_memory_is_told_before_any_further_sample_is_read():
    rows = Rows(FLAT)
    read = []

    class Told(Dataset):
        def __len__(self):
            return SIZE

        def __getitem__(self, index):
            read.append(index)
            return rows[index]

    with pytest.raises(OptionError) as caught:
        curved(mlp(), Told(), options=CurvatureOptions(memory=1000), batch_size=1)
    told = str(caught.value)
    assert told.startswith("measuring curvature of this model takes ")
    assert told.endswith(" KiB for one sample, and --qfair-curvature-memory allows 0 KiB: allow more")
    assert max(read) < 64
    needed = int(told.split(" takes ")[1].split(" KiB")[0])
    enough = curved(mlp(), (FLAT, Y, GROUP), [4], CurvatureOptions(10, needed * 2**10))
    assert enough.settings.curvature.chunk <= 2
    assert all(group.converged for group in enough.fp32.curvature)
    with pytest.raises(OptionError, match="allow more"):
        curved(mlp(), (FLAT, Y, GROUP), options=CurvatureOptions(memory=(needed - 1) * 2**10))


def test_frozen_layers_leave_no_less_memory_to_their_account():
    """The gradient of the head alone needs nothing of the layers before it; the account differentiates in all."""
    head = conv_net()
    head[:2].requires_grad_(False)
    chunks = [
        curved(net, (IMAGES, Y, GROUP), options=CurvatureOptions(20, 200_000)).settings.curvature.chunk
        for net in (head, conv_net())
    ]
    assert chunks[0] == chunks[1] < CHUNK


def test_a_batchnorm_that_cannot_be_folded_since_layers_are_frozen_leaves_less_memory():
    frozen = conv_net()
    frozen[5].requires_grad_(False)
    chunks = [
        curved(net, (IMAGES, Y, GROUP), options=CurvatureOptions(20, 200_000)).settings.curvature.chunk
        for net in (frozen, conv_net())
    ]
    assert chunks[0] < chunks[1]


def test_frozen_layers_copy_the_model_once_for_each_precision_and_once_for_accounts(monkeypatch):
    made = []

    class Counted(Point):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    net = mlp()
    net[0].requires_grad_(False)
    options = CurvatureOptions(20)
    expected = curved(net, (FLAT, Y, GROUP), options=options)
    monkeypatch.setattr("qfair_check.measure.backward_pass.Point", Counted)
    assert by_precision(curved(net, (FLAT, Y, GROUP), options=options)) == by_precision(expected)
    planning = 2
    assert len(made) == planning + 1 + len(expected.precisions)


def test_pyhessian_has_the_memory_for_itself(monkeypatch):
    """Graphs that stay between products would come on top of its own, which are of the module without folding."""
    plans = []

    def seen(point, group, plan, **how):
        plans.append(plan)
        return measure_group(point, group, plan, **how)

    monkeypatch.setattr("qfair_check.measure.backward_pass.measure_group", seen)
    curved(conv_net(), (IMAGES, Y, GROUP), [32], CurvatureOptions(20))
    assert {plan.kept > 0 for plan in plans} == {True}
    plans.clear()
    curved(conv_net(), (IMAGES, Y, GROUP), [32], CurvatureOptions(20, method="pyhessian"))
    assert {plan.kept for plan in plans} == {0}


def test_a_full_disk_is_told(monkeypatch):
    full = Path("/dev/full").open("r+b")  # noqa: SIM115 (the audit closes it)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full)
    with pytest.raises(InputError, match=r"No space left on device; --qfair-curvature-samples keeps fewer, and TMPDIR"):
        curved(conv_net(), (IMAGES, Y, GROUP))
    assert full.closed


def test_the_order_of_samples_changes_rounding_alone(made):
    order = np.random.default_rng(1).permutation(SIZE)
    whole, again = (curved(mlp(), Rows(FLAT, order=rows)) for rows in (range(SIZE), [int(index) for index in order]))
    assert again.groups == whole.groups
    for group, other in zip(again.at(4).curvature, whole.at(4).curvature, strict=True):
        assert group.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
        assert group.lambda_max == pytest.approx(other.lambda_max, rel=1e-4)
        assert group.account.predicted == pytest.approx(other.account.predicted, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("most", [None, 20])
def test_samples_that_bring_class_and_group_tell_the_same(most):
    """Groups are known by name only at the end, and numbered as they come until then."""
    options = CurvatureOptions(most)
    expected = curved(mlp(), (FLAT, Y, GROUP), options=options)
    for data in (Rows(FLAT), Stream(Rows(FLAT))):
        found = curved(mlp(), data, options=options)
        assert found.groups == expected.groups
        assert by_precision(found) == by_precision(expected)


def test_a_subsample_depends_on_the_seed_and_is_said(made):
    other = curved(conv_net(), (IMAGES, Y, GROUP), options=CurvatureOptions(40), seed=1)
    young = made.groups.index("young")
    assert other.fp32.curvature[young].samples == made.fp32.curvature[young].samples == 40
    assert other.fp32.curvature[young].gradient_norm != made.fp32.curvature[young].gradient_norm
    assert other.fp32.groups == made.fp32.groups


def test_a_model_that_draws_depends_on_the_seed_alone():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(nn.functional.dropout(x, training=True))

    one, again, other = (curved(Drops(), (FLAT, Y, GROUP), [32], seed=seed) for seed in (0, 0, 1))
    assert by_precision(one) == by_precision(again)
    assert one.fp32.curvature[0].loss != other.fp32.curvature[0].loss


def test_a_plain_callable_says_why_it_has_none():
    made = curved(lambda x: x[:, :3], (FLAT, Y, GROUP), [32])
    reason = "the model is a plain callable, and has no gradients"
    assert [group.undefined for group in made.fp32.curvature] == [
        dict.fromkeys(("gradient_norm", "lambda_max"), reason)
    ] * 3
    assert [group.samples for group in made.fp32.curvature] == [group.samples for group in made.fp32.groups]
    assert [group.gradient_norm for group in made.fp32.curvature] == [None] * 3


class First(nn.Module):
    def forward(self, x):
        return x[:, :3]


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x).detach()


def frozen():
    return mlp().requires_grad_(False)


@pytest.mark.parametrize(
    ("build", "bits", "reason"),
    [
        (First, [32], "the model has no parameters, and so no gradients"),
        (frozen, [4], "the model trains nothing: every parameter is frozen (requires_grad is False)"),
        (Detached, [4], "the loss does not depend on the model's parameters in a way that torch can follow"),
    ],
)
def test_a_model_without_gradients_says_why(build, bits, reason):
    made = curved(build(), (FLAT, Y, GROUP), bits)
    for result in made.precisions:
        for group in result.curvature:
            assert (group.gradient_norm, group.lambda_max, group.account) == (None, None, None)
            assert set(group.undefined.values()) == {reason}
            assert {"gradient_norm", "lambda_max"} <= set(group.undefined)


def test_an_operation_that_torch_differentiates_once_is_named_with_the_cure():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    class Net(Detached):
        def forward(self, x):
            return Once.apply(self.layer(x)).tanh()

    made = curved(Net(), (FLAT, Y, GROUP), [4])
    for group in made.at(4).curvature:
        assert group.gradient_norm > 0
        assert group.lambda_max is None
        assert "an operation, among Once, is marked as once_differentiable" in group.undefined["lambda_max"]
        assert group.undefined["lambda_max"].endswith("write it with others that can be, for the audit at least")
        assert group.undefined["account"] == group.undefined["lambda_max"]


def test_the_forward_part_is_the_same_without_curvature(made):
    plain = audit(conv_net(), (IMAGES, Y, GROUP), [8, 4])
    assert plain.settings.curvature is None
    assert plain.outcomes == made.outcomes
    assert plain.precisions == tuple(replace(result, curvature=(), moved=()) for result in made.precisions)
    assert replace(made.settings, curvature=None) == plain.settings


def test_the_module_of_the_caller_is_left_as_it_is():
    net = conv_net().train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    net[5].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    curved(net, (IMAGES, Y, GROUP))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [name for name, value in net.named_parameters() if value.grad is not None] == ["0.weight"]
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert [name for name, value in net.named_parameters() if not value.requires_grad] == ["5.bias"]
    assert not net[0]._forward_hooks


def test_global_random_states_and_modes_are_left_as_they_are():
    net = mlp()
    torch.manual_seed(11)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    with torch.no_grad():
        made = curved(net, (FLAT, Y, GROUP), options=CurvatureOptions(30))
        assert not torch.is_grad_enabled()
    assert made.fp32.curvature[0].converged
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_two_runs_are_identical_and_survive_a_file(made, tmp_path):
    again = curved(conv_net(), (IMAGES, Y, GROUP), options=CurvatureOptions(40))
    assert again.measured_json() == made.measured_json()
    made.save(tmp_path / "audit.json")
    loaded = Audit.load(tmp_path / "audit.json")
    assert by_precision(loaded) == by_precision(made)
    assert loaded.settings.curvature == made.settings.curvature
    assert loaded.measured_json() == made.measured_json()


def test_a_frame_holds_every_value(made):
    frame = made.to_frame()
    for metric in ("gradient_norm", "lambda_max"):
        rows = frame[frame.metric == metric].set_index(["precision", "group"]).value
        assert len(rows) == 3 * 3
        for result in made.precisions:
            for name, group in zip(made.groups, result.curvature, strict=True):
                assert rows[result.precision, name] == getattr(group, metric)


def test_nan_in_one_group_touches_no_other():
    images = IMAGES.copy()
    images[np.flatnonzero(GROUP == "other")[3]] = np.nan
    made, clean = (curved(conv_net(), Rows(inputs)) for inputs in (images, IMAGES))
    other = made.groups.index("other")
    for result, expected in zip(made.precisions, clean.precisions, strict=True):
        for index, group in enumerate(result.curvature):
            if index != other:
                assert group == expected.curvature[index]
        reason = "the loss or its gradient is NaN or infinite"
        assert result.curvature[other].undefined == dict.fromkeys(
            ("gradient_norm", "lambda_max", *(["account"] if result.precision != "fp32" else [])), reason
        )


def test_a_group_without_samples_and_one_with_a_single_sample():
    labels = np.where(Y == 1, 0, Y)
    labels[np.flatnonzero(labels == 2)[1:]] = 0
    made = curved(mlp(), (FLAT, labels), [4])
    none, single = made.at(4).curvature[1:]
    assert (none.samples, single.samples) == (0, 1)
    assert none.undefined == dict.fromkeys(("gradient_norm", "lambda_max", "account"), "no samples")
    assert single.converged
    assert single.account is not None


@pytest.fixture
def exported(tmp_path):
    """Give a function that exports a net with a batch size that is fixed."""
    pytest.importorskip("torch.export.pt2_archive", reason="torch 2.7 and older write .pt2 files of an older layout")

    def export(net, sample):
        with warnings.catch_warnings(action="ignore"):
            torch.export.save(torch.export.export(net.eval(), (sample,)), tmp_path / "net.pt2")
        return read_model(ModelOptions(str(tmp_path / "net.pt2"), None, False))

    return export


@pytest.fixture
def scripted(tmp_path):
    def script(net):
        with warnings.catch_warnings(action="ignore"):
            torch.jit.script(net.eval()).save(tmp_path / "net.ts.pt")
        return read_model(ModelOptions(str(tmp_path / "net.ts.pt"), None, True))

    return script


def assert_near(found, expected, rel=1e-4):
    assert found.groups == expected.groups
    for result, plain in zip(found.precisions, expected.precisions, strict=True):
        for group, other in zip(result.curvature, plain.curvature, strict=True):
            assert (group.samples, group.undefined) == (other.samples, {})
            assert group.converged
            assert group.gradient_norm == pytest.approx(other.gradient_norm, rel=rel)
            assert group.lambda_max == pytest.approx(other.lambda_max, rel=rel)
            if result.precision != "fp32":
                assert group.account.predicted == pytest.approx(other.account.predicted, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize(("build", "inputs"), [(mlp, FLAT), (SqueezeExcite, IMAGES)])
def test_an_exported_program_of_a_fixed_batch_tells_the_same(exported, build, inputs):
    torch.manual_seed(2)
    net = build().eval()
    expected = curved(net, (inputs, Y, GROUP))
    assert_near(curved(exported(net, torch.from_numpy(inputs[:8])), (inputs, Y, GROUP)), expected)


@pytest.mark.parametrize("build", [mlp, conv_net])
def test_torchscript_tells_the_same_twice(scripted, build):
    inputs = FLAT if build is mlp else IMAGES
    expected = curved(build(), (inputs, Y, GROUP))
    subject = scripted(build())
    for _ in range(2):
        assert_near(curved(subject, (inputs, Y, GROUP)), expected)


@pytest.mark.parametrize(
    ("build", "data"),
    [
        (Lstm, lambda: Rows(IDS, LENGTHS)),
        (bert, lambda: ByName(IDS, (IDS > 2).long())),
        (SqueezeExcite, lambda: (IMAGES, Y, GROUP)),
    ],
    ids=["LSTM of packed texts", "BERT by name", "MobileNetV3"],
)
def test_kinds_of_model_have_curvature_and_an_account_that_holds(build, data):
    torch.manual_seed(2)
    made = curved(build().eval(), data(), ["fp16", 8])
    for result in made.precisions:
        for group in result.curvature:
            assert not group.undefined
            assert group.converged
            assert math.isfinite(group.lambda_max)
            if group.account:
                told = group.account
                assert told.predicted == pytest.approx(told.measured, rel=0.1, abs=1e-5)


def test_zero_sized_inputs_are_no_hindrance():
    class Two(Detached):
        def forward(self, nothing, x):
            return self.layer(x)

    torch.manual_seed(2)
    net = Two()
    plain = nn.Sequential(copy.deepcopy(net.layer))
    found = curved(net, Rows(FLAT[:, :0], FLAT))
    assert_near(found, curved(plain, (FLAT, Y, GROUP)))


def test_a_layer_that_is_not_quantized_is_not_accounted_for():
    made = curved(mlp(), (FLAT, Y, GROUP), allocation=Allocation.of(exclude="0"))
    assert {result.moved for result in made.quantized} == {("2.weight",)}
    assert all(len(group.account.by_tensor) == 1 for group in made.at(4).curvature)
    assert made.settings.curvature.parameters == 6 * 5 + 5 + 5 * 3 + 3


def test_tied_weights_move_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.head(self.other(self.one(x).tanh()))

    torch.manual_seed(2)
    made = curved(Tied(), (FLAT, Y, GROUP), [8])
    assert made.at(8).moved == ("one.weight", "head.weight")
    for group in made.at(8).curvature:
        assert group.account.predicted == pytest.approx(group.account.measured, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("at", ["samples", "eigenvalues"])
def test_an_interrupt_leaves_nothing_behind(at, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = []
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: files.append(make(prefix=prefix)) or files[-1])
    net, told = mlp(), []
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()

    def interrupt(what, done, total):
        told.append((what, done, total))
        if what == at and done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(net, (FLAT, Y, GROUP), [8, 4], curvature=ALL, progress=interrupt)
    assert told[-1] == (("eigenvalues", 4, 9) if at == "eigenvalues" else ("samples", 64, SIZE))
    assert [file.closed for file in files] == [True]
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_every_eigenvalue():
    told = []
    audit(mlp(), (FLAT, Y, GROUP), [8, 4], curvature=ALL, progress=lambda *seen: told.append(seen))
    assert [seen for seen in told if seen[0] == "samples"] == [("samples", n, SIZE) for n in (64, 128, SIZE)]
    assert [seen for seen in told if seen[0] != "samples"] == [("eigenvalues", n, 9) for n in range(1, 10)]

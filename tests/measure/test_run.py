import copy
import random
import sys
from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from qfair_check import audit
from qfair_check.errors import InputError, MeasureError, OptionError
from qfair_check.inputs.data import grouped_data
from qfair_check.inputs.labelled import labelled
from qfair_check.inputs.model import Model
from qfair_check.record import Audit, Measures

SIZE = 150
LOADING = [(1, 0), (7, 0), (64, 0), (7, 2), (64, 2)]


def seeded(build, seed=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def conv_net():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(6 * 9, 4)
    )
    nn.init.normal_(net[1].running_mean, std=0.1)
    nn.init.uniform_(net[1].running_var, 0.2, 3)
    return net


RNG = np.random.default_rng(5)
X = RNG.normal(size=(SIZE, 1, 5, 5)).astype(np.float32)
Y = RNG.integers(4, size=SIZE)
GROUP = np.array(["young", "old", "other"])[RNG.integers(3, size=SIZE)]
FLAT = X.reshape(SIZE, 25)
RANGE = tuple(map(str, range(4)))


class Samples(Dataset):
    """The rows of a tensor, finite or not."""

    def __init__(self, rows):
        self.rows = torch.as_tensor(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Module(nn.Module):
    """A linear layer and what is made of its output."""

    def __init__(self, function, width=4):
        super().__init__()
        self.layer = nn.Linear(25, width)
        self.function = function

    def forward(self, batch):
        return self.function(self.layer(batch))


@pytest.fixture
def net():
    return seeded(conv_net)


@pytest.fixture(scope="module")
def made():
    return audit(seeded(conv_net), (X, Y, GROUP), bits="fp16,8,4,2")


def plain_logits(net, precision="fp32"):
    own = copy.deepcopy(net).eval()
    with torch.inference_mode():
        return own(torch.from_numpy(X)).numpy()


def test_the_audit_says_what_was_measured(made):
    assert [result.precision for result in made.precisions] == ["fp32", "fp16", "int8", "int4", "int2"]
    assert [result.computation for result in made.precisions] == ["fp32", "fp16, emulated", "fp32", "fp32", "fp32"]
    assert made.groups == ("old", "other", "young")
    assert (made.data.samples, made.data.classes) == (SIZE, RANGE)
    assert (made.model.parameters, made.model.quantized_parameters) == (6 * 9 + 6 + 6 + 6 + 54 * 4 + 4, 6 * 9 + 54 * 4)
    assert (made.settings.scheme, made.settings.seed) == ("absmax/symmetric/per-tensor", 0)
    assert (made.settings.chunk, made.settings.device) == (64, "cpu")
    assert (made.inputs.model, made.inputs.data, made.inputs.group_by) == ("python", "python", ("group",))
    assert (made.run.batch_size, made.run.workers) == (64, 0)
    assert torch.__version__.startswith(made.run.versions["torch"])
    assert all(result.weights.elements == made.model.quantized_parameters for result in made.precisions)
    assert len({(result.weights.histogram.low, result.weights.histogram.high) for result in made.precisions}) == 1
    assert all(not measures.undefined for result in made.precisions for measures in (result.overall, *result.groups))


def test_fp32_agrees_with_a_plain_loop(made, net):
    right = plain_logits(net).argmax(axis=1) == Y
    assert np.array_equal(made.right(32), right)
    for name, group in zip(made.groups, made.fp32.groups, strict=True):
        member = name == GROUP
        assert (group.samples, group.correct) == (member.sum(), right[member].sum())
        assert group.accuracy == right[member].mean()
    accuracies = [right[name == GROUP].mean() for name in made.groups]
    assert made.fp32.fvo == pytest.approx(max(accuracies) - min(accuracies), rel=1e-12)
    assert (made.fp32.fvo_increase, made.fp32.overall.accuracy) == (0, right.mean())


def test_means_agree_with_a_plain_loop(made, net):
    quantized = copy.deepcopy(net)
    with torch.no_grad():
        for layer in (quantized[0], quantized[5]):
            scale = layer.weight.abs().max() / 7
            layer.weight.copy_(torch.round(layer.weight / scale) * scale)
    z, r = (torch.from_numpy(plain_logits(model)).double() for model in (quantized, net))
    for name, group in zip(made.groups, made.at(4).groups, strict=True):
        member = torch.from_numpy(name == GROUP)
        expected = {
            "loss": functional.cross_entropy(z[member], torch.from_numpy(Y)[member]),
            "cosine_distance": 1 - functional.cosine_similarity(z[member], r[member]).mean(),
            "l2_distance": (z - r)[member].norm(dim=1).mean(),
            "logit_variance": z[member].var(1, correction=0).mean(),
            "prediction_probability": z[member].softmax(1).amax(1).mean(),
        }
        for metric, value in expected.items():
            assert getattr(group, metric) == pytest.approx(value.item(), rel=1e-5), metric


@pytest.mark.parametrize(("precision", "bits"), [("fp32", None), ("int8", 8), ("int4", 4), ("int2", 2)])
def test_the_weights_told_of_are_the_models_own_though_its_copies_are_folded(made, net, precision, bits):
    weights = [layer.weight.detach().flatten().double() for layer in (net[0], net[5])]
    reach = max(float(weight.abs().max()) for weight in weights)
    if bits:
        scales = [weight.abs().max() / (2 ** (bits - 1) - 1) for weight in weights]
        weights = [torch.round(weight / scale) * scale for weight, scale in zip(weights, scales, strict=True)]
    # a value may fall on the other side of an edge in float64
    found = made.at(precision).weights.histogram
    expected = np.histogram(torch.cat(weights), bins=101, range=(-reach, reach))[0]
    assert np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max() <= 1
    assert found.high == pytest.approx(reach, rel=1e-7)


def test_int4_weights_are_those_of_torch_fake_quantize(made, net):
    faked = copy.deepcopy(net)
    for layer in (faked[0], faked[5]):
        steps = layer.weight.detach() / (layer.weight.detach().abs().max() / 7)
        assert ((steps - steps.floor() - 0.5).abs() > 1e-5).all()
        scale = float(layer.weight.detach().abs().max() / 7)
        layer.weight.data = torch.fake_quantize_per_tensor_affine(layer.weight.detach(), scale, 0, -7, 7)
    expected, found = audit(faked, (X, Y, GROUP), bits=32), made.at(4)
    assert np.array_equal(made.right(4), expected.right(32))
    for one, other in zip((found.overall, *found.groups), (expected.fp32.overall, *expected.fp32.groups), strict=True):
        assert (one.correct, one.loss, one.dtdb) == (other.correct, other.loss, other.dtdb)
        assert (one.logit_variance, one.softmax_variance) == (other.logit_variance, other.softmax_variance)
        assert one.prediction_probability == other.prediction_probability
    assert found.fvo == expected.fp32.fvo
    assert found.recalls == expected.fp32.recalls
    assert found.weights.zeros == expected.fp32.weights.zeros


def test_quantization_is_compared_sample_by_sample(made):
    before = made.right(32)
    for bits in (8, 4, 2):
        after = made.right(bits)
        for name, group in zip(made.groups, made.at(bits).groups, strict=True):
            member = name == GROUP
            assert group.right_to_wrong == (before & ~after)[member].sum()
            assert group.wrong_to_right == (~before & after)[member].sum()
            assert group.both_right == (before & after)[member].sum()
            assert group.both_wrong == (~before & ~after)[member].sum()
    assert made.at(2).overall.flips > 0


@pytest.mark.parametrize(("batch_size", "workers"), LOADING)
def test_loading_does_not_change_the_numbers(made, net, batch_size, workers):
    found = audit(net, (X, Y, GROUP), bits="fp16,8,4,2", batch_size=batch_size, workers=workers)
    assert found.measured_json() == made.measured_json()
    assert found.outcomes == made.outcomes
    assert (found.run.batch_size, found.run.workers) == (batch_size, workers)


@pytest.mark.parametrize("bits", [(2, 4, 8, "fp16"), "int8,2,fp16,4", ["int4", 2, 8, 16, 32, 4]])
def test_the_order_of_bits_does_not_change_the_numbers(made, net, bits):
    assert audit(net, (X, Y, GROUP), bits=bits).measured_json() == made.measured_json()


@pytest.mark.parametrize("bits", ["fp16", 8, 4, 2])
def test_the_other_bits_do_not_change_the_numbers(made, net, bits):
    alone = audit(net, (X, Y, GROUP), bits=bits)
    assert len(alone.precisions) == 2
    assert alone.at(bits) == made.at(bits)
    assert alone.fp32 == made.fp32
    assert np.array_equal(alone.right(bits), made.right(bits))


def test_one_sample_does_not_depend_on_the_others(made, net):
    kept = np.arange(SIZE) % 3 == 1
    found = audit(net, (X[kept], Y[kept], GROUP[kept]), bits=4)
    assert np.array_equal(found.right(4), made.right(4)[kept])


def test_the_order_of_samples_changes_the_hash_alone(made, net):
    found = audit(net, (X[::-1].copy(), Y[::-1], GROUP[::-1]), bits=4)
    assert [group.correct for group in found.at(4).groups] == [group.correct for group in made.at(4).groups]
    assert [group.loss for group in found.at(4).groups] == pytest.approx([group.loss for group in made.at(4).groups])
    assert found.data.sha256 != made.data.sha256
    assert found.model == made.model


def test_a_scheme_changes_the_integers_alone(made, net):
    found = audit(net, (X, Y, GROUP), bits="fp16,2", scheme="mse/per-channel")
    assert found.settings.scheme == "mse/symmetric/per-channel"
    assert (found.fp32, found.at("fp16")) == (made.fp32, made.at("fp16"))
    assert found.at(2).weights.weight_difference < made.at(2).weights.weight_difference


@pytest.mark.parametrize("bits", ["fp16,8,2", "bf16,4"])
def test_the_given_model_is_not_touched(net, bits):
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    net.register_forward_hook(lambda *_: None)
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    identities = [(id(value), value._version) for value in net.state_dict(keep_vars=True).values()]

    audit(net, (X, Y), bits=bits)

    assert [(id(value), value._version) for value in net.state_dict(keep_vars=True).values()] == identities
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, *[True] * 5]
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert [parameter.grad is None for parameter in net.parameters()] == [*[True] * 4, False, True]
    assert (len(net._forward_hooks), len(net._forward_pre_hooks), len(net._backward_hooks)) == (1, 0, 0)
    assert all(not layer._forward_hooks for layer in net)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_not_touched(net, workers):
    own = np.random.mtrand._rand
    before = torch.random.get_rng_state(), own.get_state()[1].tolist(), random.getstate()
    audit(net, (X, Y), bits="8,fp16", workers=workers, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert own.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    assert torch.is_grad_enabled()


def test_the_seed_is_that_of_a_model_that_draws_random_numbers():
    module = seeded(lambda: Module(lambda logits: logits + torch.randn_like(logits)))
    first, again, other = (audit(module, (FLAT, Y), bits=8, seed=seed) for seed in (0, 0, 1))
    assert first.measured_json() == again.measured_json()
    assert first.fp32.overall.loss != other.fp32.overall.loss
    assert other.settings.seed == 1


def test_a_model_runs_without_gradients():
    seen = set()
    module = Module(lambda logits: seen.add((torch.is_grad_enabled(), logits.requires_grad)) or logits)
    audit(module, (FLAT, Y), bits="8,fp16")
    assert seen == {(False, False)}


def test_progress_counts_samples(net):
    seen = []
    audit(net, (X, Y), bits=8, progress=lambda *told: seen.append(told))
    assert seen == [("samples", 64, 150), ("samples", 128, 150), ("samples", 150, 150)]


def test_many_classes_are_counted_in_blocks():
    module = seeded(lambda: Module(lambda logits: logits, width=3000))
    labels = np.arange(SIZE) * 17 % 3000
    found = audit(module, (FLAT, labels, GROUP), bits=2)
    with torch.inference_mode():
        right = module(torch.from_numpy(FLAT)).argmax(1).numpy() == labels
    assert np.array_equal(found.right(32), right)
    assert [group.samples for group in found.at(2).groups] == [(name == GROUP).sum() for name in found.groups]
    assert (found.at(2).overall.samples, sum(found.at(2).overall.dtdb)) == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits: logits[0], "its output has shape (4,), not (64, number of classes)"),
        (lambda logits: logits[1:], "its output has shape (63, 4), not (64, number of classes)"),
        (
            lambda logits: {"scores": logits},
            "it returned a dict, not a tensor of logits, a tuple that starts with one, or an object with .logits",
        ),
        (lambda logits: {"logits": logits}["scores"], "KeyError: 'scores'"),
        (lambda logits: sys.exit(0), "SystemExit: 0"),
    ],
)
def test_a_wrong_answer_names_samples_and_shape(function, message):
    with pytest.raises(MeasureError) as caught:
        audit(Module(function), (FLAT, Y), bits=8)
    assert str(caught.value) == (
        f"the model at fp32 failed on sample 0 to sample 63, as a batch of shape (64, 25) (torch.float32): {message}"
    )


def test_a_model_may_answer_in_one_buffer():
    buffer = torch.empty(64, 4, dtype=torch.float64)
    found = audit(lambda x: buffer.copy_(x[:, :4]), (FLAT, Y), bits=32)
    assert found.precisions == audit(lambda x: x[:, :4].double(), (FLAT, Y), bits=32).precisions


def test_a_name_that_the_model_does_not_take():
    samples = [{"x": row, "age": 3, "y": 0} for row in FLAT]
    with pytest.raises(MeasureError) as caught:
        audit(nn.Linear(25, 4), labelled(samples, "python", "key"), bits=8)
    assert str(caught.value).endswith(
        "TypeError: Linear.forward() got an unexpected keyword argument 'x'; it was called with x, age by name: let "
        "samples hold only what the model takes"
    )


def test_a_failure_in_a_later_batch_and_at_one_precision_alone():
    def function(logits):
        if function.calls == 5:
            raise ValueError("out of luck")
        function.calls += 1
        return logits

    function.calls = 0
    with pytest.raises(MeasureError) as caught:
        audit(Module(function), (FLAT, Y), bits=8)
    assert str(caught.value) == (
        "the model at int8 failed on sample 128 to sample 149, as a batch of shape (64, 25) (torch.float32): "
        "ValueError: out of luck"
    )


def test_inputs_that_do_not_fit_the_model(net):
    with pytest.raises(MeasureError, match=r"^the model at fp32 failed on sample 0 to sample 2, .*RuntimeError: "):
        audit(net, (np.zeros((3, 2, 5, 5)), [0, 1, 2]), bits=8)


def test_labels_beyond_the_outputs(net):
    labels = Y.copy()
    labels[[7, 9]] = 4, 5
    with pytest.raises(InputError) as caught:
        audit(net, (X, labels), bits=8)
    assert str(caught.value) == (
        "sample 7 has class '4' (index 4), and the model has 4 outputs; labels out of range: 2"
    )


def test_class_names_that_do_not_match_the_outputs(net):
    data = grouped_data(X, np.array(["cat", "dog", "fox"])[Y % 3])
    with pytest.raises(InputError) as caught:
        audit(net, data, bits=8)
    assert str(caught.value) == (
        "the data has 3 classes (cat, dog, fox) and the model 4 outputs: pass --qfair-classes with 4 names in the "
        "order of the outputs"
    )


def test_too_many_class_names(net):
    data = grouped_data(X, Y, classes=["a", "b", "c", "d", "e"])
    with pytest.raises(InputError, match=r"5 classes \(a, b, c, d, e\) and the model 4 outputs: pass --qfair-classes"):
        audit(net, data, bits=8)


def test_a_class_without_samples_is_an_empty_group(net):
    kept = Y != 1
    found = audit(net, (X[kept], Y[kept]), bits=4)
    assert found.groups == found.data.classes == RANGE
    for result in found.precisions:
        assert [group.samples for group in result.groups] == [(index == Y).sum() * (index != 1) for index in range(4)]
        assert result.groups[1].undefined["accuracy"] == "no samples"
        assert (result.fvo, result.fvo_increase) == (None, None)
        assert result.undefined["fvo"] == "group 1: no samples"
        assert result.overall.undefined == {}
        assert result.recalls == ()


def test_outputs_beyond_the_labels_are_empty_groups(net):
    kept = Y < 2
    found = audit(net, (X[kept], Y[kept]), bits=4)
    assert found.groups == found.data.classes == RANGE
    assert [group.samples for group in found.fp32.groups[2:]] == [0, 0]
    assert found.fp32.undefined["fvo"] == "group 2: no samples"


def test_outputs_beyond_the_labels_are_no_groups_where_groups_are_given(net):
    kept = Y < 2
    found = audit(net, (X[kept], Y[kept], GROUP[kept]), bits=4)
    assert found.groups == ("old", "other", "young")
    assert found.data.classes == RANGE
    assert [recall.label for recall in found.fp32.recalls] == list(RANGE)
    assert found.fp32.recalls[3].samples == (0, 0, 0)
    assert found.fp32.fvo is not None


def test_one_group_has_no_gap(net):
    found = audit(net, (X, Y, ["all"] * SIZE), bits=4)
    for result in found.precisions:
        assert (result.fvo, result.fvo_increase) == (None, None)
        assert result.undefined == dict.fromkeys(("fvo", "fvo_increase"), "there is only one group")
        assert result.groups[0] == result.overall


def test_a_plain_callable_is_audited_at_fp32_alone(made, net):
    own = net.eval()
    found = audit(lambda batch: own(batch), (X, Y, GROUP), bits=32)
    assert [(result.precision, result.computation) for result in found.precisions] == [("fp32", "as given")]
    assert found.fp32.recalls == made.fp32.recalls
    for one, other in zip(found.fp32.groups, made.fp32.groups, strict=True):
        assert (one.correct, one.dtdb) == (other.correct, other.dtdb)
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert (found.model.parameters, found.model.quantized_parameters) == (0, 0)
    assert (found.fp32.weights.elements, found.fp32.weights.sparsity, found.fp32.weights.layers) == (0, None, ())


def test_a_plain_callable_has_no_weights_to_quantize(net):
    with pytest.raises(InputError) as caught:
        audit(lambda batch: net(batch), (X, Y), bits=[8, "fp16"])
    assert str(caught.value) == (
        "the model is a plain callable and has no weights to quantize: give a torch.nn.Module to audit it at fp16, "
        "int8, or audit it with bits=32"
    )


@pytest.mark.parametrize("bits", [32, 8, "fp16"])
def test_weights_that_are_not_finite_are_refused_before_anything_is_measured(net, bits):
    net[5].weight.data[0, :3] = torch.nan
    seen = []
    net.register_forward_pre_hook(lambda *_: seen.append(1))
    with pytest.raises(InputError, match=r"^the model holds NaN or infinite values, in 5\.weight \(3\): "):
        audit(net, (X, Y), bits=bits)
    assert seen == []


def test_inputs_that_are_not_finite_leave_null_and_a_reason(made, net):
    rows = X.copy()
    member = np.flatnonzero(GROUP == "other")
    rows[member[:2], 0, 2, 2] = np.nan
    found = audit(net, (Samples(rows), Y, GROUP), bits="fp16,4")
    reason = f"2 of {len(member)} samples have NaN or infinite logits"
    for result in found.precisions:
        clean = made.at(result.precision)
        assert result.groups[0] == clean.groups[0]
        assert result.groups[2] == clean.groups[2]
        assert (result.groups[1].accuracy, result.groups[1].loss, result.groups[1].nonfinite) == (None, None, 2)
        assert result.groups[1].undefined["accuracy"] == reason
        assert (result.fvo, result.undefined["fvo"]) == (None, f"group other: {reason}")
        assert result.overall.undefined["accuracy"] == f"2 of {SIZE} samples have NaN or infinite logits"
        assert not found.right(result.precision)[member[:2]].any()
        unhurt = np.delete(np.arange(SIZE), member[:2])
        assert np.array_equal(found.right(result.precision)[unhurt], made.right(result.precision)[unhurt])
    assert b"NaN" not in found.measured_json().replace(b"NaN or infinite", b"")
    held = msgspec.json.decode(found.measured_json())
    assert held["precisions"][0]["groups"][1]["accuracy"] is None
    assert found.measured_json() == audit(net, (Samples(rows), Y, GROUP), bits="fp16,4", batch_size=7).measured_json()


def test_an_overflow_at_fp16_leaves_null_there_alone():
    module = seeded(lambda: Module(lambda logits: logits))
    rows = FLAT.copy()
    member = np.flatnonzero(GROUP == "young")
    rows[member[0]] *= 60000 / np.abs(rows[member[0]]).max()
    module.layer.weight.data *= 10
    found = audit(module, (rows, Y, GROUP), bits="fp16,bf16")
    assert found.at("fp16").groups[2].nonfinite == 1
    assert found.at("fp16").undefined["fvo_increase"] == (
        f"group young: 1 of {len(member)} samples have NaN or infinite logits"
    )
    assert (found.at("fp16").fvo, found.at("fp16").fvo_increase) == (None, None)
    for result in (found.fp32, found.at("bf16")):
        assert result.fvo is not None
        assert result.fvo_increase is not None
        assert result.undefined == {}
        assert result.groups[2].nonfinite == 0


def test_fp32_logits_that_are_not_finite_leave_comparisons_alone_null():
    def function(logits):
        function.calls += 1
        return logits * torch.nan if function.calls == 1 else logits

    function.calls = 0
    found = audit(seeded(lambda: Module(function)), (FLAT[:10], Y[:10], ["a", "b"] * 5), bits=8)
    reason = "group a: 5 of 5 samples have NaN or infinite logits"
    assert found.fp32.undefined == {"fvo": reason, "fvo_increase": reason}
    assert found.at(8).undefined == {"fvo_increase": f"{reason} at fp32"}
    assert found.at(8).fvo is not None
    assert found.at(8).fvo_increase is None
    assert found.at(8).overall.accuracy is not None
    assert found.at(8).overall.accuracy_drop is None


def test_nothing_undefined_is_without_a_reason(net):
    rows = X.copy()
    rows[0] = np.inf
    found = audit(net, (Samples(rows), np.where(Y == 2, 1, Y)), bits=4)
    for result in found.precisions:
        for measures in (result.overall, *result.groups):
            lacking = {field.name for field in fields(Measures) if getattr(measures, field.name) is None}
            assert lacking == set(measures.undefined)
        assert {name for name in ("fvo", "fvo_increase") if getattr(result, name) is None} == set(result.undefined)


def test_null_logits_are_counted(net):
    net[5].weight.data.zero_()
    net[5].bias.data.zero_()
    found = audit(net, (X, Y, GROUP), bits=4)
    assert found.at(4).overall.null_logits == SIZE
    assert found.at(4).overall.undefined == {"cosine_distance": f"all {SIZE} samples have a null logit vector"}
    assert found.at(4).overall.loss == pytest.approx(np.log(4))


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there(net, device):
    with pytest.raises(OptionError, match=rf"^device '{device}' cannot be used here: .*; cpu always can$"):
        audit(net, (X, Y), bits=8, device=device)


@pytest.mark.parametrize(
    ("options", "message"), [({"bits": 9}, "'9' is not a bit width"), ({"scheme": "x"}, "'x' is not a word")]
)
def test_options_that_make_no_sense(net, options, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        audit(net, (X, Y), **options)


def test_a_wrong_model_or_wrong_data(net):
    with pytest.raises(InputError, match=r"^a model is a torch\.nn\.Module, or a callable"):
        audit(3, (X, Y), bits=8)
    with pytest.raises(InputError, match=r"^grouped data is a GroupedData"):
        audit(net, X, bits=8)


def test_what_is_known_about_model_and_data_is_recorded(net):
    data = replace(grouped_data(X, Y, GROUP), source="faces.csv", label="age", split="test", notices=("look",))
    found = audit(Model(net, "net.pt", "resnet18"), data, bits=8, command=["qfair", "audit"], seed=4)
    assert (found.inputs.model, found.inputs.architecture, found.inputs.data) == ("net.pt", "resnet18", "faces.csv")
    assert (found.inputs.label, found.inputs.split, found.inputs.notices) == ("age", "test", ("look",))
    assert (found.run.command, found.settings.seed) == (("qfair", "audit"), 4)
    plain = audit(net, (X, Y, GROUP), bits=8, seed=4)
    assert found.measured_json() == plain.measured_json()


def test_other_weights_have_another_hash(made, net):
    net[5].bias.data[0] += 1
    found = audit(net, (X, Y, GROUP), bits=8)
    assert found.model.sha256 != made.model.sha256
    assert found.data == made.data


def test_a_saved_audit_is_read_back_as_it_was(made, tmp_path):
    made.save(tmp_path / "audit.json")
    found = Audit.load(tmp_path / "audit.json")
    assert found == made
    assert found.measured_json() == made.measured_json()
    assert all(np.array_equal(found.right(bits), made.right(bits)) for bits in (32, "fp16", 8, 4, 2))


def test_an_audit_with_undefined_numbers_is_read_back_as_it_was(net, tmp_path):
    rows = X.copy()
    rows[3] = np.nan
    made = audit(net, (Samples(rows), np.where(Y == 2, 1, Y)), bits="fp16,4")
    made.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == made


def test_the_outcomes_are_those_of_the_groups(made):
    for result in made.precisions:
        right = made.right(result.precision)
        assert right.shape == (SIZE,)
        assert [group.correct for group in result.groups] == [right[name == GROUP].sum() for name in made.groups]
        assert result.overall.correct == right.sum()


@pytest.mark.parametrize(
    "given", [{"batch_size": 0}, {"batch_size": True}, {"workers": -1}, {"seed": 2**70}, {"seed": 1.5}, {"seed": None}]
)
def test_counts_that_make_no_sense_are_refused(given):
    (name,) = given
    with pytest.raises(OptionError, match=f"^{name} is .*: it is a whole number from"):
        audit("demo", "demo", 8, **given)


@pytest.mark.parametrize("device", ["abacus", "meta", "hpu", "cuda:99", "", None])
def test_devices_that_are_not_there_are_refused(device):
    with pytest.raises(OptionError, match=r"cannot be used here: .*; cpu always can"):
        audit("demo", "demo", 8, device=device)


def test_a_model_that_changes_its_input_disturbs_no_other_precision():
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.sub_(1.0))

    torch.manual_seed(1)
    net, x = Centred(), torch.randn(80, 3)
    data = grouped_data(x, [0, 1] * 40)
    both, alone = audit(net, data, "8,2"), audit(net, data, "2")
    assert both.at(2) == alone.at(2)
    expected = net.inner(x - 1.0).argmax(1) == torch.tensor([0, 1] * 40)
    assert both.right("fp32").tolist() == expected.tolist()


def test_a_model_that_draws_random_numbers_gets_the_same_at_every_precision():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + torch.randn(len(x), 2)

    net, data = Noisy(), grouped_data(torch.randn(200, 3), [0, 1] * 100)
    wide, narrow = audit(net, data, "8,4,2"), audit(net, data, "8", batch_size=7)
    assert wide.fp32 == narrow.fp32
    assert wide.at(8) == narrow.at(8)
    assert wide.at(8).overall.flip_rate < 0.05
    assert audit(net, data, "8", seed=1).fp32 != wide.fp32


def test_logits_whose_number_changes_are_named():
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)[:, : 2 + int(x[0, 0] > 0)]

    x = torch.full((100, 3), -1.0)
    x[64:] = 1.0
    with pytest.raises(MeasureError, match="gave 3 logits on sample 64 and the samples after it, and 2 before"):
        audit(Growing(), grouped_data(x, [0, 1] * 50), 8)


def test_a_mask_of_infinities_is_no_bad_weight():
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.mask.clamp(min=-5)

    made = audit(Masked(), grouped_data(torch.randn(80, 3), [0, 1] * 40), "16,8")
    assert made.at(8).overall.nonfinite == made.at(16).overall.nonfinite == 0


def test_logits_beyond_the_squares_of_floats_are_told_and_not_nan():
    def huge(x: torch.Tensor) -> torch.Tensor:
        return x.double()[:, :2] * 1e200

    overall = audit(huge, grouped_data(torch.randn(80, 3), [0, 1] * 40), 32).fp32.overall
    assert overall.accuracy is not None
    assert overall.logit_variance is None
    assert "too large" in overall.undefined["logit_variance"]

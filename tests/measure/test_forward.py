import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from qfair_check.errors import MeasureError
from qfair_check.measure.forward import forward_at
from qfair_check.precision import Precision
from qfair_check.quantize.model import quantize_model

CPU, META = torch.device("cpu"), torch.device("meta")
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
both_halves = pytest.mark.parametrize("name", list(HALVES))


class Module(nn.Module):
    """A module made of a function."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, batch):
        return self.function(batch, *self.layers)


def rounded(name):
    return lambda value: value.to(HALVES[name]).to(torch.float32)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def batch(size=64, width=6):
    return seeded(lambda: torch.randn(size, width))


def logits(module, inputs, name):
    with torch.inference_mode():
        return forward_at(Precision(name), module.eval(), CPU).logits(inputs)


@both_halves
def test_half_precision_is_rounded_after_each_operation(name):
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    half, inputs = rounded(name), batch()
    first, _, last = quantize_model(net, name).module
    with torch.inference_mode():
        hidden = half(functional.linear(half(inputs), half(net[0].weight), half(net[0].bias))).clamp(min=0)
        expected = half(functional.linear(hidden, half(net[2].weight), half(net[2].bias)))
        unrounded = net(inputs)
    found = logits(nn.Sequential(first, nn.ReLU(), last), inputs, name)
    np.testing.assert_array_equal(found, expected.numpy())
    np.testing.assert_array_equal(found, half(torch.from_numpy(found).float()).numpy())
    assert not np.array_equal(found, unrounded.numpy())
    np.testing.assert_allclose(found, unrounded.numpy(), atol=0.05)


@both_halves
def test_operators_round_like_a_half_precision_tensor(name):
    def function(values):
        return ((values * 3.125 + 0.75) / 1.375 - values).exp().clamp(0.125, 50).sqrt()

    inputs = batch()
    native = inputs.to(HALVES[name])
    for operation in (lambda v: v * 3.125, torch.exp, torch.tanh, lambda v: v / 1.375, lambda v: v - 0.375):
        expected = operation(native).double().numpy()
        np.testing.assert_array_equal(logits(Module(operation), inputs, name), expected)
    expected = function(native).double().numpy()
    np.testing.assert_array_equal(logits(Module(function), inputs, name), expected)


@both_halves
def test_operations_in_place_are_rounded(name):
    def function(values):
        own = values * 1.125
        own.add_(0.375)
        own.mul_(0.75)
        own += 0.125
        torch.relu_(own)
        return torch.add(own, 0.25, out=own)

    inputs = batch()
    expected = function(inputs.to(HALVES[name])).double().numpy()
    np.testing.assert_array_equal(logits(Module(function), inputs, name), expected)


@both_halves
def test_views_share_memory_with_their_base(name):
    def function(values):
        own = values * 1.125
        own[:, :2].mul_(0.375)
        own.view(-1, 3)[::2].add_(0.75)
        own.T[3:].div_(1.75)
        own[:, 5] *= 0.875
        return own

    inputs = batch()
    expected = function(inputs.to(HALVES[name])).double().numpy()
    np.testing.assert_array_equal(logits(Module(function), inputs, name), expected)


@both_halves
def test_several_results_of_one_operation_are_rounded(name):
    half, inputs = rounded(name), batch()

    def function(values):
        deviation, mean = torch.std_mean(values, dim=1)
        return torch.stack([deviation, mean], dim=1)

    with torch.inference_mode():
        expected = half(function(half(inputs)))
    np.testing.assert_array_equal(logits(Module(function), inputs, name), expected.numpy())


@both_halves
def test_integer_inputs_stay_integers(name):
    net = seeded(lambda: nn.Sequential(nn.Embedding(5000, 8), nn.Flatten(), nn.Linear(16, 3)))
    inputs = torch.arange(128).reshape(64, 2) + 4097
    half = rounded(name)
    module = quantize_model(net, name).module
    with torch.inference_mode():
        expected = half(functional.linear(half(net[0].weight)[inputs].flatten(1), module[2].weight, module[2].bias))
    np.testing.assert_array_equal(logits(module, inputs, name), expected.numpy())


@both_halves
def test_inputs_are_rounded_and_left_as_they_are(name):
    inputs = torch.full((2, 2), 0.1)
    found = logits(nn.Identity(), inputs, name)
    assert found.tolist() == rounded(name)(inputs).double().tolist()
    assert torch.equal(inputs, torch.full((2, 2), 0.1))
    assert found[0, 0] != 0.1


def test_fp16_overflows_to_infinity_and_bf16_does_not():
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data = torch.tensor([[300.0], [-300.0]])
    inputs = torch.tensor([[300.0], [1.0]])
    assert logits(layer, inputs, "fp16").tolist() == [[np.inf, -np.inf], [300, -300]]
    assert logits(layer, inputs, "bf16").tolist() == [[90112, -90112], [300, -300]]
    assert logits(layer, inputs, "fp32").tolist() == [[90000, -90000], [300, -300]]


def test_an_intermediate_overflow_is_not_undone():
    module = Module(lambda values: values * 300 * 300 / 300)
    inputs = torch.tensor([[300.0, 1.0]])
    assert logits(module, inputs, "fp16").tolist() == [[np.inf, np.inf]]
    assert logits(module, inputs, "fp32").tolist() == [[90000, 300]]


def test_rounding_ends_with_the_forward_pass():
    logits(nn.Identity(), batch(), "fp16")
    assert (torch.tensor(0.1) * 1).item() == np.float32(0.1)
    with pytest.raises(ZeroDivisionError):
        logits(Module(lambda _: 1 / 0), batch(), "fp16")
    assert (torch.tensor(0.1) * 1).item() == np.float32(0.1)


@pytest.mark.parametrize("name", ["fp32", "int4"])
def test_integer_precisions_compute_in_fp32(name):
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    inputs = batch()
    module = quantize_model(net, name).module
    with torch.inference_mode():
        expected = module(inputs).numpy()
    found = logits(module, inputs, name)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_logits_of_any_type_become_float64(dtype):
    found = logits(Module(lambda values: (values * 4).to(dtype)), torch.tensor([[0.25, -1.5]]), "fp32")
    assert found.dtype == np.float64
    assert found.tolist() == [[1, -6]]


def test_logits_with_a_gradient_are_detached():
    found = forward_at(Precision("fp32"), nn.Linear(2, 3), CPU).logits(torch.ones(4, 2))
    assert found.shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "device", "computation"),
    [
        ("fp32", CPU, "fp32"),
        ("int8", CPU, "fp32"),
        ("int2", META, "fp32"),
        ("fp16", CPU, "fp16, emulated"),
        ("bf16", CPU, "bf16, emulated"),
        ("fp16", META, "fp16, native"),
        ("bf16", META, "bf16, native"),
    ],
)
def test_the_arithmetic_is_told(name, device, computation):
    forward = forward_at(Precision(name), nn.Linear(2, 2), device)
    assert (forward.precision, forward.computation) == (Precision(name), computation)


@both_halves
def test_an_accelerator_computes_in_half_precision(name):
    module = Module(lambda values, _: values, nn.Linear(2, 3))
    forward = forward_at(Precision(name), module, META)
    assert {(value.dtype, value.device) for value in module.parameters()} == {(HALVES[name], META)}
    for inputs, dtype in ((torch.ones(4, 2), HALVES[name]), (torch.ones(4, dtype=torch.int64), torch.int64)):
        answer = forward.run(inputs)
        assert (answer.dtype, answer.device, answer.shape) == (dtype, META, inputs.shape)


NO_LOGITS = r"not a tensor of logits, a tuple that starts with one, or an object with \.logits"


@pytest.mark.parametrize("name", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: (), f"it returned a tuple, {NO_LOGITS}"),
        (lambda values: {"scores": values}, f"it returned a dict, {NO_LOGITS}"),
        (lambda values: (values.numpy(), values), f"it returned a ndarray in a tuple, {NO_LOGITS}"),
        (lambda _: None, f"it returned a NoneType, {NO_LOGITS}"),
        (lambda values: values[0], r"its output has shape \(6,\), not \(64, number of classes\)"),
        (lambda values: values[:1], r"its output has shape \(1, 6\), not \(64, number of classes\)"),
        (lambda values: values[:, :0], r"its output has shape \(64, 0\), not \(64, number of classes\)"),
        (lambda values: values[:9], r"its output has shape \(9, 6\), not \(64, number of classes\)"),
        (lambda values: values[..., None], r"its output has shape \(64, 6, 1\), not \(64, number of classes\)"),
        (lambda values: values.sum(), r"its output has shape \(\), not \(64, number of classes\)"),
    ],
)
def test_an_answer_that_is_no_batch_of_logits(name, function, message):
    with pytest.raises(MeasureError, match=f"^{message}$"):
        logits(Module(function), batch(), name)

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from qfair_check.errors import InputError, OptionError, QFairError
from qfair_check.precision import Precision
from qfair_check.quantize import model as quantize_module
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model, quantized_share
from qfair_check.quantize.spec import Scheme
from qfair_check.record import LayerWeights

PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int2"]


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def small_net():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    nn.init.normal_(net[1].running_mean)
    return net


@pytest.fixture
def net():
    return seeded(small_net)


def plain_absmax(weight, bits, dims=None):
    """Per-tensor, or per-channel over `dims`, in torch's own float32 operations."""
    largest = 2 ** (bits - 1) - 1
    reach = weight.abs().max() if dims is None else weight.abs().amax(dims, keepdim=True)
    scale = reach / largest
    return torch.round(weight / scale).clamp(-largest, largest) * scale


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_rounded_and_nothing_else(net, bits):
    quantized = quantize_model(net, bits)
    for name, value in net.state_dict().items():
        expected = plain_absmax(value, bits) if name in ("0.weight", "3.weight") else value
        assert torch.equal(quantized.module.state_dict()[name], expected), name
    for layer, value in zip(quantized.layers, (net[0].weight, net[3].weight), strict=True):
        before, after = (w.detach().numpy().astype(np.float64) for w in (value, plain_absmax(value, bits)))
        assert layer.weight_difference == pytest.approx(np.abs(after - before).sum(), rel=1e-12)


def test_the_account_of_each_layer_by_hand():
    layer = nn.Linear(4, 2)
    layer.weight = nn.Parameter(torch.tensor([[-3.0, 0.25, 1.5, 0.0], [2.75, -0.75, 0.5, 1.25]]))
    quantized = quantize_model(layer, "int3")
    assert quantized.precision == Precision("int3")
    assert quantized.scheme == Scheme()
    (found,) = quantized.layers
    assert quantized.module.weight.tolist() == [[-3, 0, 2, 0], [3, -1, 0, 1]]
    assert found == LayerWeights(
        name="weight",
        shape=(2, 4),
        bits=3,
        rule="absmax",
        scale=(1.0,),
        zero_point=(0,),
        levels=6,
        zeros=3,
        weight_difference=0.25 + 0.5 + 0.25 + 0.25 + 0.5 + 0.25,
        clipped=0,
    )


@pytest.mark.parametrize(
    ("layer", "channels", "over"),
    [
        (lambda: nn.Conv1d(4, 6, 3), 6, (1, 2)),
        (lambda: nn.Conv2d(4, 6, 3, groups=2), 6, (1, 2, 3)),
        (lambda: nn.Conv3d(4, 6, 2), 6, (1, 2, 3, 4)),
        (lambda: nn.ConvTranspose1d(4, 6, 3), 6, (0, 2)),
        (lambda: nn.ConvTranspose2d(4, 6, 3), 6, (0, 2, 3)),
        (lambda: nn.ConvTranspose3d(4, 6, 2), 6, (0, 2, 3, 4)),
        (lambda: nn.Linear(4, 6), 6, (1,)),
        (lambda: nn.Embedding(7, 3), 7, (1,)),
        (lambda: nn.LSTM(3, 4), 16, (1,)),
        (lambda: nn.MultiheadAttention(4, 2), 12, (1,)),
    ],
)
def test_per_channel_scales_of_each_kind_of_layer(layer, channels, over):
    module = seeded(layer)
    quantized = quantize_model(module, 3, "absmax/per-channel")
    first = quantized.layers[0]
    assert len(first.scale) == len(first.zero_point) == channels
    for name, weight, _ in quantizable_weights(module):
        assert torch.equal(quantized.module.get_parameter(name), plain_absmax(weight.detach(), 3, over)), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_given_module_is_not_touched(net, precision):
    net.train()
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.ones_like(net[3].weight)
    seen = []
    net.register_forward_hook(lambda *_: seen.append(1))
    before = copy.deepcopy(net.state_dict())
    identities = [id(value) for value in net.state_dict(keep_vars=True).values()]
    state = torch.random.get_rng_state()

    quantized = quantize_model(net, precision, "mse/per-channel").module

    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert identities == [id(value) for value in net.state_dict(keep_vars=True).values()]
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in quantized.modules())
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in quantized.parameters()]
    assert torch.equal(net[3].weight.grad, torch.ones_like(net[3].weight))
    assert all(parameter.grad is None for parameter in quantized.parameters())
    assert len(net._forward_hooks) == 1
    assert not seen
    assert torch.equal(torch.random.get_rng_state(), state)
    mine = {value.data_ptr() for value in net.state_dict().values()}
    assert mine.isdisjoint(value.data_ptr() for value in quantized.state_dict().values())


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
            self.head.weight = self.embedding.weight

    tied = seeded(Tied)
    quantized = quantize_model(tied, 4)
    assert quantized.module.head.weight is quantized.module.embedding.weight
    assert [layer.name for layer in quantized.layers] == ["embedding.weight"]
    assert torch.equal(quantized.module.head.weight, plain_absmax(tied.head.weight.detach(), 4))
    assert quantized_share(tied) == (15, 20)


def test_share_of_quantized_parameters(net):
    assert quantized_share(net) == (4 * 9 + 16 * 3, 4 * 9 + 4 + 4 + 4 + 16 * 3 + 3)
    assert quantized_share(nn.BatchNorm1d(3)) == (0, 6)


def test_a_recurrent_layer_computes_with_its_quantized_weights():
    lstm, batch = seeded(lambda: (nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)))
    expected = nn.LSTM(3, 4, num_layers=2)
    expected.load_state_dict(
        {name: plain_absmax(value, 2) if "weight" in name else value for name, value in lstm.state_dict().items()}
    )
    quantized = quantize_model(lstm, 2).module
    with torch.no_grad():
        assert torch.equal(quantized(batch)[0], expected(batch)[0])


def test_attention_computes_with_its_quantized_weights():
    attention, batch = seeded(lambda: (nn.MultiheadAttention(4, 2), torch.randn(5, 2, 4)))
    expected = copy.deepcopy(attention).eval()
    for name in ("in_proj_weight", "out_proj.weight"):
        expected.get_parameter(name).data = plain_absmax(attention.get_parameter(name).detach(), 2)
    quantized = quantize_model(attention, 2).module
    with torch.no_grad():
        assert torch.equal(quantized(batch, batch, batch)[0], expected(batch, batch, batch)[0])


def test_fp32_changes_nothing(net):
    net[3].weight.data[0, :5] = 0
    quantized = quantize_model(net, "fp32", "mse")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in quantized.module.state_dict().items())
    assert [(layer.name, layer.bits, layer.scale, layer.levels) for layer in quantized.layers] == [
        ("0.weight", 32, (), 0),
        ("3.weight", 32, (), 0),
    ]
    assert [(layer.zeros, layer.weight_difference, layer.clipped) for layer in quantized.layers] == [
        (0, 0, 0),
        (5, 0, 0),
    ]


def test_fp16_rounds_every_parameter_and_buffer(net):
    quantized = quantize_model(net, "fp16")
    for name, value in net.state_dict().items():
        found = quantized.module.state_dict()[name]
        assert found.dtype == value.dtype
        expected = value.numpy() if name.endswith("tracked") else value.numpy().astype(np.float16)
        np.testing.assert_array_equal(found.numpy(), expected.astype(value.numpy().dtype))
    weight = net[3].weight.detach().numpy().astype(np.float64)
    assert quantized.layers[1].weight_difference == pytest.approx(
        np.abs(weight.astype(np.float16) - weight).sum(), rel=1e-9
    )
    assert quantized.layers[1].weight_difference > 0
    assert (quantized.layers[1].bits, quantized.layers[1].scale) == (16, ())


def test_bf16_keeps_eight_bits_of_the_mantissa(net):
    net[0].bias.data[0] = 1 + 2**-8 + 2**-9
    net[0].bias.data[1] = 1e38
    found = quantize_model(net, "bf16").module[0].bias
    assert found[0].item() == 1 + 2**-7
    assert found[1].item() == pytest.approx(1e38, rel=2**-8)


def test_small_weights_vanish_at_fp16(net):
    net[3].weight.data[0, :4] = 1e-8
    assert quantize_model(net, "fp16").layers[1].zeros == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32_first(net, dtype):
    other = copy.deepcopy(net).to(dtype)
    quantized = quantize_model(other, 4).module
    assert other[0].weight.dtype == dtype
    assert {p.dtype for p in quantized.parameters()} == {torch.float32}
    assert torch.equal(quantized[0].weight, plain_absmax(other[0].weight.detach().float(), 4))


@pytest.mark.parametrize("scheme", ["absmax", "mse", "aciq", "percentile", "absmax/full", "mse/asymmetric/per-channel"])
def test_at_most_two_to_the_bits_values(net, scheme):
    for bits in (2, 3):
        quantized = quantize_model(net, bits, scheme)
        for layer, (_, weight, _) in zip(quantized.layers, quantizable_weights(quantized.module), strict=True):
            channels = weight.detach() if "per-channel" in scheme else weight.detach().reshape(1, -1)
            counts = [len(channel.unique()) for channel in channels]
            assert layer.levels == max(counts) <= 2**bits


def test_more_levels_than_the_bits_allow_is_an_error(net, monkeypatch):
    honest = quantize_module.quantize_tensor

    def broken(values, bits, scheme, *, channel_axis):
        tensor = honest(values, bits, scheme, channel_axis=channel_axis)
        return replace(tensor, codes=torch.arange(values.numel(), dtype=torch.int16).reshape(values.shape))

    monkeypatch.setattr(quantize_module, "quantize_tensor", broken)
    with pytest.raises(QFairError, match=r"^0\.weight uses 36 levels at int4, more than 16"):
        quantize_model(net, 4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_that_are_not_finite_are_named_and_counted(precision):
    layers = nn.Sequential(*[nn.Linear(2, 2) for _ in range(6)], nn.BatchNorm1d(2))
    for layer in layers[:6]:
        layer.weight.data[0] = torch.nan
    layers[6].running_var[1] = torch.inf
    with pytest.raises(InputError) as error:
        quantize_model(layers, precision)
    assert str(error.value) == (
        "the model holds NaN or infinite values, in 0.weight (2), 1.weight (2), 2.weight (2), 3.weight (2), "
        "4.weight (2) and 2 more: give a checkpoint from before they arose"
    )


def test_values_beyond_half_precision_are_named(net):
    net[1].running_var[0] = 70000
    quantize_model(net, "bf16")
    with pytest.raises(InputError) as error:
        quantize_model(net, "fp16")
    assert str(error.value) == (
        "the model holds values beyond the largest float16 number, 65504, in 1.running_var (70000): "
        "audit it at another precision"
    )


def test_nothing_to_quantize():
    empty = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3))
    with pytest.raises(InputError) as error:
        quantize_model(empty, "int4")
    assert str(error.value) == (
        "Sequential has no weights to quantize to int4: it holds no convolution, linear, embedding, attention or "
        "recurrent layer of torch.nn; audit it with bits=32 or 16"
    )
    assert quantize_model(empty, "fp32").layers == quantize_model(empty, "fp16").layers == ()


def test_a_module_that_cannot_be_copied(net):
    net.lock = threading.Lock()
    with pytest.raises(InputError, match=r"^Sequential cannot be copied, and is never changed in place"):
        quantize_model(net, 4)


@pytest.mark.parametrize(("precision", "scheme"), [(9, "absmax"), ("four", "absmax"), (4, "absmin")])
def test_options_that_make_no_sense(net, precision, scheme):
    with pytest.raises(OptionError):
        quantize_model(net, precision, scheme)

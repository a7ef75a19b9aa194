import copy
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional

from qfair_check import audit
from qfair_check.measure.fast import AS_IT_IS, TOLERANCE, speed_up
from qfair_check.measure.outputs import logits_of
from qfair_check.quantize.model import quantize_model

X = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = build()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and layer.track_running_stats:
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.2, 3)
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
    return net.eval()


class Block(nn.Module):
    """A convolution, a BatchNorm, and what is made of them."""

    def __init__(self, function=None, norm=nn.BatchNorm2d, **changes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, **changes)
        self.norm = norm(8)
        self.head = nn.Linear(8, 4)
        self.function = function

    def forward(self, x):
        return self.head((self.function or plain)(self, x).flatten(2).mean(2))


def plain(net, x):
    return net.norm(net.conv(x)).relu()


def called(net, *args, **kwargs):
    with torch.inference_mode():
        return net(*args, **kwargs)


def made_fast(net, batch=X):
    change = speed_up(net, batch)
    return None if change is AS_IT_IS else change(copy.deepcopy(net))


def identities(net):
    return sum(isinstance(layer, nn.Identity) for layer in net.modules())


def assert_near(net, fast, *args, **kwargs):
    expected, found = (logits_of(called(one, *args, **kwargs), 64).double() for one in (net, fast))
    assert (expected - found).abs().max() <= TOLERANCE * expected.abs().max() / 10
    assert torch.equal(expected.argmax(1), found.argmax(1))


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnet18", 20),
        ("mobilenet_v3_small", 34),
        ("shufflenet_v2_x0_5", 56),
        ("densenet121", 59),
        ("squeezenet1_1", 0),
    ],
)
def test_models_of_torchvision_keep_their_logits(name, norms):
    net = seeded(lambda: torchvision.models.get_model(name, num_classes=4))
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    fast = made_fast(net, x)
    assert identities(fast) == norms
    assert_near(net, fast, x)


@pytest.mark.parametrize("precision", ["int8", "int4", "int2"])
def test_what_is_found_at_fp32_holds_for_other_weights(precision):
    net = seeded(lambda: torchvision.models.resnet18(num_classes=4))
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    quantized = quantize_model(net, precision).module
    fast = speed_up(net, x)(copy.deepcopy(quantized))
    assert identities(fast) == 20
    assert_near(quantized, fast, x)


def test_the_folded_weights_are_those_of_the_formula():
    net = seeded(Block)
    fast = made_fast(net)
    sigma = (net.norm.running_var + net.norm.eps).sqrt()
    gain = (net.norm.weight / sigma).detach()
    assert torch.allclose(fast.conv.weight, net.conv.weight * gain[:, None, None, None], rtol=1e-6)
    bias = (net.conv.bias - net.norm.running_mean) * gain + net.norm.bias
    assert torch.allclose(fast.conv.bias, bias, rtol=1e-5, atol=1e-6)
    assert fast.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_module_itself_is_left_alone():
    net = seeded(lambda: torchvision.models.resnet18(num_classes=4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(8, 3, 32, 32)
    given, state = x.clone(), torch.get_rng_state()
    assert made_fast(net, x) is not None
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.conv1.weight.is_contiguous()
    assert not net._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert identities(net) == 0


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda net, x: net.conv(x) + net.norm(net.conv(x)), id="a convolution used twice"),
        pytest.param(lambda net, x: net.norm(net.norm(net.conv(x))), id="a norm used twice"),
        pytest.param(lambda net, x: net.norm(y := net.conv(x)) + y, id="a result used twice"),
        pytest.param(lambda net, x: net.norm(net.conv(x).relu()), id="something between"),
        pytest.param(lambda net, x: net.norm(net.conv(x) * net.norm.weight.sum()), id="its weights used elsewhere"),
    ],
)
def test_what_cannot_be_folded_is_not(function):
    net = seeded(lambda: Block(function))
    fast = made_fast(net)
    assert identities(fast) == 0
    assert fast.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert_near(net, fast, X)


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(lambda net, x: functional.conv2d(x, net.conv.weight), id="its weight"),
        pytest.param(lambda net, x: net.conv.forward(x), id="its forward"),
        pytest.param(lambda net, x: net.other(x) * net.norm.weight.sum(), id="the weight of the norm"),
    ],
)
def test_layers_that_rare_samples_use_otherwise_are_not_folded(elsewhere):
    def rarely(net, x):
        return torch.where(x.mean((1, 2, 3), keepdim=True) > 1, elsewhere(net, x), plain(net, x))

    def build():
        net = Block(rarely)
        net.other = nn.Conv2d(3, 8, 3)
        return net

    net = seeded(build)
    x = X.clone()
    x[10:] += 3
    fast = made_fast(net, x)
    assert identities(fast) == 0
    assert_near(net, fast, x)


def test_a_forward_that_was_replaced_is_not_traced():
    def forward(net, x):
        return net.head((net.norm(net.conv(x)) if bool(x.mean() < 1) else net.conv(x)).flatten(2).mean(2))

    net = seeded(Block)
    net.forward = types.MethodType(forward, net)
    assert made_fast(net) is None


def test_a_layer_whose_forward_was_replaced_is_not_folded():
    net = seeded(Block)
    net.conv.forward = types.MethodType(lambda layer, x: nn.Conv2d.forward(layer, x).clamp(max=20), net.conv)
    fast = made_fast(net)
    assert identities(fast) == 0
    assert_near(net, fast, X * 20)


@pytest.mark.parametrize("container", [list, nn.ModuleList])
def test_a_norm_held_twice_is_folded_once_and_a_masked_class_hides_nothing(container):
    def build():
        net = Block(lambda net, x: net.both[1](net.both[0](x)))
        net.both = container([net.conv, net.norm])
        net.register_forward_hook(lambda module, args, output: output - 1e9 * torch.eye(4)[3])
        return net

    net = seeded(build)
    fast = made_fast(net)
    assert identities(fast) == 1
    expected, found = called(net, X)[:, :3], called(fast, X)[:, :3]
    assert torch.allclose(expected, found, rtol=1e-4, atol=1e-5)


def test_a_class_with_huge_logits_hides_no_difference_of_others():
    net = seeded(lambda: Block(lambda net, x: torch.as_strided(plain(net, x), (x.shape[0], 8, 4), (800, 100, 1))))
    net.register_forward_hook(lambda module, args, output: output - 1e9 * torch.eye(4)[3])
    assert made_fast(net) is None


def test_folding_hides_no_nan():
    net = seeded(Block)
    nn.init.zeros_(net.norm.weight)
    nn.init.constant_(net.conv.weight, 1e3)
    x = X.clone()
    x[1] = 1e37
    assert not called(net, x)[1].isfinite().any()
    assert made_fast(net, x) is None


def test_what_a_model_keeps_elsewhere_is_no_proxy():
    kept = []

    def keep(net, x):
        if not kept:
            kept.append(torch.ones_like(x[:1]))
        return plain(net, x + kept[0])

    net = seeded(lambda: Block(keep))
    assert identities(made_fast(net)) == 1
    assert type(kept[0]) is Tensor


def test_a_model_that_exits_on_what_is_no_tensor_stays_as_it_is():
    net = seeded(lambda: Block(lambda net, x: plain(net, x) if isinstance(x, Tensor) else sys.exit("no tensor")))
    assert made_fast(net) is None


@pytest.mark.parametrize(
    "norm",
    [
        pytest.param(lambda size: nn.BatchNorm2d(size, track_running_stats=False), id="batch statistics"),
        pytest.param(nn.SyncBatchNorm, id="another kind"),
        pytest.param(lambda size: nn.GroupNorm(2, size), id="group norm"),
        pytest.param(lambda size: nn.InstanceNorm2d(size), id="instance norm"),
    ],
)
def test_other_norms_are_not_folded(norm):
    net = seeded(lambda: Block(norm=norm))
    fast = made_fast(net)
    assert fast is None or identities(fast) == 0


def test_a_norm_that_trains_is_not_folded():
    net = seeded(Block)
    net.norm.train()
    fast = made_fast(net)
    assert fast is None or identities(fast) == 0


def test_a_norm_without_weights_is_folded():
    net = seeded(lambda: Block(norm=lambda size: nn.BatchNorm2d(size), bias=False))
    net.norm.affine = False
    net.norm.weight = net.norm.bias = None
    fast = made_fast(net)
    assert identities(fast) == 1
    assert_near(net, fast, X)


@pytest.mark.parametrize("layer", ["conv", "norm"])
@pytest.mark.parametrize(
    "register",
    [
        lambda layer: layer.register_forward_hook(lambda module, args, output: output.clamp(max=0.3)),
        lambda layer: layer.register_forward_pre_hook(lambda module, args: (args[0].clamp(max=0.3),)),
    ],
    ids=["after", "before"],
)
def test_layers_with_hooks_are_not_folded(layer, register):
    net = seeded(Block)
    register(net.get_submodule(layer))
    fast = made_fast(net)
    assert identities(fast) == 0
    assert_near(net, fast, X)


def test_a_hook_on_the_whole_model_still_runs():
    net = seeded(Block)
    net.register_forward_hook(lambda module, args, output: -output)
    assert_near(net, made_fast(net), X)


def branch(net, x):
    y = plain(net, x)
    return y if bool(x.mean() > 0) else -y


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(branch, id="the path depends on the data"),
        pytest.param(lambda net, x: plain(net, x) * float(x.mean()), id="a number from the data"),
        pytest.param(lambda net, x: plain(net, x) if x.shape[0] > 1 else x, id="the path depends on the shape"),
        pytest.param(lambda net, x: net.norm(net.conv(x)).view(x.shape[0], -1)[:, :8, None], id="a view of NCHW"),
        pytest.param(lambda net, x: torch.as_strided(plain(net, x), (x.shape[0], 8, 4), (800, 100, 1)), id="strides"),
        pytest.param(lambda net, x: torch.from_numpy(plain(net, x).numpy()), id="numpy"),
    ],
)
def test_what_is_not_certain_stays_as_it_is(function):
    net = seeded(lambda: Block(function))
    assert made_fast(net) is None


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: torch.jit.trace(seeded(Block), X), id="traced"),
        pytest.param(lambda: torch.jit.freeze(torch.jit.trace(seeded(Block), X)), id="frozen"),
        pytest.param(lambda: torch.export.export(seeded(Block), (X,)).module(), id="exported"),
        pytest.param(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 4)), id="no convolution"),
    ],
)
def test_modules_without_layers_to_fold_stay_as_they_are(build):
    assert made_fast(build()) is None


def test_a_graph_module_is_folded_too():
    net = fx.symbolic_trace(seeded(Block))
    fast = made_fast(net)
    assert identities(fast) == 1
    assert_near(net, fast, X)


def test_a_model_that_changes_its_input_gets_a_copy():
    net = seeded(lambda: Block(lambda net, x: plain(net, x.mul_(2))))
    given = X.clone()
    fast = made_fast(net, given)
    assert torch.equal(given, X)
    assert identities(fast) == 1
    expected, found = called(net, X.clone()), called(fast, X.clone())
    assert torch.allclose(expected, found, rtol=1e-4, atol=1e-5)


def test_a_model_that_draws_random_numbers_draws_the_same():
    net = seeded(lambda: Block(lambda net, x: plain(net, x) + torch.rand(8, 1, 1)))
    fast = made_fast(net)
    assert identities(fast) == 1
    answers = []
    for seed in (5, 6):
        for one in (net, fast):
            torch.manual_seed(seed)
            answers.append(called(one, X))
    assert torch.allclose(answers[0], answers[1], atol=1e-5)
    assert torch.allclose(answers[2], answers[3], atol=1e-5)
    assert not torch.allclose(answers[0], answers[2], atol=1e-3)


def test_a_model_that_remembers_its_calls_is_not_called():
    def count(net, x):
        net.calls = getattr(net, "calls", 0) + 1
        return plain(net, x)

    net = seeded(lambda: Block(count))
    fast = made_fast(net)
    assert not hasattr(net, "calls")
    assert not hasattr(fast, "calls")


def test_a_model_that_takes_another_path_once_it_was_called_stays_as_it_is():
    def differ(net, x):
        net.calls = getattr(net, "calls", 0) + 1
        return plain(net, x) if net.calls == 1 else net.conv(x)

    assert made_fast(seeded(lambda: Block(differ))) is None


class Two(nn.Module):
    """Takes an image and numbers, by position or by name, and answers with an object."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.scale = nn.Linear(2, 4)

    def forward(self, image, numbers, weight=None, offset=1.0):
        answer = self.block(image) + self.scale(numbers) + offset
        return {"logits": answer if weight is None else answer * weight}


@pytest.mark.parametrize("form", [tuple, dict])
def test_several_inputs_and_defaults(form):
    numbers = torch.randn(64, 2, generator=torch.Generator().manual_seed(4))
    net = seeded(Two)
    batch = (X, numbers) if form is tuple else {"numbers": numbers, "image": X}
    fast = made_fast(net, batch)
    assert identities(fast) == 1
    assert_near(net, fast, X, numbers)
    assert_near(net, fast, numbers=numbers, image=X)


def test_conv1d_and_conv3d_are_folded_beside_a_conv2d():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4))
            self.two = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.three = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))

        def forward(self, x):
            parts = self.one(x[:, :, 0]), self.two(x), self.three(x[:, None])
            return sum(part.flatten(2).mean(2) for part in parts)

    net = seeded(Three)
    fast = made_fast(net)
    assert identities(fast) == 3
    assert_near(net, fast, X)


def test_logits_that_are_not_finite_are_left_out_of_the_comparison():
    x = X.clone()
    x[1, 0, 0, 0] = torch.nan
    assert identities(made_fast(seeded(Block), x)) == 1
    x[:, 0, 0, 0] = torch.nan
    assert made_fast(seeded(Block), x) is None


def test_no_warning_comes_from_trying():
    def warn(net, x):
        warnings.warn("mind this", stacklevel=1)
        return plain(net, x)

    assert identities(made_fast(seeded(lambda: Block(warn)))) == 1


def test_an_audit_counts_as_a_plain_loop_does():
    net = seeded(Block)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 3, 12, 12)).astype(np.float32), rng.integers(4, size=150)
    made = audit(net, (x, y), bits="8,4,2")
    assert made.measured_json() == audit(net, (x, y), bits="2,4,8", batch_size=7, workers=2).measured_json()
    assert audit(net, (x, y), bits=4).at(4) == made.at(4)
    for bits in (32, 8, 4, 2):
        logits = called(quantize_model(net, bits).module, torch.from_numpy(x)).double()
        top = logits.topk(2).values
        sure = (top[:, 0] - top[:, 1] > 2 * TOLERANCE * logits.abs().max()).numpy()
        right = logits.argmax(1).numpy() == y
        assert np.array_equal(made.right(bits)[sure], right[sure])
        assert sure.mean() > 0.9

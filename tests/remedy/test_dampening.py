import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qfair_check.errors import OptionError
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.spec import GRIDS, Scheme
from qfair_check.remedy.attach import attach_lsq, lsq_layers
from qfair_check.remedy.dampening import OscillationTracker, dampen, dampening_coefficient, dampening_loss

seeds = st.integers(0, 2**32 - 1)
bit_widths = st.integers(2, 8)


def attached(seed, bits=3, grid="symmetric", shrink=1.0):
    """Two layers in float64, whose steps are smaller than those that suit them if `shrink` is below 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = nn.Sequential(nn.ConvTranspose1d(3, 4, 2), nn.Linear(5, 2))
    net = attach_lsq(plain, bits, Scheme("mse", grid), allocation=Allocation()).double()
    for layer in lsq_layers(net):
        layer.lsq.step.data.mul_(shrink)
    return net


def by_hand(net):
    """The loss as it is written, with its target as a constant."""
    total = 0.0
    for layer in lsq_layers(net):
        low, high = (end * layer.lsq.scale.detach() for end in layer.lsq.ends)
        distance = (layer.lsq(layer.weight).detach() - layer.weight.clamp(low, high)).square()
        of_channel = distance.movedim(layer.lsq.channel_axis, 0).flatten(1)
        total = total + of_channel.mean(dim=1).sum()
    return total


@given(seeds, bit_widths, st.sampled_from(GRIDS), st.floats(0.25, 1.5))
def test_value_and_gradient_are_those_of_the_formula(seed, bits, grid, shrink):
    net, reference = attached(seed, bits, grid, shrink), attached(seed, bits, grid, shrink)
    loss, wanted = dampening_loss(net), by_hand(reference)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    wanted.backward()
    for layer, other in zip(lsq_layers(net), lsq_layers(reference), strict=True):
        assert torch.allclose(layer.weight.grad, other.weight.grad, rtol=1e-6, atol=1e-12)


@given(seeds, st.floats(0.25, 1.0))
def test_finite_differences(seed, shrink):
    net = attached(seed, shrink=shrink)
    dampening_loss(net).backward()
    tiny = 1e-6
    for layer in lsq_layers(net):
        steps = layer.weight.detach() / layer.lsq.scale.detach()
        for place in range(layer.weight.numel()):
            off_edge = abs(steps.flatten()[place].item() % 1 - 0.5)
            if off_edge < 1e-3 or off_edge > 0.499:
                continue  # where a bin ends, or a weight begins to be clipped
            at = layer.weight.data.view(-1)
            with torch.no_grad():
                at[place] += tiny
                up = dampening_loss(net).item()
                at[place] -= 2 * tiny
                down = dampening_loss(net).item()
                at[place] += tiny
            difference = (up - down) / (2 * tiny)
            assert layer.weight.grad.view(-1)[place].item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


@given(seeds)
def test_the_step_and_clipped_weights_have_no_gradient(seed):
    net = attached(seed, shrink=0.25)
    dampening_loss(net).backward()
    clipped_somewhere = False
    for layer in lsq_layers(net):
        assert layer.lsq.step.grad is None
        low, high = layer.lsq.ends
        steps = layer.weight / layer.lsq.scale
        clipped = (steps <= low) | (steps >= high)
        clipped_somewhere |= bool(clipped.any())
        assert not layer.weight.grad[clipped].any()
    assert clipped_somewhere


@given(seeds, bit_widths, st.sampled_from(GRIDS), st.floats(0.25, 1.5), st.floats(0, 2))
def test_in_one_sweep_it_adds_what_autograd_adds(seed, bits, grid, shrink, coefficient):
    net, reference = attached(seed, bits, grid, shrink), attached(seed, bits, grid, shrink)
    fit = sum(value.square().sum() for value in net.parameters())
    wanted = sum(value.square().sum() for value in reference.parameters())
    fit.backward()
    added = dampen(net, coefficient)
    expected = coefficient * dampening_loss(reference)
    (wanted + expected).backward()
    assert added.item() == pytest.approx(expected.item())
    for value, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(value.grad, other.grad, rtol=1e-12, atol=1e-14)


def test_a_weight_that_is_not_trained_gets_no_gradient():
    net = attached(1)
    first, second = lsq_layers(net)
    first.weight.requires_grad_(False)
    assert dampen(net, 1.0).item() == pytest.approx(dampening_loss(net).item())
    assert first.weight.grad is None
    assert second.weight.grad.any()
    assert dampen(nn.Linear(2, 2), 1.0).item() == 0


def test_descent_pulls_weights_to_their_levels():
    net = attached(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    before = [layer.lsq.codes(layer.weight) for layer in lsq_layers(net)]
    first = dampening_loss(net).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = dampening_loss(net)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-6 * first
    for layer, codes in zip(lsq_layers(net), before, strict=True):
        assert torch.equal(layer.lsq.codes(layer.weight), codes)


def test_a_tied_weight_counts_once():
    plain = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    alone = dampening_loss(attach_lsq(plain[0], 2, allocation=Allocation()))
    plain[1].weight = plain[0].weight
    assert dampening_loss(attach_lsq(plain, 2, allocation=Allocation())).item() == pytest.approx(alone.item())


def test_a_plain_module_has_none():
    assert dampening_loss(nn.Linear(2, 2)).item() == 0


def test_the_coefficient_is_zero_for_a_quarter_and_then_follows_half_a_cosine():
    values = [dampening_coefficient(iteration / 400, 0.3) for iteration in range(401)]
    assert values[:101] == [0.0] * 101
    assert values[-1] == pytest.approx(0.3)
    assert values[250] == pytest.approx(0.15)
    for iteration in range(100, 401):
        passed = (iteration - 100) / 300
        assert values[iteration] == pytest.approx(0.3 * 0.5 * (1 - math.cos(math.pi * passed)))
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.25,), "a fraction of the training is 1.25: give a number from 0 to 1"),
        ((-0.5,), "a fraction of the training is -0.5"),
        ((math.nan,), "a fraction of the training is nan"),
        ((0.25, -0.1), "the end of the dampening coefficient is -0.1: give a number that is not negative"),
        ((0.25, math.inf), "the end of the dampening coefficient is inf"),
    ],
)
def test_a_schedule_that_makes_no_sense(arguments, message):
    with pytest.raises(OptionError, match=message):
        dampening_coefficient(*arguments)


def scripted(codes, momentum, threshold):
    """Frequency of one weight whose code takes these values, as it is defined."""
    frequency, last, direction = 0.0, codes[0], 0
    for code in codes[1:]:
        change = (code > last) - (code < last)
        turned = change != 0 and change == -direction
        direction = change or direction
        frequency = momentum * turned + (1 - momentum) * frequency
        last = code
    return frequency


@given(
    st.integers(2, 12).flatmap(
        lambda length: st.lists(st.lists(st.integers(-1, 1), min_size=length, max_size=length), min_size=1, max_size=5)
    ),
    st.floats(1 / 64, 1.0),
    st.floats(0.0, 0.5),
)
def test_shares_are_those_of_the_definition(histories, momentum, threshold):
    plain = nn.Linear(len(histories), 1, bias=False)
    net = attach_lsq(plain, 2, "absmax", allocation=Allocation())
    (layer,) = lsq_layers(net)
    layer.lsq.step.data.fill_(1.0)
    histories = torch.tensor(histories, dtype=torch.float32).T
    layer.weight.data.copy_(histories[:1])
    tracker = OscillationTracker(net, momentum)
    for codes in histories[1:]:
        layer.weight.data.copy_(codes[None])
        tracker.update()
    expected = [scripted(codes, momentum, threshold) for codes in histories.T.tolist()]
    if all(abs(frequency - threshold) > 1e-6 for frequency in expected):
        share = sum(frequency > threshold for frequency in expected) / len(expected)
        assert tracker.shares(threshold) == {"weight": pytest.approx(share)}


def shares_of_all(histories, threshold):
    """Shares by layer of a tracker without a limit, from the codes after each step."""
    shares = {}
    for name in histories[0]:
        codes = torch.stack([step[name].flatten() for step in histories]).tolist()
        oscillating = [scripted(of_weight, 0.5, threshold) > threshold for of_weight in zip(*codes, strict=True)]
        shares[name] = sum(oscillating) / len(oscillating)
    return shares


def test_of_a_large_layer_a_share_of_its_weights_is_followed():
    plain = nn.Sequential(nn.Conv2d(16, 60, 3), nn.Linear(5, 2))
    net, generator = attach_lsq(plain, 3, allocation=Allocation()), torch.Generator().manual_seed(1)
    net = net.to(memory_format=torch.channels_last)
    tracker = OscillationTracker(net, 0.5)
    histories = [{layer.name: layer.lsq.codes(layer.weight) for layer in lsq_layers(net)}]
    for _ in range(3):
        for layer in lsq_layers(net):
            layer.weight.data.add_(0.02 * torch.randn(layer.weight.shape, generator=generator))
        tracker.update()
        histories.append({layer.name: layer.lsq.codes(layer.weight) for layer in lsq_layers(net)})
    wanted = shares_of_all(histories, 0.2)
    assert 0.1 < wanted["0.weight"] < 0.9
    assert tracker.shares(0.2)["0.weight"] == pytest.approx(wanted["0.weight"], abs=0.03)
    assert tracker.shares(0.2)["1.weight"] == wanted["1.weight"]
    assert tracker.state_dict()["0.weight"]["codes"].shape == (4096,)


def test_parts_that_fit_the_cache_add_up_to_the_whole():
    torch.manual_seed(0)
    plain = nn.Linear(700, 600 * torch.get_num_threads())
    net, reference = (attach_lsq(plain, 3, allocation=Allocation()).double() for _ in range(2))
    loss, wanted = dampening_loss(net), by_hand(reference)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-9)
    loss.backward()
    wanted.backward()
    (layer,), (other,) = lsq_layers(net), lsq_layers(reference)
    assert torch.allclose(layer.weight.grad, other.weight.grad, rtol=1e-6, atol=1e-12)


def moved(net, generator):
    for layer in lsq_layers(net):
        layer.weight.data.add_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64) * 0.2)


def test_a_tracker_goes_on_from_its_state():
    net, generator = attached(4), torch.Generator().manual_seed(1)
    tracker = OscillationTracker(net)
    for _ in range(5):
        moved(net, generator)
        tracker.update()
    state = tracker.state_dict()
    again = OscillationTracker(net)
    assert again.shares() != tracker.shares()
    again.load_state_dict(state)
    for _ in range(5):
        moved(net, generator)
        tracker.update()
        again.update()
    assert again.shares() == tracker.shares()
    assert set(tracker.shares()) == {"0.weight", "1.weight"}
    assert not torch.equal(state["0.weight"]["frequency"], again.state_dict()["0.weight"]["frequency"])


def test_a_state_of_other_layers_is_refused():
    tracker = OscillationTracker(attached(1))
    with pytest.raises(OptionError, match="those of other layers: give the state of this model"):
        tracker.load_state_dict({})


def test_a_drift_in_one_direction_is_no_oscillation():
    net = attached(1, bits=8)
    tracker = OscillationTracker(net, momentum=1.0)
    for _ in range(5):
        for layer in lsq_layers(net):
            layer.weight.data.add_(3 * layer.lsq.scale.detach())
        tracker.update()
    assert tracker.shares(0.0) == {"0.weight": 0.0, "1.weight": 0.0}


@pytest.mark.parametrize("momentum", [0.0, 1.5, math.nan])
def test_a_momentum_out_of_range(momentum):
    with pytest.raises(OptionError, match="it is above 0 and at most 1"):
        OscillationTracker(attached(1), momentum)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_weights_has_none_that_oscillate():
    tracker = OscillationTracker(attach_lsq(nn.Linear(0, 2), 3, allocation=Allocation()))
    tracker.update()
    assert tracker.shares() == {"weight": 0.0}

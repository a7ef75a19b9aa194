import math
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from qfair_check.errors import OptionError
from qfair_check.quantize.spec import GRIDS, RULES, Scheme, integer_range
from qfair_check.quantize.uniform import quantize_tensor
from qfair_check.remedy.lsq import LSQ, lsq_quantize

bit_widths = st.integers(2, 8)
grids = st.sampled_from(GRIDS)
seeds = st.integers(0, 2**32 - 1)
learned_steps = st.floats(1 / 64, 2.0, width=32)


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(weight, step, bits, grid, zero_point=0, upstream=None):
    """Value, and gradients of sum(upstream * value) for weight, step and zero point."""
    leaves = [weight.clone().requires_grad_(), step.clone().requires_grad_()]
    zero = torch.tensor(float(zero_point), dtype=weight.dtype, requires_grad=True)
    value = lsq_quantize(*leaves, bits, grid, zero)
    value.backward(torch.ones_like(value) if upstream is None else upstream)
    return value.detach(), leaves[0].grad, leaves[1].grad, zero.grad


def zero_points(grid, bits):
    return st.integers(*integer_range(bits, grid)) if grid == "asymmetric" else st.just(0)


@given(st.data(), seeds, bit_widths, grids, learned_steps)
def test_values_and_gradients_are_those_of_torch_away_from_the_ends(data, seed, bits, grid, size):
    zero_point = data.draw(zero_points(grid, bits))
    weight, upstream, step = normal(seed, 40), normal(seed + 1, 40), torch.tensor(size)
    lowest, highest = integer_range(bits, grid)
    steps = weight / step
    # torch masks on the rounded value, and multiplies by the reciprocal of the step
    near_ends = ((steps - (lowest - zero_point)).abs() <= 0.5) | ((steps - (highest - zero_point)).abs() <= 0.5)
    half_way = ((steps - steps.floor()) - 0.5).abs() < 1e-3
    weight, upstream = weight[~near_ends & ~half_way], upstream[~near_ends & ~half_way]
    assume(len(weight))
    mine = gradients(weight, step, bits, grid, zero_point, upstream)
    leaves = [weight.clone().requires_grad_(), step.reshape(1).clone().requires_grad_()]
    zero = torch.tensor([float(zero_point)], requires_grad=True)
    factor = 1 / math.sqrt(len(weight) * highest)
    value = torch._fake_quantize_learnable_per_tensor_affine(*leaves, zero, lowest, highest, factor)
    value.backward(upstream)
    theirs = (value.detach(), leaves[0].grad, leaves[1].grad[0], zero.grad[0])
    magnitude = float((upstream.abs() * (highest + 1)).sum()) * factor
    assert torch.allclose(mine[0], theirs[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(mine[1], theirs[1])
    assert torch.allclose(mine[2], theirs[2], rtol=1e-4, atol=1e-5 * magnitude)
    assert torch.allclose(mine[3], theirs[3], rtol=1e-4, atol=1e-5 * magnitude)


@given(st.data(), seeds, bit_widths, grids, learned_steps)
def test_gradients_are_those_of_the_formula_everywhere(data, seed, bits, grid, size):
    zero_point = data.draw(zero_points(grid, bits))
    step = torch.tensor(size, dtype=torch.float64)
    lowest, highest = integer_range(bits, grid)
    low, high = lowest - zero_point, highest - zero_point
    whole = torch.arange(low - 1, high + 2, dtype=torch.float64)  # the ends themselves, and beyond
    weight = torch.cat([normal(seed, 30, dtype=torch.float64), whole * step, (whole + 0.25) * step])
    upstream = normal(seed + 1, len(weight), dtype=torch.float64)
    of_weight, of_step, of_zero, values = [], 0.0, 0.0, []
    for w, g in zip(weight.tolist(), upstream.tolist(), strict=True):
        steps = w / size
        clipped = steps <= low or steps >= high
        level = low if steps <= low else high if steps >= high else round(steps)
        values.append(level * size)
        of_weight.append(0.0 if clipped else g)
        of_step += g * (level if clipped else level - steps)
        of_zero += g * -size if clipped else 0.0
    factor = 1 / math.sqrt(len(weight) * highest)
    value, mine_weight, mine_step, mine_zero = gradients(weight, step, bits, grid, zero_point, upstream)
    assert value.tolist() == values
    assert mine_weight.tolist() == of_weight
    assert mine_step.item() == pytest.approx(of_step * factor, rel=1e-9, abs=1e-9)
    assert mine_zero.item() == pytest.approx(of_zero * factor, rel=1e-9, abs=1e-9)


def surrogate(weight, step, levels, low, high):
    """The function whose true gradient LSQ's is: rounding replaced by adding what it added at one point."""
    steps = weight / step
    inside = (steps > low) & (steps < high)
    return step * torch.where(inside, steps + levels, steps.clamp(low, high))


@given(seeds, bit_widths, st.sampled_from(["symmetric", "full"]), st.floats(0.1, 1.0))
def test_finite_differences_of_the_surrogate(seed, bits, grid, size):
    weight, upstream = normal(seed, 20, dtype=torch.float64), normal(seed + 1, 20, dtype=torch.float64)
    step = torch.tensor(size, dtype=torch.float64)
    low, high = integer_range(bits, grid)
    steps = weight / step
    assume(((steps - low).abs() > 1e-3).all() and ((steps - high).abs() > 1e-3).all())
    levels = steps.round() - steps
    _, of_weight, of_step, _ = gradients(weight, step, bits, grid, 0, upstream)
    tiny = 1e-6 * size

    def loss(w, s):
        return (upstream * surrogate(w, s, levels, low, high)).sum().item()

    difference = (loss(weight, step + tiny) - loss(weight, step - tiny)) / (2 * tiny)
    assert of_step.item() * math.sqrt(20 * high) == pytest.approx(difference, rel=1e-5, abs=1e-6)
    for place in range(20):
        moved = torch.zeros_like(weight)
        moved[place] = tiny
        difference = (loss(weight + moved, step) - loss(weight - moved, step)) / (2 * tiny)
        assert of_weight[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-6)


def test_at_two_bits_the_restricted_grid_has_three_levels():
    value = lsq_quantize(torch.linspace(-5, 5, 101), torch.tensor(0.5), 2)
    assert value.unique().tolist() == [-0.5, 0.0, 0.5]


@given(seeds, bit_widths, st.builds(Scheme, st.sampled_from(RULES), grids))
def test_at_its_first_step_it_is_the_audits_own_quantization(seed, bits, scheme):
    weight = normal(seed, 5, 7)
    lsq = LSQ(weight, bits, scheme)
    audited = quantize_tensor(weight, bits, scheme)
    assert torch.equal(lsq(weight), audited.dequantize())
    assert torch.equal(lsq.codes(weight), audited.codes)
    assert lsq.quantized(weight).clipped == audited.clipped


@given(seeds, bit_widths, grids, learned_steps)
def test_its_codes_dequantize_to_what_it_returns(seed, bits, grid, size):
    weight = normal(seed, 4, 3, 2)
    lsq = LSQ(weight, bits, Scheme("mse", grid))
    lsq.step.data.fill_(size)
    assert torch.equal(lsq.quantized(weight).dequantize(), lsq(weight))
    lowest, highest = integer_range(bits, grid)
    assert lowest <= lsq.codes(weight).min() <= lsq.codes(weight).max() <= highest


def test_the_published_first_step():
    weight = normal(1, 30)
    for grid, highest in (("symmetric", 7), ("full", 7), ("asymmetric", 15)):
        lsq = LSQ(weight, 4, Scheme("mse", grid), initial_step="lsq")
        assert lsq.step.item() == pytest.approx(2 * weight.abs().mean().item() / math.sqrt(highest))


@pytest.mark.parametrize("initial_step", ["rule", "lsq"])
def test_zeros_have_a_step(initial_step):
    lsq = LSQ(torch.zeros(3), 4, initial_step=initial_step)
    assert lsq.step.item() == 1
    assert lsq(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_step_below_the_least_one_is_put_back_and_comes_up_again():
    weight = normal(1, 50).requires_grad_()
    lsq = LSQ(weight, 3)
    least = lsq.step.item() / 4
    lsq.step.data.fill_(-3.0)
    lsq.eval()(weight)
    assert (lsq.step.item(), lsq.scale.item()) == (-3.0, pytest.approx(least))
    assert torch.equal(lsq(weight), lsq.quantized(weight).dequantize())
    value = lsq.train()(weight)
    assert lsq.step.item() == pytest.approx(least)
    value.backward(weight.detach())  # descent would take the step further down
    assert lsq.step.grad.item() == 0
    lsq(weight).backward(-weight.detach())  # and now up
    assert lsq.step.grad.item() < 0


@given(seeds, bit_widths, grids, st.sampled_from(RULES), st.sampled_from(["rule", "lsq"]))
def test_the_least_step_is_a_quarter_of_the_first_or_of_the_best(seed, bits, grid, rule, initial_step):
    weight = normal(seed, 30)
    lsq = LSQ(weight, bits, Scheme(rule, grid), initial_step=initial_step)
    best = LSQ(weight, bits, Scheme("mse", grid)).step
    assert lsq.least_step.item() == pytest.approx(min(lsq.step.item(), best.item()) / 4)


def test_a_step_that_is_put_back_between_two_uses_does_not_break_the_backward_pass():
    weight = normal(1, 50).requires_grad_()
    lsq = LSQ(weight, 3)
    lsq.step.data.fill_(-3.0)
    (lsq(weight) + lsq(weight)).sum().backward()
    assert weight.grad.isfinite().all()


@given(seeds)
def test_above_the_least_step_the_gradient_is_lsqs_own(seed):
    weight, upstream = normal(seed, 30), normal(seed + 1, 30)
    lsq = LSQ(weight.clone().requires_grad_(), 4)
    lsq(weight).backward(upstream)
    assert torch.equal(lsq.step.grad, gradients(weight, lsq.step.detach(), 4, "symmetric", 0, upstream)[2])


@given(seeds, bit_widths, st.floats(-1, 1), st.floats(0.05, 1.0))
def test_a_learned_offset_has_the_gradient_of_lsq_plus(seed, bits, middle, size):
    weight, upstream = normal(seed, 40, dtype=torch.float64) + middle, normal(seed + 1, 40, dtype=torch.float64)
    lsq = LSQ(weight.clone().requires_grad_(), bits, "mse/asymmetric", learn_offset=True)
    lsq.step.data.fill_(max(size, lsq.step.item() / 2))
    size = lsq.step.item()
    beta = lsq.offset.item()
    zero_point = round(-beta / size)
    assume(0 <= -beta / size <= 2**bits - 1)
    value = lsq(weight)
    value.backward(upstream)
    steps = weight / size
    low, high = -zero_point, 2**bits - 1 - zero_point
    below, above = steps <= low, steps >= high
    of_beta = upstream[below | above].sum()
    inside = upstream * (steps.round() - steps)
    # a clipped weight is at s * code + beta, but that beta counts in whole steps
    of_step = (
        inside[~(below | above)].sum()
        + (upstream[below] * (low - beta / size)).sum()
        + (upstream[above] * (high - beta / size)).sum()
    )
    factor = 1 / math.sqrt(40 * (2**bits - 1))
    assert lsq.offset.grad.item() == pytest.approx(of_beta.item() * factor, rel=1e-9, abs=1e-12)
    assert lsq.step.grad.item() == pytest.approx(of_step.item() * factor, rel=1e-9, abs=1e-9)
    assert lsq(torch.zeros(1, dtype=torch.float64)).item() == 0
    assert torch.equal(lsq.quantized(weight).dequantize(), lsq(weight))


def test_descent_moves_an_offset_to_where_the_weights_are():
    weight = torch.linspace(1.0, 2.0, 60)
    lsq = LSQ((weight - 2).requires_grad_(), 3, "absmax/asymmetric", learn_offset=True)  # a grid of -1 to 0
    optimizer = torch.optim.SGD([lsq.step, lsq.offset], lr=0.05)
    errors = []
    for _ in range(300):
        error = (lsq(weight) - weight).square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert lsq.zero_point.item() <= 1
    assert errors[-1] < 0.02 * errors[0]


def test_a_step_that_is_too_large_or_too_small_is_learned():
    weight = normal(3, 2000)
    best = LSQ(weight, 3).step.item()
    for start in (best / 4, best * 3):
        lsq = LSQ(weight.clone().requires_grad_(), 3)
        lsq.step.data.fill_(start)
        optimizer = torch.optim.SGD([lsq.step], lr=0.01)
        for _ in range(400):
            optimizer.zero_grad()
            (lsq(weight) - weight).square().sum().backward()
            optimizer.step()
        assert lsq.step.item() == pytest.approx(best, rel=0.05)


def test_channels_last_and_gradients_in_another_layout_change_nothing():
    weight, upstream = normal(1, 4, 3, 2, 2), normal(2, 4, 3, 2, 2)
    step = torch.tensor(0.3)
    plain = gradients(weight, step, 3, "symmetric", 0, upstream)
    other = weight.contiguous(memory_format=torch.channels_last)
    moved = gradients(other, step, 3, "symmetric", 0, upstream)
    assert moved[0].is_contiguous(memory_format=torch.channels_last)
    for one, two in zip(plain, moved, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("shape", [(700, 600), (1, 500_000), (500_000,), (), (0, 3)])
def test_parts_that_fit_the_cache_add_up_to_the_whole(shape):
    weight, upstream = normal(1, *shape, dtype=torch.float64), normal(2, *shape, dtype=torch.float64)
    low, high = -5, 10
    found = gradients(weight, torch.tensor(0.3, dtype=torch.float64), 4, "asymmetric", 5, upstream)
    steps = weight / 0.3
    inside = (steps > low) & (steps < high)
    factor = 1 / math.sqrt(max(weight.numel(), 1) * 15)
    level = steps.round().clamp(low, high)
    assert torch.equal(found[0], level * 0.3)
    assert torch.equal(found[1], upstream * inside)
    of_step = (upstream * torch.where(inside, level - steps, level)).sum() * factor
    of_zero = -0.3 * upstream[~inside].sum() * factor
    assert found[2].item() == pytest.approx(of_step.item(), rel=1e-9)
    assert found[3].item() == pytest.approx(of_zero.item(), rel=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_under_autocast_its_arithmetic_stays_in_float32(grid):
    weight, upstream = normal(1, 40, 30), normal(2, 40, 30)

    def found():
        lsq = LSQ(weight.clone().requires_grad_(), 4, Scheme("mse", grid), learn_offset=grid == "asymmetric")
        leaf = weight.clone().requires_grad_()
        value = lsq(leaf)
        value.backward(upstream)
        return value.detach(), lsq.codes(weight), leaf.grad, *(part.grad for part in lsq.parameters())

    plain = found()
    with torch.autocast("cpu", torch.bfloat16):
        other = found()
    assert len(plain) == (5 if grid == "asymmetric" else 4)
    for one, two in zip(plain, other, strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


def test_under_autocast_a_layer_multiplies_by_the_rounded_float32_weight():
    torch.manual_seed(0)
    layer = nn.Linear(30, 40, bias=False)
    lsq = LSQ(layer.weight, 8)
    parametrize.register_parametrization(layer, "weight", lsq)
    inputs = normal(1, 5, 30)
    on_grid = lsq.quantized(layer.parametrizations.weight.original).dequantize()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(inputs)
        assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight, on_grid)
    assert torch.equal(outputs, nn.functional.linear(inputs.bfloat16(), on_grid.bfloat16()))
    outputs.float().sum().backward()
    assert {part.grad.dtype for part in layer.parameters()} == {torch.float32}


def test_a_layer_with_it_trains():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    lsq = LSQ(layer.weight, 4)
    parametrize.register_parametrization(layer, "weight", lsq)
    target = normal(2, 50, 3)
    inputs = normal(1, 50, 6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        loss = (layer(inputs) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert len(layer.weight.unique()) <= 15


def test_what_is_frozen_stays_frozen():
    lsq = LSQ(torch.randn(4), 4)
    assert not lsq.step.requires_grad


def test_its_state_is_saved():
    lsq, other = LSQ(normal(1, 9), 4, "mse/asymmetric"), LSQ(normal(2, 9), 4, "mse/asymmetric")
    lsq.step.data.mul_(1.5)
    other.load_state_dict(lsq.state_dict())
    assert torch.equal(other(normal(3, 20)), lsq(normal(3, 20)))


def test_nothing_is_drawn_and_no_warning_given():
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = torch.ones(3, requires_grad=True)
        LSQ(weight, 4)(weight).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "mse/per-channel"}, "LSQ learns one step for a tensor, and the scheme mse/symmetric/per-channel"),
        ({"initial_step": "best"}, "'best' is no first step of LSQ: known are rule, lsq"),
        ({"learn_offset": True}, "the grid symmetric has no offset to learn: take the asymmetric one"),
        ({"bits": 9}, "there is no integer grid of 9 bits"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        LSQ(torch.ones(2), **{"bits": 4, **options})

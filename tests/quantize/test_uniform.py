import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qfair_check.errors import OptionError
from qfair_check.quantize.spec import GRIDS, RULES, Scheme, integer_range
from qfair_check.quantize.uniform import quantize_tensor

TINY = torch.finfo(torch.float32).tiny
weights = arrays(
    np.float32,
    array_shapes(max_dims=3, max_side=8),
    elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=True),
).map(torch.from_numpy)
narrow = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1, 1, width=32, allow_subnormal=True)).map(
    torch.from_numpy
)
bit_widths = st.integers(2, 8)
schemes = st.builds(Scheme, st.sampled_from(RULES), st.sampled_from(GRIDS))
some_weights = weights | narrow


def ends(quantized, bits, grid):
    """Lowest and highest value on the grid, in float64."""
    lowest, highest = integer_range(bits, grid)
    scale, zero = quantized.scale.double(), quantized.zero_point.double()
    return (lowest - zero) * scale, (highest - zero) * scale


@given(some_weights, bit_widths, schemes)
def test_a_second_rounding_changes_nothing(values, bits, scheme):
    once = quantize_tensor(values, bits, scheme)
    again = torch.round(once.dequantize() / once.scale) + once.zero_point
    assert torch.equal(again.to(torch.int16), once.codes)


@given(some_weights, bit_widths, st.sampled_from(["absmax", "percentile"]))
def test_restricted_grid_is_odd(values, bits, rule):
    plus, minus = (quantize_tensor(sign * values, bits, Scheme(rule)) for sign in (1, -1))
    assert torch.equal(plus.codes, -minus.codes)
    assert torch.equal(plus.scale, minus.scale)


@given(some_weights, bit_widths, schemes)
def test_error_is_at_most_half_a_step_inside_the_range(values, bits, scheme):
    quantized = quantize_tensor(values, bits, scheme)
    low, high = ends(quantized, bits, scheme.grid)
    wide = values.double()
    inside = (wide >= low) & (wide <= high)
    error = (quantized.dequantize().double() - wide).abs()
    ulps = 2 * wide.abs() * torch.finfo(torch.float32).eps + TINY * 2.0**-23
    assert (error <= quantized.scale.double() / 2 + ulps)[inside].all()
    beyond = torch.where(wide > high, high, low)
    assert torch.allclose(quantized.dequantize().double()[~inside], beyond[~inside], rtol=1e-6, atol=0)


@given(some_weights, bit_widths, schemes)
def test_zero_stays_exactly_zero(values, bits, scheme):
    with_zero = torch.cat([values.flatten(), torch.zeros(1)])
    assert quantize_tensor(with_zero, bits, scheme).dequantize()[-1] == 0


@given(some_weights, bit_widths, schemes)
def test_order_is_kept(values, bits, scheme):
    ordered = values.flatten().sort().values
    assert (quantize_tensor(ordered, bits, scheme).dequantize().diff() >= 0).all()


@given(some_weights, bit_widths, schemes)
def test_no_more_than_two_to_the_bits_values(values, bits, scheme):
    quantized = quantize_tensor(values, bits, scheme)
    distinct = len(set(quantized.dequantize().flatten().tolist()))
    assert quantized.levels() == distinct <= 2**bits
    lowest, highest = integer_range(bits, scheme.grid)
    assert lowest <= quantized.codes.min() <= quantized.codes.max() <= highest


@given(some_weights, bit_widths, st.sampled_from(GRIDS))
def test_absmax_is_the_plain_formula_bit_for_bit(values, bits, grid):
    lowest, highest = integer_range(bits, grid)
    if grid == "asymmetric":
        scale = (values.max().clamp(min=0).double() - values.min().clamp(max=0)).div(highest).float()
    else:
        scale = values.abs().max() / -lowest
    assume(scale >= TINY)
    zero = torch.round(-values.min().clamp(max=0).double() / scale) if grid == "asymmetric" else 0
    quantized = quantize_tensor(values, bits, Scheme(grid=grid))
    assert quantized.scale.item() == scale
    expected = (torch.round(values / scale) + zero).clamp(lowest, highest).sub(zero).float() * scale
    assert torch.equal(quantized.dequantize(), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_torch_fake_quantize_agrees(bits, rule, grid):
    values = torch.from_numpy(np.random.default_rng(bits).laplace(0.05, 1.0, (64, 300)).astype(np.float32))
    quantized = quantize_tensor(values, bits, Scheme(rule, grid))
    oracle = torch.fake_quantize_per_tensor_affine(
        values, quantized.scale.item(), quantized.zero_point.item(), *integer_range(bits, grid)
    )
    compared = off_half_steps(values, quantized.scale)
    assert compared.float().mean() > 0.95
    assert torch.equal(quantized.dequantize()[compared], oracle[compared])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_torch_fake_quantize_agrees_per_channel(bits, grid, axis):
    values = torch.from_numpy(np.random.default_rng(bits).normal(0.05, 1.0, (6, 8, 50)).astype(np.float32))
    values *= torch.arange(1, values.shape[axis] + 1).reshape([-1 if i == axis else 1 for i in range(3)])
    quantized = quantize_tensor(values, bits, Scheme(grid=grid, granularity="per-channel"), channel_axis=axis)
    assert quantized.scale.numel() == values.shape[axis]
    oracle = torch.fake_quantize_per_channel_affine(
        values,
        quantized.scale.flatten(),
        quantized.zero_point.flatten().to(torch.int32),
        axis,
        *integer_range(bits, grid),
    )
    compared = off_half_steps(values, quantized.scale)
    assert compared.float().mean() > 0.95
    assert torch.equal(quantized.dequantize()[compared], oracle[compared])


def off_half_steps(values, scale):
    ratio = values.double() / scale.double()
    return ((ratio - ratio.floor()) - 0.5).abs() > 1e-3


@pytest.mark.parametrize("scheme", [Scheme(rule, granularity="per-channel") for rule in RULES])
def test_per_channel_is_each_channel_alone(scheme):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32))
    values[3] = 0
    together = quantize_tensor(values, 3, scheme)
    alone = [quantize_tensor(row, 3, Scheme(scheme.rule)) for row in values]
    assert torch.equal(together.dequantize(), torch.stack([row.dequantize() for row in alone]))
    assert together.clipped == sum(row.clipped for row in alone)
    assert together.levels() == max(row.levels() for row in alone)


def test_ties_go_to_even():
    values = torch.tensor([-7.0, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 7.0])
    assert quantize_tensor(values, 4, Scheme()).codes.tolist() == [-7, -2, -2, 0, 0, 2, 2, 7]


def test_true_division_not_the_reciprocal():
    differ = 0
    for reach in np.linspace(0.5, 1.5, 50, dtype=np.float32):
        scale = reach / np.float32(127)
        halves = (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)) * scale
        values = np.concatenate([halves, np.nextafter(halves, np.float32(0)), [reach]])
        exact = np.rint(values / scale)
        differ += (exact != np.rint(values * (np.float32(1) / scale))).sum()
        assert quantize_tensor(torch.from_numpy(values), 8, Scheme()).codes.tolist() == exact.tolist()
    assert differ > 0


def test_levels_are_those_of_the_channel_with_the_most():
    values = torch.tensor([[3.0, 1.0, 1.0], [-3.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    assert quantize_tensor(values, 3, Scheme(granularity="per-channel")).levels() == 3
    assert quantize_tensor(values.T, 3, Scheme(granularity="per-channel"), channel_axis=1).levels() == 3
    assert quantize_tensor(values, 3, Scheme()).levels() == 5


def test_clipped_counts_weights_beyond_the_grid():
    values = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    assert quantize_tensor(values, 2, Scheme()).clipped == 0
    full = quantize_tensor(values, 2, Scheme(grid="full"))
    assert (full.codes.tolist(), full.clipped) == ([-2, -1, 1, 1], 1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
def test_all_zero_weights_have_scale_one(rule, grid, granularity):
    quantized = quantize_tensor(torch.zeros(3, 4), 2, Scheme(rule, grid, granularity))
    assert set(quantized.scale.flatten().tolist()) == {1.0}
    assert torch.equal(quantized.dequantize(), torch.zeros(3, 4))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rule", RULES)
def test_subnormal_weights_divide_by_a_normal_number(rule, grid):
    values = torch.tensor([1e-40, -1e-42, 1e-45])
    quantized = quantize_tensor(values, 4, Scheme(rule, grid))
    assert quantized.scale.item() == TINY
    assert torch.isfinite(quantized.dequantize()).all()


@pytest.mark.parametrize("value", [0.3, -0.3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("size", [1, 100])
def test_equal_weights_are_kept(value, rule, grid, size):
    values = torch.full((size,), value)
    assert torch.allclose(quantize_tensor(values, 4, Scheme(rule, grid)).dequantize(), values, rtol=1e-4)


@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
def test_no_weights_at_all(granularity):
    quantized = quantize_tensor(torch.zeros(0, 3), 4, Scheme("mse", granularity=granularity))
    assert quantized.dequantize().shape == (0, 3)
    assert (quantized.levels(), quantized.clipped) == (0, 0)


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_float64_stays_and_halves_widen(given_type, kept):
    values = torch.linspace(-1, 1, 9).to(given_type)
    quantized = quantize_tensor(values, 4, Scheme())
    assert quantized.scale.dtype == quantized.dequantize().dtype == kept
    if kept == torch.float64:
        assert quantized.scale.item() == 1 / 7


def test_the_given_tensor_is_not_changed():
    values = torch.nn.Parameter(torch.linspace(-1, 1, 9))
    quantized = quantize_tensor(values, 2, Scheme("mse"))
    assert torch.equal(values.detach(), torch.linspace(-1, 1, 9))
    assert not quantized.dequantize().requires_grad


def test_bits_without_a_grid():
    with pytest.raises(OptionError, match="no integer grid of 16 bits"):
        quantize_tensor(torch.ones(3), 16, Scheme())

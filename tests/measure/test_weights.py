import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qfair_check.measure.weights import HISTOGRAM_BINS, weight_reach, weights_record
from qfair_check.quantize.model import quantize_model


def linear(rows):
    values = torch.tensor(rows, dtype=torch.float32)
    layer = nn.Linear(values.shape[1], values.shape[0])
    layer.weight.data = values
    return layer


def filled(histogram):
    return {index: count for index, count in enumerate(histogram.counts) if count}


ROWS = [[-3.0, 0.25, 1.5, 0.0], [2.75, -0.75, 0.5, 1.25]]


def test_quantized_weights_by_hand():
    quantized = quantize_model(linear(ROWS), "int3")
    assert quantized.module.weight.tolist() == [[-3, 0, 2, 0], [3, -1, 0, 1]]
    found = weights_record(quantized, 3.0)
    assert (found.elements, found.zeros, found.sparsity) == (8, 3, 0.375)
    assert found.weight_difference == 0.25 + 0.5 + 0.25 + 0.25 + 0.5 + 0.25
    assert (found.histogram.low, found.histogram.high, len(found.histogram.counts)) == (-3, 3, 101)
    assert filled(found.histogram) == {0: 1, 33: 1, 50: 3, 67: 1, 84: 1, 100: 1}
    assert found.layers == quantized.layers


def test_fp32_weights_by_hand():
    found = weights_record(quantize_model(linear(ROWS), "fp32"), 3.0)
    assert (found.elements, found.zeros, found.sparsity, found.weight_difference) == (8, 1, 0.125, 0)
    assert filled(found.histogram) == {0: 1, 37: 1, 50: 1, 54: 1, 58: 1, 71: 1, 75: 1, 96: 1}


def test_layers_add_up():
    net = nn.Sequential(linear([[1.0, 0.0, 0.4]]), nn.ReLU(), linear([[2.0], [-0.8]]))
    found = weights_record(quantize_model(net, "int2"), 2.0)
    assert (found.elements, found.zeros, found.sparsity) == (5, 3, 0.6)
    assert found.weight_difference == pytest.approx(0.4 + 0.8, rel=1e-7)
    assert [layer.name for layer in found.layers] == ["0.weight", "2.weight"]
    assert sum(layer.weight_difference for layer in found.layers) == found.weight_difference
    assert filled(found.histogram) == {50: 3, 75: 1, 100: 1}


def test_the_weight_difference_is_summed_in_float64():
    layer = linear([[2049.0] + [1e-9] * 999])
    tiny = float(np.float32(1e-9))
    found = weights_record(quantize_model(layer, "fp16"), 2049.0)
    assert found.weight_difference == pytest.approx(1 + 999 * tiny, rel=1e-14)
    assert found.zeros == 999


def test_biases_and_norms_are_not_counted():
    net = nn.Sequential(linear([[1.0, 0.5]]), nn.BatchNorm1d(1))
    net[0].bias.data.fill_(100)
    quantized = quantize_model(net, "int8")
    assert weights_record(quantized, 1.0).elements == 2
    assert weight_reach(quantized) == 1


def test_a_tied_weight_is_counted_once():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    net[1].weight = net[0].weight
    found = weights_record(quantize_model(net, "int4"), weight_reach(quantize_model(net, "fp32")))
    assert found.elements == sum(found.histogram.counts) == 15


def test_a_model_without_such_weights():
    quantized = quantize_model(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)), "fp32")
    found = weights_record(quantized, weight_reach(quantized))
    assert (found.elements, found.zeros, found.sparsity, found.weight_difference, found.layers) == (0, 0, None, 0, ())
    assert (found.histogram.low, found.histogram.high) == (-1, 1)
    assert found.histogram.counts == (0,) * 101


@pytest.mark.parametrize(
    ("layers", "reach"),
    [
        ([[[0.5, -2.0]], [[1.0]]], 2.0),
        ([[[0.5, 0.25]], [[-0.125]]], 0.5),
        ([[[0.0, 0.0]]], 1.0),
        ([[[0.0, 1e-3]]], float(np.float32(1e-3))),
    ],
)
def test_the_reach_is_the_largest_absolute_weight(layers, reach):
    assert weight_reach(quantize_model(nn.Sequential(*map(linear, layers)), "fp32")) == reach


def test_weights_beyond_the_reach_fall_in_the_outer_bins():
    found = weights_record(quantize_model(linear([[-5.0, -1.0, 0.0, 1.0, 5.0]]), "fp32"), 1.0)
    assert filled(found.histogram) == {0: 2, 50: 1, 100: 2}


@pytest.mark.parametrize("reach", [1e-3, 0.7, 1.0, 3.0, 1234.5])
def test_zero_lies_in_the_middle_of_a_bin(reach):
    inside = reach / HISTOGRAM_BINS * 0.99
    beyond = reach / HISTOGRAM_BINS * 1.01
    found = weights_record(quantize_model(linear([[-beyond, -inside, 0.0, inside, beyond]]), "fp32"), reach)
    assert filled(found.histogram) == {49: 1, 50: 3, 51: 1}


weights = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


@given(weights, st.sampled_from(["fp32", "fp16", "int8", "int2"]))
def test_the_histogram_holds_every_weight_once(values, precision):
    net = linear([values])
    reach = weight_reach(quantize_model(net, "fp32"))
    found = weights_record(quantize_model(net, precision), reach)
    assert sum(found.histogram.counts) == found.elements == len(values)
    assert len(found.histogram.counts) == HISTOGRAM_BINS
    assert found.histogram.counts[50] >= found.zeros
    assert found.sparsity == found.zeros / len(values)


def test_the_histogram_is_that_of_numpy():
    layer = nn.Linear(50, 40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)
    quantized = quantize_model(layer, "fp32")
    reach = weight_reach(quantized)
    values = layer.weight.detach().double().numpy().reshape(-1)
    assert reach == np.abs(values).max()
    expected = np.histogram(values, bins=101, range=(-reach, reach))[0].tolist()
    assert list(weights_record(quantized, reach).histogram.counts) == expected

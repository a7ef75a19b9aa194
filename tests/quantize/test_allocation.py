from fnmatch import fnmatchcase

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qfair_check
from qfair_check.errors import InputError, OptionError
from qfair_check.precision import Precision
from qfair_check.quantize.allocation import Allocation, layer_of
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model, quantized_share

NAMES = [name for name, _, _ in quantizable_weights(torchvision.models.resnet18(num_classes=5))]
ENDS = ("conv1.weight", "fc.weight")


def plan(precision="int4", ends=ENDS, **words):
    found = Allocation.of(**words).plan(NAMES, Precision(precision), ends)
    return {name: wanted.name for name, wanted in found.items()}


def message(**words):
    with pytest.raises(OptionError) as caught:
        plan(**words)
    return str(caught.value)


def test_without_a_word_every_layer_has_the_precision_of_the_audit():
    assert plan() == dict.fromkeys(NAMES, "int4")
    assert str(Allocation()) == ""


def test_a_name_means_one_layer_and_a_star_several():
    found = plan(layer_bits="conv1=8, fc = 2")
    assert (found.pop("conv1.weight"), found.pop("fc.weight")) == ("int8", "int2")
    assert set(found.values()) == {"int4"}
    found = plan(layer_bits="layer1.*=6,layer1.0.conv?=3,*.downsample.0.weight=fp16")
    assert [found[name] for name in NAMES if name.startswith("layer1.0.")] == ["int3", "int3"]
    assert [found[name] for name in NAMES if name.startswith("layer1.1.")] == ["int6", "int6"]
    assert [name for name, wanted in found.items() if wanted == "fp16"] == [name for name in NAMES if "downsam" in name]


def test_what_wins_over_what():
    assert plan(first_last=8) == dict.fromkeys(NAMES, "int4") | dict.fromkeys(ENDS, "int8")
    assert plan(first_last=8, layer_bits="conv1=6")["conv1.weight"] == "int6"
    found = plan(first_last=8, layer_bits="conv1=6", exclude="conv1,layer?.*")
    assert set(found) == {"fc.weight"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_floats_are_one_precision_for_the_whole_model(precision):
    found = plan(precision, layer_bits="conv1=8", first_last=8, exclude="fc", ends=None)
    assert found == dict.fromkeys(NAMES[:-1], precision)


def test_a_pattern_that_matches_nothing_is_told_with_names_like_it():
    assert message(layer_bits="conv=8") == (
        "--qfair-layer-bits names 'conv', and no layer has this name: close are conv1"
    )
    assert message(exclude="layer1") == (
        "--qfair-exclude names 'layer1', and no layer has this name: to match the 4 layers inside it, write layer1.*"
    )
    told = message(layer_bits="layer1.0.conv9=8")
    assert {"layer1.0.conv1", "layer1.0.conv2"} < set(told.partition("close are ")[2].split(", "))
    told = message(exclude="xyz")
    assert told.endswith("there are conv1, layer1.0.conv1, layer1.0.conv2, layer1.1.conv1, layer1.1.conv2 and 16 more")
    assert "'xyz'" in message(precision="fp16", exclude="xyz")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"layer_bits": "conv1"}, "layer_bits is 'conv1': give layers and bits, such as conv1=8,fc=8"),
        ({"layer_bits": "=8"}, "layer_bits is '=8'"),
        ({"layer_bits": "conv1=8,"}, "layer_bits is 'conv1=8,'"),
        ({"layer_bits": "conv1=9"}, "'9' is not a bit width"),
        ({"layer_bits": {"conv1": 1}}, "'1' is not a bit width"),
        ({"exclude": "fc,"}, "exclude is 'fc,': give names of layers"),
        ({"first_last": "x"}, "'x' is not a bit width"),
        ({"first_last": 32}, "first_last is fp32, which quantizes nothing: name these two layers in --qfair-exclude"),
        ({"first_last": 8, "ends": None}, "first_last needs the order of execution"),
    ],
)
def test_words_that_make_no_sense(words, told):
    assert told in message(**words)


def test_a_list_and_a_mapping_say_the_same():
    of_text = Allocation.of("conv1=8,fc=6", "layer1.*,layer2.*", "8")
    assert of_text == Allocation.of({"conv1": 8, "fc": "int6"}, ["layer1.*", "layer2.*"], 8)
    assert str(of_text) == "conv1=int8, fc=int6, first-last=int8, exclude layer1.*, exclude layer2.*"


@given(
    st.lists(st.tuples(st.sampled_from([*NAMES, "*", "layer1.*", "*.conv?", "*downsample*"]), st.integers(2, 8))),
    st.lists(st.sampled_from(["layer2.*", "fc", "conv1.weight"]), unique=True),
)
def test_the_last_pattern_that_matches_counts_unless_excluded(pairs, exclude):
    text = ",".join(f"{pattern}={bits}" for pattern, bits in pairs)
    found = Allocation.of(text, exclude).plan(NAMES, Precision("int4"))
    for name in NAMES:
        layer = name.removesuffix(".weight")

        def fits(pattern, layer=layer, name=name):
            return fnmatchcase(layer, pattern) or fnmatchcase(name, pattern)

        if any(map(fits, exclude)):
            assert name not in found
        else:
            assert found[name].bits == ([4] + [bits for pattern, bits in pairs if fits(pattern)])[-1]


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_each_layer_gets_its_bits_and_an_excluded_one_stays():
    net = small()
    mixed = quantize_model(net, 2, allocation=Allocation.of("0=8", exclude="4"))
    plain = {bits: quantize_model(net, bits).module for bits in (8, 2)}
    assert torch.equal(mixed.module[0].weight, plain[8][0].weight)
    assert torch.equal(mixed.module[2].weight, plain[2][2].weight)
    assert torch.equal(mixed.module[4].weight, net[4].weight)
    assert [(layer.name, layer.bits, layer.rule) for layer in mixed.layers] == [
        ("0.weight", 8, "absmax"),
        ("2.weight", 2, "absmax"),
    ]
    assert quantized_share(net, Allocation.of(exclude="4")) == (48 + 64, 48 + 8 + 64 + 8 + 24 + 3)


def test_a_layer_at_half_precision_inside_an_integer_model_is_rounded():
    net = small()
    mixed = quantize_model(net, 4, allocation=Allocation.of("0=fp16"))
    assert torch.equal(mixed.module[0].weight, net[0].weight.half().float())
    assert [(layer.bits, layer.rule) for layer in mixed.layers] == [(16, "round"), (4, "absmax"), (4, "absmax")]


def test_a_weight_beyond_half_precision_is_refused_where_its_layer_alone_is_at_half_precision():
    net = small()
    with torch.no_grad():
        net[0].weight[0, 0] = 1e6
    with pytest.raises(InputError, match=r"beyond the largest float16 number, 65504, in 0\.weight \(1e\+06\)"):
        quantize_model(net, 4, allocation=Allocation.of("0=fp16"))
    quantize_model(net, 4, allocation=Allocation.of("0=bf16"))


def test_a_layer_at_fp32_is_left_out_of_the_share():
    net = small()
    by_bits, by_name = Allocation.of("2=4,2=32"), Allocation.of(exclude="2")
    assert quantized_share(net, by_bits) == quantized_share(net, by_name)
    mixed = quantize_model(net, 4, allocation=by_bits)
    assert torch.equal(mixed.module[2].weight, net[2].weight)
    assert mixed.layers == quantize_model(net, 4, allocation=by_name).layers
    assert quantized_share(net, Allocation.of("2=32,2=4")) == quantized_share(net)


@pytest.mark.parametrize("words", [{"exclude": "*"}, {"layer_bits": "*=32"}, {"layer_bits": "0=32", "exclude": "[24]"}])
def test_an_integer_model_has_a_layer_that_is_quantized(words):
    allocation = Allocation.of(**words)
    with pytest.raises(OptionError, match="every layer is left out, and nothing is quantized to int4: exclude fewer"):
        quantize_model(small(), 4, allocation=allocation)
    quantize_model(small(), 16, allocation=allocation)


def test_the_other_name_of_a_tied_weight():
    net = small()
    net.add_module("tied", nn.Linear(8, 8))
    net.tied.weight = net[2].weight
    for words in ({"layer_bits": "tied=8"}, {"exclude": "tied.*"}):
        with pytest.raises(OptionError, match="which has no weight of its own but is tied: name 2"):
            quantize_model(net, 4, allocation=Allocation.of(**words))
    assert quantize_model(net, 4, allocation=Allocation.of("2=8")).layers[1].bits == 8


def test_an_audit_says_what_it_did_and_its_layers_add_up():
    x, y = torch.randn(70, 6, generator=torch.Generator().manual_seed(0)), [index % 3 for index in range(70)]
    net = small()
    found = qfair_check.audit(net, (x, y), [16, 8, 2], allocation=Allocation.of("2=4", exclude="0", first_last=8))
    plain = qfair_check.audit(net, (x, y), [16, 8, 2])
    assert found.model.excluded == ("0.weight",)
    assert found.settings.allocation == "2=int4, first-last=int8, exclude 0"
    assert found.settings.scheme_sha256 != plain.settings.scheme_sha256
    assert [(layer.name, layer.bits) for layer in found.at(2).weights.layers] == [("2.weight", 4), ("4.weight", 8)]
    assert [(layer.name, layer.bits) for layer in found.at(16).weights.layers] == [("2.weight", 16), ("4.weight", 16)]
    for result in found.precisions:
        weights = result.weights
        assert weights.elements == sum(layer.elements for layer in weights.layers) == 64 + 24
        assert weights.zeros == sum(layer.zeros for layer in weights.layers)
        assert weights.weight_difference == sum(layer.weight_difference for layer in weights.layers)
        assert sum(weights.histogram.counts) == weights.elements
    assert found.at(16).groups == plain.at(16).groups
    parameters = 48 + 8 + 64 + 8 + 24 + 3
    assert found.model.parameters == parameters
    assert found.model_bits(2) == 64 * 4 + 24 * 8 + (parameters - 88) * 32
    assert found.model_bits(16) == parameters * 16
    assert found.model_bits(32) == parameters * 32


def test_the_first_and_last_layer_are_those_of_the_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.middle, self.stem = nn.Linear(8, 3), nn.Linear(8, 8), nn.Linear(6, 8)

        def forward(self, x):
            return self.head(self.middle(self.stem(x).relu()).relu())

    found = qfair_check.audit(Backwards(), (torch.randn(40, 6), [0, 1] * 20), 2, allocation=Allocation.of(first_last=8))
    assert {layer.name: layer.bits for layer in found.at(2).weights.layers} == {
        "head.weight": 8,
        "middle.weight": 2,
        "stem.weight": 8,
    }


def test_the_name_of_a_layer():
    assert [layer_of(name) for name in ("weight", "fc.weight", "rnn.weight_ih_l0")] == ["", "fc", "rnn"]


def test_looking_for_the_first_and_last_layer_leaves_a_model_that_remembers_as_it_was():
    class Counts(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return super().forward(x) * torch.where(self.seen == 1, 1.0, -1.0)

    data = (torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), [0, 1, 2] * 20)
    plain, found = (
        qfair_check.audit(Counts(*small()), data, 8, allocation=Allocation.of(first_last=first_last))
        for first_last in (None, 8)
    )
    assert found.fp32 == plain.fp32
    assert found.at(8).overall.flips == plain.at(8).overall.flips

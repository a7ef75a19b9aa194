from dataclasses import replace

import pytest
from wcwidth import wcswidth

from qfair_check.record import LayerWeights
from qfair_check.report.layers import render_layers

SAMPLES = {"A": 100, "B": 50}
CORRECT = {"A": 90, "B": 40}

CONV = LayerWeights("conv1.weight", (8, 3, 3, 3), 8, "absmax", (0.012345,), (0,), 255, 16, 0, 1.23456)
MIXED = LayerWeights("layer1.0.conv1.weight", (16, 8, 3, 3), 4, "mse", (0.01, 0.2) * 8, (0,) * 16, 15, 288, 12, 123.4)
GATES = LayerWeights("attention.in_proj_weight", (24, 8), 4, "absmax", (0.5,), (0,), 13, 0, 0, 0.0)
HALF = LayerWeights("conv1.weight", (8, 3, 3, 3), 16, "round", (), (), 0, 0, 0, 0.001)


@pytest.fixture
def of_layers(make_audit):
    def make(**layers):
        audit = make_audit(SAMPLES, fp32=CORRECT, **dict.fromkeys(layers, CORRECT))
        results = [audit.fp32]
        for name, held in layers.items():
            result = audit.at(name)
            elements, zeros = sum(layer.elements for layer in held), sum(layer.zeros for layer in held)
            weights = replace(
                result.weights,
                elements=elements,
                zeros=zeros,
                sparsity=zeros / elements if elements else None,
                weight_difference=sum(layer.weight_difference for layer in held),
                layers=tuple(held),
            )
            results.append(replace(result, weights=weights))
        return replace(audit, precisions=tuple(results))

    return make


def test_every_layer_is_a_row_with_the_total_below(of_layers):
    audit = of_layers(fp16=[HALF], int4=[CONV, MIXED, GATES])
    model = replace(audit.model, excluded=("embed.weight", "fc.weight"))
    settings = replace(audit.settings, allocation="conv1=int8, exclude embed")
    audit = replace(audit, model=model, settings=settings)
    assert render_layers(audit, audit.quantized, width=102) == (
        "model   m.safetensors, 1,100 parameters, 90.9% of them quantized\n"
        "scheme  absmax/symmetric/per-tensor; layers: conv1=int8, exclude embed\n"
        "\n"
        "fp16\n"
        "layer  shape    bits  rule   scale  sparsity  clipped  levels  difference\n"
        "conv1  8x3x3x3    16  round  -          0.0%     0.0%       -       0.001\n"
        "total  216                              0.0%     0.0%               0.001\n"
        "\n"
        "int4\n"
        "layer                     shape     bits  rule    scale          sparsity  clipped  levels  difference\n"
        "conv1                     8x3x3x3      8  absmax  0.0123             7.4%     0.0%     255       1.235\n"
        "layer1.0.conv1            16x8x3x3     4  mse     0.01…0.2 (16)     25.0%     1.0%      15       123.4\n"
        "attention.in_proj_weight  24x8         4  absmax  0.5                0.0%     0.0%      13           0\n"
        "total                     1,560                                     19.5%     0.8%               124.6\n"
        "\n"
        "excluded, at fp32: embed.weight, fc.weight\n"
        "sparsity: share of weights that are exactly 0; clipped: share beyond the ends of the grid; levels:\n"
        "        codes in use, in the channel with the most; difference: sum of |w~ - w|; a scale for each\n"
        "        channel is told as least…largest (channels)\n"
    )


def table(text):
    return text[text.index("layer  ") : text.index("\n\nsparsity:")].splitlines()


def test_the_middle_of_long_names_goes_where_the_table_would_be_too_wide(of_layers):
    names = [f"encoder.layers.{index}.self_attention.out_proj.weight" for index in (1, 12)]
    audit = of_layers(int4=[replace(CONV, name=name) for name in names])
    lines = table(render_layers(audit, audit.quantized, width=90))
    assert [line.split()[0] for line in lines] == [
        "layer",
        "encoder.laye…1.self_attention.out_proj",
        "encoder.laye…2.self_attention.out_proj",
        "total",
    ]
    wide = table(render_layers(audit, audit.quantized, width=200))
    assert [line.split()[0] for line in wide[1:3]] == [name.removesuffix(".weight") for name in names]


@pytest.mark.parametrize("width", [1, 20, 60])
def test_a_narrow_terminal_still_gets_every_column(of_layers, width):
    audit = of_layers(int4=[replace(CONV, name="features.denseblock4.denselayer16.conv2.weight")])
    lines = table(render_layers(audit, audit.quantized, width=width))
    assert lines[1].split()[:2] == ["feat…16.conv2", "8x3x3x3"] or lines[1].startswith("feat…")
    assert lines[0].endswith("difference")


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "a\nb", "\u202eright", "名" * 60, "e\u0301" * 60, "x" * 5000, "<script>", "שלום"]
)
def test_hostile_names_stay_printable_and_aligned(of_layers, name):
    audit = of_layers(int4=[replace(CONV, name=f"{name}.weight"), GATES])
    audit = replace(audit, model=replace(audit.model, excluded=(name,)), inputs=replace(audit.inputs, model=name))
    audit = replace(audit, settings=replace(audit.settings, scheme=name, allocation=name))
    text = render_layers(audit, audit.quantized)
    assert all(line.isprintable() for line in text.splitlines())
    lines = [line for line in text.splitlines() if line.endswith((" difference", " 1.235", " 0"))]
    assert len({wcswidth(line) for line in lines}) == 1
    assert len(lines) == 4


def test_a_model_without_quantized_weights(of_layers):
    audit = of_layers(int4=[])
    assert "\nint4\nno weights are quantized\n" in render_layers(audit, audit.quantized)


def test_large_differences_are_told_in_full(of_layers):
    held = [replace(CONV, weight_difference=9876.54), replace(MIXED, weight_difference=1234567.89)]
    audit = of_layers(int4=held)
    rows = table(render_layers(audit, audit.quantized))[1:]
    assert [row.split()[-1] for row in rows] == ["9877", "1,234,568", "1,244,444"]


def test_a_weight_without_elements_has_no_shares(of_layers):
    audit = of_layers(int4=[replace(CONV, shape=(0, 3), zeros=0, weight_difference=0.0)])
    assert table(render_layers(audit, audit.quantized))[1].split() == [
        *["conv1", "0x3", "8", "absmax", "0.0123", "-", "-", "255", "0"]
    ]

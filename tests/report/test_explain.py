from dataclasses import replace

import pytest
from wcwidth import wcswidth

from qfair_check.cli import main
from qfair_check.curvature_record import Account, GroupCurvature
from qfair_check.record import LayerWeights
from qfair_check.report.explain import render_explanation

GROUPS = {"White": 300, "Others": 150, "Asian": 100}
LAYERS = ("conv1.weight", "layer3.0.conv1.weight", "fc.weight")


def layers(bits):
    def layer(name, shape, zeros, difference):
        return LayerWeights(name, shape, bits, "absmax", (0.1,), (0,), 15, zeros, 0, difference)

    return (
        layer(LAYERS[0], (10, 50), 250, 3.5),
        layer(LAYERS[1], (20, 20), 0, 0.0),
        layer(LAYERS[2], (100,), 0, 0.0),
    )


def accounted(samples, first, second, measured, bound=None):
    return GroupCurvature(samples, 0.5, 1.0, 2.0, converged=True, account=Account(first, second, measured, bound))


FP32 = [GroupCurvature(samples, 0.5, 1.0, 2.0, converged=True) for samples in (200, 150, 100)]
INT4 = [
    accounted(200, (0.01, 0.01, 0.0), (0.01, 0.03, -0.01), 0.06, 4.0),
    accounted(150, (0.02, 0.01, 0.0), (0.08, 0.4, 0.04), 0.62, 12.5),
    accounted(100, (0.0, -0.01, 0.0), (0.02, 0.04, 0.0), 0.04),
]


@pytest.fixture
def of(make_audit, with_curvature):
    def make(moved=LAYERS, fp32=FP32, groups=GROUPS, **by_precision):
        audit = make_audit(groups, fp32=groups, **dict.fromkeys(by_precision, groups))
        audit = with_curvature(audit, moved=moved, fp32=fp32, **by_precision)
        results = tuple(
            replace(result, weights=replace(result.weights, layers=layers(int(result.precision[-1]))))
            for result in audit.quantized
        )
        return replace(audit, precisions=(audit.fp32, *results))

    return make


def explained(audit, width=100):
    return render_explanation(audit, audit.quantized, width=width)


TABLES = """\
int4: layer layer3.0.conv1 costs group Others most: +0.410 of a predicted +0.550 (measured +0.620);
        +0.035 on average in the other groups
cure    keep layer layer3.0.conv1 at more bits, and audit again: --layer-bits layer3.0.conv1=8

group     n  measured  predicted   first  second  bound
Others  150    +0.620     +0.550  +0.030  +0.520   12.5
White   200    +0.060     +0.050  +0.020  +0.030      4
Asian   100    +0.040     +0.050  -0.010  +0.060      -

layer           bits  Others     White     Asian
layer3.0.conv1     4  +0.410 *  +0.040 *  +0.030 *
conv1              4  +0.100    +0.020    +0.020
fc                 4  +0.040    -0.010     0.000
all                   +0.550    +0.050    +0.050
"""


def test_the_layer_that_hurts_a_group_is_named(of):
    assert explained(of(int4=INT4)) == (
        "model   m.safetensors, 1,100 parameters, 90.9% of them quantized\n"
        "scheme  absmax/symmetric/per-tensor\n"
        "loss    mean cross-entropy in nats, on a subsample of at most 200 samples of each group\n"
        f"\n{TABLES}\n"
        "measured: loss at the precision minus loss at fp32; predicted: the same to second order around fp32,\n"
        "        which is the part of the gradient (first) and that of the Hessian (second); bound: what the\n"
        "        prediction cannot exceed (Tran et al. 2022); the table below it splits the prediction by\n"
        "        layer; * marks the costliest layer of each group; ? marks a prediction that is off by more\n"
        "        than half\n"
    )


def told(audit, width=300):
    """Return headline, warnings, cure and notes."""
    text = explained(audit, width)
    return text.split("\n\n")[1].splitlines()


def test_where_the_expansion_breaks_down_the_gap_is_told(of):
    broken = accounted(200, (0.5, 0.0, 0.0), (8.0, 1.0, 2.0), 2.5)
    missing = GroupCurvature(0, undefined={"account": "no samples"})
    audit = of(int2=[broken, missing, INT4[2]])
    assert told(audit) == [
        "int2: layer conv1 costs group White most: +8.50 of a predicted +11.50 (measured +2.50); +0.02 on average in "
        "the other groups",
        "warning the expansion does not hold here for group White (predicted +11.50, measured +2.50): the ranking of "
        "layers is a hint at most",
        "cure    keep layer conv1 at more bits, and audit again: --layer-bits conv1=8",
        "note    the account of Others is not defined at int2: no samples",
    ]
    assert (
        "group    n  measured  predicted   first  second  bound\n"
        "White  200     +2.50     +11.50?  +0.50  +11.00      -\n"
        "Asian  100     +0.04      +0.05   -0.01   +0.06      -\n"
    ) in explained(audit)


@pytest.mark.parametrize(
    ("predicted", "measured", "holds"),
    [
        (1.0, 0.5, True),
        (1.0, 0.499, False),
        (0.5, 1.0, True),
        (0.499, 1.0, False),
        (-0.3, 0.2, False),
        (0.0005, -0.0056, True),
        (0.0005, -0.0058, False),
    ],
)
def test_the_expansion_is_off_by_at_most_half_or_by_little_beside_the_largest_change(of, predicted, measured, holds):
    groups = [accounted(200, (predicted, 0.0, 0.0), (0.0, 0.0, 0.0), measured), *INT4[1:]]
    assert ("warning" in explained(of(int4=groups))) is not holds


@pytest.mark.parametrize(("measured", "holds"), [(-0.00005, True), (-0.00006, False)])
def test_where_every_change_is_small_the_expansion_may_be_off_by_a_ten_thousandth(of, measured, holds):
    small = accounted(200, (0.00005, 0.0, 0.0), (0.0, 0.0, 0.0), measured)
    assert ("warning" in explained(of(int4=[small] * 3))) is not holds


def test_what_is_little_depends_on_the_precision(of):
    off = accounted(200, (0.001, 0.0, 0.0), (0.0, 0.0, 0.0), -0.001)
    audit = of(int8=[off] * 3, int4=[off, *INT4[1:]])
    assert [line for line in explained(audit, 300).splitlines() if line.startswith("warning")] == [
        "warning the expansion does not hold here for groups "
        + ", ".join(f"{name} (predicted +0.00100, measured -0.00100)" for name in GROUPS)
        + ": the ranking of layers is a hint at most"
    ]


def test_the_least_even_layer_is_named_too(of):
    uneven = [
        accounted(200, (0.0, 0.0, 0.0), (0.5, 0.0, 0.0), 0.5),
        accounted(150, (0.0, 0.0, 0.0), (0.4, 0.0, 0.0), 0.4),
        accounted(100, (0.0, 0.0, 0.0), (0.0, 0.35, 0.0), 0.35),
    ]
    assert told(of(int4=uneven))[:2] == [
        "int4: layer conv1 costs group White most: +0.500 of a predicted +0.500 (measured +0.500); +0.200 on average "
        "in the other groups",
        "int4: layer layer3.0.conv1 is the least even: +0.350 for group Asian, 0.000 on average in the other groups",
    ]


def test_a_tensor_that_is_no_weight_is_a_parameter(of):
    audit = of(moved=("conv1.weight", "fc.bias", "fc.weight"), int4=INT4)
    assert told(audit)[0].startswith("int4: parameter fc.bias costs group Others most: +0.410 of a predicted +0.550")


def test_what_rounds_to_zero_has_no_sign(of):
    tiny = [accounted(200, (4e-4, -4e-4, 0.0), (0.0, 0.0, 0.0), 0.5)] * 3
    rows = [line.split() for line in explained(of(int4=tiny)).splitlines()]
    assert ["conv1", "4", *["0.000", "*"] * 3] in rows
    assert ["layer3.0.conv1", "4", *["0.000"] * 3] in rows


def test_where_no_loss_rises_there_is_nothing_to_cure(of):
    better = [accounted(200, (0.0, -0.1, 0.0), (0.01, 0.0, 0.0), -0.08)] * 3
    assert told(of(int8=better)) == ["int8: no group's loss rises by more than 0.0001"]


def test_a_loss_that_no_layer_explains(of):
    odd = [accounted(200, (0.0, -0.1, 0.0), (0.0, 0.0, 0.0), 0.25)] * 3
    same = "(predicted -0.100, measured +0.250)"
    assert told(of(int4=odd)) == [
        f"int4: to second order no layer costs group White anything {same}",
        f"warning the expansion does not hold here for groups White {same}, Others {same}, Asian {same}: the ranking "
        "of layers is a hint at most",
    ]


def test_a_layer_at_eight_bits_is_left_out(of):
    assert told(of(int8=INT4))[-1] == (
        "cure    keep layer layer3.0.conv1 at more bits, and audit again: --exclude layer3.0.conv1"
    )


@pytest.mark.parametrize(
    ("name", "told_of"), [("int4", "add layer3.0.conv1=8 to --layer-bits"), ("int8", "add layer3.0.conv1 to --exclude")]
)
def test_the_cure_keeps_the_layers_that_have_their_own_bits(of, name, told_of):
    audit = of(**{name: INT4})
    audit = replace(audit, settings=replace(audit.settings, allocation="fc=int8"))
    assert told(audit)[-1] == f"cure    keep layer layer3.0.conv1 at more bits, and audit again: {told_of}"


def test_a_tensor_without_bits_of_its_own_has_no_cure(of):
    audit = of(moved=("conv1.weight", "layer3.0.bias", "fc.weight"), int4=INT4)
    assert [line.split()[0] for line in told(audit)] == ["int4:"]
    assert "layer3.0.bias     -  +0.410 *" in explained(audit)


def test_half_precision_is_that_of_the_whole_model(make_audit, with_curvature):
    audit = make_audit(GROUPS, fp32=GROUPS, fp16=GROUPS)
    parts = [accounted(200, (0.1,), (0.2,), 0.3)] * 3
    assert len(told(with_curvature(audit, moved=("fc",), fp32=FP32, fp16=parts))) == 1


def test_a_model_without_gradients(of):
    missing = [GroupCurvature(0, undefined={"account": "a plain callable has no gradients"})] * 3
    audit = of(moved=(), int4=missing)
    assert told(audit) == [
        "int4: no group has an account of its loss",
        "note    the account of every group is not defined at int4: a plain callable has no gradients",
    ]
    assert "layer  " not in explained(audit)


def test_of_many_groups_and_layers_the_worst_are_shown(of):
    groups = {f"g{index:03}": 10 for index in range(100)}
    moved = tuple(f"layer{index}.weight" for index in range(25))
    parts = [
        accounted(10, tuple(index * layer / 1000 for layer in range(25)), (0.0,) * 25, index / 100)
        for index in range(100)
    ]
    audit = of(moved=moved, groups=groups, fp32=[FP32[0]] * 100, int4=parts)
    text = explained(audit, 200)
    assert "note    90 groups whose loss rises less are not shown\n" in text
    rows = text[text.index("layer    ") :].split("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows[1:]] == [*(f"layer{layer}" for layer in range(24, 14, -1)), "15", "all"]
    assert rows[0].split()[2:] == [f"g{index:03}" for index in range(99, 89, -1)]
    assert (rows[1].split()[2], rows[-2].split()[2], rows[-1].split()[1]) == ("+2.38", "+10.39", "+29.70")


def test_the_costliest_layer_of_a_group_that_is_hurt_little_is_shown(of):
    moved = tuple(f"layer{index}.weight" for index in range(12))
    much = accounted(200, (1.0,) * 11 + (0.0,), (0.0,) * 12, 11.0)
    little = accounted(150, (0.0,) * 11 + (0.5,), (0.0,) * 12, 0.5)
    text = explained(of(moved=moved, int4=[much, little, little]))
    rows = text[text.index("layer    ") :].split("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows[1:]] == [*(f"layer{layer}" for layer in range(9)), "layer11", "2", "all"]
    assert rows[-3].split()[2:] == ["0.00", "+0.50", "*", "+0.50", "*"]
    assert rows[-2].split() == ["2", "more", "+2.00", "0.00", "0.00"]


@pytest.mark.parametrize(
    ("bound", "shown"), [(15_256.8132, "15,257"), (2.5678e9, "2.57e+09"), (12.3456, "12.3"), (0.000123456, "0.000123")]
)
def test_a_bound_has_three_significant_digits(of, bound, shown):
    small = accounted(200, (0.0, 0.0, 0.0), (0.0001, 0.0, 0.0), 0.0001, bound)
    rows = [line.split() for line in explained(of(int4=[small] * 3)).splitlines()]
    assert ["White", "200", "+0.000100", "+0.000100", "0.000000", "+0.000100", shown] in rows


@pytest.mark.parametrize("width", [1, 30, 50])
def test_columns_that_do_not_fit_go_below(of, width):
    lines = explained(of(int4=INT4), width).splitlines()
    heads = [line.split()[2:] for line in lines if line.startswith(("group  ", "layer  "))]
    assert [name for head in heads for name in head] == [
        *["measured", "predicted", "first", "second", "bound"],
        *["Others", "White", "Asian"],
    ]
    assert len(heads) > 2


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eright", "名" * 60, "x" * 5000])
def test_hostile_names_stay_printable_and_aligned(of, name):
    audit = of(moved=(name, *LAYERS[1:]), groups={name: 300, "B": 150, "C": 100}, int4=INT4)
    text = explained(audit, 100)
    assert all(line.isprintable() for line in text.splitlines())
    groups, layers = text.split("\n\n")[2:4]
    assert len({wcswidth(line) for line in groups.splitlines()}) == 1
    assert len({wcswidth(line.rstrip(" *")) for line in layers.splitlines()[1:]}) == 1


def test_the_command_explains_each_precision_or_those_named(of, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    of(int8=INT4, int4=INT4).save("audit.json")
    assert main(["explain", "audit.json"]) == 0
    both = capsys.readouterr().out
    assert "\nint8: layer layer3.0.conv1 costs group Others most" in both
    assert TABLES in both
    assert main(["explain", "audit.json", "--bits", "int4"]) == 0
    assert capsys.readouterr().out == explained(of(int4=INT4)) + "\n"


def test_an_audit_without_curvature_names_the_cure(make_audit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_audit(GROUPS, fp32=GROUPS, int4=GROUPS).save("audit.json")
    assert main(["explain", "audit.json"]) == 4
    assert capsys.readouterr() == (
        "",
        "qfair: error: audit.json holds no curvature: audit the model again with qfair audit ... --curvature\n",
    )

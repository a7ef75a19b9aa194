from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from qfair_check.judge.pareto import candidates_of, standings
from qfair_check.report.compare import render_comparison, short_names

SAMPLES = {"zero": 89, "eight": 87}
FP32 = {"zero": 89, "eight": 56}
LEGEND = (
    "front: yes where no other candidate is as good in both OA (overall accuracy) and FVO (largest gap\n"
    "        between groups) and better in one; fp32 is the baseline, and no candidate; size: bits of the\n"
    "        parameters, and their share of fp32\n"
)


def sized(audit):
    """Return the audit with layers that have the bits of their precision."""

    def with_bits(result, bits):
        layers = tuple(replace(layer, bits=bits) for layer in result.weights.layers)
        return replace(result, weights=replace(result.weights, layers=layers))

    bits = {"fp32": 32, "int8": 8, "int4": 4, "int2": 2}
    return replace(audit, precisions=tuple(with_bits(result, bits[result.precision]) for result in audit.precisions))


@pytest.fixture
def absmax(make_audit):
    return sized(make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 85, "eight": 45}))


@pytest.fixture
def mse(make_audit):
    audit = sized(make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 80, "eight": 56}))
    settings = replace(audit.settings, scheme="mse/symmetric/per-tensor", allocation="conv1=int8")
    return replace(audit, settings=settings)


def compared(audits, names=("a.json", "b.json", "c.json"), width=100, **options):
    names = names[: len(audits)]
    return render_comparison(audits, names, standings(candidates_of(audits, names, **options)), width=width)


def test_audits_side_by_side(absmax, mse):
    assert compared([absmax, mse]) == (
        "audit   a.json: m.safetensors, absmax/symmetric/per-tensor\n"
        "audit   b.json: m.safetensors, mse/symmetric/per-tensor, conv1=int8\n"
        "data    d.csv, 176 samples, 2 groups\n"
        "\n"
        "audit   precision    size          OA     FVO    worst group               front\n"
        "a.json  fp32       35,200  100.0%  0.824  0.356  eight        0.644  n=87  -\n"
        "a.json  int8       11,200   31.8%  0.824  0.356  eight        0.644  n=87  yes\n"
        "a.json  int4        7,200   20.5%  0.739  0.438  eight        0.517  n=87  no\n"
        "b.json  int8       11,200   31.8%  0.824  0.356  eight        0.644  n=87  yes\n"
        "b.json  int4        7,200   20.5%  0.773  0.255  eight        0.644  n=87  yes\n"
        "\n" + LEGEND
    )


def test_one_audit_alone(absmax):
    text = compared([absmax], names=["a.json"])
    marks = [line.split()[-1] for line in text.splitlines() if line.startswith("a.json")]
    assert marks == ["-", "yes", "no"]


def rows(text):
    return [line for line in text[: text.index("\n\nfront:")].splitlines() if line[:2] in ("a.", "b.", "c.")]


def test_each_model_has_its_baseline(absmax, mse, make_audit):
    other = replace(mse, model=replace(mse.model, sha256="b" * 64))
    unknown = replace(mse, model=replace(mse.model, sha256=None))
    changed = sized(make_audit(SAMPLES, fp32={"zero": 88, "eight": 56}, int8={"zero": 88, "eight": 56}))
    for audits, expected in [
        ([absmax, mse], ["a.json"]),
        ([absmax, other, other], ["a.json", "b.json"]),
        ([absmax, unknown, unknown], ["a.json", "b.json", "c.json"]),
        ([absmax, changed], ["a.json", "b.json"]),
    ]:
        assert [row.split()[0] for row in rows(compared(audits)) if " fp32 " in row] == expected


def test_unknown_weights_have_no_size(absmax):
    text = compared([replace(absmax, model=replace(absmax.model, sha256=None))], names=["a.json"])
    assert [row.split()[2] for row in rows(text)] == ["unknown"] * 3


def test_as_many_digits_as_tell_apart(make_audit):
    samples = {"A": 10000, "B": 10000}
    fp32, less = {"A": 9000, "B": 8000}, {"A": 9000, "B": 7999}
    text = compared([make_audit(samples, fp32=fp32, int8=fp32, int4=less)], names=["a.json"])
    assert [row.split()[4:6] for row in rows(text)] == [
        ["0.85000", "0.1000"],
        ["0.85000", "0.1000"],
        ["0.84995", "0.1001"],
    ]


def notes(text):
    return [line for line in text.splitlines() if line.startswith("note ")]


def test_small_groups_are_noted_once_for_all(absmax):
    text = compared([absmax], names=["a.json"], width=200, min_group_size=88)
    assert notes(text) == [
        "note    int8, int4 cannot be judged: group eight has 87 samples, and judging needs 88; "
        "a gap needs two groups, and there is only one to judge"
    ]
    assert [row.split()[-1] for row in rows(text)] == ["-", "unsure", "unsure"]


def test_many_reasons_are_counted(make_audit):
    groups = {f"g{index}": 5 for index in range(9)}
    text = compared([make_audit(groups, fp32=groups, int8=groups)], names=["a.json"], width=300)
    assert notes(text) == [
        "note    int8 cannot be judged: group g0 has 5 samples, and judging needs 30; group g1 has 5 samples, and "
        "judging needs 30; group g2 has 5 samples, and judging needs 30; and 7 more"
    ]


def test_whom_an_unknown_one_could_beat_is_noted(absmax, make_audit):
    unknown = sized(make_audit(SAMPLES, fp32=FP32, int2={"zero": 89, "eight": None}))
    text = compared([absmax, unknown], width=200)
    assert notes(text) == [
        "note    int2 of b.json cannot be judged: group eight: 1 of them has NaN or infinite logits; "
        "a gap needs two groups, and there is only one to judge",
        "note    int8 of a.json is on the front unless a candidate that cannot be judged is better: int2 of b.json",
    ]
    assert [row.split()[-1] for row in rows(text)] == ["-", "unsure", "no", "unsure"]
    assert rows(text)[-1].split()[4:9] == ["undefined", "undefined", "eight", "undefined", "n=87"]


def test_other_data_with_the_same_counts_is_noted(absmax, mse):
    other = replace(mse, data=replace(mse.data, sha256="e" * 64))
    assert notes(compared([absmax, other], width=300)) == [
        "note    a.json and b.json have as many samples in each group, but other inputs, labels or classes (the hashes "
        "of their data differ): compare them only if you know why"
    ]


def test_the_same_measurements_are_noted(absmax, mse):
    twin = replace(absmax, run=replace(absmax.run, seconds=2.0))
    text = compared([absmax, mse, twin])
    assert notes(text) == ["note    a.json and c.json hold the same measurements"]
    assert [row.split()[-1] for row in rows(text) if "c.json" in row] == ["yes", "no"]


def test_names_are_shortened_where_the_table_would_be_too_wide(absmax, mse):
    names = ["runs/2026-01-01/resnet18/absmax.json", "runs/2026-01-01/resnet18/mse.json"]
    lines = compared([absmax, mse], names=names, width=80).splitlines()
    head = next(line for line in lines if line.startswith("audit ") and line.endswith(" front"))
    shown = lines[lines.index(head) + 1 :][:5]
    assert [line.split()[0] for line in shown] == [
        "runs…ax.json",
        "runs…ax.json",
        "runs…ax.json",
        "runs…se.json",
        "runs…se.json",
    ]


def test_names_that_would_be_alike_are_shortened_less(absmax, mse):
    names = [f"runs/{name}/with/some/long/folders/audit.json" for name in "ab"]
    lines = compared([absmax, mse], names=names, width=60).splitlines()
    assert [line.split()[0] for line in lines if " int4 " in line] == [
        "runs/a…/audit.json",
        "runs/b…/audit.json",
    ]


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "a\nb", "\u202eright", "名" * 60, "e\u0301" * 60, "x" * 200, "<script>", "שלום"]
)
def test_hostile_names_stay_printable_and_aligned(make_audit, name):
    audit = make_audit({name: 100, "B": 50}, fp32={name: 80, "B": 45}, int4={name: 80, "B": 45})
    inputs = replace(audit.inputs, model=name, data=name)
    audit = replace(audit, inputs=inputs, settings=replace(audit.settings, scheme=name, allocation=name))
    text = compared([audit], names=["a.json"])
    assert all(line.isprintable() for line in text.splitlines())
    assert len({wcswidth(row[: row.index("n=")]) for row in rows(text)}) == 1
    assert len(rows(text)) == 2


@pytest.mark.parametrize("width", [1, 40])
def test_a_narrow_terminal_still_gets_every_column(absmax, width):
    head = next(line for line in compared([absmax], width=width).splitlines() if line.startswith("audit   precision"))
    assert head.split() == ["audit", "precision", "size", "OA", "FVO", "worst", "group", "front"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.json"], ["a.json"]),
        (["x/a.json", "y/b.json"], ["a.json", "b.json"]),
        (["x/a.json", "y/a.json"], ["x/a.json", "y/a.json"]),
        (["a.json", "y/a.json"], ["a.json", "y/a.json"]),
        (["/a.json", "a.json"], ["//a.json", "a.json"]),
        (["p/x/q/a.json", "p/y/q/a.json", "b.json"], ["x/q/a.json", "y/q/a.json", "b.json"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(paths, names):
    assert list(short_names(paths)) == names


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), unique=True, max_size=6))
def test_names_are_distinct(paths):
    assert len(set(short_names(paths))) == len(paths)

import re
from dataclasses import replace

import pytest
from wcwidth import wcswidth

from qfair_check.judge.limits import gate_limits
from qfair_check.judge.verdicts import judge_audit
from qfair_check.report.table import MOST_GROUPS
from qfair_check.report.terminal import render

GROUPS = {"A": 100, "B": 50}
COUNTS = {"fp32": {"A": 90, "B": 40}, "int8": {"A": 90, "B": 41}, "int4": {"A": 89, "B": 20}}

TABLE = """\
group      n  fp32     int8            int4
A        100  0.900    0.900 +0.000    0.890 -0.010
B         50  0.800 *  0.820 +0.020 *  0.400 -0.400 *
overall  150  0.867    0.873 +0.007    0.727 -0.140
FVO           0.100    0.080 -0.020    0.490 +0.390
"""


def verdicts(audit, **limits):
    return judge_audit(audit, gate_limits(limits))


def test_groups_are_rows_and_precisions_columns(make_audit):
    text = render(make_audit(GROUPS, **COUNTS), ())
    assert TABLE in text
    assert "gate" not in text


def test_the_last_row_says_how_each_precision_fared(make_audit):
    audit = make_audit(GROUPS, **COUNTS)
    assert f"{TABLE}gate          -        pass            FAIL\n" in render(audit, verdicts(audit))


def test_the_preamble_says_what_was_audited(make_audit):
    lines = render(make_audit(GROUPS, **COUNTS), (), width=120).splitlines()
    assert lines[:2] == [
        "model   m.safetensors (resnet18), 1,100 parameters, 90.9% of them quantized, absmax/symmetric/per-tensor",
        "data    d.csv, 150 samples, 2 groups by class",
    ]


def test_columns_that_do_not_fit_go_below(make_audit):
    counts = {f"int{bits}": {"A": 90, "B": 40} for bits in range(8, 1, -1)}
    text = render(make_audit(GROUPS, fp32=COUNTS["fp32"], **counts), (), width=60)
    heads = [line.split()[2:] for line in text.splitlines() if line.startswith("group ")]
    assert [name for head in heads for name in head] == ["fp32", *counts]
    assert len(heads) == 4
    assert max(wcswidth(line) for line in text.splitlines() if re.match("(group|A|B|overall|FVO) ", line)) <= 60


def test_long_lines_are_wrapped_to_the_terminal(make_audit):
    audit = make_audit(GROUPS, **COUNTS)
    text = render(audit, verdicts(audit), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.startswith("model   m.safetensors (resnet18), 1,100 parameters, 90.9% of\n        them quantized, ")


@pytest.mark.parametrize("width", [1, 20, 40])
def test_a_narrow_terminal_still_gets_every_column(make_audit, width):
    text = render(make_audit(GROUPS, **COUNTS), (), width=width)
    assert [name for name in COUNTS if re.search(rf"^group +n +{name}$", text, re.MULTILINE)] == list(COUNTS)


def test_equal_groups_have_no_worst_one(make_audit):
    even = {"A": 80, "B": 40}
    assert "*" not in render(make_audit(GROUPS, fp32=even, int8=even), ()).split("accuracy and its change")[0]


def test_with_many_groups_the_worst_are_shown_and_the_rest_counted(make_audit):
    groups = {f"g{index:03}": 100 for index in range(200)}
    correct = {name: 100 - index // 3 for index, name in enumerate(groups)}
    text = render(make_audit(groups, fp32=correct, int4=correct), ())
    shown = re.findall(r"^(g\d{3}) ", text, re.MULTILINE)
    assert shown[0] in ("g198", "g199")
    assert len(shown) == MOST_GROUPS
    assert f"{200 - MOST_GROUPS} groups with higher accuracy are not shown; the audit holds them all" in text


def test_groups_without_accuracy_are_shown_first_among_many(make_audit):
    groups = {f"g{index:03}": 100 for index in range(50)} | {"empty": 0}
    correct = dict.fromkeys(groups, 90) | {"empty": 0}
    text = render(make_audit(groups, fp32=correct, int4=correct), ())
    assert re.search(r"^empty +0  no samples  no samples$", text, re.MULTILINE)


def test_what_is_not_defined_is_said(make_audit):
    audit = make_audit(GROUPS, fp32=COUNTS["fp32"], int4={"A": 90, "B": None})
    text = render(audit, verdicts(audit))
    assert re.search(r"^B +50  0.800 \*  undefined$", text, re.MULTILINE)
    assert re.search(r"^gate +- +insufficient$", text, re.MULTILINE)
    assert "note    FVO at int4 is not defined: a group has no accuracy" in text


def test_a_limit_finer_than_the_data_is_noted(make_audit):
    audit = make_audit(GROUPS, **COUNTS)
    note = "note    the accuracy of B (n=50) is known to ±0.109 only (95%): a limit of 0.05 is finer than the data"
    assert note in render(audit, verdicts(audit), width=120)
    assert note not in render(audit, verdicts(audit, max_group_drop="0.2", max_fvo_increase="0.2"), width=120)


def test_few_quantized_parameters_are_a_warning(make_audit):
    audit = make_audit(GROUPS, **COUNTS)
    small = replace(audit, model=replace(audit.model, quantized_parameters=100))
    warning = "warning only 9.1% of the parameters lie in layers that are quantized"
    assert warning in render(small, ())
    assert "warning" not in render(audit, ())


def test_a_baseline_worse_than_a_constant_answer_is_a_warning(make_audit):
    guessed, right = ({"A": 30, "B": 30}, {"A": 70, "B": 30})
    warning = (
        "warning at fp32 the accuracy is 0.400, and always answering the commonest class gives 0.667: "
        "are the classes in the order of the model's outputs (--qfair-classes)?"
    )
    assert warning in render(make_audit(GROUPS, fp32=guessed, int8=guessed), (), width=200)
    assert "warning" not in render(make_audit(GROUPS, fp32=right, int8=right), ())


def test_colour_marks_without_changing_the_text(make_audit):
    audit = make_audit(GROUPS, **COUNTS)
    coloured = render(audit, verdicts(audit), colour=True)
    assert "\x1b[31m0.400 -0.400 *\x1b[0m" in coloured
    plain = render(audit, verdicts(audit)).splitlines()
    assert [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in coloured.splitlines()] == plain


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eright", "名" * 60, "e\u0301" * 60, "x" * 5000])
def test_names_are_printable_and_columns_stay_aligned(make_audit, name):
    audit = make_audit({name: 100, "B": 50}, fp32={name: 90, "B": 40}, int4={name: 90, "B": 40})
    rows = [line for line in render(audit, ()).splitlines() if line.endswith(("0.900 +0.000", "0.800 +0.000 *"))]
    assert len(rows) == 2
    assert all(row.isprintable() for row in rows)
    starts = {wcswidth(row[: row.index("0.")]) for row in rows}
    assert len(starts) == 1


def test_hostile_text_in_the_preamble_is_escaped(make_audit):
    audit = make_audit(GROUPS, **COUNTS)
    inputs = replace(audit.inputs, model="\x1b[2Jm", data="d\n", notices=("\x07",), split="\x1b", group_by=("\x1b",))
    text = render(replace(audit, inputs=inputs, settings=replace(audit.settings, scheme="\x1b")), ())
    assert all(line.isprintable() for line in text.splitlines())

import re
from dataclasses import replace

import pytest
from wcwidth import wcswidth

from qfair_check.curvature_record import GroupCurvature
from qfair_check.report.curvature import curvature_lines, undefined_notes
from qfair_check.report.table import MOST_GROUPS
from qfair_check.report.terminal import render

GROUPS = {"White": 300, "Others": 150}
COUNTS = {"White": 290, "Others": 100}
PRECISIONS = ("fp32", "int8", "int4")


def group(samples, gradient_norm=None, lambda_max=None, *, converged=True, reason=""):
    undefined = {} if lambda_max is not None else dict.fromkeys(("loss", "gradient_norm", "lambda_max"), reason)
    return GroupCurvature(
        samples, 0.5, gradient_norm, lambda_max, converged=converged and not undefined, undefined=undefined
    )


@pytest.fixture
def audit(make_audit, with_curvature):
    return with_curvature(
        make_audit(GROUPS, **dict.fromkeys(PRECISIONS, COUNTS)),
        fp32=[group(200, 0.123456, 12.3456), group(150, 2.5, 345.678)],
        int8=[group(200, 0.2, 12.5), group(150, 3.0, 1234.5, converged=False)],
        int4=[group(200, 12345.6, 1234567.0), group(150, reason="1 of them has NaN or infinite logits")],
    )


TABLE = """\
             fp32              int8                int4
group     n  gradient  λmax    gradient   λmax     gradient      λmax
White   200     0.123  12.3         0.2   12.5       12,346  1.23e+06
Others  150       2.5   346 *         3  1,234~ *         -         -
"""
LEGEND = """\
gradient norm and largest Hessian eigenvalue (λmax) of the loss, on a subsample of at most 200
        samples of each group; * marks the largest λmax; ~ marks a λmax that did not converge: the
        true one may be larger
"""


def test_each_precision_has_gradient_norm_and_eigenvalue(audit):
    note = "note    gradient norm and λmax of Others are not defined at int4: 1 of them has NaN or infinite\n"
    assert "\n".join(curvature_lines(audit, width=98)) + "\n" == f"{note}        logits\n\n{TABLE}\n{LEGEND}"


def test_it_stands_below_the_accuracies(audit):
    text = render(audit, (), width=98)
    assert text.endswith(f"\n\n{TABLE}\n{LEGEND}")
    assert text.index("accuracy and its change") < text.index("note    gradient norm")


def test_without_curvature_there_is_no_table(make_audit):
    audit = make_audit(GROUPS, **dict.fromkeys(PRECISIONS, COUNTS))
    assert curvature_lines(audit) == []
    assert "λmax" not in render(audit, ())


def test_all_samples_and_converged_values_need_fewer_words(make_audit, with_curvature):
    groups = [group(300, 1.0, 5.0), group(150, 1.0, 5.0)]
    audit = with_curvature(make_audit(GROUPS, fp32=COUNTS, int4=COUNTS), samples=None, fp32=groups, int4=groups)
    lines = curvature_lines(audit, width=200)
    assert lines[-1] == (
        "gradient norm and largest Hessian eigenvalue (λmax) of the loss, on all samples of each group; * marks the "
        "largest λmax"
    )
    assert "*" not in "".join(lines[:-1])


@pytest.mark.parametrize("samples", [300, 10**9])
def test_a_bound_that_left_out_no_sample_is_no_subsample(make_audit, with_curvature, samples):
    groups = [group(300, 1.0, 5.0), group(150, 1.0, 5.0)]
    audit = with_curvature(make_audit(GROUPS, fp32=COUNTS, int4=COUNTS), samples=samples, fp32=groups, int4=groups)
    text = "\n".join(curvature_lines(audit))
    assert "on all samples of each group" in text.replace("\n        ", " ")
    assert "subsample" not in text


def notes(audit, width=200):
    return [line for line in curvature_lines(audit, width=width) if line.startswith("note ")]


def test_a_reason_for_all_is_told_once(make_audit, with_curvature):
    missing = [group(0, reason="a plain callable has no gradients")] * 2
    audit = with_curvature(make_audit(GROUPS, fp32=COUNTS, int4=COUNTS), fp32=missing, int4=missing)
    assert notes(audit) == [
        "note    gradient norm and λmax of every group are not defined at every precision: a plain callable has no "
        "gradients"
    ]


def test_many_reasons_and_groups_are_counted(make_audit, with_curvature):
    samples = {f"g{index}": 10 for index in range(20)}
    audit = make_audit(samples, fp32=samples)
    same = [group(10, 1.0, 1.0)] * 10 + [replace(group(0, reason="no samples"), gradient_norm=1.0)] * 10
    same = [replace(made, undefined={"lambda_max": "no samples"} if made.undefined else {}) for made in same]
    assert notes(with_curvature(audit, fp32=same)) == [
        "note    λmax of g10, g11, g12, 7 more is not defined at fp32: no samples"
    ]
    each = [group(0, reason=f"reason {index}") for index in range(20)]
    told = notes(with_curvature(audit, fp32=each))
    assert told[9:] == [
        "note    gradient norm and λmax of g9 are not defined at fp32: reason 9",
        "note    10 more reasons like these",
    ]


def test_columns_that_do_not_fit_go_below(audit):
    lines = curvature_lines(audit, width=40)
    heads = [index for index, line in enumerate(lines) if line.startswith("group ")]
    assert [lines[index - 1].split() for index in heads] == [["fp32"], ["int8"], ["int4"]]
    assert max(map(wcswidth, lines)) <= 40


def test_with_many_groups_the_steepest_are_shown(make_audit, with_curvature):
    samples = {f"g{index:03}": 10 for index in range(100)}
    curvature = [group(10, 1.0, float(index)) for index in range(99)] + [group(0, reason="no samples")]
    lines = curvature_lines(with_curvature(make_audit(samples, fp32=samples), fp32=curvature))
    rows = [line.split()[0] for line in lines if line.startswith("g") and line[1].isdigit()]
    assert (rows[:2], len(rows)) == (["g099", "g098"], MOST_GROUPS)
    assert lines[-1] == "70 groups with a smaller λmax are not shown; the audit holds them all"


def test_colour_marks_without_changing_the_text(audit):
    coloured = curvature_lines(audit, width=98, colour=True)
    assert any("\x1b[31m       3  1,234~ *\x1b[0m" in line for line in coloured)
    plain = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in coloured]
    assert plain == curvature_lines(audit, width=98)


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eright", "名" * 60, "x" * 5000])
def test_hostile_names_and_reasons_stay_printable(make_audit, with_curvature, name):
    samples = {name: 10, "B": 10}
    curvature = [group(10, 1.0, 9.0), group(0, reason=name)]
    lines = curvature_lines(with_curvature(make_audit(samples, fp32=samples), fp32=curvature))
    assert all(line.isprintable() for line in lines)
    table = [line for line in lines if line.endswith(("gradient  λmax", " 9", " -"))]
    assert len(table) == 3
    assert len({wcswidth(line) for line in table}) == 1


def test_a_note_names_groups_at_just_the_precisions_that_it_holds_for(make_audit, make_curvature):
    there, lost = (
        make_curvature(50),
        make_curvature(50, lambda_max=None, converged=False, undefined={"lambda_max": "no"}),
    )
    counts = {"A": 40, "B": 40}
    curvature = {"fp32": {"A": lost, "B": there}, "int4": {"A": there, "B": lost}}
    made = make_audit({"A": 50, "B": 50}, fp32=counts, int4=counts, curvature=curvature)
    assert undefined_notes(made, made.precisions, {"lambda_max": "λmax"}) == [
        "note    λmax of A is not defined at fp32: no",
        "note    λmax of B is not defined at int4: no",
    ]

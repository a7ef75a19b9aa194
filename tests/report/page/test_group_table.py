from dataclasses import replace

import pytest

from qfair_check.report.page.group_table import (
    LARGEST,
    LARGEST_LOSS,
    LOWEST,
    accuracy_table,
    curvature_table,
)
from qfair_check.report.page.page import render_page

SAMPLES = {"zero": 89, "eight": 87}


@pytest.fixture
def audit(make_audit):
    fp32 = {"zero": 89, "eight": 56}
    return make_audit(SAMPLES, fp32=fp32, int8=fp32, int4={"zero": 80, "eight": 50}, int2={"zero": 0, "eight": 0})


def texts(row):
    return [cell.text for cell in row.cells]


def marks(table):
    return [[cell.mark for cell in row.cells] for row in table.rows]


def test_every_group_at_every_precision(audit):
    table = accuracy_table(audit)
    assert [name for name, _ in table.heads] == ["fp32", "int8", "int4", "int2"]
    assert [[column.title for column in columns] for _, columns in table.heads] == [
        ["accuracy"],
        *[["accuracy", "change"]] * 3,
    ]
    assert [(row.name, row.samples) for row in (*table.rows, *table.foot)] == [
        ("zero", 89),
        ("eight", 87),
        ("overall", 176),
        ("FVO (largest gap)", None),
    ]
    assert texts(table.rows[0]) == ["1.000", "1.000", "0.000", "0.899", "−0.101", "0.000", "−1.000"]
    assert texts(table.rows[1]) == ["0.644", "0.644", "0.000", "0.575", "−0.069", "0.000", "−0.644"]
    assert texts(table.foot[0]) == ["0.824", "0.824", "0.000", "0.739", "−0.085", "0.000", "−0.824"]
    assert texts(table.foot[1]) == ["0.356", "0.356", "0.000", "0.324", "−0.032", "0.000", "−0.356"]
    accuracy, change = table.rows[1].cells[3:5]
    assert accuracy.below == ("[0.470, 0.673]",)
    assert change.below == ("6 flips",)
    assert float(accuracy.order) == 50 / 87
    assert float(change.order) == -6 / 87


def test_the_lowest_accuracy_and_the_largest_loss_are_marked(audit):
    assert marks(accuracy_table(audit)) == [
        ["", "", "", "", LARGEST_LOSS, "", LARGEST_LOSS],
        [LOWEST, LOWEST, "", LOWEST, "", "", ""],
    ]


def test_equals_are_all_marked_and_gains_never(make_audit):
    made = make_audit({"A": 50, "B": 50, "C": 50}, fp32={"A": 40, "B": 40, "C": 50}, int8={"A": 41, "B": 41, "C": 50})
    assert marks(accuracy_table(made)) == [[LOWEST, LOWEST, ""], [LOWEST, LOWEST, ""], ["", "", ""]]


def test_what_is_not_defined_says_why(make_audit):
    made = make_audit({"A": 50, "B": 0, "C": 40}, fp32={"A": 40, "B": 0, "C": 40}, int8={"A": None, "B": 0, "C": 40})
    table = accuracy_table(made)
    assert texts(table.rows[0]) == ["0.800", "undefined", "-"]
    assert texts(table.rows[1]) == ["no samples", "no samples", "-"]
    assert [cell.order for cell in table.rows[1].cells] == ["", "", ""]
    assert table.notes == (
        "Not defined: B at fp32, B at int8: no samples",
        "Not defined: FVO at fp32, FVO at int8: a group has no accuracy",
        "Not defined: A at int8: 1 of them has NaN or infinite logits",
    )


def test_a_change_that_is_not_defined_says_why(make_audit):
    counts = {"A": 40, "B": 30}
    made = make_audit({"A": 50, "B": 50}, fp32=counts, int4=counts)
    int4 = made.at(4)
    changed = replace(int4.groups[0], accuracy_drop=None, undefined={"accuracy_drop": "NaN at fp32"})
    undefined = {"fvo_increase": "group A: NaN at fp32"}
    int4 = replace(int4, groups=(changed, int4.groups[1]), fvo_increase=None, undefined=undefined)
    table = accuracy_table(replace(made, precisions=(made.fp32, int4)))
    assert texts(table.rows[0]) == ["0.800", "0.800", "-"]
    assert table.notes == (
        "Not defined: change of A at int4: NaN at fp32",
        "Not defined: change of FVO at int4: group A: NaN at fp32",
    )


def test_notes_on_many_groups_are_counted(make_audit):
    counts = {f"g{place}": 40 for place in range(300)}
    made = make_audit(counts, fp32=counts, int4=dict.fromkeys(counts))
    reason, _ = accuracy_table(made).notes
    assert reason.endswith("g19 at int4 and 280 more: 1 of them has NaN or infinite logits")
    groups = tuple(
        replace(group, undefined={"accuracy": name}) for name, group in zip(counts, made.at(4).groups, strict=True)
    )
    notes = accuracy_table(replace(made, precisions=(made.fp32, replace(made.at(4), groups=groups)))).notes
    assert len(notes) == 11
    assert notes[-1] == "Not defined: 291 more reasons like these"


def test_curvature(make_audit, make_curvature):
    fp32 = {"zero": 89, "eight": 56}
    groups = {
        "zero": make_curvature(50, lambda_max=3.14159, gradient_norm=0.25),
        "eight": make_curvature(50, lambda_max=1234.5, residual=0.2, hvps=1, converged=False),
    }
    lost = {**groups, "eight": make_curvature(50, lambda_max=None, residual=None, undefined={"lambda_max": "why not"})}
    made = make_audit(SAMPLES, fp32=fp32, int4=fp32, curvature={"fp32": groups, "int4": lost})
    table = curvature_table(made)
    assert [texts(row) for row in table.rows] == [["0.25", "3.14", "0.25", "3.14"], ["1", "1,234", "1", "-"]]
    assert [row.samples for row in table.rows] == [50, 50]
    assert table.rows[0].cells[1].below == ("0.01, 8 HVPs",)
    assert table.rows[1].cells[1].below == ("0.2, 1 HVP", "not converged")
    assert marks(table) == [["", "", "", ""], ["", LARGEST, "", ""]]
    assert table.notes == (
        "Measured on a subsample of at most 50 samples of each group.",
        "λmax of eight is not defined at int4: why not",
    )


def test_no_curvature_no_table(audit):
    assert curvature_table(audit) is None


def test_the_table_on_the_page(audit, judged, parse):
    parsed = parse(render_page([judged(audit)]))
    table = parsed.one("table", "accuracy")
    (region,) = [element for element in parsed.all("div", "scroll") if table in element.all("table")]
    assert (region.attributes["role"], region.attributes["tabindex"]) == ("region", "0")
    columns = [int(head.attributes["data-column"]) for head in table.all("th", scope="col")]
    assert columns == list(range(9))
    for row in table.all("tr")[1:]:
        assert len(row.inner) == 9
    rows = {row.inner[0].text: row.inner for row in table.one("tbody").all("tr")}
    marked = {
        name: [place for place, cell in enumerate(cells) if cell.all("span", "mark")] for name, cells in rows.items()
    }
    assert marked == {"zero": [6, 8], "eight": [2, 3, 5]}
    assert rows["eight"][5].text == "▼ lowest accuracy: 0.575[0.470, 0.673]"
    assert rows["zero"][6].attributes["data-order"] == repr(-9 / 89)
    assert [row.inner[0].text for row in table.one("tfoot").all("tr")] == ["overall", "FVO (largest gap)"]


def test_a_hundred_groups_are_all_there_and_scroll(make_audit, judged, parse):
    counts = {f"group {index}": 50 for index in range(100)}
    parsed = parse(render_page([judged(make_audit(counts, fp32=counts, int8=counts))]))
    assert len(parsed.one("table", "accuracy").one("tbody").all("tr")) == 100
    (region,) = [e for e in parsed.all("div", "tall") if e.all("table", "accuracy")]
    assert region.attributes["tabindex"] == "0"
    few = {f"group {index}": 50 for index in range(3)}
    parsed = parse(render_page([judged(make_audit(few, fp32=few, int8=few))]))
    assert not parsed.all("div", "tall")


def test_a_drop_that_is_not_known_marks_nobody(audit):
    int4 = audit.at(4)
    groups = tuple(replace(group, accuracy_drop=None) for group in int4.groups)
    changed = replace(audit, precisions=(audit.fp32, replace(int4, groups=groups)))
    assert marks(accuracy_table(changed)) == [["", "", ""], [LOWEST, LOWEST, ""]]

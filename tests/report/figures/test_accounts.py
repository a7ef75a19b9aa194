import pytest

from qfair_check.curvature_record import Account
from qfair_check.report.figures.accounts import MOST_LAYERS, account_exhibit
from qfair_check.report.figures.exhibit import Absent


def test_the_table_holds_both_parts_of_every_layer(curved_audit):
    audit = curved_audit(account=Account((1.0, -2.0), (0.5, 0.25), 3.0))
    table = account_exhibit(audit).table
    assert [row[2:] for row in table.rows if row[0] == "$x$ and $y$" and row[2] == "int4"] == [
        ["int4", "conv.weight", "1", "0.5", "1.5"],
        ["int4", "fc.weight", "-2", "0.25", "-1.75"],
        ["int4", "predicted, all", "-1", "0.75", "-0.25"],
        ["int4", "measured", "", "", "3"],
    ]
    assert {row[1] for row in table.rows} == {"50"}


def test_each_quantized_precision_has_a_heatmap_with_its_numbers(curved_audit, texts):
    drawings = account_exhibit(curved_audit(account=Account((1.0, -2.0), (0.5, 0.25), 3.0))).drawings
    assert len(drawings) == 2
    shown = texts(drawings[1])
    assert {"conv", "fc", "predicted", "measured", "1.50", "−1.75", "−0.25", "3.00"} <= set(shown)
    assert (
        drawings[1].alt
        == "Heatmap of layers and groups at int4: the largest cost is 1.5, of conv.weight to $x$ and $y$."
    )


@pytest.mark.parametrize(
    ("cost", "unit", "cell"), [(4.2e-5, "1e-5", "4.20"), (0.42, "", "0.42"), (4200.0, "1e3", "4.20")]
)
def test_cells_are_in_a_unit_that_shows_them(curved_audit, texts, cost, unit, cell):
    account = Account((cost, 0.0), (0.0, 0.0), cost)
    audit = curved_audit(["A"], ["fp32", "int4"], account=account)
    shown = texts(account_exhibit(audit).drawings[0])
    assert any(text.startswith("int4: change of the loss") and unit in text for text in shown)
    assert cell in shown


def test_more_layers_than_fit_are_added_up(curved_audit, texts):
    moved = tuple(f"layer{place}.weight" for place in range(MOST_LAYERS + 2))
    parts = tuple(float(place) for place in range(len(moved)))
    audit = curved_audit(["A"], ["fp32", "int4"], moved, account=Account(parts, (0.0,) * len(moved), 50.0))
    exhibit = account_exhibit(audit)
    shown = texts(exhibit.drawings[0])
    assert "layer13" in shown
    assert "layer1" not in shown
    assert ["A", "50", "int4", "2 others", "1", "0", "1"] in [list(row) for row in exhibit.table.rows]
    assert any("(2 more at int4)" in note for note in exhibit.notes)


def test_a_group_without_an_account_is_said(curved_audit):
    exhibit = account_exhibit(curved_audit(account=None, undefined={"account": "no samples"}))
    assert "Not drawn: the account of $x$ and $y$ at int4 is not defined: no samples." in exhibit.notes


def test_no_account_at_all_is_absent(curved_audit):
    audit = curved_audit(["A"], ["fp32", "int4"], account=None, undefined={"account": "no samples"})
    absent = account_exhibit(audit)
    assert isinstance(absent, Absent)
    assert absent.reason == "no group has an account: no samples"


def test_hostile_layer_names_are_text(curved_audit, texts):
    shown = texts(account_exhibit(curved_audit(moved=("<b>$w$", "fc.weight"))).drawings[0])
    assert "<b>$w$" in shown

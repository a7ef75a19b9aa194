from qfair_check.report.figures.confidence import BINS, dtdb_exhibit, merged


def test_bins_are_merged_and_none_is_lost():
    assert merged(range(50)) == [sum(range(first, first + 5)) for first in range(0, 50, 5)]


def test_the_table_holds_the_counts_that_are_drawn(curved_audit, with_group):
    audit = with_group(curved_audit(), "int8", 0, dtdb=tuple(range(50)))
    exhibit = dtdb_exhibit(audit)
    assert exhibit.table.head[:3] == ["group", "n", "precision"]
    assert exhibit.table.head[3:] == [f"{place / 10:g} to {(place + 1) / 10:g}" for place in range(10)]
    assert exhibit.table.rows[1] == ["$x$ and $y$", "60", "int8", *map(str, merged(range(50)))]
    assert len(exhibit.table.rows) == len(audit.groups) * 3


def test_what_is_not_defined_is_said(make_audit):
    audit = make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": None, "B": 50})
    audit.at("int4").groups[0].undefined["loss"] = "NaN logits"
    exhibit = dtdb_exhibit(audit)
    assert "Not drawn: probability of the true class of A at int4 is not defined: NaN logits." in exhibit.notes
    assert exhibit.table.rows[1][3:] == ["not defined"] * BINS


def test_an_audit_without_it_says_how_to_get_it(curved_audit, with_group):
    audit = curved_audit(["A"], ["fp32"])
    assert "audit the model again" in dtdb_exhibit(with_group(audit, "fp32", 0, dtdb=())).reason


def test_each_drawn_group_has_a_panel(curved_audit, texts):
    shown = texts(dtdb_exhibit(curved_audit([f"g{place}" for place in range(13)])).drawings[0])
    assert sum(text.startswith("g") for text in shown) == 12

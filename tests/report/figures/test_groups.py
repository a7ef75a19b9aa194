import pytest

from qfair_check.errors import OptionError
from qfair_check.judge.statistics import wilson_interval
from qfair_check.report.figures.groups import accuracy_exhibit, distance_exhibit, loss_exhibit

HEBREW, JAPANESE = "\u05e2\u05d1\u05e8\u05d9\u05ea", "\u65e5\u672c\u8a9e"


def test_the_table_holds_every_accuracy_with_n_and_interval(curved_audit):
    audit = curved_audit([f"g{place}" for place in range(20)])
    table = accuracy_exhibit(audit).table
    assert table.head == ["group", "n", "fp32", "int8", "int4"]
    assert [row[0] for row in table.rows] == list(audit.groups)
    for index, row in enumerate(table.rows):
        for cell, result in zip(row[2:], audit.precisions, strict=True):
            group = result.groups[index]
            low, high = wilson_interval(group.correct, group.samples)
            assert row[1] == str(group.samples)
            assert cell == f"{group.accuracy:.3f} [{low:.3f}, {high:.3f}]"


def test_twelve_groups_are_drawn_the_worst_and_the_best(curved_audit, texts):
    names = [f"g{place}" for place in range(20)]
    audit = curved_audit(names)
    ranked = sorted(names, key=lambda name: audit.at("int4").groups[names.index(name)].accuracy)
    exhibit = accuracy_exhibit(audit)
    drawn = set(texts(exhibit.drawings[0])) & set(names)
    assert drawn == {*ranked[:11], ranked[-1]}
    assert exhibit.notes == (
        "8 groups are in the table only: drawn are the 11 with the lowest accuracy at int4, and the one with the "
        "highest.",
    )


def test_twelve_groups_are_all_drawn_without_a_note(curved_audit, texts):
    names = [f"g{place}" for place in range(12)]
    exhibit = accuracy_exhibit(curved_audit(names))
    assert set(names) <= set(texts(exhibit.drawings[0]))
    assert exhibit.notes == ()


def test_hostile_names_are_text(curved_audit, texts):
    shown = texts(accuracy_exhibit(curved_audit()).drawings[0])
    for name in ("$x$ and $y$", "<script>alert(1", HEBREW, JAPANESE, "two\\nlines", "plain"):
        assert any(text.startswith(name) for text in shown), name


def test_what_is_not_defined_is_not_drawn_and_said(make_audit, marks):
    audit = make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": None, "B": 50})
    exhibit = accuracy_exhibit(audit)
    assert marks(exhibit.drawings[0]) == 2 + 3  # legend and values
    assert exhibit.notes == ("Not drawn: accuracy of A at int4 is not defined: 1 of them has NaN or infinite logits.",)
    assert exhibit.table.rows[0][-1] == "not defined"


def test_precisions_can_be_chosen_and_keep_the_order_of_the_audit(curved_audit, texts):
    exhibit = accuracy_exhibit(curved_audit(), ["int4", "fp32"], key="accuracy-int4")
    assert exhibit.table.head == ["group", "n", "fp32", "int4"]
    assert "int8" not in texts(exhibit.drawings[0])
    assert exhibit.drawings[0].svg.count('id="accuracy-int4-') == exhibit.drawings[0].svg.count(" id=")


def test_a_precision_that_is_not_held_is_an_error(curved_audit):
    with pytest.raises(OptionError, match="holds no int2"):
        accuracy_exhibit(curved_audit(), ["int2"])


def test_distances_are_of_quantized_precisions(curved_audit, with_group):
    audit = with_group(curved_audit(), "int4", 0, cosine_distance=0.25, l1_distance=7.0, l2_distance=3.5)
    table = distance_exhibit(audit).table
    assert table.head == ["group", "n", "precision", "cosine distance", "L1 distance", "L2 distance"]
    assert [row[2] for row in table.rows[:2]] == ["int8", "int4"]
    assert table.rows[1][3:] == ["0.25", "7", "3.5"]


def test_values_over_many_magnitudes_get_a_log_axis_and_zero_is_said(curved_audit, with_group, texts):
    audit = with_group(with_group(curved_audit(), "int8", 1, loss=0.0), "int4", 0, loss=400.0)
    exhibit = loss_exhibit(audit)
    assert "loss, log scale" in texts(exhibit.drawings[0])
    assert exhibit.notes == (
        "Not drawn: loss of <script>alert(1)</script> at int8 is 0 or less, which the logarithmic axis cannot show; "
        "the table has it.",
    )
    assert exhibit.table.rows[1][3] == "0"
    assert "loss" in texts(loss_exhibit(curved_audit()).drawings[0])

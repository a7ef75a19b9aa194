import pytest

from qfair_check.errors import InputError
from qfair_check.report.figures.front import front_exhibit


@pytest.fixture
def audits(make_audit):
    sizes = {"A": 100, "B": 100}
    return [
        make_audit(sizes, fp32={"A": 90, "B": 90}, int8={"A": 90, "B": 80}, int4={"A": 70, "B": 50}),
        make_audit(sizes, fp32={"A": 90, "B": 90}, int8={"A": 75, "B": 75}, int4={"A": 80, "B": 50}),
    ]


def test_one_audit(audits, texts):
    exhibit = front_exhibit(["a.json"], audits[:1])
    assert exhibit.table.head == ["precision", "n", "overall accuracy", "FVO", "on the front"]
    assert exhibit.table.rows == [
        ["fp32", "200", "0.9000 [0.851, 0.934]", "0.0000", "baseline"],
        ["int8", "200", "0.8500 [0.794, 0.893]", "0.1000", "yes"],
        ["int4", "200", "0.6000 [0.531, 0.665]", "0.2000", "no"],
    ]
    assert exhibit.drawings[0].alt == "Scatter plot; on the Pareto front: int8."
    assert {"fp32", "int8", "int4", "FVO", "overall accuracy"} <= set(texts(exhibit.drawings[0]))


def test_several_audits_are_told_apart(audits, texts):
    exhibit = front_exhibit(["before <b>", "after"], audits)
    assert [row[0] for row in exhibit.table.rows] == ["before <b>"] * 3 + ["after"] * 3
    assert [row[-1] for row in exhibit.table.rows] == ["baseline", "yes", "no"] * 1 + ["baseline", "yes", "no"]
    assert exhibit.drawings[0].alt == "Scatter plot; on the Pareto front: int8 of before <b>, int8 of after."
    assert {"before <b>", "after"} <= set(texts(exhibit.drawings[0]))


def test_points_at_one_place_share_a_label(make_audit, texts):
    audit = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 80}, int8={"A": 90, "B": 80}, int4={"A": 50, "B": 20})
    assert "fp32, int8" in texts(front_exhibit(["a"], [audit]).drawings[0])


def test_a_candidate_without_fvo_is_not_drawn_and_said(make_audit, texts):
    audit = make_audit(
        {"A": 100, "B": 100}, fp32={"A": 90, "B": 80}, int8={"A": 90, "B": 80}, int4={"A": 50, "B": None}
    )
    exhibit = front_exhibit(["a"], [audit])
    assert "int4" not in texts(exhibit.drawings[0])
    assert any(note.startswith("Not drawn: int4: ") for note in exhibit.notes)
    assert exhibit.table.rows[-1][3:] == ["not defined", "unsure"]


def test_small_groups_are_drawn_and_said(make_audit):
    audit = make_audit({"A": 10, "B": 100}, fp32={"A": 9, "B": 80}, int4={"A": 5, "B": 60})
    exhibit = front_exhibit(["a"], [audit])
    assert exhibit.drawings
    assert any(note.startswith("int4 cannot be judged: ") for note in exhibit.notes)


def test_audits_of_other_groups_cannot_be_compared(audits, make_audit):
    other = make_audit({"A": 100, "C": 100}, fp32={"A": 90, "C": 90}, int4={"A": 90, "C": 80})
    with pytest.raises(InputError, match="cannot be compared"):
        front_exhibit(["a", "b"], [audits[0], other])

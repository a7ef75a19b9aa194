from dataclasses import replace

import pytest

from qfair_check.report.figures.all import exhibits
from qfair_check.report.figures.difficulty import difficulty_exhibit
from qfair_check.training_record import TrainingEpoch, TrainingRecord


def training(groups=("A", "B"), epochs=3, chosen=2, samples=10):
    return TrainingRecord(
        "fair-qat",
        "int4",
        tuple(groups),
        (samples,) * len(groups),
        (samples,) * len(groups),
        tuple(
            TrainingEpoch(
                1.0, tuple(min(place + epoch, samples) for place in range(len(groups))), (epoch,) * len(groups)
            )
            for epoch in range(epochs)
        ),
        chosen,
    )


def test_the_table_holds_counts_and_shares():
    table = difficulty_exhibit(training()).table
    assert table.head == ["group", "epoch", "right of those trained on", "right of those held out"]
    assert table.rows[0] == ["A", "1", "0 of 10 (0.000)", "0 of 10 (0.000)"]
    assert table.rows[5] == ["B", "3", "3 of 10 (0.300)", "2 of 10 (0.200)"]
    assert difficulty_exhibit(training(samples=0, epochs=1, chosen=1)).table.rows[0][2:] == ["0 of 0", "0 of 0"]


def test_each_group_has_a_panel_and_the_chosen_epoch_a_line(texts):
    exhibit = difficulty_exhibit(training())
    shown = texts(exhibit.drawings[0])
    assert {"A", "B", "n=10", "trained on", "held out"} <= set(shown)
    assert "epoch; the upright line: the one that was taken" in shown
    assert "that of epoch 2" in exhibit.notes[0]


def test_rounding_that_was_taken_has_no_line(texts):
    exhibit = difficulty_exhibit(training(chosen=None))
    assert "epoch" in texts(exhibit.drawings[0])
    assert "rounded without training" in exhibit.notes[0]


@pytest.mark.parametrize("epochs", [1, 40])
def test_many_groups_with_strange_names_are_told_apart(epochs, texts):
    names = ["<script>alert(1)</script>", "$x$", *(f"a group with a long name, {place}" for place in range(18))]
    exhibit = difficulty_exhibit(training(names, epochs, 1, 60))
    assert "<script" not in exhibit.drawings[0].svg
    assert exhibit.notes[-1].startswith("8 groups are in the table only")
    assert len({row[0] for row in exhibit.table.rows}) == 20
    assert sum(text.startswith("n=") for text in texts(exhibit.drawings[0])) == 12


@pytest.mark.parametrize(("epochs", "has_points"), [(1, True), (15, True), (16, False)])
def test_points_do_not_hide_dashes(epochs, has_points):
    svg = difficulty_exhibit(training(epochs=epochs, chosen=1, samples=60)).drawings[0].svg
    assert ("<use" in svg) == has_points
    assert "stroke-dasharray" in svg


def test_a_group_of_which_none_is_held_out_has_the_other_line_alone(texts):
    some = training(epochs=16)
    none = replace(
        some,
        held_out_samples=(10**6, 0),
        epochs=tuple(replace(epoch, held_out=(0, 0), fit=(1, 1)) for epoch in some.epochs),
    )
    exhibit = difficulty_exhibit(none)
    assert exhibit.table.rows[-1] == ["B", "16", "1 of 10 (0.100)", "0 of 0"]
    assert {"n=1,000,000", "n=0"} <= set(texts(exhibit.drawings[0]))
    lines = difficulty_exhibit(some).drawings[0].svg.count("<path") - exhibit.drawings[0].svg.count("<path")
    assert lines == 1


def test_it_is_shown_where_the_audit_has_it(curved_audit):
    audit = curved_audit()
    shown, absent = exhibits(replace(audit, training=training()), "one-")
    assert [one.key for one in shown if "difficulty" in one.title] == ["one-difficulty"]
    assert not [one for one in (*exhibits(audit)[0], *absent) if "difficulty" in one.title]

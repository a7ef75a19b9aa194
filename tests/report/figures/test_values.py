from qfair_check.judge.text import MOST_REASONS
from qfair_check.report.figures.values import (
    Quantity,
    Value,
    below_log_notes,
    drawn_groups,
    table_names,
    undefined_notes,
)


def of(names, make_audit):
    counts = dict.fromkeys(names, 40)
    return make_audit(dict.fromkeys(names, 50), fp32=counts, int4=counts)


def test_a_note_names_groups_at_just_the_precisions_that_it_holds_for(make_audit):
    audit = of("ABC", make_audit)
    missing, there = Value(None, "no samples"), Value(1.0)
    alike = Quantity("loss", {"fp32": (missing, missing, there), "int4": (missing, missing, there)})
    assert undefined_notes(audit, [alike]) == ("Not drawn: loss of A, B at fp32, int4 is not defined: no samples.",)
    apart = Quantity("loss", {"fp32": (missing, there, there), "int4": (there, missing, there)})
    assert undefined_notes(audit, [apart]) == (
        "Not drawn: loss of A at fp32 is not defined: no samples.",
        "Not drawn: loss of B at int4 is not defined: no samples.",
    )


def test_doubts_and_zeros_are_told_at_just_their_precisions(make_audit):
    audit = of("AB", make_audit)
    doubtful, zero, there = Value(2.0, is_settled=False), Value(0.0), Value(1.0)
    quantity = Quantity("λmax", {"fp32": (doubtful, zero), "int4": (zero, doubtful)})
    assert undefined_notes(audit, [quantity]) == (
        "Hollow: λmax of A at fp32 did not converge: the true value may be larger.",
        "Hollow: λmax of B at int4 did not converge: the true value may be larger.",
    )
    assert [note.partition(" is 0")[0] for note in below_log_notes(audit, quantity)] == [
        "Not drawn: λmax of B at fp32",
        "Not drawn: λmax of A at int4",
    ]
    assert below_log_notes(audit, Quantity("λmax", {"int4": (there, there)})) == ()


def test_many_groups_are_counted(make_audit):
    audit = of([f"g{place}" for place in range(9)], make_audit)
    values = (*[Value(None, "no samples")] * 8, Value(1.0))
    (note,) = undefined_notes(audit, [Quantity("loss", {"int4": values})])
    assert note == "Not drawn: loss of g0, g1, g2, g3, g4 and 3 more at int4 is not defined: no samples."
    (note,) = undefined_notes(audit, [Quantity("loss", {"int4": (Value(None, "no"),) * 9})])
    assert note == "Not drawn: loss of every group at int4 is not defined: no."


def test_many_reasons_are_counted(make_audit):
    audit = of([f"g{place}" for place in range(20)], make_audit)
    values = tuple(Value(None, f"reason {place}") for place in range(20))
    notes = undefined_notes(audit, [Quantity("loss", {"int4": values})])
    assert len(notes) == MOST_REASONS + 1
    assert notes[-1].startswith("10 more reasons")


def test_a_group_without_accuracy_is_among_the_worst(make_audit):
    names = [f"g{place}" for place in range(30)]
    counts = {name: 20 + place for place, name in enumerate(names)}
    audit = make_audit(dict.fromkeys(names, 50), fp32=counts, int4=counts | {"g25": None})
    assert drawn_groups(audit) == [*range(10), 25, 29]


def test_long_names_stay_apart_in_tables(make_audit):
    head, inner = "x" * 150, "y" * 5000
    names = [f"{head}1", f"{head}2", f"a{inner}b", f"a{inner[:2000]}z{inner[2000:]}b", "plain"]
    shown = table_names(of(names, make_audit))
    assert len(set(shown)) == len(names)
    assert all(len(name) <= 104 for name in shown)
    assert table_names(of(["plain", "two\nlines"], make_audit)) == ["plain", "two\\nlines"]


def test_cells_tell_interval_and_doubt():
    assert Value(0.5, interval=(0.25, 0.75)).text() == "0.500 [0.250, 0.750]"
    assert Value(12345.678, is_settled=False).text() == "1.235e+04 (not converged)"
    assert Value(None, "no samples").text() == "not defined"

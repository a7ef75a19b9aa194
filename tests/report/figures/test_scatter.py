from qfair_check.report.figures.scatter import Scatter, numbered_names, scatter_of, scatter_plot
from qfair_check.report.figures.values import Quantity, Value, curved, measured

X = Quantity("x", {"int4": (Value(1.0), Value(None, "no samples"), Value(0.0), Value(300.0))})
Y = Quantity("y", {"int4": (Value(5.0), Value(6.0), Value(7.0), Value(8.0))})


def test_only_points_with_both_values_are_drawn():
    assert Scatter(X, Y).at("int4") == {0: (1.0, 5.0), 2: (0.0, 7.0), 3: (300.0, 8.0)}


def test_a_log_axis_has_positive_points_only():
    assert scatter_of(X, Y).at("int4") == {0: (1.0, 5.0), 3: (300.0, 8.0)}
    assert scatter_of(X, Y).log_x
    assert not scatter_of(X, Y).log_y


def test_the_key_names_every_number_with_n(curved_audit, texts):
    audit = curved_audit()
    panel = scatter_of(
        measured("loss", "loss", audit.precisions), curved("gradient norm", "gradient_norm", audit.precisions)
    )
    shown = texts(scatter_plot(audit, [panel], "s"))
    names = numbered_names(audit, [group.samples for group in audit.fp32.groups])
    assert [number for number, _, _ in names] == ["1", "2", "3", "4", "5", "6"]
    for number, name, size in names:
        assert {number, name, size} <= set(shown)
    assert {"loss", "gradient norm", "numbers: groups at int4"} <= set(shown)

import pytest

from qfair_check.report.figures.canvas import WIDTH, text_width
from qfair_check.report.figures.dots import dot_plot, panel_of
from qfair_check.report.figures.exhibit import Exhibit
from qfair_check.report.figures.groups import accuracy_exhibit
from qfair_check.report.figures.values import Quantity, Value, measured

WIDE = ("W" * 50, "\u65e5\u672c\u8a9e" * 20, "\u05e2" * 60, "plain")


def test_names_stay_on_the_sheet_and_beside_n(curved_audit, parsed):
    exhibit = accuracy_exhibit(curved_audit(WIDE))
    assert isinstance(exhibit, Exhibit)
    rows: dict[float, list[tuple[float, float]]] = {}
    for element in parsed(exhibit.drawings[0]).iter("text"):
        if element.get("text-anchor") == "end":
            right, size = float(element.get("x")), float(element.get("font-size"))
            middle = round(float(element.get("y")) - 0.36 * size)
            rows.setdefault(middle, []).append((right, text_width(element.text, size)))
    pairs = [sorted(row) for row in rows.values() if len(row) == 2]
    assert len(pairs) == len(WIDE)
    for (name_end, name_width), (size_end, size_width) in pairs:
        assert name_end - name_width >= 0
        assert name_end < size_end - size_width
        assert size_end < WIDTH / 2


@pytest.mark.parametrize(
    ("numbers", "log"),
    [((1.0, 50.0), False), ((1.0, 200.0), True), ((0.0, 1.0, 200.0), True), ((-1.0, 1.0, 200.0), False)],
)
def test_a_wide_range_of_positive_values_is_logarithmic(numbers, log):
    assert panel_of(Quantity("loss", {"int4": tuple(map(Value, numbers))})).log is log


def test_the_description_tells_the_extremes_at_the_narrowest_precision(curved_audit, with_group):
    audit = with_group(with_group(curved_audit(), "int4", 0, loss=2.5), "int4", 2, loss=0.125)
    panel = panel_of(measured("loss", "loss", audit.precisions))
    alt = dot_plot(audit, [panel], "loss", [1] * len(audit.groups)).alt
    assert alt == (
        f"Dot plot with a row for each group: loss at int4 runs from 0.125 ({audit.groups[2]}) to 2.5 ($x$ and $y$)."
    )


def test_intervals_are_lines(make_audit, parsed):
    audit = make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": 30, "B": 50})
    drawing = accuracy_exhibit(audit).drawings[0]
    strokes = [path for path in parsed(drawing).iter("path") if path.get("stroke-opacity") == "0.7"]
    assert len(strokes) == 4

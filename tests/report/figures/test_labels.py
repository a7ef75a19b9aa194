from hypothesis import given
from hypothesis import strategies as st

from qfair_check.report.figures.canvas import text_width
from qfair_check.report.figures.labels import placed

BOX = (0.0, 0.0, 300.0, 200.0)
POINTS = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=15)


@given(POINTS)
def test_every_label_is_placed_in_the_box(points):
    labels = [(str(place), point) for place, point in enumerate(points)]
    found = placed(labels, points, BOX, 10)
    assert [(text, point) for text, _, point in found] == labels
    for text, (x, y), _ in found:
        half = text_width(text, 10, bold=True) / 2
        assert half <= x <= 300 - half
        assert 5 <= y <= 195


def test_labels_of_points_that_lie_close_do_not_overlap():
    points = [(100.0 + 4 * place, 100.0) for place in range(5)]
    found = placed([(str(place), point) for place, point in enumerate(points)], points, BOX, 10)
    spots = [spot for _, spot, _ in found]
    for place, (x, y) in enumerate(spots):
        assert all(abs(x - a) > 7 or abs(y - b) > 9 for a, b in spots[:place])

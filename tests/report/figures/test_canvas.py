import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.report.figures.canvas import shown_names, text_width


@given(st.lists(st.text(), max_size=8, unique=True), st.floats(90, 300))
def test_names_fit_and_differ(names, room):
    shown = shown_names(names, room)
    assert len(set(shown)) == len(shown) == len(names)
    assert all(text_width(name) <= room for name in shown)
    assert all(name.isprintable() for name in shown)


@pytest.mark.parametrize(("text", "least"), [("AAAA", 36), ("日本", 24), ("name", 20), ("\u0301", 0), ("", 0)])
def test_width_is_not_underestimated(text, least):
    assert text_width(text, 12) >= least


def test_names_that_look_alike_are_numbered():
    names = [f"{'x' * 30}{middle}{'y' * 30}" for middle in "abc"]
    shown = shown_names(names, 100)
    assert [name.endswith(end) for name, end in zip(shown, ("y", " (2)", " (3)"), strict=True)] == [True] * 3

import pytest
from wcwidth import wcswidth

from qfair_check.report.table import aligned, wrapped


def test_columns_start_or_end_at_the_same_place():
    assert aligned([["a", "b", "c"], ["long", "", "33"], ["名", "x", "4"]], right=[2]) == [
        "a     b   c",
        "long     33",
        "名    x   4",
    ]


def test_blanks_at_the_end_are_left_out():
    assert aligned([["a", "long"], ["b", ""]]) == ["a  long", "b"]


def test_rows_of_other_lengths_are_an_error():
    with pytest.raises(ValueError, match="argument 2 is"):
        aligned([["a", "b"], ["a"]])


@pytest.mark.parametrize("width", [1, 40, 60])
def test_lines_are_wrapped_and_go_on_indented(width):
    lines = wrapped(["note    " + "word " * 40], width)
    assert len(lines) > 2
    assert all(line.startswith(" " * 8 + "word") for line in lines[1:])
    assert max(map(wcswidth, lines)) <= max(width, 40)

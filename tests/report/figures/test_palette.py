from itertools import combinations

import pytest

from qfair_check.precision import Precision
from qfair_check.report.figures.palette import COLOURS, MARKS, audit_mark


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.variable)
def test_each_stands_out_on_light_and_on_dark(colour):
    assert contrast(colour.light, "#ffffff") >= 3
    assert contrast(colour.light, "#f2f2f2") >= 3
    assert contrast(colour.dark, "#1e2126") >= 3


def test_every_precision_has_a_mark_of_its_own():
    known = ["fp32", "fp16", "bf16", *(f"int{bits}" for bits in range(2, 9)), "asis"]
    assert {Precision(name).name for name in known} == set(MARKS)
    for one, other in combinations(MARKS.values(), 2):
        assert one.colour != other.colour
        assert one.marker != other.marker


def test_audits_are_told_apart_without_colour():
    assert len({audit_mark(index).marker for index in range(9)}) == 9
    assert audit_mark(9) == audit_mark(0)

from collections.abc import Callable, Mapping
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from qfair_check.curvature_record import Account
from qfair_check.record import Audit
from qfair_check.report.figures.exhibit import Drawing

HOSTILE = (
    "$x$ and $y$",
    "<script>alert(1)</script>",
    "\u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u65e5\u672c\u8a9e",
    "two\nlines",
    "plain",
)
PRECISIONS = ("fp32", "int8", "int4")


@pytest.fixture(scope="session")
def curved_audit(make_audit, make_curvature) -> Callable[..., Audit]:
    def make(names=HOSTILE, precisions=PRECISIONS, moved=("conv.weight", "fc.weight"), **changes: Mapping) -> Audit:
        """Return an audit with curvature whose numbers differ by group and precision; `changes` are of the first group
        at the narrowest precision.
        """
        samples = {name: 60 + 10 * place for place, name in enumerate(names)}
        correct = {
            precision: {name: n - 3 - (7 + place % 9) * step for place, (name, n) in enumerate(samples.items())}
            for step, precision in enumerate(precisions)
        }
        curvature = {
            precision: {
                name: make_curvature(
                    50,
                    gradient_norm=0.5 + place + step,
                    lambda_max=3.0 + 2 * place + 5 * step,
                    account=Account((0.01 * place, 0.02), (0.03, 0.1 * step), 0.2, 1.0) if step else None,
                )
                for place, name in enumerate(names)
            }
            for step, precision in enumerate(precisions)
        }
        first = names[0]
        curvature[precisions[-1]][first] = replace(curvature[precisions[-1]][first], **changes)
        return make_audit(samples, curvature=curvature, moved=moved, **correct)

    return make


@pytest.fixture(scope="session")
def parsed() -> Callable[[Drawing], ET.Element]:
    def parse(drawing: Drawing) -> ET.Element:
        """Return the drawing's SVG, its tags without namespace."""
        root = ET.fromstring(drawing.svg)
        for element in root.iter():
            element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
        return root

    return parse


@pytest.fixture(scope="session")
def texts(parsed) -> Callable[[Drawing], list[str]]:
    def told(drawing: Drawing) -> list[str]:
        """Return the lines of text in a drawing."""
        return ["".join(element.itertext()) for element in parsed(drawing).iter("text")]

    return told


@pytest.fixture(scope="session")
def marks(parsed) -> Callable[[Drawing], int]:
    def count(drawing: Drawing) -> int:
        """Return how many points a drawing has, those of the legend included."""
        return len(list(parsed(drawing).iter("use")))

    return count


@pytest.fixture(scope="session")
def with_group() -> Callable[..., Audit]:
    def change(audit: Audit, precision: str, index: int, **changes: object) -> Audit:
        """Return the audit with other measures of one group at one precision."""

        def at(result):
            if result.precision != precision:
                return result
            groups = [replace(g, **changes) if place == index else g for place, g in enumerate(result.groups)]
            return replace(result, groups=tuple(groups))

        return replace(audit, precisions=tuple(map(at, audit.precisions)))

    return change

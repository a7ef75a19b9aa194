import subprocess
import sys
from collections import Counter
from dataclasses import replace

import matplotlib as mpl
import pytest

from qfair_check.record import Histogram, Weights
from qfair_check.report.figures.all import exhibits
from qfair_check.report.figures.groups import accuracy_exhibit

TITLES = [
    "Accuracy by group and precision",
    "Weight difference and sparsity by precision",
    "Weight distributions",
    "Distance of the logits from those of fp32",
    "Variance of the logits",
    "Variance of the softmax probabilities",
    "Probability of the true class (DTDB)",
    "Group loss",
    "Gradient norm against group size and accuracy",
    "λmax against accuracy, prediction probability and gradient norm",
    "λmax by group and precision",
    "Which layer hurts which group",
    "Overall accuracy against FVO, and the Pareto front",
]


@pytest.fixture(scope="module")
def shown(curved_audit):
    return exhibits(curved_audit())[0]


def test_they_come_in_the_order_of_the_paper(shown):
    assert [exhibit.title for exhibit in shown] == TITLES
    assert [exhibit.source for exhibit in shown] == [
        "Fig. 1",
        "Fig. 3",
        "Fig. 4",
        "Fig. 5a to 5c",
        "Fig. 5d",
        "Fig. 6a",
        "Fig. 6b",
        "Fig. 7",
        "Fig. 8",
        "Fig. 9",
        "Fig. 10",
        "eq. (4)",
        "Fig. 12",
    ]


def test_each_says_how_to_read_it_and_has_a_table_that_is_complete(shown):
    for exhibit in shown:
        assert exhibit.reading.endswith(".")
        assert exhibit.reading.count(". ") == 0
        assert exhibit.drawings
        assert all(drawing.alt.endswith(".") for drawing in exhibit.drawings)
        assert {len(row) for row in exhibit.table.rows} == {len(exhibit.table.head)}


def test_the_page_stays_well_formed_and_safe(shown, parsed):
    ids = Counter()
    for exhibit in shown:
        for drawing in exhibit.drawings:
            assert drawing.svg.startswith("<svg ")
            root = parsed(drawing)
            own = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
            assert all(name.startswith(exhibit.key) for name in own)
            ids.update(own)
            used = {element.attrib["href"] for element in root.iter("use")}
            assert used <= {f"#{name}" for name in own}
            for element in root.iter():
                assert element.tag in {"svg", "g", "defs", "path", "use", "text", "tspan"}
                assert not {"style", "class", "clip-path"} & set(element.attrib)
                assert not any(name.startswith("on") or ":" in name for name in element.attrib)
    assert set(ids.values()) == {1}


def test_prefixes_keep_two_audits_on_a_page_apart(curved_audit):
    keys = [exhibit.key for prefix in ("", "a2-") for exhibit in exhibits(curved_audit(), prefix)[0]]
    assert len(set(keys)) == len(keys) == 2 * len(TITLES)


def test_colours_follow_the_page(shown, parsed):
    for exhibit in shown:
        for drawing in exhibit.drawings:
            elements = list(parsed(drawing).iter())
            painted = {element.get(name, "none") for element in elements for name in ("fill", "stroke")}
            assert all(value in ("none", "currentColor") or value.startswith("var(--s") for value in painted)


def test_the_same_audit_gives_the_same_text(curved_audit):
    assert exhibits(curved_audit()) == exhibits(curved_audit())


def test_settings_of_matplotlib_neither_count_nor_change(curved_audit, shown):
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "text.parse_math": True, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert exhibits(curved_audit())[0] == shown
        assert dict(mpl.rcParams) == before


def test_without_curvature_its_sections_are_absent_with_the_option(make_audit):
    audit = make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": 30, "B": 50})
    shown, absent = exhibits(audit)
    assert [one.title for one in absent] == TITLES[8:12]
    assert {one.reason for one in absent} == {
        "the audit was made without curvature: audit the model again with --qfair-curvature"
    }
    assert [one.title for one in shown] == TITLES[:8] + TITLES[12:]


def test_a_plain_callable_has_no_weights_to_show(make_audit):
    audit = make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": 30, "B": 50})
    nothing = Weights(0, 0, None, 0.0, Histogram(0.0, 0.0, ()), ())
    audit = replace(
        audit,
        model=replace(audit.model, sha256=None),
        precisions=tuple(replace(result, weights=nothing) for result in audit.precisions),
    )
    absent = {one.source: one.reason for one in exhibits(audit)[1]}
    assert "plain callable" in absent["Fig. 3"]
    assert "plain callable" in absent["Fig. 4"]


def test_fp32_alone_has_no_distances_and_no_front(make_audit):
    absent = {one.source: one.reason for one in exhibits(make_audit({"A": 50}, fp32={"A": 40}))[1]}
    assert "--bits" in absent["Fig. 5a to 5c"]
    assert "--bits" in absent["Fig. 12"]


def test_one_group_has_all_but_the_front(curved_audit):
    shown, absent = exhibits(curved_audit(["only"]))
    assert [one.title for one in absent] == TITLES[-1:]
    assert absent[0].reason == "FVO is not defined: a group has no accuracy"
    assert len(shown) == len(TITLES) - 1


def test_where_nothing_is_defined_everything_is_absent_or_said(make_audit):
    shown, absent = exhibits(make_audit({"A": 50, "B": 60}, fp32={"A": None, "B": None}, int4={"A": None, "B": None}))
    assert [one.title for one in shown] == TITLES[1:3]
    assert "1 of them has NaN or infinite logits" in {one.source: one.reason for one in absent}["Fig. 1"]


def test_the_interface_costs_nothing_to_import():
    code = "import sys, qfair_check.report.figures.all; print(sorted({'matplotlib', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_drawings_of_other_precisions_may_share_a_page(curved_audit, parsed):
    audit = curved_audit()
    found = {}
    for precisions in (["fp32", "int8"], ["fp32", "int4"]):
        for element in parsed(accuracy_exhibit(audit, precisions).drawings[0]).iter("path"):
            if "id" in element.attrib:
                assert found.setdefault(element.attrib["id"], element.attrib["d"]) == element.attrib["d"]
    assert len(found) == 6  # three marks, in the legend and among the values

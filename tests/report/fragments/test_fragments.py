import re

import pytest

from qfair_check.judge.limits import gate_limits
from qfair_check.judge.verdicts import judge_audit
from qfair_check.report.figures.exhibit import Absent, Exhibit
from qfair_check.report.fragments.fragments import (
    escaped,
    exhibits_for,
    item_fragments,
    overview_of,
    provenance_of,
    style,
    unjudged_overview,
)
from qfair_check.report.reported import Reported


@pytest.fixture
def audit(make_audit):
    return make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int8={"A": 45, "B": 36}, int4={"A": 44, "B": 30})


def judged(audit, **limits):
    return Reported("m", audit, judge_audit(audit, gate_limits(limits)))


@pytest.mark.parametrize(
    ("checks", "titles"),
    [
        ([], ["Accuracy by group and precision"]),
        (["fvo", "group-drop", "accuracy-drop"], ["Accuracy by group and precision"]),
        (["fvo", "lambda-max"], ["Accuracy by group and precision", "λmax against accuracy"]),
        (["gradient-norm-to-fp32"], ["Gradient norm against group size"]),
        (["cosine-distance"], ["distance"]),
        (["sparsity"], ["sparsity"]),
    ],
)
def test_each_check_has_its_figure_once(audit, checks, titles):
    shown = exhibits_for(audit, checks, "int4", "key")
    assert len(shown) == len(titles)
    for one, title in zip(shown, titles, strict=True):
        assert title.lower() in one.title.lower()


def test_curvature_that_was_not_measured_is_absent(audit):
    (shown,) = exhibits_for(audit, ["lambda-max"], "int4", "key")
    assert isinstance(shown, Absent)
    lambda_max = [verdict for verdict in judged(audit, max_lambda_ratio="2").verdicts if verdict.check == "lambda-max"]
    _, told = item_fragments(audit, "int4", lambda_max[-1:], "key")
    assert shown.title in told
    assert "<svg" not in told


def test_keys_keep_ids_apart(audit):
    (one,), (other,) = (exhibits_for(audit, ["fvo"], "int4", key) for key in ("a", "b"))
    assert isinstance(one, Exhibit)
    assert isinstance(other, Exhibit)
    ids = [set(re.findall(r' id="([^"]*)"', shown.drawings[0].svg)) for shown in (one, other)]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize("tone", ["fail", "pass"])
def test_the_verdict_has_its_colour(audit, tone):
    limit = "1" if tone == "pass" else "0.05"
    limits = dict.fromkeys(("max_fvo_increase", "max_group_drop", "max_accuracy_drop"), limit)
    verdict = overview_of(judged(audit, **limits)).verdict
    assert f"qfair-{tone}" in verdict
    assert f".qfair-banner.qfair-{tone}" in style()
    assert "qfair-none" in unjudged_overview()


def test_many_groups_are_cut_and_the_rest_is_told(make_audit):
    samples = {f"g{index:02}": 40 for index in range(35)}
    counts = {name: 39 - index for index, name in enumerate(samples)}
    many = make_audit(samples, fp32=dict.fromkeys(samples, 40), int4=counts)
    for tables in (overview_of(judged(many)).tables, item_fragments(many, "int4", [], "key")[0]):
        assert tables.count('<th scope="row"><bdi>g') == 30
        assert "5 groups with higher accuracy left out" in tables
        assert "qfair-tall" in tables


def test_a_test_shows_its_precision_beside_fp32(audit):
    tables, _ = item_fragments(audit, "int8", [], "key")
    assert re.findall(r'colspan="\d" class="qfair-first">(\w+)', tables) == ["fp32", "int8"]


def test_provenance_and_ids_are_escaped(audit):
    assert provenance_of(audit)["model"] == "m.safetensors"
    assert escaped("<b>\u202e") == "&lt;b&gt;\\u202e"

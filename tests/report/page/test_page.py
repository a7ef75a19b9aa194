import base64
import hashlib
import re
from dataclasses import replace
from itertools import pairwise

import pytest

import qfair_check.report.page.page as page
from qfair_check.errors import InputError
from qfair_check.report.page.page import render_page

SAMPLES = {"zero": 89, "eight": 87}
FP32 = {"zero": 89, "eight": 56}
HOSTILE = [
    "<script>alert(1)</script>",
    "</table>",
    '"><img src=x onerror=alert(1)>',
    "مجموعة عربية",
    "日本語のグループ名",
    "{{ 7 * 7 }}",
    "A" * 200,
]


@pytest.fixture
def audit(make_audit):
    return make_audit(SAMPLES, fp32=FP32, int8=FP32, int4={"zero": 85, "eight": 45})


@pytest.fixture
def passing(make_audit):
    return make_audit(SAMPLES, fp32=FP32, int8=FP32)


@pytest.fixture
def hostile(make_audit, make_curvature):
    samples = dict.fromkeys(HOSTILE, 50)
    less = {name: 50 - place for place, name in enumerate(HOSTILE)}
    groups = {name: make_curvature(50) for name in HOSTILE}
    made = make_audit(samples, fp32=samples, int4=less, curvature={"fp32": groups, "int4": groups})
    evil = HOSTILE[0]
    inputs = replace(
        made.inputs, model=evil, architecture=evil, data=evil, split=evil, group_by=(evil, evil), notices=(evil,)
    )
    run = replace(made.run, command=("qfair", evil), platform=evil, versions={evil: evil})
    return replace(made, inputs=inputs, run=run, settings=replace(made.settings, scheme=evil, device=evil))


def headings(parsed):
    return [(int(e.tag[1]), e.text) for e in parsed if re.fullmatch("h[1-6]", e.tag)]


def test_the_parts_of_a_page_stand_in_their_order(audit, judged, parse):
    parsed = parse(render_page([judged(audit)]))
    assert headings(parsed) == [
        (1, "m.safetensors"),
        (2, "Verdict"),
        (3, "What to do next"),
        (2, "Contents"),
        (2, "Every group at every precision"),
        (2, "Title of accuracy Fig. 1"),
        (2, "What is not in this report"),
        (2, "Provenance"),
        *((3, title) for title in ("Run it again", "Model", "Data", "Measurement", "Limits", "Environment")),
    ]
    assert parsed.one("title").text == "m.safetensors: quantization fairness report"
    assert parsed.one("html").attributes["lang"] == "en"


@pytest.mark.parametrize("several", [False, True])
def test_a_page_holds_together(audit, judged, parse, several):
    reported = [judged(audit), judged(audit, name="b.json")] if several else [judged(audit)]
    parsed = parse(render_page(reported))
    levels = [level for level, _ in headings(parsed)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [element.attributes["id"] for element in parsed if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"] for e in parsed if e.tag in ("a", "use")]
    assert {link[1:] for link in links} <= set(ids)
    labels = [e.attributes["aria-label"] for e in parsed if e.attributes.get("role") == "region"]
    assert len(labels) == len(set(labels))
    for table in parsed.all("table"):
        assert table.one("caption").text
        assert all(head.attributes.get("scope") for head in table.all("th"))


def test_the_policy_names_the_hash_of_all_that_runs_and_nothing_else_could(hostile, judged, parse):
    html = render_page([judged(hostile)])
    parsed = parse(html)
    policy = parsed.one("meta", http_equiv="Content-Security-Policy").attributes["content"]

    def digest(element):
        return f"'sha256-{base64.b64encode(hashlib.sha256(element.raw.encode()).digest()).decode()}'"

    style, script = digest(parsed.one("style")), digest(parsed.one("script"))
    assert policy == (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not [name for element in parsed for name in element.attributes if name == "style" or name.startswith("on")]
    assert not [element for element in parsed if element.tag in ("link", "img", "iframe", "object", "form", "base")]
    assert "src" not in {name for element in parsed for name in element.attributes}
    assert "://" not in re.sub(r'xmlns="[^"]*"', "", html)


def test_the_colours_of_drawings_are_there_in_light_and_dark(audit, judged, parse):
    style = parse(render_page([judged(audit)])).one("style").raw
    light, dark = style.split("@media screen and (prefers-color-scheme:dark)")
    for colour in page.COLOURS:
        assert f"{colour.variable}:{colour.light};" in light
        assert f"{colour.variable}:{colour.dark};" in dark.partition("}}")[0]


def test_names_are_text_wherever_they_stand(hostile, judged, parse):
    reported = judged(hostile, name=HOSTILE[0])
    for parsed in (
        parse(render_page([reported], rerun=[("qfair", "gate", HOSTILE[2])])),
        parse(render_page([reported, replace(reported, name=HOSTILE[1])])),
    ):
        assert len(parsed.all("script")) == len(parsed.all("style")) == len(parsed.all("body")) == 1
        for table in parsed.all("table", "groups") + parsed.all("table", "numbers"):
            if table.one("caption").text.startswith("Title of front"):
                continue
            names = [row.inner[0].raw for row in table.one("tbody").all("tr")]
            assert names == HOSTILE
    assert "49" not in [cell.text for cell in parsed.all("bdi")]


def test_control_characters_are_shown_escaped(make_audit, judged):
    name = "a\x00b\x1b[31m\u202egnp.exe"
    counts = {name: 50, "c": 40}
    html = render_page([judged(make_audit(counts, fp32=counts, int4=counts))])
    assert not set("\x00\x1b\u202e") & set(html)
    assert "a\\x00b\\x1b[31m\\u202egnp.exe" in html


def test_an_exhibit_has_its_drawing_its_reading_and_its_numbers(audit, judged, parse):
    parsed = parse(render_page([judged(audit)]))
    section = parsed.one("section", "exhibit")
    assert section.one("h2").attributes["id"] == "accuracy"
    assert [p.text for p in section.all("p")] == ["How to read it.", "A <note>."]
    figure = section.one("figure")
    assert (figure.attributes["role"], figure.attributes["aria-label"]) == ("img", 'a "drawing"')
    assert figure.one("use").attributes["href"] == "#m-1"
    table = section.one("details").one("table")
    assert [head.text for head in table.one("thead").all("th")] == ["group", "int<4>"]
    assert [[c.text for c in row.inner] for row in table.one("tbody").all("tr")] == [["zero", "0.5"], ["eight", "0.5"]]


def test_files_have_their_names_on_top_and_their_paths_in_the_provenance(audit, judged, parse):
    inputs = replace(audit.inputs, model="/models/faces/m.safetensors", data="C:\\data\\faces.csv")
    reported = judged(replace(audit, inputs=inputs))
    parsed = parse(render_page([reported]))
    assert parsed.one("title").text == "m.safetensors: quantization fairness report"
    assert parsed.one("h1").text == "m.safetensors"
    assert "data faces.csv ·" in parsed.one("p", "meta").text
    told = parsed.one("div", "provenance").text
    assert "/models/faces/m.safetensors" in told
    assert "C:\\data\\faces.csv" in told
    both = parse(render_page([reported, replace(reported, name="b.json")]))
    assert [meta.text.split(" ")[0] for meta in both.all("p", "meta")] == ["m.safetensors"] * 2


def test_no_text_is_so_long_that_it_hides_the_verdict(make_audit, judged, parse):
    long = "x" * 10_000
    counts = {long: 50, "B": 50}
    made = make_audit(counts, fp32=counts, int4={long: 20, "B": 50})
    inputs = replace(made.inputs, model=long, data=long, architecture=long)
    settings, run = replace(made.settings, scheme=long), replace(made.run, created=long)
    parsed = parse(render_page([judged(replace(made, inputs=inputs, settings=settings, run=run))]))
    tops = [parsed.one("title"), parsed.one("h1"), parsed.one("p", "meta"), *parsed.one("div", "banner").all("p")]
    assert all("x…" in top.text or "x" * 9 not in top.text for top in tops)
    assert max(len(top.text) for top in tops) < 700
    assert [fact.text for fact in parsed.one("div", "provenance").all("code")].count(long) == 4


def test_what_is_missing_is_listed_with_the_option_that_brings_it(audit, judged, parse):
    (missing,) = parse(render_page([judged(audit)])).one("ul", "absent").all("li")
    assert missing.text == "Missing <one> Fig. 8: curvature was not measured: --curvature"


def test_nothing_is_said_to_be_missing_when_nothing_is(audit, judged, parse, monkeypatch):
    monkeypatch.setattr(page, "exhibits", lambda audit, *, min_group_size: ((), ()))
    parsed = parse(render_page([judged(audit)]))
    assert "What is not in this report" not in parsed.text


def test_curvature_is_shown_where_it_was_measured(audit, hostile, judged, parse):
    assert not parse(render_page([judged(audit)])).all("table", "curvature")
    parsed = parse(render_page([judged(hostile)]))
    assert parsed.one("table", "curvature")
    assert "#curvature" in [link.attributes["href"] for link in parsed.one("nav").all("a")]


def test_every_verdict_is_told_in_full(audit, judged, parse):
    parsed = parse(render_page([judged(audit)]))
    told = [pre.raw.strip() for pre in parsed.one("details", "told").all("pre")]
    assert len(told) == 6
    assert told[1] == (
        "fail accuracy drop of eight at int4 is 0.126, above the limit 0.050\n"
        "  worst  eight  n=87   accuracy 0.644 → 0.517  [0.414, 0.619]\n"
        "  try    qfair remediate m.safetensors --arch resnet18 --data d.csv --label race --classes zero,eight "
        "--train TRAIN --bits 4 --out m.int4.safetensors"
    )


def test_drawings_of_several_audits_share_no_ids(audit, judged, parse):
    parsed = parse(render_page([judged(audit), judged(audit, name="b.json")]))
    assert [use.attributes["href"] for use in parsed.all("use")] == ["#front-m-1", "#audit-1-m-1", "#audit-2-m-1"]
    assert {text.text for text in parsed.all("text")} == {'x id="m"'}


def test_several_audits_stand_side_by_side(audit, passing, judged, parse):
    parsed = parse(render_page([judged(audit, name="old.json"), judged(passing, name="new.json")]))
    assert parsed.one("title").text == "old.json, new.json: quantization fairness report"
    side = parsed.one("div", "side")
    assert [word.text.split()[0] for word in side.all("p", "word")] == ["FAIL", "PASS"]
    assert len(parsed.all("p", "word")) == 2
    assert [text for level, text in headings(parsed) if level == 2] == [
        "Verdicts",
        "Contents",
        "Comparison",
        "Audit old.json",
        "Audit new.json",
    ]
    compared = parsed.one("table", "compared")
    assert [head.text for head in compared.all("th", scope="colgroup")] == ["old.json", "new.json"]
    assert [head.text for head in compared.all("th", scope="col")][2:] == ["fp32", "int8", "int4", "fp32", "int8"]


def test_audits_of_different_groups_are_not_compared_by_group(audit, make_audit, judged, parse, monkeypatch):
    def refuse(names, audits, *, min_group_size):
        raise InputError("a.json and b.json cannot be <compared>")

    monkeypatch.setattr(page, "front_exhibit", refuse)
    counts = {"A": 50, "B": 40}
    other = make_audit(counts, fp32=counts, int4=counts)
    parsed = parse(render_page([judged(audit), judged(other, name="b.json")]))
    assert not parsed.all("table", "compared")
    notes = [note.text for note in parsed.all("p", "note")]
    assert (
        "a.json and b.json are of different groups, so they do not stand in one table: each has its own below." in notes
    )
    assert f"{page.TITLE} is left out: a.json and b.json cannot be <compared>." in notes
    assert len(parsed.all("table", "accuracy")) == 2


def test_the_same_audits_give_the_same_page(audit, judged):
    assert render_page([judged(audit)]) == render_page([judged(audit)])

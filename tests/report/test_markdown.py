import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.judge.limits import gate_limits
from qfair_check.judge.text import printable
from qfair_check.judge.verdicts import judge_audit
from qfair_check.report.markdown import as_name, as_text, render_markdown
from qfair_check.report.reported import Reported

HOSTILE = ["a|b", "`x`", "<script>alert(1)</script>", "</table>", "@octocat", "owner/repo#12", "http://evil.example/"]


@pytest.fixture
def report(make_audit):
    def make(samples, name="audit.json", limits=None, insufficient="fail", **correct):
        audit = make_audit(samples, **correct)
        return Reported(name, audit, judge_audit(audit, gate_limits(limits or {})), insufficient)

    return make


@pytest.fixture
def unfair(report):
    return report({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int8={"A": 45, "B": 36}, int4={"A": 44, "B": 30})


def tables(markdown):
    """Return the rows of each table as cells; raises if a row has more or fewer than its head."""
    found = []
    for block in markdown.split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("|"):
            rows = [re.split(r" \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines]
            assert {len(row) for row in rows} == {len(rows[0])}, block
            found.append(rows)
    return found


def shown(markdown):
    return unescape(re.sub(r"</?(?:span|code|strong|sub|br)[^>]*>", "", markdown))


def test_the_verdict_and_who_is_hurt_stand_first(unfair):
    head, sentence, *_ = render_markdown([unfair]).split("\n\n")
    assert head == '## ❌ FAIL: <code dir="auto">audit.json</code>'
    assert shown(sentence).startswith(
        "3 of 6 limits are broken, at int4. At int4, the accuracy of B (n=40) falls by 0.150, from 0.900 to 0.750"
    )
    assert shown(sentence).endswith("int8 holds every limit.")


def test_every_limit_has_a_row_and_broken_ones_come_first(unfair):
    limits, _ = tables(render_markdown([unfair]))
    assert limits[0] == ["limit on", "precision", "measured", "limit", "fp32", "outcome"]
    assert limits[2] == ["FVO increase", "int4", "0.130", "≤ 0.05", "FVO 0.000", "❌ fail"]
    assert [row[-1] for row in limits[2:]] == ["❌ fail"] * 3 + ["✅ pass"] * 3


def test_every_group_has_n_interval_change_and_the_worst_its_mark(unfair):
    _, groups = tables(render_markdown([unfair]))
    assert groups[0] == ["group", "n", "fp32", "int8", "int4"]
    names = [row[0] for row in groups[2:]]
    assert names == [as_name("A"), as_name("B"), "**overall**", "**FVO (largest gap)**"]
    worst = groups[3]
    assert worst[1] == "40"
    assert shown(worst[4]).replace("\xa0", " ") == "**0.750** ▼ (−0.150)[0.598, 0.858]"
    assert groups[5][2:] == ["0.000", "0.000&nbsp;(0.000)", "0.130&nbsp;(+0.130)"]


def test_where_the_numbers_come_from_stands_last(unfair):
    last = render_markdown([unfair]).rstrip("\n").split("\n\n")[-1]
    assert f"sha256 `{'a' * 64}`" in last
    assert f"sha256 `{'d' * 64}`" in last
    assert shown(last).splitlines()[-1].startswith("- measured: absmax/symmetric/per-tensor, seed 0, on cpu")


def test_notes_tell_what_the_data_cannot(unfair):
    assert "- note: the accuracy of B (n=40) is known to ±" in shown(render_markdown([unfair]))


def test_without_limits_nothing_is_judged(unfair):
    told = render_markdown([replace(unfair, verdicts=())])
    assert told.startswith("## ➖ NOT JUDGED")
    assert len(tables(told)) == 1


def test_what_cannot_be_judged_is_told(report):
    few = report({"A": 50, "B": 10}, fp32={"A": 45, "B": 9}, int8={"A": 45, "B": 9})
    told = render_markdown([few])
    assert told.startswith("## ⚠️ INSUFFICIENT")
    assert "⚠️ insufficient" in told


def test_thirty_groups_at_most_are_shown(report):
    samples = {f"g{index:02}": 40 for index in range(35)}
    counts = {name: 39 - index for index, name in enumerate(samples)}
    told = render_markdown([report(samples, fp32=dict.fromkeys(samples, 40), int4=counts)])
    _, groups = tables(told)
    assert [row[0] for row in groups[2:-2]] == [as_name(f"g{index:02}") for index in range(34, 4, -1)]
    assert "5 groups with higher accuracy left out: the audit holds them all." in told


def test_several_audits_are_compared_first(unfair, report):
    fair = report({"A": 50, "B": 40}, "fair.json", fp32={"A": 45, "B": 36}, int8={"A": 45, "B": 36})
    told = render_markdown([unfair, fair])
    compared, *rest = tables(told)
    assert [row[:3] for row in compared[2:]] == [
        [as_name("audit.json"), "fp32", "-"],
        [as_name("audit.json"), "int8", "✅ pass"],
        [as_name("audit.json"), "int4", "❌ fail"],
        [as_name("fair.json"), "fp32", "-"],
        [as_name("fair.json"), "int8", "✅ pass"],
    ]
    assert len(rest) == 4
    assert re.findall(r"^#+ .*", told, re.MULTILINE) == [
        "## 2 audits compared",
        f"### ❌ FAIL: {as_name('audit.json')}",
        f"### ✅ PASS: {as_name('fair.json')}",
    ]


def test_names_are_shown_as_they_are_everywhere(report):
    samples = dict.fromkeys(HOSTILE, 40)
    fp32 = dict.fromkeys(HOSTILE, 36)
    for hurt in HOSTILE:
        one = report(samples, hurt, {"max_fvo": "0.1"}, fp32=fp32, int4=fp32 | {hurt: 20})
        audit = replace(one.audit, inputs=replace(one.audit.inputs, model=hurt, group_by=(hurt,), notices=(hurt,)))
        told = render_markdown([replace(one, audit=audit)])
        tables(told)
        assert set(re.findall(r"<[^>]*>", told)) <= {
            "<br>", "<sub>", "</sub>", "<span>", "</span>", "<strong>", "</strong>", '<code dir="auto">', "</code>"
        }  # fmt: skip
        assert f"## ❌ FAIL: {hurt}" in shown(told)
        assert f"- note: {hurt}" in shown(told)
        for name in HOSTILE:
            assert as_name(name) in told
        assert not re.search(r"@\w|\w#\d|://|<script|</table|`x", told)


@given(st.text())
def test_any_text_comes_out_as_it_is(text):
    markdown = as_text(text)
    bare = markdown.replace("<span>", "").replace("</span>", "")
    assert unescape(bare) == printable(text.strip())
    assert not set("\\`*_{}[]<>#|~@$^!\n\r") & set(re.sub(r"&#\d+;", "", bare))
    assert "&" not in re.sub(r"&#\d+;", "", bare)


@pytest.mark.parametrize(
    "start", ["# h", "- l", "+ l", "* l", "1. l", "23) l", "=== ", "> q", "    code", "```", "---"]
)
def test_no_text_starts_a_block(start):
    assert not re.match(r"[#\-+*=>`\s]|\d+[.)]", as_text(start))


@pytest.mark.parametrize("text", ["@octocat", "#12", ":tada:", "me@example.org", "GH-12", "gh-12"])
def test_what_github_reads_after_markdown_is_kept_apart(text):
    assert re.search(r"<span>&#(64|35|58|45);</span>", as_text(text))


@pytest.mark.parametrize("text", ["https://evil.example", "www.evil.example", "mailto:me"])
def test_nothing_becomes_a_link(text):
    assert not re.search(r"://|www\.|mailto:", as_text(text))

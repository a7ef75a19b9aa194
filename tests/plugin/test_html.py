import html
import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.figure
import pytest

import qfair_check.report.fragments.fragments

HOSTILE = ["<script>alert(1)</script>", "</table>", '"><img src=x onerror=alert(1)>']
VOID = {"br", "input", "meta", "link"}
PRELOADED = (matplotlib.figure, qfair_check.report.fragments.fragments)  # once for all nested runs


class Page(HTMLParser):
    """A page of pytest-html: what is in it before its script runs, and what the script puts into it."""

    def __init__(self, path):
        super().__init__()
        text = path.read_text(encoding="utf-8")
        self.blob = {}
        self.feed(text)
        held = re.search(r'(<div class="summary">.*)<table id="results-table">', text, re.DOTALL)
        self.summary = held[1]

    def handle_starttag(self, tag, attributes):
        if "data-jsonblob" in dict(attributes):
            self.blob = json.loads(dict(attributes)["data-jsonblob"])

    def test(self, node):
        (found,) = self.blob["tests"][node]
        return found

    def extras(self, node):
        return [extra["content"] for extra in self.test(node)["extras"]]

    def everything(self):
        """Return each piece of HTML that ends up in the page."""
        pieces = [self.summary]
        for value in self.blob["environment"].values():
            pieces += value.values() if isinstance(value, dict) else [value]
        for test in (test for tests in self.blob["tests"].values() for test in tests):
            pieces += [*test["resultsTableRow"], test["log"], *(extra["content"] for extra in test["extras"])]
        return pieces


class Harmless(HTMLParser):
    """Refuses what runs, loads something, or does not close."""

    def __init__(self, piece):
        super().__init__()
        self.open = []
        self.feed(piece)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "img", "iframe", "object")
        for name, value in attributes:
            assert not name.startswith("on") or value == "location.reload()", name
            assert name != "src"
            assert name != "href" or value.startswith("#")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words(piece):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", piece)).split())


@pytest.fixture
def page(pytester):
    def run(*arguments, folder="audit.json"):
        result = pytester.runpytest(f"--qfair-audit={folder}", "--html=page.html", *arguments)
        return result, Page(pytester.path / "page.html")

    return run


@pytest.fixture
def hostile(pytester, make_audit):
    """An audit whose names are those of someone who wants to break the page."""
    samples = dict.fromkeys(HOSTILE, 40)
    fp32 = dict.fromkeys(HOSTILE, 36)
    audit = make_audit(samples, fp32=fp32, int8=fp32, int4={name: 36 - 8 * index for index, name in enumerate(HOSTILE)})
    evil = HOSTILE[2]
    inputs = replace(audit.inputs, model=evil, data=evil, architecture=evil, group_by=(evil,), notices=(evil,))
    layers = [replace(result.weights.layers[0], name=evil) for result in audit.precisions]
    results = tuple(
        replace(result, weights=replace(result.weights, layers=(layer,)))
        for result, layer in zip(audit.precisions, layers, strict=True)
    )
    audit = replace(audit, inputs=inputs, precisions=results, data=replace(audit.data, classes=(evil,)))
    audit.save(pytester.path / "audit.json")
    return audit


@pytest.mark.parametrize("form", [(), ("--self-contained-html",), ("-n2",)], ids=["files", "one", "workers"])
def test_each_item_of_the_gate_has_its_table_and_its_figure(page, saved, form):
    result, shown = page(*form)
    result.assert_outcomes(passed=3, failed=3)
    tables, figure = shown.extras("qfair::group-drop[int4]")
    assert "worst group's accuracy drop int4 0.150 ≤ 0.05 - fail worst B n=40, 0.900 → 0.750 [0.598, 0.858]" in words(
        tables
    )
    assert "B 40 ▼ 0.900" not in words(tables)
    assert "0.900 [0.769, 0.960] ▼ 0.750 [0.598, 0.858] ▼ −0.150 6 flips" in words(tables)
    assert "int8" not in words(tables)
    assert "<svg" in figure
    assert "Accuracy by group and precision" in words(figure)
    assert "group n fp32 int4 A 50" in words(figure)


def test_ids_differ_between_items(page, saved):
    _, shown = page()
    ids = [
        found
        for node in shown.blob["tests"]
        for extra in shown.extras(node)
        for found in re.findall(r'<[^>]* id="([^"]*)"', extra)
    ]
    assert ids
    assert len(ids) == len(set(ids))


def test_the_summary_carries_the_verdict_the_limits_and_every_group(page, saved):
    _, shown = page()
    told = words(shown.summary)
    assert "FAIL 3 of 6 limits are broken" in told
    assert "accuracy of B (n=40) falls by 0.150, from 0.900 to 0.750" in told
    for row in (
        "FVO increase int4 0.130 ≤ 0.05 FVO 0.000 fail",
        "overall accuracy drop int8 0.000 ≤ 0.02 accuracy 0.900 pass",
    ):
        assert row in told
    assert "A 50 0.900 [0.786, 0.957] 0.900 [0.786, 0.957] 0.000 0 flips 0.880" in told
    assert "FVO (largest gap) 0.000 0.000 0.000 0.130 +0.130" in told
    assert told.index("FAIL 3 of 6") < told.index("6 tests took") < told.index("Limits and what was measured")


def test_the_environment_carries_the_provenance(page, saved):
    _, shown = page()
    facts = shown.blob["environment"]["Fairness audit"]
    assert facts["sha256 of the weights"] == saved.model.sha256
    assert facts["sha256 of the data"] == saved.data.sha256
    assert facts["scheme"] == "absmax/symmetric/per-tensor"
    assert facts["seed"] == "0"
    assert facts["groups"] == "2 groups by class"
    assert facts["device"] == "cpu"
    assert facts["versions"] == "torch 2"
    assert {"Python", "Platform", "Packages", "Plugins"} <= set(shown.blob["environment"])


def test_the_provenance_is_redacted_on_request(pytester, page, saved):
    pytester.makeini("[pytest]\nenvironment_table_redact_list = Fair.*")
    _, shown = page()
    assert set(shown.blob["environment"]["Fairness audit"]) == {"▓"}


def test_metadata_stay_as_they_are(pytester, page, saved):
    pytester.makeconftest(
        """
        from pytest_metadata.plugin import metadata_key

        def pytest_unconfigure(config):
            assert "Fairness audit" not in config.stash[metadata_key]
            print("metadata are untouched")
        """
    )
    result, shown = page("--metadata", "build", "7", "-s")
    assert "metadata are untouched" in result.stdout.str()
    assert shown.blob["environment"]["build"] == "7"


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_a_test_that_uses_the_fixture_carries_what_it_judged(pytester, page, saved, workers):
    pytester.makepyfile(
        """
        def test_mine(qfair):
            qfair.assert_fvo_below(0.5)
            qfair.assert_sparsity_below(0.5)

        def test_plain():
            pass
        """
    )
    result, shown = page("-k", "mine or plain", *workers)
    result.assert_outcomes(passed=3)
    tables, accuracy, weights = shown.extras(
        "test_a_test_that_uses_the_fixture_carries_what_it_judged.py::test_mine[int4]"
    )
    assert "FVO int4 0.130 ≤ 0.5 0.000 pass" in words(tables)
    assert "sparsity int4 0.250 ≤ 0.5" in words(tables)
    assert "Accuracy by group" in words(accuracy)
    assert "sparsity" in words(weights).lower()
    assert shown.extras("test_a_test_that_uses_the_fixture_carries_what_it_judged.py::test_plain") == []


def test_a_test_that_judges_nothing_carries_the_groups(pytester, page, saved):
    pytester.makepyfile(test_it="def test_mine(qfair): assert qfair.bits > 2")
    _, shown = page("-k", "mine")
    tables, figure = shown.extras("test_it.py::test_mine[int8]")
    assert "Limits" not in words(tables)
    assert "A 50 0.900" in words(tables)
    assert "<svg" in figure


def test_curvature_has_its_own_figures(pytester, page, make_audit, make_curvature):
    curvature = {
        name: {"A": make_curvature(50, lambda_max=4.0), "B": make_curvature(40, lambda_max=9.0)}
        for name in ("fp32", "int4")
    }
    counts = {"A": 45, "B": 36}
    make_audit({"A": 50, "B": 40}, curvature=curvature, fp32=counts, int4=counts).save(pytester.path / "audit.json")
    _, shown = page("--qfair-max-lambda-ratio=2", "--qfair-max-gradient-ratio=2")
    assert "λmax against accuracy" in words(shown.extras("qfair::lambda-max[int4]")[1])
    assert "Gradient norm against group size" in words(shown.extras("qfair::gradient-norm[int4]")[1])


def test_without_curvature_the_figure_says_why(page, saved):
    _, shown = page("--qfair-max-lambda-ratio=2", "-k", "lambda")
    told = words(shown.extras("qfair::lambda-max[int4]")[1])
    assert "λmax against accuracy" in told
    assert "--qfair-curvature" in told or "--curvature" in told


@pytest.mark.parametrize("form", [(), ("--self-contained-html",), ("-n2",)], ids=["files", "one", "workers"])
def test_no_name_breaks_the_page_or_runs(pytester, page, hostile, form):
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.parametrize("group", {HOSTILE!r})
        def test_mine(qfair, group):
            print(group)
            qfair.assert_fvo_below(0.1)
            qfair.assert_sparsity_below(0.1)
        """
    )
    result, shown = page(*form)
    assert result.ret == 1
    assert len(shown.blob["tests"]) == 12
    pieces = shown.everything()
    for piece in pieces:
        Harmless(piece)
    for name in HOSTILE:
        assert name == "</table>" or name not in "".join(pieces)
        assert name in html.unescape(shown.summary)
        assert f"test_mine[int4-{name}]" in words(shown.test(f"test_it.py::test_mine[int4-{name}]")["testId"])
    assert HOSTILE[2] in html.unescape(shown.blob["environment"]["Fairness audit"]["model"])
    assert html.escape(HOSTILE[2]) in shown.test("qfair::group-drop[int4]")["log"]


def test_a_hook_of_the_user_stands_beside_it(pytester, page, saved):
    pytester.makeconftest(
        """
        import pytest
        import pytest_html

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_makereport(item, call):
            outcome = yield
            report = outcome.get_result()
            if report.when == "call":
                report.extras = [*getattr(report, "extras", []), pytest_html.extras.url("https://mine.example")]

        def pytest_html_results_summary(prefix):
            prefix.append("<p>of the user</p>")

        def pytest_html_results_table_header(cells):
            cells.insert(1, "<th>More</th>")

        def pytest_html_results_table_row(report, cells):
            cells.insert(1, "<td>more</td>")
        """
    )
    _, shown = page("--self-contained-html")
    contents = shown.extras("qfair::group-drop[int4]")
    assert "https://mine.example" in contents
    assert sum("<svg" in content for content in contents) == 1
    assert "of the user" in shown.summary
    assert "FAIL 3 of 6" in words(shown.summary)
    assert "<td>more</td>" in shown.test("qfair::group-drop[int4]")["resultsTableRow"]


def test_extras_of_the_test_itself_stay(pytester, page, saved):
    pytester.makepyfile(
        test_it="""
        import pytest_html

        def test_mine(qfair, extras):
            extras.append(pytest_html.extras.text("note"))
        """
    )
    _, shown = page("-k", "mine", "--self-contained-html")
    assert [extra["format_type"] for extra in shown.test("test_it.py::test_mine[int4]")["extras"]] == [
        "text",
        "html",
        "html",
    ]


def test_what_drawing_warns_of_is_not_of_the_test(monkeypatch, page, saved):
    fragments = qfair_check.report.fragments.fragments
    draw = fragments.accuracy_exhibit

    def noisy(*arguments):
        warnings.warn("of a library", DeprecationWarning, stacklevel=1)
        return draw(*arguments)

    monkeypatch.setattr(fragments, "accuracy_exhibit", noisy)
    result, shown = page("-W", "error")
    result.assert_outcomes(passed=3, failed=3)
    assert len(shown.extras("qfair::group-drop[int8]")) == 2


def test_what_cannot_be_drawn_ends_no_run(monkeypatch, page, saved):
    def broken(*_):
        raise ValueError("no such backend: <b>")

    monkeypatch.setattr(qfair_check.report.fragments.fragments, "accuracy_exhibit", broken)
    result, shown = page()
    result.assert_outcomes(passed=3, failed=3)
    (told,) = shown.extras("qfair::group-drop[int8]")
    assert "could not be made: ValueError: no such backend: <b>" in words(told)
    Harmless(told)


@pytest.mark.parametrize("fixture", ["qfair_audit", "qfair_data"])
def test_ids_of_tests_of_every_fixture_are_escaped(pytester, page, saved, fixture):
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.fixture
        def qfair_data(): pass

        @pytest.mark.parametrize("group", {HOSTILE!r})
        def test_mine({fixture}, group): pass
        """
    )
    _, shown = page("-k", "mine")
    for name in HOSTILE:
        row = shown.test(f"test_it.py::test_mine[{name}]")["resultsTableRow"]
        assert f"test_mine[{name}]" in html.unescape(row[1])
        Harmless("".join(row))


def test_a_run_that_is_interrupted_is_no_pass(pytester, page, saved):
    pytester.makeconftest(
        """
        import pytest

        def pytest_runtest_teardown(item):
            pytest.exit("enough")
        """
    )
    result, shown = page("--qfair-bits=8", "--qfair-summary=s.md")
    assert result.ret == 2
    assert "INCOMPLETE 1 limit holds, others were not judged" in words(shown.summary)
    assert "2 limits were not judged in this run" in words(shown.summary)
    assert (pytester.path / "s.md").read_text(encoding="utf-8").startswith("## ⚠️ INCOMPLETE: ")


def test_a_run_that_ends_before_the_gate_says_so(pytester, page, saved):
    pytester.makepyfile(test_it="import nothing_of_that_name")
    result, shown = page()
    assert result.ret == 2
    assert "NOT JUDGED no limit was judged in this run" in words(shown.summary)
    assert "Fairness audit" not in shown.blob["environment"]


def test_a_model_that_cannot_be_measured_leaves_a_page(pytester):
    result = pytester.runpytest("--qfair-model=missing.pt", "--qfair-data=demo", "--html=page.html")
    assert result.ret == 4
    assert "NOT JUDGED" in words(Page(pytester.path / "page.html").summary)


def test_a_test_whose_audit_fails_has_no_extras(pytester, saved):
    pytester.makepyfile(test_it="def test_mine(qfair): pass")
    pytester.runpytest("--html=page.html", "--qfair-bits=8")
    shown = Page(pytester.path / "page.html")
    ((_, (found,)),) = shown.blob["tests"].items()
    assert found["extras"] == []


def test_a_measured_gate_has_a_page(pytester, gate):
    gate("--bits=8,2", "--html=page.html").assert_outcomes(passed=3, failed=3)
    shown = Page(pytester.path / "page.html")
    assert "FAIL 3 of 6" in words(shown.summary)
    assert "qfair_check" in shown.blob["environment"]["Fairness audit"]["versions"]


HEAVY = """
import sys

def pytest_unconfigure():
    heavy = ("matplotlib", "jinja2", "pytest_html", "qfair_check.html_extras", "qfair_check.report.fragments")
    print("loaded:", [name for name in heavy if name in sys.modules])
"""


# hypothesis imports pytest-html too
WITHOUT = ("-p", "no:html", "-p", "no:html_fixtures", "-p", "no:hypothesispytest")


def test_without_html_nothing_of_it_is_imported(pytester, saved):
    pytester.makeconftest(HEAVY)
    pytester.makepyfile("def test_mine(qfair): qfair.assert_fvo_below(0.5)")
    result = pytester.runpytest_subprocess("-s", "--qfair-audit=audit.json", *WITHOUT)
    result.stdout.fnmatch_lines(["loaded: []"])
    result = pytester.runpytest_subprocess("-s", "--qfair-audit=audit.json")
    result.stdout.fnmatch_lines(["loaded: ['jinja2', 'pytest_html']"])  # by pytest-html itself


def test_with_html_a_run_without_our_tests_imports_nothing(pytester):
    pytester.makeconftest(HEAVY)
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-s", "--html=page.html")
    result.stdout.fnmatch_lines(["loaded: ['jinja2', 'pytest_html', 'qfair_check.html_extras']"])
    assert "qfair" not in Page(pytester.path / "page.html").summary


def test_without_pytest_html_the_gate_runs(pytester, saved):
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--html', dest='htmlpath')")
    result = pytester.runpytest("-p", "no:html", "--qfair-audit=audit.json", "--html=page.html")
    result.assert_outcomes(passed=3, failed=3)

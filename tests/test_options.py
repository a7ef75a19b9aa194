import argparse
from decimal import Decimal

import pytest

from qfair_check.errors import OptionError
from qfair_check.measure.curvature_options import DEFAULT_MEMORY, METHODS, CurvatureOptions
from qfair_check.option_table import PLUGIN_OPTIONS, as_command_line, not_empty
from qfair_check.options import data_options, judge_options, measure_options, model_options


def said(**given: str):
    return given.get


def test_names_are_distinct_and_helped():
    assert len({option.name for option in PLUGIN_OPTIONS}) == len(PLUGIN_OPTIONS)
    assert all(option.help and (option.is_flag or option.metavar or option.choices) for option in PLUGIN_OPTIONS)


def test_help_can_be_printed_in_every_encoding():
    assert all(option.help.isascii() for option in PLUGIN_OPTIONS)


def test_curvature_is_measured_where_it_is_asked_for():
    assert measure_options(said(curvature="yes")).curvature == CurvatureOptions()
    given = {"curvature_samples": "200", "curvature_memory": "1GiB", "hessian": "pyhessian"}
    assert measure_options(said(curvature="yes", **given)).curvature == CurvatureOptions(200, 2**30, "pyhessian")


@pytest.mark.parametrize("limit", ["max_lambda_ratio", "max_gradient_ratio"])
def test_a_limit_that_needs_curvature_has_it_measured(limit):
    assert measure_options(said(**{limit: "int4=2"})).curvature == CurvatureOptions()
    assert measure_options(said(curvature_samples="50", **{limit: "2"})).curvature == CurvatureOptions(samples=50)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"curvature_samples": "200"}, "--qfair-curvature-samples"),
        ({"hessian": "pyhessian", "max_fvo": "0.3"}, "--qfair-hessian"),
        (
            {"hessian": "lanczos", "curvature_memory": "1GiB"},
            "--qfair-curvature-memory, --qfair-hessian",
        ),
    ],
)
def test_options_of_curvature_that_would_do_nothing(given, named):
    with pytest.raises(OptionError) as caught:
        measure_options(said(**given))
    assert str(caught.value) == (f"{named} would do nothing, since curvature is not measured: add --qfair-curvature")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"curvature_samples": "0"}, "curvature_samples is '0': it is a whole number of at least 1"),
        ({"curvature_samples": "1.5"}, "curvature_samples is '1.5': it is a whole number of at least 1"),
        ({"hessian": "dense"}, "hessian is 'dense': it is lanczos or pyhessian"),
        (
            {"curvature_memory": "2"},
            "curvature_memory is '2': give a size with its unit, such as 2GiB or 500MB",
        ),
    ],
)
def test_curvature_that_makes_no_sense(given, told):
    with pytest.raises(OptionError) as caught:
        measure_options(said(curvature="yes", **given))
    assert str(caught.value) == told


def test_the_table_names_the_ways_to_measure_curvature():
    table = {option.name: option for option in PLUGIN_OPTIONS}
    assert table["hessian"].choices == METHODS
    assert f"(default: {METHODS[0]})" in table["hessian"].help
    assert f"(default: {DEFAULT_MEMORY})" in table["curvature-memory"].help


def test_nothing_said_is_the_default():
    assert model_options(said()) is None
    assert data_options(said()) is None
    measuring = measure_options(said())
    assert [str(precision) for precision in measuring.precisions] == ["int8"]
    assert (measuring.scheme, measuring.device, measuring.batch_size) == ("absmax/symmetric/per-tensor", "cpu", 64)
    assert (measuring.workers, measuring.seed, measuring.curvature) == (None, 0, None)
    judging = judge_options(said())
    assert {name: limit.everywhere for name, limit in judging.limits.items()} == {
        "fvo-increase": Decimal("0.05"),
        "group-drop": Decimal("0.05"),
        "accuracy-drop": Decimal("0.02"),
    }
    assert (judging.min_group_size, judging.insufficient) == (30, "fail")


def test_the_demo_brings_its_data():
    assert data_options(said(model="demo")).path == "demo"
    assert data_options(said(model="demo", data="mine.csv")).path == "mine.csv"


def test_lists_are_split_at_commas_outside_quotes():
    options = data_options(said(data="a.csv", classes='cat, "dog, big" ,ox', group_by="race,gender", mean="0.5, .25,1"))
    assert options.classes == ("cat", "dog, big", "ox")
    assert options.group_by == ("race", "gender")
    assert options.mean == (0.5, 0.25, 1.0)


@pytest.mark.parametrize("name", ["classes", "group_by", "features"])
def test_lists_on_several_lines_as_ini_files_allow_are_refused(name):
    with pytest.raises(OptionError) as caught:
        data_options(said(data="a.csv", **{name: "race\ngender"}))
    assert str(caught.value) == r"'race\ngender' are no names: give them on one line, separated by commas"


def test_bins_and_transforms():
    options = data_options(said(data="a.csv", bin="age=0,18, 65;income=-inf,0,inf", transforms="A.B"))
    assert [str(bins) for bins in options.bins] == ["age=0,18,65", "income=-inf,0,inf"]
    assert options.transforms == "A.B"


@pytest.mark.parametrize(
    ("text", "size"), [("64", (64, 64)), ("64x48", (64, 48)), (" 64 X 48", (64, 48)), (None, None)]
)
def test_image_sizes(text, size):
    assert data_options(said(data="a.csv", image_size=text)).image_size == size


@pytest.mark.parametrize("text", ["0", "64x", "x64", "a", "64x48x3", "-1", "6.5"])
def test_image_sizes_that_make_no_sense(text):
    with pytest.raises(OptionError, match=r"image_size is .*: give pixels such as 64, or height x width such as 64x48"):
        data_options(said(data="a.csv", image_size=text))


@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": "0"},
        {"batch_size": "many"},
        {"workers": "-1"},
        {"workers": "1.5"},
        {"seed": "-1"},
    ],
)
def test_counts_that_make_no_sense(given):
    (name,) = given
    with pytest.raises(OptionError, match=f"{name} is "):
        measure_options(said(**given))


@pytest.mark.parametrize(
    "given", [{"insufficient": "never"}, {"min_group_size": "0"}, {"max_fvo": "2"}, {"max_lambda_ratio": "0.5"}]
)
def test_judging_that_makes_no_sense(given):
    (name,) = given
    with pytest.raises(OptionError, match=f"{name} is "):
        judge_options(said(**given))


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_value_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="the value is empty"):
        not_empty(text)


def test_messages_name_options_as_the_command_line_tool_has_them():
    assert as_command_line("pass --qfair-classes or --bits") == "pass --classes or --bits"

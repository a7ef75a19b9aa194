import numpy as np
import pytest

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.labels import Classes, Names, assign_classes, intersect


def assign(labels: list[str], given: tuple[str, ...] = (), model: tuple[str, ...] = ()) -> Classes:
    return assign_classes(Names.of(labels), given=given, model=model, what="y", where="sample {}".format)


def message(labels: list[str], given: tuple[str, ...] = (), model: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as caught:
        assign(labels, given, model)
    return str(caught.value)


def test_given_names_fix_the_order_and_go_before_those_of_the_model() -> None:
    classes = assign(["b", "a", "b"], given=("b", "a", "c"), model=("a", "b", "c"))
    assert classes.indices.tolist() == [0, 1, 0]
    assert (classes.names, classes.order) == (("b", "a", "c"), "given")
    assert classes.notices == ("class names: b, a, c as given; the model file has a, b, c",)


def test_names_of_the_model_fix_the_order() -> None:
    classes = assign(["b", "a"], model=("b", "a"))
    assert classes.indices.tolist() == [0, 1]
    assert (classes.names, classes.order, classes.notices) == (("b", "a"), "model", ())


def test_unknown_order_is_sorted_and_said() -> None:
    classes = assign(["dog", "cat", "dog"])
    assert classes.indices.tolist() == [1, 0, 1]
    assert (classes.names, classes.order) == (("cat", "dog"), "sorted")
    assert classes.notices == ("class order: sorted label names (cat, dog); pass --qfair-classes to fix it",)


def test_whole_numbers_are_indices() -> None:
    classes = assign(["10", "2", "0"])
    assert classes.indices.tolist() == [10, 2, 0]
    assert classes.order == "indices"
    assert classes.names == tuple(str(index) for index in range(11))


def test_whole_numbers_are_indices_into_given_names() -> None:
    classes = assign(["2", "0"], given=("a", "b", "c"))
    assert classes.indices.tolist() == [2, 0]
    assert (classes.names, classes.order) == (("a", "b", "c"), "indices")


def test_whole_numbers_that_are_class_names_are_names() -> None:
    classes = assign(["7", "3"], given=("3", "7"))
    assert classes.indices.tolist() == [1, 0]
    assert classes.order == "given"


def test_label_that_no_class_has() -> None:
    assert message(["a", "x", "b", "x", "y"], given=("a", "b")) == (
        "y holds x, y, not among the known classes (a, b), for 3 samples: sample 1, sample 3, sample 4; correct the "
        "labels, or pass --qfair-classes with all names in the order of the model's outputs"
    )


def test_index_beyond_the_given_names() -> None:
    text = message(["0", "2", "3"], model=("a", "b"))
    assert text.startswith(
        "y holds 2, 3, not among the class indices 0 to 1 (a, b), for 2 samples: sample 1, sample 2;"
    )


def test_index_beyond_reason() -> None:
    text = message(["0", "4000000000"])
    assert text.startswith("y holds 4000000000, not among the class indices 0 to 99999, for 1 sample: sample 1;")


@pytest.mark.parametrize("bad", ["-1", "2.0", "1e3", "9" * 30])
def test_numbers_that_are_no_indices(bad: str) -> None:
    assert message(["0", bad, "1"]) == (
        f"y holds {bad} (sample 1), which is no class index: write whole numbers from 0, or pass --qfair-classes with "
        "the names in the order of the model's outputs"
    )


def test_numbers_that_are_no_indices_can_be_named() -> None:
    assert assign(["-1", "1", "-1"], given=("-1", "1")).indices.tolist() == [0, 1, 0]


@pytest.mark.parametrize("given", [("a", "a"), ("a", ""), ("",)])
def test_class_names_must_be_distinct(given: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match="name every class once"):
        assign(["a"], given=given)


def test_model_that_names_a_class_twice_needs_names() -> None:
    assert message(["a"], model=("a", "a")) == ("the model file names a class twice (a, a): pass --qfair-classes")
    assert assign(["a"], given=("b", "a"), model=("a", "a")).indices.tolist() == [1]


def test_names_that_are_all_whole_numbers_sort_as_numbers() -> None:
    assert Names.of(["10", "9", "007", "7"]).values == ("007", "7", "9", "10")
    assert Names.of(["10", "9", "x"]).values == ("10", "9", "x")


def test_missing_names_are_listed() -> None:
    names = Names.of(["a", "", "b", ""])
    assert names.codes.tolist() == [0, -1, 1, -1]
    with pytest.raises(InputError) as caught:
        names.require("column sex of x.csv", "row {}".format)
    assert str(caught.value) == (
        "column sex of x.csv is empty for 2 samples: row 1, row 3; fill it in, or leave those samples out"
    )


def test_long_lists_are_cut() -> None:
    text = message([f"c{index:02}" for index in range(12)], given=("a",))
    assert "c00, c01, c02, c03, c04, c05, c06, c07 and 4 more, not among" in text
    assert "for 12 samples: sample 0, sample 1, sample 2 and 9 more; correct" in text


def test_intersection_has_the_combinations_that_occur() -> None:
    race = Names.of(["W", "B", "W", "", "B"])
    sex = Names.of(["m", "f", "f", "m", ""])
    names, notices = intersect([race, sex])
    assert names.values == ("B × f", "W × f", "W × m")
    assert names.codes.tolist() == [2, 0, 1, -1, -1]
    assert notices == ("1 combination never occurs and is no group: B × m",)


def test_intersection_names_a_few_of_many_that_never_occur() -> None:
    letters = [chr(ord("a") + index) for index in range(20)]
    names, notices = intersect([Names.of(letters), Names.of(letters), Names.of(letters)])
    assert names.values[:2] == ("a × a × a", "b × b × b")
    assert notices[0].startswith("7,980 combinations never occur and are no groups: a × a × b, a × a × c, ")
    assert notices[0].endswith(" and 7,972 more")


def test_one_column_is_its_own_intersection() -> None:
    column = Names.of(["b", "a"])
    assert intersect([column]) == (column, ())


def test_taking_samples_keeps_every_name() -> None:
    taken = Names.of(["b", "a", "b"]).take(np.array([True, False, True]))
    assert taken.codes.tolist() == [1, 1]
    assert taken.values == ("a", "b")

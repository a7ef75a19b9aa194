import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.bins import Bins, bins_of, parse_bins
from qfair_check.inputs.data import GroupedData, load_data
from qfair_check.options import data_options

EDGES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6, unique=True).map(sorted)
AGES = "a,label,age,sex,split\n1,0,18,f,test\n2,1,17.5,m,test\n3,0,65,f,test\n4,1,0,f,train\n5,1,99,m,train\n"


def write(folder: Path, text: str = AGES) -> Path:
    path = folder / "faces.csv"
    path.write_text(text)
    return path


def read(folder: Path, *edges: float, text: str = AGES, **options: object) -> GroupedData:
    return load_data(write(folder, text), **{"group_by": "age", "features": "a", "bins": {"age": edges}} | options)


def message(folder: Path, *edges: float, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, *edges, **options)
    return str(caught.value).replace(str(folder / "faces.csv"), "faces.csv")


@given(edges=EDGES, data=st.data())
def test_bins_are_those_of_pandas_and_numpy(edges: list[float], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(edges[0], edges[-1]) | st.sampled_from(edges), min_size=1))
    bins = Bins.of("age", edges)
    found = [bins.names.index(bins.name(str(value))) for value in values]
    cut = pd.cut(values, [*edges[:-1], math.nextafter(edges[-1], math.inf)], right=False, labels=False)
    assert found == cut.tolist()
    assert np.bincount(found, minlength=len(bins.names)).tolist() == np.histogram(values, edges)[0].tolist()


@given(edges=EDGES, value=st.floats())
def test_a_number_outside_all_bins_stays_as_it_is(edges: list[float], value: float) -> None:
    named = Bins.of("age", edges).name(str(value))
    assert (named == str(value)) == (not edges[0] <= value <= edges[-1])


@given(bins=st.dictionaries(st.sampled_from(["age", "a=b", "x y"]), EDGES, min_size=1))
def test_the_text_of_bins_can_be_read_again(bins: dict[str, list[float]]) -> None:
    made = bins_of(bins)
    assert parse_bins(";".join(map(str, made))) == made


def test_names_say_which_edges_a_bin_holds() -> None:
    assert Bins.of("age", [0, 18, 40.5, 65]).names == ("[0, 18)", "[18, 40.5)", "[40.5, 65]")
    assert Bins.of("age", [-math.inf, 0, math.inf]).names == ("(-inf, 0)", "[0, inf)")
    assert Bins.of("age", [-0.0, 1e6, 1e20]).names == ("[0, 1000000)", "[1000000, 1e+20]")


def test_open_ends_hold_every_number_but_infinity() -> None:
    bins = Bins.of("age", [-math.inf, 0, math.inf])
    assert [bins.name(text) for text in ("-1e300", "1e300", "inf", "-inf", "nan")] == [
        "(-inf, 0)", "[0, inf)", "inf", "-inf", "nan",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("age", "bin is 'age': give a column and edges such as age=0,18,40,65, separated by semicolons"),
        ("=0,1", "bin is '=0,1': give a column and edges"),
        ("age=0,1;", "bin is 'age=0,1;': give a column and edges"),
        ("age=", "bin is 'age=': give a column and edges"),
        ("age=5", "the bins of 'age' have the edges 5: give at least two"),
        ("age=0,x", "the bins of 'age' are ['0', 'x']: give edges such as 0,18,40,65"),
        ("age=0,40,18", "the bins of 'age' have the edges 0,40,18: give numbers that rise, each once"),
        ("age=0,18,18", "the bins of 'age' have the edges 0,18,18: give numbers that rise, each once"),
        ("age=0,nan", "the bins of 'age' have the edges 0,nan: give numbers that rise, each once"),
        ("age=0,1;age=0,2", "bin names the column age twice: give its edges once"),
    ],
)
def test_bins_that_make_no_sense(text: str, reason: str) -> None:
    with pytest.raises(OptionError) as caught:
        data_options({"data": "faces.csv", "bin": text}.get)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("given", ["age=0,18", [0, 18], {"age": 18}, {"age": [[0], [1]]}, {"age": [0, 10**400]}])
def test_bins_in_python_that_make_no_sense(tmp_path: Path, given: object) -> None:
    with pytest.raises(OptionError, match=r"^(bins is|the bins of 'age' are) "):
        load_data(write(tmp_path), bins=given)


def test_groups_follow_the_bins_and_empty_ones_stay(tmp_path: Path) -> None:
    data = read(tmp_path, 0, 18, 40, 65, 100)
    assert data.group_names == ("[0, 18)", "[18, 40)", "[40, 65)", "[65, 100]")
    assert data.groups.tolist() == [1, 0, 3, 0, 3]
    assert (data.bins, data.group_by) == ("age=0,18,40,65,100", ("age",))
    assert data.key != read(tmp_path, 0, 18, 40, 65, 101).key


def test_bins_cross_other_columns(tmp_path: Path) -> None:
    data = read(tmp_path, 0, 50, 100, group_by=["age", "sex"])
    assert data.group_names == ("[0, 50) × f", "[0, 50) × m", "[50, 100] × f", "[50, 100] × m")
    assert data.groups.tolist() == [0, 1, 2, 0, 3]


def test_a_label_in_bins_has_their_order(tmp_path: Path) -> None:
    data = read(tmp_path, 0, 5, 18, 100, label="age", group_by="sex")
    assert data.classes == ("[0, 5)", "[5, 18)", "[18, 100]")
    assert (data.labels.tolist(), data.class_order) == ([2, 1, 2, 0, 2], "data")
    assert data.notices[-1] == (
        "class order: that of the data ([0, 5), [5, 18), [18, 100]); pass --qfair-classes to fix it"
    )


def test_values_that_no_bin_holds_are_counted_and_named(tmp_path: Path) -> None:
    assert message(tmp_path, 1, 18) == (
        "column age of faces.csv holds 0, 65, 99, in no bin of age=1,18, for 3 samples: row 4, row 5, row 6; widen "
        "the bins, by -inf or inf for an open end, or leave age out of --qfair-bin"
    )
    assert read(tmp_path, 0, 18, 65, split="test").groups.tolist() == [1, 0, 1]  # others need no bin


def test_values_that_are_no_numbers_are_counted_and_named(tmp_path: Path) -> None:
    text = "a,label,age\n1,0,old\n2,1,17\n3,0,nan\n4,1,99\n"
    assert message(tmp_path, 0, 18, text=text) == (
        "column age of faces.csv holds nan, old, no number, for 2 samples: row 2, row 4; correct them, or leave age "
        "out of --qfair-bin"
    )


def test_a_missing_value_is_missing(tmp_path: Path) -> None:
    assert message(tmp_path, 0, 18, text="a,label,age\n1,0,\n2,1,17\n") == (
        "column age of faces.csv is empty for 1 sample: row 2; fill it in, or leave those samples out"
    )


def test_a_column_that_makes_no_groups(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        read(tmp_path, 0, 18, group_by="sex")
    assert str(caught.value) == (
        "--qfair-bin is age=0,18, and age is neither a column of --qfair-group-by (sex) nor the label (label): name it "
        "there"
    )


def test_arrays_have_no_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 1)), y=[0, 1], group=[5, 60])
    with pytest.raises(OptionError, match="--qfair-bin is for the columns of a manifest"):
        load_data(tmp_path / "a.npz", bins={"group": [0, 18, 65]})

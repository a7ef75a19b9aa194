from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.data import as_samples, grouped_data, load_data, read_data
from qfair_check.inputs.model import Model
from qfair_check.inputs.options import DataOptions, Preprocessing

X = np.arange(6.0).reshape(3, 2)


def test_suffix_chooses_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_text("a,label\n1,0\n")
    np.savez(tmp_path / "a.npz", x=X, y=[0, 1, 0])
    assert len(load_data(tmp_path / "a.CSV").labels) == 1
    assert len(load_data(tmp_path / "a.npz").labels) == 3


@pytest.mark.parametrize("name", ["a.feather", "a", "a.npy"])
def test_other_kinds_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError) as caught:
        load_data(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name} is of a kind that cannot be read: give a .csv or .parquet manifest, an .npz or "
        ".safetensors file with x and y, a folder of images, package.module:function, or demo"
    )


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no data file .*gone\.csv: give a \.csv or \.parquet manifest"):
        load_data(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv is a folder with neither class folders"):
        load_data(tmp_path / "folder.csv")


def test_source_is_the_file_as_the_user_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faces.csv").write_text("a,label\n1,0\n")
    monkeypatch.chdir(tmp_path)
    assert read_data(DataOptions("./faces.csv")).source == "./faces.csv"


def test_load_data_takes_what_the_options_take(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_text("a,b,race,sex,split\n1,2,x,f,test\n3,4,y,m,train\n")
    data = load_data(path, label="race", group_by="sex", split="test", classes=["y", "x"], features="b")
    assert data.inputs[0].tolist() == [2.0]
    assert (data.labels.tolist(), data.group_by, data.group_names) == ([1], ("sex",), ("f", "m"))


def test_load_data_takes_names_and_normalization_of_a_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((2, 1), 255, np.uint8), y=["b", "a"])
    model = Model(len, classes=("b", "a"), preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)))
    data = load_data(tmp_path / "a.npz", model=model)
    assert (data.labels.tolist(), data.class_order) == ([0, 1], "model")
    assert data.inputs[0].tolist() == [2.0]


def test_demo() -> None:
    data = load_data("demo")
    assert data.source == "demo"
    assert data.inputs[0].shape == (1, 8, 8)
    assert len(data.labels) == len(data.inputs) > 300
    assert set(data.labels.tolist()) == set(range(10))
    with pytest.raises(OptionError, match=r"--qfair-group-by is for .* and demo has none"):
        load_data("demo", group_by="sex")


def test_objects_become_grouped_data() -> None:
    data = grouped_data(X, [0, 1, 0], ["a", "b", "b"])
    assert as_samples(data) is data
    assert as_samples((X, [0, 1, 0], ["a", "b", "b"])).key == data.key
    assert as_samples({"x": X, "y": [0, 1, 0], "group": ["a", "b", "b"]}).key == data.key
    assert as_samples((X, [0, 1, 0])).group_by == as_samples({"x": X, "y": [0, 1, 0]}).group_by == ()


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (None, "not a NoneType"),
        ((X,), "not a tuple"),
        ([X, [0, 1, 0]], "not a list"),
        ({"x": X}, "not a dict with the keys x"),
        ({"x": X, "y": [0], "groups": [0]}, "not a dict with the keys x, y, groups"),
        ("faces.csv", "not a str; of a file, give qfair_check.load_data(path)"),
    ],
)
def test_other_objects(given: object, end: str) -> None:
    with pytest.raises(InputError) as caught:
        as_samples(given)
    assert str(caught.value) == (
        "grouped data is a GroupedData, a torch Dataset of (x, y) or (x, y, group), a tuple of such arrays, or a "
        f"mapping with the keys x, y and optionally group, {end}"
    )


def test_changed_copy_has_another_key() -> None:
    data = grouped_data(X, [0, 1, 0])
    assert replace(data, group_names=("no", "yes")).key != data.key
    assert replace(data, notices=("seen",)).key == data.key

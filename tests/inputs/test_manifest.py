import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.data import GroupedData, read_data
from qfair_check.inputs.options import DataOptions, Preprocessing

FEATURES = "a,b,label,sex\n1,2,yes,f\n0.5,-3e2,no,m\n0,4,yes,m\n"


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "faces.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(
    path: str, *, model: Preprocessing | None = None, model_classes: tuple[str, ...] = (), **options: object
) -> GroupedData:
    return read_data(DataOptions(path, **options), model_classes=model_classes, model_preprocessing=model)


def message(path: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value).replace(path, "faces.csv")


def counts(data: GroupedData) -> dict[str, int]:
    return dict(zip(data.group_names, np.bincount(data.groups, minlength=len(data.group_names)).tolist(), strict=True))


@pytest.fixture
def faces(tmp_path: Path) -> str:
    (tmp_path / "images").mkdir()
    lines = ["path,race,gender,split"]
    people = ["White,male", "Black,female", "White,female", "Black,female", "Asian,male", "White,male"]
    for index, person in enumerate(people):
        pixels = np.full((4, 4, 3), (10 * index, 100, 200), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        lines.append(f"images/{index}.png,{person},{'test' if index % 2 else 'train'}")
    return write(tmp_path, "\n".join(lines) + "\n")


def test_features(tmp_path: Path) -> None:
    data = read(write(tmp_path, FEATURES), group_by=("sex",), classes=("no", "yes"))
    rows = torch.stack([data.inputs[index] for index in range(3)])
    assert torch.equal(rows, torch.tensor([[1.0, 2.0], [0.5, -300.0], [0.0, 4.0]]))
    assert (data.labels.tolist(), data.labels.dtype, data.classes) == ([1, 0, 1], np.int64, ("no", "yes"))
    assert (data.groups.tolist(), data.group_names) == ([0, 1, 1], ("f", "m"))
    assert (data.label, data.group_by, data.split, data.class_order) == ("label", ("sex",), None, "given")
    assert (data.preprocessing, data.decodes) == (None, False)
    assert data.notices == ("features: a, b; pass --qfair-features to choose",)
    assert data.where(1) == "row 3"


def test_named_features_have_the_order_given(tmp_path: Path) -> None:
    data = read(write(tmp_path, FEATURES), features=("b", "a"), classes=("no", "yes"))
    assert data.inputs[0].tolist() == [2.0, 1.0]
    assert data.notices == ()


def test_named_features_go_before_an_image_column(tmp_path: Path) -> None:
    data = read(write(tmp_path, "path,a,label\nnone.png,5,0\n"), features=("a",))
    assert data.features == ("a",)
    assert data.inputs[0].tolist() == [5.0]


@pytest.mark.parametrize("value", ["", "abc", "nan", "inf", "1e300", "NA"])
def test_feature_that_is_no_finite_number(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"a,b,label\n1,2,0\n1,{value},1\n")
    assert message(path) == (
        f"column b of faces.csv holds {value!r} in row 3, which is no finite number (1 such row): name the columns "
        "that are the model's input with --qfair-features, or images in a column path or image or file or filename "
        "or filepath or image_path"
    )
    assert message(path, features=("b",)).endswith("the model's input with --qfair-features")
    assert read(path, features=("a",)).inputs[1].tolist() == [1.0]


def test_no_inputs(tmp_path: Path) -> None:
    assert message(write(tmp_path, "label,group\n0,a\n")) == (
        "faces.csv has neither images (a column path or image or file or filename or filepath or image_path) nor "
        "feature columns; its columns are label, group"
    )


@pytest.mark.parametrize("option", [{"image_size": (4, 4)}, {"mean": (0.5,)}, {"std": (0.5,)}])
def test_features_with_options_of_images(tmp_path: Path, option: dict[str, object]) -> None:
    name = next(iter(option)).replace("_", "-")
    with pytest.raises(OptionError, match=f"--qfair-{name} is for images"):
        read(write(tmp_path, FEATURES), **option)


def test_index_column_of_pandas_is_no_feature(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.5, 2.5], "label": [0, 1]}).to_csv(tmp_path / "faces.csv")
    data = read(str(tmp_path / "faces.csv"))
    assert data.inputs[1].tolist() == [2.5]


def test_images(faces: str) -> None:
    data = read(faces, label="race", group_by=("race", "gender"), split="test", mean=(0.5,), std=(0.5,))
    assert len(data.labels) == len(data.inputs) == 3
    torch.testing.assert_close(data.inputs[1][:, 0, 0], torch.tensor([30, 100, 200]) / 255 * 2 - 1)
    assert data.decodes
    assert data.where(1) == "row 5 (images/3.png)"
    assert (data.classes, data.labels.tolist()) == (("Asian", "Black", "White"), [1, 1, 2])
    assert (data.label, data.group_by, data.split) == ("race", ("race", "gender"), "test")
    assert data.preprocessing == Preprocessing(mean=(0.5,), std=(0.5,))


def test_groups_are_those_of_the_whole_file(faces: str) -> None:
    data = read(faces, label="race", group_by=("race", "gender"), split="test", mean=(0.5,), std=(0.5,))
    assert counts(data) == {"Asian × male": 0, "Black × female": 2, "White × female": 0, "White × male": 1}
    assert data.notices == (
        "class order: sorted label names (Asian, Black, White); pass --qfair-classes to fix it",
        "2 combinations never occur and are no groups: Asian × female, Black × male",
    )


def test_counts_agree_with_pandas(faces: str) -> None:
    table = pd.read_csv(faces)
    data = read(faces, label="race", group_by=("race", "gender"))
    expected = {f"{race} × {gender}": n for (race, gender), n in table.groupby(["race", "gender"]).size().items()}
    assert counts(data) == expected
    assert [data.classes[label] for label in data.labels] == table["race"].tolist()


def test_class_is_the_group_in_class_order(faces: str) -> None:
    data = read(faces, label="race", split="test", model_classes=("White", "Others", "Black", "Asian"))
    assert counts(data) == {"White": 1, "Others": 0, "Black": 2, "Asian": 0}
    assert (data.group_by, data.class_order) == ((), "model")


def test_group_column_is_found(tmp_path: Path) -> None:
    data = read(write(tmp_path, "a,label,group\n1,0,b\n2,1,a\n"))
    assert (data.group_by, data.group_names, data.groups.tolist()) == (("group",), ("a", "b"), [1, 0])


def test_names_that_look_like_missing_values_are_names(tmp_path: Path) -> None:
    data = read(write(tmp_path, "a,label,group\n1,0,NA\n2,1,None\n3,1,nan\n"))
    assert data.group_names == ("NA", "None", "nan")


def test_label_indices(tmp_path: Path) -> None:
    data = read(write(tmp_path, "a,label\n1,2\n2,0\n"))
    assert (data.labels.tolist(), data.classes, data.class_order) == ([2, 0], ("0", "1", "2"), "indices")


def test_unused_split_is_said(faces: str) -> None:
    data = read(faces, label="race", classes=("White", "Black", "Asian"))
    assert data.notices == (
        "column split is there (train 3, test 3) and is not used: pass --qfair-split to pick one",
        "images are scaled to [0, 1] and not normalized: pass --qfair-mean and --qfair-std if the model was trained "
        "with them",
    )


def test_split_can_make_the_groups(faces: str) -> None:
    data = read(faces, label="race", group_by=("split",), mean=(0.5,), std=(0.5,), classes=("White", "Black", "Asian"))
    assert counts(data) == {"test": 3, "train": 3}
    assert data.notices == ()


def test_split_that_is_not_there(faces: str) -> None:
    assert message(faces, label="race", split="val") == (
        "no row of faces.csv has 'val' in column split: it holds train 3, test 3; pass one of them with --qfair-split"
    )


def test_missing_columns(faces: str) -> None:
    listed = "its columns are path, race, gender, split"
    assert message(faces) == (
        f"faces.csv has no column label: name the column that holds the true class with --qfair-label; {listed}"
    )
    assert message(faces, label="race", group_by=("sex",)) == (
        f"faces.csv has no column sex: name the columns that make the groups with --qfair-group-by; {listed}"
    )
    assert message(faces, label="race", features=("age",)) == (
        f"faces.csv has no column age: name the columns that are the model's input with --qfair-features; {listed}"
    )


def test_missing_split_column(tmp_path: Path) -> None:
    assert message(write(tmp_path, FEATURES), split="test") == (
        "faces.csv has no column split: leave out --qfair-split, or add the column; its columns are a, b, label, sex"
    )


def test_missing_values_are_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'a,label,sex,race\n1,0,f,"two\nlines"\n\n2,1, ,x\n3,,m,\n')
    assert message(path, group_by=("sex",), features=("a",)) == (
        "column label of faces.csv is empty for 1 sample: row 6; fill it in, or leave those samples out"
    )
    path = write(tmp_path, 'a,label,sex,race\n1,0,f,"two\nlines"\n\n2,1, ,x\n3,1,m,\n')
    assert message(path, group_by=("sex",), features=("a",)).startswith(
        "column sex of faces.csv is empty for 1 sample: row 5;"
    )
    assert message(path, group_by=("race", "sex"), features=("a",)).startswith(
        "column race of faces.csv is empty for 1 sample: row 6;"
    )


def test_missing_values_outside_the_split_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, "a,label,sex,split\n1,cat,f,test\n2,,,train\nx,dog,m,train\n")
    data = read(path, group_by=("sex",), split="test")
    assert (data.classes, counts(data)) == (("cat", "dog"), {"f": 1, "m": 0})


def test_unknown_label_names_its_row(faces: str) -> None:
    assert message(faces, label="race", classes=("White", "Black")) == (
        "column race of faces.csv holds Asian, not among the known classes (White, Black), for 1 sample: row 6 "
        "(images/4.png); correct the labels, or pass --qfair-classes with all names in the order of the model's outputs"
    )


def test_missing_images_are_counted_up_front(faces: str, tmp_path: Path) -> None:
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "3.png").unlink()
    (tmp_path / "images" / "3.png").mkdir()
    assert message(faces, label="race") == (
        "column path of faces.csv names 2 images that cannot be found: row 3 (images/1.png), row 5 (images/3.png); "
        f"paths are relative to the folder of the manifest, {tmp_path}"
    )
    assert len(read(faces, label="race", split="train").labels) == 3


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    path = write(tmp_path, f"path,label\na\0b,0\n,1\n{'x' * 5000},1\n")
    assert message(path).startswith("column path of faces.csv names 3 images that cannot be found: row 2 (a")


def test_absolute_paths_and_other_image_columns(faces: str, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    path.mkdir()
    manifest = write(path, f"image,label\n{tmp_path / 'images' / '2.png'},0\n")
    assert "outside the folder" in message(manifest)
    data = read(manifest, allow_outside=True)
    torch.testing.assert_close(data.inputs[0][:, 0, 0], torch.tensor([20, 100, 200]) / 255)


def test_corrupt_image_names_row_and_path(faces: str, tmp_path: Path) -> None:
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    data = read(faces, label="race")
    with pytest.raises(InputError) as caught:
        data.inputs[2]
    assert str(caught.value) == ("the image of row 4 (images/2.png) cannot be decoded: it is no image of a known kind")


def test_options_override_the_model_field_by_field(faces: str) -> None:
    model = Preprocessing((2, 2), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    options = {"label": "race", "classes": ("White", "Black", "Asian"), "split": "test"}
    data = read(faces, model=model, **options)
    assert data.preprocessing == model
    assert data.notices == ()
    assert data.inputs[0].shape == (3, 2, 2)
    data = read(faces, model=model, **options, image_size=(3, 5), mean=(0.5,))
    assert data.preprocessing == Preprocessing((3, 5), (0.5,), (0.4, 0.5, 0.6))
    assert data.inputs[0].shape == (3, 3, 5)
    with pytest.raises(OptionError, match="give both or neither"):
        read(faces, **options, mean=(0.5,))


def test_key_follows_files_and_options(faces: str, tmp_path: Path) -> None:
    options = {"label": "race", "split": "test"}
    key = read(faces, **options).key
    assert read(faces, **options).key == key
    assert read(faces, **options, image_size=(2, 2)).key != key
    assert read(faces, **options, group_by=("gender",)).key != key
    assert read(faces, label="race", split="train").key != key
    os.utime(tmp_path / "images" / "1.png", ns=(0, 0))
    assert read(faces, **options).key != key


def test_key_of_features_follows_their_values(tmp_path: Path) -> None:
    key = read(write(tmp_path, FEATURES), features=("a", "b")).key
    assert read(write(tmp_path, FEATURES.replace("0.5", "0.50")), features=("a", "b")).key == key
    assert read(write(tmp_path, FEATURES.replace("0.5", "0.6")), features=("a", "b")).key != key


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    data = read(write(tmp_path, b"\xef\xbb\xbflabel,a\r\n0,1\r\n1,2\r\n"))
    assert (data.labels.tolist(), data.where(1)) == ([0, 1], "row 3")


def test_spaces_around_cells_do_not_make_names(tmp_path: Path) -> None:
    data = read(write(tmp_path, 'a, label , group\n1,0, "x, y"\n2,1,z\n'))
    assert data.group_names == ("x, y", "z")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"",
            "faces.csv is empty: give a .csv or .parquet manifest, an .npz or .safetensors file with x and y,"
            " a folder of images, package.module:function, or demo",
        ),
        (b"\n \n", "faces.csv is empty: give a header, and one row for each sample"),
        (b"a,label\n", "faces.csv has a header and no rows: give one row for each sample"),
        (b"a,label\n1,0\n2,1,3\n", "row 3 of faces.csv has 3 fields and the header 2: quote fields that hold a comma"),
        (b"a,label\n1\n", "row 2 of faces.csv has 1 field and the header 2: quote fields that hold a comma"),
        (b"a,label,a\n1,0,2\n", "faces.csv has more than one column named a: rename or remove them"),
        (b"a;label\n1;0\n", "faces.csv has no commas in its header ('a;label'): separate columns by commas"),
        (
            "a,label\n1,é\n".encode("latin-1"),
            "faces.csv is not UTF-8 text (invalid continuation byte): save it as UTF-8",
        ),
        ("a,label\n1,0\n".encode("utf-16"), "faces.csv is not UTF-8 text (invalid start byte): save it as UTF-8"),
        (
            b'a,label\n1,0\n2,"1\n',
            "faces.csv is damaged in the record that starts in row 3: unexpected end of data",
        ),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: bytes, text: str) -> None:
    assert message(write(tmp_path, content)) == text

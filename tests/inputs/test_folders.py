import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from qfair_check.errors import InputError
from qfair_check.inputs.data import GroupedData, load_data
from qfair_check.inputs.labelled import labelled
from qfair_check.measure.run import audit
from qfair_check.record import Audit

RACES = ("White", "Black", "Asian", "Indian", "Others")
GENDERS = ("male", "female")
NORMAL = {"mean": (0.5,), "std": (0.5,)}


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def counts(data: GroupedData) -> dict[str, int]:
    return dict(zip(data.group_names, np.bincount(data.groups, minlength=len(data.group_names)).tolist(), strict=True))


def message(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_data(path, **options)
    return str(caught.value).replace(str(path), "FOLDER")


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for seed, name in enumerate(["dog/b.png", "dog/a.JPG", "cat/deep/c.png", "cat/z.png"]):
        image(tmp_path / name, seed)
    return tmp_path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Made-up faces, named as UTKFace names them."""
    folder = tmp_path / "utkface"
    rng = np.random.default_rng(5)
    for seed in range(120):
        age, gender, race = int(rng.integers(1, 116)), rng.integers(2), rng.integers(5)
        image(folder / f"{age}_{gender}_{race}_20170116{seed:09}.jpg.chip.jpg", seed)
    return folder


def test_class_folders_are_read_as_torchvision_reads_them(animals: Path) -> None:
    data, peer = load_data(animals, **NORMAL), ImageFolder(animals)
    assert data.classes == tuple(peer.classes) == ("cat", "dog")
    assert data.labels.tolist() == peer.targets
    for index, (expected, _) in enumerate(peer):
        torch.testing.assert_close(data.inputs[index], pil_to_tensor(expected) / 255 * 2 - 1)
    assert (data.label, data.group_by, data.class_order, data.decodes) == ("label", (), "data", True)
    assert data.where(0) == str(Path(peer.samples[0][0]).relative_to(animals))
    assert data.notices == ("class order: that of the data (cat, dog); pass --qfair-classes to fix it",)


def test_an_empty_class_is_a_visible_class_and_group(animals: Path) -> None:
    (animals / "ant").mkdir()
    data = load_data(animals, **NORMAL)
    assert (data.classes, counts(data)) == (("ant", "cat", "dog"), {"ant": 0, "cat": 2, "dog": 2})


def test_given_classes_fix_the_order(animals: Path) -> None:
    data = load_data(animals, classes=["dog", "cat"], **NORMAL)
    assert (data.classes, data.labels.tolist(), data.notices) == (("dog", "cat"), [1, 1, 0, 0], ())


def test_folders_named_by_numbers_have_the_order_of_torchvision(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        image(tmp_path / name / "a.png")
    data = load_data(tmp_path, **NORMAL)
    assert data.classes == tuple(ImageFolder(tmp_path).classes) == ("0", "10", "2")
    assert (data.labels.tolist(), data.class_order) == ([0, 1, 2], "data")


def test_files_that_are_no_images_are_told(animals: Path) -> None:
    for name in ("list.txt", "cat/notes.md", "dog/.hidden"):
        (animals / name).write_text("x")
    image(animals / "cover.png")
    data = load_data(animals, **NORMAL)
    assert len(data.labels) == 4
    assert data.notices[0] == (
        f"left out of {animals}: cover.png, list.txt, cat/notes.md, which are no images by their names or place"
    )


def test_links_to_folders_are_followed_as_torchvision_does(
    animals: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("store")
    image(store / "b" / "1.png")
    image(store / "a" / "2.png")
    (animals / "dog" / "more").symlink_to(store)
    (animals / "ant").symlink_to(store)
    data, peer = load_data(animals, **NORMAL), ImageFolder(animals)
    assert [data.where(index) for index in range(data.size)] == [
        str(Path(name).relative_to(animals)) for name, _ in peer.samples
    ]
    assert data.labels.tolist() == peer.targets


@pytest.mark.parametrize(("link", "target"), [("cat/deep/round", "."), ("dog/up", ".."), ("dog/top", "../..")])
def test_a_link_that_leads_in_a_circle_would_count_images_many_times(animals: Path, link: str, target: str) -> None:
    (animals / link).symlink_to(target)
    told = message(animals)
    assert told.startswith(f"the folder {link}")
    assert told.endswith(" in FOLDER is a link to a folder that holds it: remove it")


def test_a_folder_that_cannot_be_read_is_told(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert message(animals) == "cannot read the folder FOLDER/cat/deep: Permission denied"


def test_names_that_are_no_utf8(animals: Path) -> None:
    odd = os.fsdecode(b"b\xe4r")
    image(animals / "dog" / f"{odd}.png")
    image(animals / odd / "a.png")
    data = load_data(animals, **NORMAL)
    assert (data.size, data.classes) == (6, ("b\\xe4r", "cat", "dog"))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    made = audit(net, data, 8, workers=0)
    made.save(animals / "audit.json")
    assert Audit.load(animals / "audit.json").measured_json() == made.measured_json()


def test_a_damaged_image_is_named(animals: Path) -> None:
    (animals / "dog" / "b.png").write_bytes(b"no image")
    data = load_data(animals, **NORMAL)
    with pytest.raises(InputError) as caught:
        data.inputs[3]
    assert str(caught.value) == "the image of dog/b.png cannot be decoded: it is no image of a known kind"


def test_key_follows_the_files(animals: Path) -> None:
    key = load_data(animals).key
    assert load_data(animals).key == key
    image(animals / "dog" / "b.png", 99)
    assert load_data(animals).key != key


def test_faces_have_age_gender_and_race(tmp_path: Path) -> None:
    for name in ("9_0_1_20170116.jpg", "101_1_4_20170116.jpg.chip.jpg", "part2/007_1_0_2017.PNG"):
        image(tmp_path / name)
    data = load_data(tmp_path, label="race", group_by=["gender", "age"], classes=RACES, **NORMAL)
    assert [data.where(index) for index in range(3)] == [
        "101_1_4_20170116.jpg.chip.jpg", "9_0_1_20170116.jpg", "part2/007_1_0_2017.PNG",
    ]  # fmt: skip
    assert data.labels.tolist() == [4, 1, 0]
    assert [data.group_names[group] for group in data.groups] == ["female × 101", "male × 9", "female × 7"]
    assert counts(load_data(tmp_path, label="gender", group_by="age", bins={"age": [0, 10, 100, 120]}, **NORMAL)) == {
        "[0, 10)": 2, "[10, 100)": 0, "[100, 120]": 1,
    }  # fmt: skip


def test_faces_need_a_label(faces: Path) -> None:
    assert message(faces) == (
        "FOLDER has no column label: name the column that holds the true class with --qfair-label; its columns are "
        "path, age, gender, race"
    )


def test_faces_named_otherwise_are_listed(faces: Path) -> None:
    for name in ("39_1_20170116174525125.jpg", "a.jpg", "9_2_0_2017.jpg", "9_0_5_2017.jpg"):
        image(faces / name)
    assert message(faces, label="race") == (
        "FOLDER holds UTKFace images, and 4 images not named age_gender_race_date: 39_1_20170116174525125.jpg, "
        "9_0_5_2017.jpg, 9_2_0_2017.jpg, a.jpg; rename or remove them"
    )


def test_what_lies_beside_faces_is_told(faces: Path) -> None:
    (faces / "list.csv").write_text("x")
    image(faces / "more" / "1_0_0_2017.jpg")
    assert load_data(faces, label="race", classes=RACES, **NORMAL).notices == (
        f"left out of {faces}: list.csv, more, which are no images by their names or place",
    )


@pytest.mark.parametrize("name", [None, "a.txt", "a.png"])
def test_a_folder_that_is_neither(tmp_path: Path, name: str | None) -> None:
    if name:
        (tmp_path / name).write_text("x")
    assert message(tmp_path) == (
        "FOLDER is a folder with neither class folders (CLASS/image.jpg) nor UTKFace images "
        "(age_gender_race_date.jpg): give one of these, or a manifest of its images"
    )


def test_class_folders_without_images(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "cat" / "a.txt").write_text("x")
    assert message(tmp_path) == "FOLDER has class folders (cat, dog) and no image in them"


def test_a_folder_has_no_split(animals: Path) -> None:
    assert message(animals, split="test") == (
        "FOLDER has no column split: leave out --qfair-split, or add the column; its columns are path, label"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"label": "race", "classes": RACES},
        {"label": "race", "classes": RACES, "group_by": ["gender", "age"], "bins": {"age": [0, 18, 40, 65, 120]}},
        {"label": "gender", "group_by": "race"},
    ],
    ids=["race", "gender × age", "gender"],
)
def test_measured_parts_are_those_of_manifests(faces: Path, options: dict[str, object]) -> None:
    names = sorted(path.name for path in faces.iterdir())
    columns = list(zip(*(name.split("_")[:3] for name in names), strict=True))
    table = pd.DataFrame(
        {
            "image": [f"utkface/{name}" for name in names],
            "age": [int(age) for age in columns[0]],
            "gender": [GENDERS[int(code)] for code in columns[1]],
            "race": pd.Categorical([RACES[int(code)] for code in columns[2]]),
        }
    )
    table.to_csv(faces.parent / "faces.csv", index=False)
    table.to_parquet(faces.parent / "faces.parquet", row_group_size=50)
    torch.manual_seed(0)
    outputs = 2 if options["label"] == "gender" else 5
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, outputs))
    by_folder = load_data(faces, **options, **NORMAL)
    bins = pd.cut(
        table["age"], [0, 18, 40, 65, 121], right=False, labels=["[0, 18)", "[18, 40)", "[40, 65)", "[65, 120]"]
    )
    told = table.assign(age=bins).to_dict("records")
    keys = {"label": options["label"], "group_by": np.atleast_1d(options.get("group_by", ())).tolist()}

    class Faces(Dataset):
        def __len__(self) -> int:
            return len(told)

        def __getitem__(self, index: int) -> dict[str, object]:
            asked = {name: told[index][name] for name in [keys["label"], *keys["group_by"]]}
            return {"x": by_folder.inputs[index], **asked}

    by_function = labelled(
        Faces(), "faces:test", "key", classes=by_folder.classes, label=keys["label"], group_by=tuple(keys["group_by"])
    )
    files = [load_data(faces.parent / name, **options, **NORMAL) for name in ("faces.csv", "faces.parquet")]
    measured = {
        audit(net, data, "8,4", workers=workers, batch_size=batch_size).measured_json()
        for data, workers, batch_size in zip(
            [by_folder, *files, by_function], (0, 0, 2, 0), (64, 7, 64, 1), strict=True
        )
    }
    assert len(measured) == 1

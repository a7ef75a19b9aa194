import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.bins import bins_of
from qfair_check.inputs.data import GroupedData, grouped_data, read_data
from qfair_check.inputs.options import DataOptions, Preprocessing

X = np.arange(12, dtype=np.float64).reshape(4, 3) / 8
Y = [1, 0, 1, 1]


def rows(data: GroupedData) -> torch.Tensor:
    return torch.stack([data.inputs[index] for index in range(len(data.labels))])


def npz(folder: Path, **arrays: object) -> str:
    path = folder / "faces.npz"
    np.savez(path, **arrays)
    return str(path)


def tensors(folder: Path, metadata: dict[str, object] | None = None, **arrays: object) -> str:
    path = folder / "faces.safetensors"
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    save_file({name: torch.as_tensor(value) for name, value in arrays.items()}, path, texts)
    return str(path)


def read(path: str, *, model: Preprocessing | None = None, **options: object) -> GroupedData:
    return read_data(DataOptions(path, **options), model_preprocessing=model)


def message(*arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        grouped_data(*arguments, **options)
    return str(caught.value)


class Squares(Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index**2)])


def test_floats_become_float32_and_the_class_is_the_group() -> None:
    data = grouped_data(X, Y)
    assert rows(data).dtype == torch.float32
    np.testing.assert_array_equal(rows(data).numpy(), X.astype(np.float32))
    assert (data.labels.tolist(), data.labels.dtype) == (Y, np.int64)
    assert data.groups.tolist() == Y
    assert data.classes == data.group_names == ("0", "1")
    assert (data.group_by, data.class_order, data.source) == ((), "indices", "python")
    assert (data.label, data.split, data.preprocessing, data.notices) == (None, None, None, ())
    assert data.where(3) == "sample 3"
    assert not data.decodes


def test_class_without_samples_stays_a_group() -> None:
    data = grouped_data(X, [0, 2, 2, 0])
    assert data.group_names == ("0", "1", "2")
    assert np.bincount(data.groups, minlength=3).tolist() == [2, 0, 2]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.bool_])
def test_other_floats_and_truth_values_become_float32(kind: type) -> None:
    assert rows(grouped_data(np.ones((2, 2), kind), [0, 1])).tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("x", [torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3, requires_grad=True)])
def test_tensors(x: torch.Tensor) -> None:
    data = grouped_data(x, torch.tensor([0, 1]), torch.tensor([5, 3]))
    assert torch.equal(rows(data), torch.ones(2, 3))
    assert (data.groups.tolist(), data.group_names) == ([1, 0], ("3", "5"))
    assert data.group_by == ("group",)


def test_integers_stay_integers() -> None:
    data = grouped_data(np.array([[5, 7], [70000, 1]], np.int32), [0, 1])
    assert torch.equal(rows(data), torch.tensor([[5, 7], [70000, 1]]))
    with pytest.raises(OptionError, match="holds integers, which are not normalized"):
        grouped_data(np.array([[5, 7]]), [0], mean=[0.5], std=[1.0])


def test_bytes_are_scaled_and_that_is_said() -> None:
    data = grouped_data(np.array([[0, 51], [255, 102]], np.uint8), [0, 1])
    torch.testing.assert_close(rows(data), torch.tensor([[0.0, 0.2], [1.0, 0.4]]))
    assert data.preprocessing == Preprocessing()
    assert data.notices == (
        "x holds bytes (uint8): scaled to [0, 1] and not normalized; pass mean= and std= if the model was trained "
        "with them",
    )


def test_mean_and_std_apply_by_channel() -> None:
    x = np.full((2, 3, 2, 2), 51, np.uint8)
    data = grouped_data(x, [0, 1], mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.1))
    expected = torch.tensor([0.1, 0.0, -1.0]).reshape(1, 3, 1, 1).expand(2, 3, 2, 2)
    torch.testing.assert_close(rows(data), expected)
    assert data.notices == ("x holds bytes (uint8): scaled to [0, 1]",)
    assert data.preprocessing == Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.1))


def test_mean_and_std_apply_to_floats() -> None:
    data = grouped_data(np.full((1, 2, 2), 3.0), [0], mean=(1.0,), std=(4.0,))
    assert torch.equal(rows(data), torch.full((1, 2, 2), 0.5))


def test_mean_must_fit_the_channels() -> None:
    with pytest.raises(OptionError, match="mean has 2 values: give one, or one for each of the 3 channels"):
        grouped_data(np.ones((2, 3, 4, 4)), [0, 1], mean=(0.1, 0.2), std=(1.0, 1.0))


def test_names_and_given_classes() -> None:
    data = grouped_data(X, ["dog", "cat", "dog", "dog"], ["b", "a", "a", "b"], classes=["dog", "cat"])
    assert data.labels.tolist() == [0, 1, 0, 0]
    assert (data.classes, data.class_order) == (("dog", "cat"), "given")
    assert (data.group_names, data.groups.tolist()) == (("a", "b"), [1, 0, 0, 1])


def test_sorted_names_are_said() -> None:
    data = grouped_data(X, ["dog", "cat", "dog", "dog"])
    assert data.notices == ("class order: sorted label names (cat, dog); pass classes= to fix it",)


@pytest.mark.parametrize(
    "group",
    [
        pd.Series(["b", "a", "a", "b"]),
        pd.Series(["b", "a", "a", "b"], dtype="category"),
        np.array([b"b", b"a", b"a", b"b"]),
        np.array(["b", "a", "a", "b"], dtype=object),
        (" b", "a ", "a", "b"),
    ],
    ids=["series", "category", "bytes", "object", "spaces"],
)
def test_group_names_in_many_types(group: object) -> None:
    data = grouped_data(X, Y, group)
    assert (data.group_names, data.groups.tolist()) == (("a", "b"), [1, 0, 0, 1])


def test_group_numbers_sort_as_numbers() -> None:
    assert grouped_data(X, Y, [10, 9, 10, 9]).group_names == ("9", "10")
    assert grouped_data(X, Y, [-1, 9, 10, 9]).group_names == ("-1", "9", "10")


def test_truth_values_are_labels_and_groups() -> None:
    data = grouped_data(X, np.array([True, False, True, True]), [True, False, False, True])
    assert data.labels.tolist() == [1, 0, 1, 1]
    assert data.group_names == ("False", "True")


@pytest.mark.parametrize("missing", [None, pd.NA, float("nan"), pd.NaT])
def test_missing_group(missing: object) -> None:
    group = np.array(["a", missing, "b", " "], dtype=object)
    assert message(X, Y, pd.Series(group)) == message(X, Y, group)
    assert message(X, Y, group).startswith("group is empty for 2 samples: sample 1, sample 3;")


@pytest.mark.parametrize(
    ("y", "text"),
    [
        ([0.0, 1.0, 0.0, 1.0], "y holds values of type float64: give whole numbers or names"),
        (torch.tensor([0.0, 1, 0, 1]), "y holds values of type float32: give whole numbers or names"),
        (np.eye(4), "y has shape (4, 4): give one value for each sample; of one-hot labels, give y.argmax(axis=1)"),
        (3, "y has shape (): give one value for each sample"),
        ([0, 1], "x has 4 samples and y has 2: give one label for each"),
        ([[0], [1, 2]], "y cannot be made an array: "),
        (np.array([0, 1.5, "a", 1], dtype=object), "y holds a float at sample 1: give whole numbers or names"),
        ([0, 1, -1, 0], "y holds -1 (sample 2), which is no class index: "),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(y: object, text: str) -> None:
    assert message(X, y).startswith(text)


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ([0.5, 1.5, 0.5, 1.5], "group holds values of type float64: give whole numbers or names"),
        (["a"], "x has 4 samples and group has 1: give one group for each"),
        ([["a", "b"]] * 4, "group has shape (4, 2): give one value for each sample"),
    ],
)
def test_groups_that_cannot_be_used(group: object, text: str) -> None:
    assert message(X, Y, group) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (5.0, "x is a float: give an array whose first axis is the samples"),
        (np.zeros((0, 3)), "x has no samples"),
        (np.array([["a"]] * 4), "x holds values of type <U1: give numbers"),
        (np.ones((4, 2), complex), "x holds values of type complex128: give numbers"),
        (np.array([None] * 4), "x holds values of type object: give numbers"),
        ([[1.0], [1.0, 2.0]], "x cannot be made an array: "),
    ],
)
def test_inputs_that_cannot_be_used(x: object, text: str) -> None:
    assert message(x, Y).startswith(text)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_inputs_that_are_not_finite(value: float) -> None:
    x = X.copy()
    x[1, 2] = x[3, 0] = value
    assert message(x, Y) == (
        "x holds values that are not finite (NaN, infinite, or too large for float32) in 2 samples: sample 1, "
        "sample 3; correct or leave them out"
    )


def test_a_dataset_is_used_as_it_is() -> None:
    squares = Squares(3)
    data = grouped_data(squares, [0, 1, 0])
    assert data.inputs is squares
    assert data.preprocessing is None
    assert rows(data).flatten().tolist() == [0.0, 1.0, 4.0]
    assert data.key == grouped_data(squares, [0, 1, 0]).key
    assert data.key != grouped_data(Squares(3), [0, 1, 0]).key


def test_datasets_that_cannot_be_used() -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(())

    class Broken(Squares):
        def __getitem__(self, index: int) -> torch.Tensor:
            raise OSError("disk on fire")

    assert message(Endless(), Y).startswith("x is a dataset without a length (Endless): give a map-style torch Dataset")
    assert message(Squares(0), []) == "x has no samples"
    assert message(Broken(4), Y) == "the Dataset x failed on sample 0: OSError: disk on fire"
    assert message(TensorDataset(torch.ones(4, 2), torch.zeros(4)), Y) == (
        "the Dataset x gives a tuple for each sample: let it give the model's input alone, and pass the labels as y; "
        "or pass a Dataset of (x, y) or (x, y, group) alone"
    )
    with pytest.raises(OptionError, match="let the Dataset x normalize"):
        grouped_data(Squares(2), [0, 1], mean=[0.5], std=[0.5])


def test_what_the_caller_gave_is_not_changed() -> None:
    x = np.arange(8, dtype=np.uint8).reshape(2, 4)[:, ::-1]
    x.flags.writeable = False
    data = grouped_data(x, [0, 1], mean=(0.5,), std=(0.5,))
    torch.testing.assert_close(rows(data), (torch.tensor(x.copy()) / 255 - 0.5) / 0.5)
    assert x.tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]


def test_foreign_byte_order() -> None:
    assert rows(grouped_data(np.array([[1.5]], ">f8"), np.array([0], ">i4"))).tolist() == [[1.5]]


def test_key_follows_the_content() -> None:
    key = grouped_data(X, Y, ["a", "b", "a", "b"]).key
    assert len(bytes.fromhex(key)) == 32
    assert key == grouped_data(X.copy(), np.array(Y), np.array(["a", "b", "a", "b"])).key
    changed = X.copy()
    changed[0, 0] = 99
    others = [
        grouped_data(changed, Y, ["a", "b", "a", "b"]),
        grouped_data(X, [0, 0, 1, 1], ["a", "b", "a", "b"]),
        grouped_data(X, Y, ["a", "b", "b", "b"]),
        grouped_data(X, Y, ["a", "c", "a", "c"]),
        grouped_data(X, Y, ["a", "b", "a", "b"], mean=[0.5], std=[0.5]),
        grouped_data(X, Y, ["a", "b", "a", "b"], classes=["no", "yes"]),
        grouped_data(X.reshape(4, 3, 1), Y, ["a", "b", "a", "b"]),
    ]
    assert len({key, *(other.key for other in others)}) == 8


def test_npz(tmp_path: Path) -> None:
    path = npz(tmp_path, x=X, y=np.array(["dog", "cat", "cat", "dog"]), group=np.array(["b", "a", "b", "a"]))
    data = read_data(DataOptions(path), model_classes=("dog", "cat"))
    np.testing.assert_array_equal(rows(data).numpy(), X.astype(np.float32))
    assert (data.labels.tolist(), data.classes, data.class_order) == ([0, 1, 1, 0], ("dog", "cat"), "model")
    assert (data.groups.tolist(), data.group_names, data.group_by) == ([1, 0, 1, 0], ("a", "b"), ("group",))
    assert (data.source, data.label, data.preprocessing) == (path, None, None)


def test_npz_loads_in_workers(tmp_path: Path) -> None:
    data = read(npz(tmp_path, x=X, y=Y))
    loaded = torch.cat(list(DataLoader(data.inputs, batch_size=3, num_workers=1)))
    assert torch.equal(loaded, rows(data))


def test_npz_bytes_take_the_normalization_of_the_model(tmp_path: Path) -> None:
    model = Preprocessing(image_size=(9, 9), mean=(0.2,), std=(0.5,))
    path = npz(tmp_path, x=np.full((1, 1, 1), 102, np.uint8), y=[0])
    data = read(path, model=model)
    torch.testing.assert_close(rows(data), torch.full((1, 1, 1), 0.4))
    assert data.preprocessing == Preprocessing(mean=(0.2,), std=(0.5,))
    assert data.notices == (f"x of {path} holds bytes (uint8): scaled to [0, 1]",)
    torch.testing.assert_close(rows(read(path, model=model, mean=(0.0,))), torch.full((1, 1, 1), 0.8))


def test_npz_floats_are_used_as_they_are(tmp_path: Path) -> None:
    path = npz(tmp_path, x=X, y=Y)
    data = read(path, model=Preprocessing(mean=(0.2,), std=(0.5,)))
    np.testing.assert_array_equal(rows(data).numpy(), X.astype(np.float32))
    assert data.notices == (
        f"x of {path} holds floats and is used as it is, without the mean and std of the model file: pass "
        "--qfair-mean and --qfair-std to apply them",
    )
    assert read(path, model=Preprocessing(mean=(0.2,), std=(0.5,)), mean=(0.0,), std=(2.0,)).notices == ()


def test_npz_without_an_array(tmp_path: Path) -> None:
    path = npz(tmp_path, images=X, y=Y)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path} has no array x: it holds images, y; save x, y and optionally group"


@pytest.mark.parametrize("name", ["x", "y", "group"])
def test_npz_with_objects_is_refused(tmp_path: Path, name: str) -> None:
    arrays = {"x": X, "y": Y, "group": ["a"] * 4} | {name: np.array([None] * 4)}
    path = npz(tmp_path, **arrays)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path} was saved with pickle, which may run code: save plain arrays of numbers and text"
    )


def test_npz_that_is_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "faces.npz").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(InputError, match="was saved with pickle, which may run code"):
        read(str(tmp_path / "faces.npz"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_truncated_npz(tmp_path: Path, part: float) -> None:
    path = Path(npz(tmp_path, x=np.zeros((50, 50)), y=np.zeros(50, int)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=r"faces\.npz.*(truncated or damaged|saved with pickle)"):
        read(str(path))


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((50, 50)), y=np.zeros(50, int))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*faces\.npz as \.npz \(truncated or damaged\?\): "):
        read(str(path))


def test_npz_that_is_a_single_array(tmp_path: Path) -> None:
    with (tmp_path / "faces.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(InputError, match=r"faces\.npz holds a single array: save x and y with np\.savez"):
        read(str(tmp_path / "faces.npz"))


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"label": "race"}, "label"),
        ({"group_by": ("race",)}, "group-by"),
        ({"split": "test"}, "split"),
        ({"features": ("age",)}, "features"),
        ({"bins": bins_of({"group": [0, 1]})}, "bin"),
        ({"image_size": (4, 4)}, "image-size"),
        ({"transforms": "ResNet18_Weights.DEFAULT"}, "transforms"),
    ],
)
def test_arrays_with_options_of_manifests(tmp_path: Path, option: dict[str, object], name: str) -> None:
    for path in (npz(tmp_path, x=X, y=Y), tensors(tmp_path, x=X, y=Y)):
        with pytest.raises(OptionError, match=f"--qfair-{name} is for "):
            read(path, **option)


def test_npz_with_an_empty_group(tmp_path: Path) -> None:
    path = npz(tmp_path, x=X, y=Y, group=["a", " ", "b", "b"])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == (
        f"group of {path} is empty for 1 sample: sample 1; fill it in, or leave those samples out"
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int32, torch.bool])
def test_safetensors_are_read_as_arrays_are(tmp_path: Path, kind: torch.dtype) -> None:
    x = torch.arange(8).reshape(4, 2).to(kind)
    data = read(tensors(tmp_path, x=x, y=Y, group=[10, 9, 10, 9], other=[0.5]))
    peer = grouped_data(x, Y, torch.tensor([10, 9, 10, 9]))
    assert torch.equal(rows(data), rows(peer))
    assert (data.labels.tolist(), data.classes, data.class_order) == (Y, ("0", "1"), "indices")
    assert (data.groups.tolist(), data.group_names, data.group_by) == ([1, 0, 1, 0], ("9", "10"), ("group",))


def test_safetensors_and_npz_with_the_same_content_have_the_same_digest(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert read(tensors(tmp_path, x=x, y=Y)).content == read(npz(tmp_path, x=x, y=Y)).content


def test_safetensors_may_name_classes_and_groups(tmp_path: Path) -> None:
    path = tensors(tmp_path, {"classes": ["dog", "cat", "ox"], "groups": ["z", "a"]}, x=X, y=Y, group=[0, 1, 1, 1])
    data = read(path)
    assert (data.classes, data.labels.tolist(), data.class_order) == (("dog", "cat", "ox"), Y, "data")
    assert (data.group_names, data.groups.tolist()) == (("z", "a"), [0, 1, 1, 1])
    data = read_data(DataOptions(path), model_classes=("cat", "dog"))
    assert (data.classes, data.labels.tolist(), data.class_order) == (("cat", "dog"), [0, 1, 0, 0], "model")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"classes": ["a"]}, "y of FILE holds 1 at sample 0, and the metadata names 1 (a): give indices from 0 to 0"),
        ({"groups": ["a", "b"]}, "group of FILE holds 7 at sample 2, and the metadata names 2 (a, b): give indices "),
        ({"classes": "a, b"}, "classes in the metadata of FILE is no JSON list of names ("),
        ({"groups": [1, 2]}, "groups in the metadata of FILE is no JSON list of names ("),
        ({"classes": "[" * 100_000}, "classes in the metadata of FILE is no JSON list of names ("),
        ({"classes": ["a", "a"]}, "classes in the metadata of FILE is 'a', 'a': name each once"),
        ({"groups": ["a", ""]}, "groups in the metadata of FILE is 'a', '': name each once"),
    ],
)  # fmt: skip
def test_safetensors_with_names_that_cannot_be_used(tmp_path: Path, metadata: dict[str, object], reason: str) -> None:
    path = tensors(tmp_path, metadata, x=X, y=Y, group=[0, 1, 7, 0])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).replace(path, "FILE").startswith(reason)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": X, "y": Y}, "FILE has no array x: it holds images, y; save x, y and optionally group"),
        ({"x": X}, "FILE has no array y: it holds x; save x, y and optionally group"),
        ({"x": X, "y": [0.0, 1, 0, 1]}, "y of FILE holds values of type float32: give whole numbers or names"),
        ({"x": X, "y": [0, 1]}, "x of FILE has 4 samples and y has 2: give one label for each"),
        ({"x": X * np.nan, "y": Y}, "x of FILE holds values that are not finite"),
        pytest.param(
            {"x": torch.ones(4, dtype=torch.complex64), "y": Y},
            "x of FILE holds values of type complex64: give numbers",
            marks=pytest.mark.skipif(torch.complex64 not in safetensors.torch._SIZE, reason="cannot be written"),
        ),
    ],
)  # fmt: skip
def test_safetensors_that_cannot_be_used(tmp_path: Path, arrays: dict[str, object], reason: str) -> None:
    path = tensors(tmp_path, **arrays)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).replace(path, "FILE").startswith(reason)


@pytest.mark.parametrize("content", [b"no tensors at all", b"\xff" * 100, b"\x02" + bytes(7) + b"{}"])
def test_what_is_no_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "faces.safetensors").write_bytes(content)
    with pytest.raises(
        InputError, match=r"faces\.safetensors (as \.safetensors \(truncated or damaged|has no array x)"
    ):
        read(str(tmp_path / "faces.safetensors"))


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_truncated_safetensors(tmp_path: Path, part: float) -> None:
    path = Path(tensors(tmp_path, x=np.zeros((50, 50)), y=np.zeros(50, int)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(
        InputError, match=r"cannot read .*faces\.safetensors as \.safetensors \(truncated or damaged\?\)"
    ):
        read(str(path))


def test_arrays_by_name_are_given_to_the_model_by_name() -> None:
    ids, mask = np.arange(6).reshape(3, 2), np.array([[1.0, 0.0]] * 3)
    data = grouped_data({"ids": ids, "mask": torch.from_numpy(mask)}, [0, 1, 0])
    assert data.size == 3
    assert {name: part.tolist() for name, part in data.inputs[2].items()} == {"ids": [4, 5], "mask": [1.0, 0.0]}
    assert data.inputs[0]["mask"].dtype == torch.float32
    assert data.key == grouped_data({"ids": ids, "mask": mask}, [0, 1, 0]).key
    assert data.key != grouped_data({"mask": mask, "ids": ids + 1}, [0, 1, 0]).key
    (notice,) = grouped_data({"ids": ids, "image": ids.astype(np.uint8)}, [0, 1, 0]).notices
    assert notice.startswith("x['image'] holds bytes (uint8): scaled to [0, 1]")


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ({}, "the arrays of x differ in their number of samples (there is none)"),
        ({"a": X, "b": X[:1]}, "the arrays of x differ in their number of samples (a "),
        ({"a": X, "b": ["text"] * len(X)}, "x['b'] holds values of type <U4: give numbers"),
        ({"a": X * np.nan}, "x['a'] holds values that are not finite"),
    ],
)
def test_arrays_by_name_that_cannot_be_used(x: object, told: str) -> None:
    assert message(x, Y).startswith(told)


def test_arrays_by_name_are_not_normalized() -> None:
    with pytest.raises(OptionError, match="mean and std are for one array"):
        grouped_data({"a": X}, Y, mean=[0.5], std=[0.5])

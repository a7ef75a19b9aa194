import contextlib
import decimal
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from qfair_check.errors import InputError
from qfair_check.inputs.data import GroupedData, load_data
from qfair_check.measure.chunks import chunks
from qfair_check.measure.run import audit

SIZE = 300
LINEAR = torch.nn.Linear(2, 2)


def read(path, workers=0, **options):
    data = load_data(path, **options)
    list(chunks(data, data.roster(), batch_size=2, workers=workers, seed=0))


def frame(size: int = SIZE) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "a": rng.normal(size=size),
            "b": rng.integers(-5, 5, size),
            "label": rng.integers(0, 2, size),
            "sex": pd.Categorical(rng.choice(["f", "m"], size), categories=["m", "f", "x"]),
            "race": pd.array(rng.choice(["B", "W"], size), dtype="string"),
            "member": rng.integers(0, 2, size).astype(bool),
            "age": rng.integers(0, 66, size),
            "income": rng.normal(size=size).astype(np.float32),
            "split": rng.choice(["test", "train"], size),
        }
    )


def write(folder: Path, table: object, **options: object) -> Path:
    path = folder / "faces.parquet"
    made = pa.Table.from_pandas(table) if isinstance(table, pd.DataFrame) else pa.table(table)
    pq.write_table(made, path, **{"row_group_size": 70} | options)
    return path


def rows(data: GroupedData) -> torch.Tensor:
    return torch.stack([data.inputs[index] for index in range(len(data.labels))])


def message(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value).replace(str(path), "faces.parquet")


@pytest.mark.parametrize(
    "options",
    [
        {"group_by": ["sex", "race"], "split": "test"},
        {"group_by": "member"},
        {"group_by": "age", "bins": {"age": [0, 18, 65]}, "split": "train"},
        {"group_by": "income", "bins": {"income": [-99, 0, 99]}},
        {"label": "member"},
        {"features": ["income", "age"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("workers", [0, 2])
def test_measured_parts_equal_those_of_the_csv(tmp_path: Path, options: dict[str, object], workers: int) -> None:
    table, chosen = frame(), {"features": ["a", "b"]} | options
    table.to_csv(tmp_path / "faces.csv", index=False)
    path = write(tmp_path, table)
    made = audit(LINEAR, load_data(path, **chosen), "8", workers=workers, batch_size=50)
    plain = audit(LINEAR, load_data(tmp_path / "faces.csv", **chosen), "8")
    assert made.measured_json() == plain.measured_json()
    assert made.inputs.notices == plain.inputs.notices


def test_a_sample_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    table = frame()
    data = load_data(write(tmp_path, table), features=["a", "b"], group_by="sex", split="test")
    expected = table[table["split"] == "test"][["a", "b"]].to_numpy(np.float32)
    order = np.random.default_rng(0).permutation(len(expected))
    assert all(np.array_equal(data.inputs[int(index)].numpy(), expected[index]) for index in order)
    assert np.array_equal(data.inputs.rows(0, len(expected)).numpy(), expected)
    assert data.where(0) == f"row {table.index[table['split'] == 'test'][0] + 1}"
    with pytest.raises(IndexError):
        data.inputs[len(expected)]


def test_inputs_travel_to_workers(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, frame()), features=["a", "b"])
    whole = rows(data)
    assert torch.equal(pickle.loads(pickle.dumps(data.inputs)).rows(0, SIZE), whole)
    loader = DataLoader(data.inputs, batch_size=9, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), whole)


def test_only_one_row_group_is_held(tmp_path: Path) -> None:
    size, group = 60_000, 2_000
    columns = {f"f{index}": np.random.default_rng(index).random(size, np.float32) for index in range(20)}
    path = write(tmp_path, columns | {"label": np.arange(size) % 2}, row_group_size=group)
    data = load_data(path, features=list(columns))
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    for start in range(0, size, 500):
        data.inputs.rows(start, start + 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = size * len(columns) * 4
    assert pa.total_allocated_bytes() - arrow < whole / 10
    assert len(pickle.dumps(data.inputs)) < whole / 2
    assert peak < whole / 5


def test_only_columns_that_are_used_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, frame())
    asked: list[str] = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns, **options: asked.extend(columns) or read(self, group, columns, **options),
    )
    rows(load_data(path, features="a", group_by="sex", split="test"))
    assert set(asked) == {"a", "label", "sex", "split"}
    assert asked.count("a") == 5  # once for each row group


VALUES = {
    "int8": pa.array([1, -2], pa.int8()),
    "uint64": pa.array([3, 2**64 - 1], pa.uint64()),
    "int64": pa.array([2**53 + 1, 0], pa.int64()),
    "float16": pa.array([np.float16(0.1), np.float16(2)], pa.float16()),
    "float64": pa.array([0.1, 1e30]),
    "bool": pa.array([True, False]),
    "decimal": pa.array([decimal.Decimal("0.1"), decimal.Decimal("-12.5")]),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_features_of_every_type(tmp_path: Path, values: pa.Array) -> None:
    data = load_data(write(tmp_path, {"a": values, "label": [0, 1]}))
    assert rows(data).flatten().tolist() == [float(np.float32(float(value))) for value in values.to_pylist()]


def test_lists_of_one_length_give_several_features(tmp_path: Path) -> None:
    lists = pa.array([[index, index / 2] for index in range(10)], pa.list_(pa.float32(), 2))
    path = write(tmp_path, {"a": np.arange(10.0), "v": lists, "label": [0, 1] * 5}, row_group_size=3)
    data = load_data(path, features=["v", "a"])
    assert rows(data).tolist() == [[index, index / 2, index] for index in range(10)]


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        (pa.array([1.0, None, 2.0]), 2),
        (pa.array([1.0, float("nan"), 2.0]), 2),
        (pa.array([1.0, 2.0, float("-inf")]), 3),
        (pa.array([1e300, 2.0, 0.0]), 1),
        (pa.array([1, None, 3]), 2),
        (pa.array([True, None, False]), 2),
        (pa.array([decimal.Decimal("0.1"), None, None]), 2),
        (pa.array([[1.0], None, [3.0]], pa.list_(pa.float32(), 1)), 2),
        (pa.array([[1.0], [None], [3.0]], pa.list_(pa.float32(), 1)), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_feature_that_is_not_finite_names_column_and_row(
    tmp_path: Path, values: pa.Array, bad: int, workers: int
) -> None:
    path = write(tmp_path, {"z": [0.0] * 3, "a": values, "label": [0, 1, 0]}, row_group_size=2)
    with pytest.raises(InputError) as caught:
        read(path, workers)
    if "Expected all lists to be of size=1" in str(caught.value):
        pytest.skip("this Arrow does not read what it wrote: a missing list among lists of fixed length")
    assert str(caught.value) == (
        f"column a of {path} holds a value that is not finite (missing, NaN, infinite, or too large for float32) in "
        f"row {bad}: correct it, or leave that sample out"
    )


def test_names_of_every_type(tmp_path: Path) -> None:
    groups = {
        "text": pa.array([" b", "a", "b "]),
        "large": pa.array(["b", "a", "b"], pa.large_string()),
        "category": pa.array(["b", "a", "b"]).dictionary_encode(),
        "small": pa.array([10, 9, 10], pa.int8()),
        "numbers": pa.array([10, 9, 10]).dictionary_encode(),
        "truth": pa.array([True, False, True]),
    }
    path = write(tmp_path, groups | {"a": [1.0, 2.0, 3.0], "label": ["y", "x", "y"]}, row_group_size=2)
    expected = {"text": ("a", "b"), "small": ("9", "10"), "truth": ("False", "True")}
    for name in groups:
        data = load_data(path, group_by=name, features="a")
        assert data.groups.tolist() == [1, 0, 1]
        assert data.group_names == expected.get(name, ("9", "10") if name == "numbers" else ("a", "b"))


@pytest.mark.parametrize("option", ["label", "group_by"])
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([b"a", b"b"]), "binary"),
        (pa.array([None, None]), "null"),
        (pa.array([[1], [2]]), "list<element: int64>"),
        (pa.array([{"x": 1}, {"x": 2}]), "struct<x: int64>"),
        (pa.array([1, 2], pa.timestamp("s")), "timestamp[ms]"),
    ],
    ids=str,
)
def test_names_of_a_wrong_type(tmp_path: Path, values: pa.Array, kind: str, option: str) -> None:
    path = write(tmp_path, {"a": [1.0, 2.0], "label": [0, 1], "g": values})
    assert message(path, **{option: "g"}, features="a") == (
        f"column g of faces.parquet is of type {kind}, which names no class or group: store text or whole numbers"
    )


def test_whole_numbers_that_pandas_made_floats_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, pd.DataFrame({"a": [1.0, 2.0], "label": [0, 1], "age": [30, None]}))
    assert message(path, group_by="age", features="a") == (
        "column age of faces.parquet is of type double, which names no class or group: store text or whole numbers "
        "(whole numbers with missing values become floats in pandas: store them as Int64), or make bins of a group "
        "with --qfair-bin"
    )
    assert message(path, group_by="age", features="a", bins={"age": [0, 99]}).startswith(
        "column age of faces.parquet is empty for 1 sample: row 2;"
    )


@pytest.mark.parametrize("values", [["x", "y"], [b"x", b"y"], [None, None], [[1.0], [2.0]]], ids=str)
def test_features_of_a_wrong_type(tmp_path: Path, values: list[object]) -> None:
    path = write(tmp_path, {"v": pa.array(values), "label": [0, 1]})
    text = message(path, features="v")
    assert text.startswith("column v of faces.parquet is of type ")
    assert text.endswith(", which holds no numbers: name the columns that are the model's input with --qfair-features")


def test_missing_names(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": [1.0] * 4, "label": [0, None, 1, 0], "g": ["x", "y", None, " "]}, row_group_size=2)
    assert message(path, features="a") == (
        "column label of faces.parquet is empty for 1 sample: row 2; fill it in, or leave those samples out"
    )
    path = write(tmp_path, {"a": [1.0] * 4, "label": [0, 0, 1, 0], "g": ["x", "y", None, " "]}, row_group_size=2)
    assert message(path, features="a", group_by="g").startswith(
        "column g of faces.parquet is empty for 2 samples: row 3, row 4;"
    )


def test_an_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    path = write(tmp_path, pd.DataFrame({"a": [1.5, 2.5], "label": [0, 1]}, index=[7, 8]))
    assert rows(load_data(path)).tolist() == [[1.5], [2.5]]


def test_key_follows_file_and_choice(tmp_path: Path) -> None:
    path = write(tmp_path, frame())
    key = load_data(path, features="a").key
    assert load_data(path, features="a").key == key
    assert load_data(path, features="b").key != key
    assert load_data(path, features="a", split="test").key != key
    os.utime(path, ns=(0, 0))
    assert load_data(path, features="a").key != key


def test_columns_that_are_not_there_or_there_twice(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": [1.0], "b": [2.0]})
    assert message(path).endswith("--qfair-label; its columns are a, b")
    pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 2, names=["a", "a"]), path)
    assert message(path) == "faces.parquet has more than one column named a: rename or remove them"


def test_images(tmp_path: Path) -> None:
    path = write(tmp_path, {"path": ["gone.png", None], "label": [0, 1]})
    assert message(path) == (
        f"column path of faces.parquet names 2 images that cannot be found: row 1 (gone.png), row 2; paths are "
        f"relative to the folder of the manifest, {tmp_path}"
    )
    path = write(tmp_path, {"path": [1, 2], "label": [0, 1]})
    assert message(path) == "column path of faces.parquet is of type int64: store the paths of images as text"


def test_a_file_without_rows(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": pa.array([], pa.float64()), "label": pa.array([], pa.int64())})
    assert message(path) == "faces.parquet has no rows: give one row for each sample"


def test_row_groups_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    whole = pa.table({"a": [1.0, 2.0], "label": [0, 1]})
    with pq.ParquetWriter(path, whole.schema) as writer:
        for table in (whole[:0], whole[:1], whole[:0], whole[1:], whole[:0]):
            writer.write_table(table)
    data = load_data(path)
    assert (rows(data).tolist(), data.labels.tolist()) == ([[1.0], [2.0]], [0, 1])


@pytest.mark.parametrize("content", [b"no parquet", b"PAR1", b"PAR1PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "faces.parquet"
    path.write_bytes(content)
    assert message(path).startswith("cannot read faces.parquet as Parquet (truncated or damaged?): ")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "faces.parquet").touch()
    assert message(tmp_path / "faces.parquet").startswith("faces.parquet is empty: give a .csv or .parquet manifest")


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, part: float) -> None:
    path = write(tmp_path, frame())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert message(path).startswith("cannot read faces.parquet as Parquet (truncated or damaged?): ")


def test_a_damaged_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = write(tmp_path, frame(), write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert message(path, features="a", group_by="sex").startswith("cannot read faces.parquet as Parquet")


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    path = write(tmp_path, frame())
    data = load_data(path, features="a")
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*faces\.parquet as Parquet .*No such file"):
        data.inputs[0]


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_damage_gives_data_or_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "faces.parquet"
    if not path.exists():
        write(tmp_path, frame(140))
    content = bytearray(path.read_bytes())
    places = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8))
    for place in places:
        content[place] = data.draw(st.integers(0, 255))
    edited = tmp_path / "edited.parquet"
    edited.write_bytes(content)
    with contextlib.suppress(InputError):
        found = load_data(edited, features=["a", "b"], group_by="sex", split="test")
        assert found.inputs.rows(0, len(found.labels)).shape == (len(found.labels), 2)

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from qfair_check.errors import InputError
from qfair_check.inputs.model import load_model
from qfair_check.inputs.quantized_file import StoredGrid, described, from_tensors, model_file_size, to_tensors
from qfair_check.integer_grid import GRIDS, integer_range
from qfair_check.quantize.model import quantize_model
from qfair_check.quantize.saved import save_quantized


@pytest.fixture
def saved(tmp_path):
    """The demo at int3, in a file."""
    demo = load_model("demo")
    path = tmp_path / "int3.safetensors"
    save_quantized(quantize_model(demo.module, 3), path, arch=demo.architecture, classes=demo.classes)
    return path


def read(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)


def edited(path, **changes):
    """Write the file again with other tensors; None takes one away."""
    tensors, metadata = read(path)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, metadata)


def told(path):
    with pytest.raises(InputError) as raised:
        load_model(path)
    return str(raised.value)


def test_the_file_holds_integers_and_says_its_format(saved):
    tensors, metadata = read(saved)
    assert tensors["0.weight.codes"].dtype == torch.int8
    assert "0.weight" not in tensors
    assert metadata["qfair_check"] == "2"
    assert json.loads(metadata["quantized"])["0.weight"] == {"bits": 3, "grid": "symmetric"}


def test_another_version_is_told(saved):
    tensors, metadata = read(saved)
    save_file(tensors, saved, metadata | {"qfair_check": "9"})
    assert told(saved) == (
        f"{saved} is a model file of format 9, and this qfair_check reads 1 to 3: use the version that wrote it"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"0.weight.scale": None}, "0.weight has a grid, and 0.weight.scale is missing"),
        ({"0.weight.codes": None}, "0.weight has a grid, and 0.weight.codes is missing"),
        (
            {"0.weight.codes": torch.full((8, 1, 3, 3), 4, dtype=torch.int8)},
            "72 codes of 0.weight lie outside its grid of 3 bits, -3 to 3",
        ),
        ({"0.weight.codes": torch.zeros(8, 1, 3, 3)}, "the grid of 0.weight is not of integer codes and float32 steps"),
        (
            {"0.weight.scale": torch.ones(7, 1, 1, 1)},
            "codes, steps and zero points of 0.weight have shapes that do not go together: (8, 1, 3, 3), "
            "(7, 1, 1, 1), (1, 1, 1, 1)",
        ),
        ({"0.weight.scale": torch.zeros(1, 1, 1, 1)}, "a step of 0.weight is not a finite number above 0"),
        ({"0.weight.scale": torch.full((1, 1, 1, 1), torch.nan)}, "a step of 0.weight is not a finite number above 0"),
        (
            {"0.weight.zero_point": torch.ones(1, 1, 1, 1, dtype=torch.int8)},
            "a zero point of 0.weight lies outside its symmetric grid",
        ),
        ({"0.weight": torch.ones(8, 1, 3, 3)}, "0.weight is there twice, with a grid and without"),
        (
            {"0.weight.codes": torch.ones([1] * 70, dtype=torch.int8), "0.weight.scale": torch.ones([1] * 70)},
            f"codes, steps and zero points of 0.weight have shapes that do not go together: {(1,) * 70}, {(1,) * 70}, "
            "(1, 1, 1, 1)",
        ),
    ],
)
def test_a_damaged_grid_is_told_in_one_sentence(saved, changes, problem):
    edited(saved, **changes)
    assert told(saved) == f"{saved} was edited or damaged ({problem}): save the model again"


@pytest.mark.parametrize(
    "damage", [{"quantized": "{"}, {"quantized": '{"0.weight": {"bits": 9, "grid": "symmetric"}}'}, {"origin": "{}"}]
)
def test_damaged_metadata_are_told(saved, damage):
    tensors, metadata = read(saved)
    save_file(tensors, saved, metadata | damage)
    assert "cannot be read" in told(saved)
    assert told(saved).endswith("save the model again")


@pytest.mark.parametrize("name", ["../other.json", "..", ".", "", "/other.json"])
def test_an_audit_elsewhere_is_not_followed(saved, name):
    tensors, metadata = read(saved)
    origin = json.dumps({"sha256": "a" * 64, "audit": name})
    save_file(tensors, saved, metadata | {"origin": origin})
    assert "name an audit in another folder" in told(saved)


def test_codes_of_another_shape_do_not_fit_the_architecture(saved):
    edited(saved, **{"0.weight.codes": torch.zeros((8, 1, 3, 4), dtype=torch.int8)})
    assert "0.weight (8, 1, 3, 4), not (8, 1, 3, 3)" in told(saved)


def test_a_truncated_file_is_told(saved):
    saved.write_bytes(saved.read_bytes()[:-9])
    assert "truncated or damaged?" in told(saved)


def test_its_size_is_counted_by_hand(saved):
    size = model_file_size(saved)
    weights, others = 8 * 9 + 16 * 8 * 9 + 10 * 256, 3866 - 3784
    counters = sum(value.nbytes for name, value in read(saved)[0].items() if name.endswith("num_batches_tracked"))
    statistics = sum(value.nbytes for name, value in read(saved)[0].items() if "running" in name)
    rest = others * 4 + counters + statistics
    assert weights == 3784
    assert size.fp32 == weights * 4 + rest
    assert size.theoretical == 27 + 432 + 960 + 3 * (4 + 1) + rest
    assert size.file == saved.stat().st_size < size.fp32
    assert str(size).startswith(f"{size.file:,} bytes on disk, ")


def test_the_size_of_another_file_is_not_told(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="was not saved by qfair_check"):
        model_file_size(tmp_path / "a.safetensors")


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.sampled_from(GRIDS), st.integers(0, 5), st.integers(0, 7), st.data())
def test_packed_weights_are_the_weights_bit_for_bit(bits, grid, rows, columns, data):
    lowest, highest = integer_range(bits, grid)
    kind = torch.uint8 if grid == "asymmetric" else torch.int8
    codes = st.lists(st.integers(lowest, highest), min_size=rows * columns, max_size=rows * columns)
    zeros = st.lists(st.integers(lowest, highest), min_size=rows, max_size=rows)
    steps = st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=rows, max_size=rows)
    stored = StoredGrid(
        bits,
        grid,
        torch.tensor(data.draw(codes), dtype=kind).reshape(rows, columns),
        torch.tensor(data.draw(steps)).reshape(rows, 1),
        (torch.tensor(data.draw(zeros), dtype=kind) * (grid == "asymmetric")).reshape(rows, 1),
    )
    state, path = {"w": stored.dequantize(), "bias": torch.ones(2)}, Path("w.safetensors")
    packed, plain = (
        from_tensors(to_tensors(state, {"w": stored}, packs=packs), described({"w": stored}, None, packs=packs), path)
        for packs in (True, False)
    )
    assert torch.equal(packed[0]["w"], plain[0]["w"])
    assert torch.equal(packed[0]["w"], state["w"])
    assert torch.equal(packed[1]["w"].codes, stored.codes)
    assert packed[1]["w"].codes.dtype == kind
    assert torch.equal(packed[0]["bias"], state["bias"])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.sampled_from(GRIDS), st.floats(2.0**-20, 2.0**20, width=32), st.data())
def test_every_code_of_every_grid_comes_back(bits, grid, step, data):
    lowest, highest = integer_range(bits, grid)
    kind = torch.uint8 if grid == "asymmetric" else torch.int8
    zero = data.draw(st.integers(lowest, highest)) if grid == "asymmetric" else 0
    codes = torch.arange(lowest, highest + 1).to(kind)
    stored = StoredGrid(bits, grid, codes, torch.tensor([step]), torch.tensor([zero], dtype=kind))
    state = {"w.codes": stored.codes, "w.scale": stored.scale, "w.zero_point": stored.zero_point}
    metadata = {"qfair_check": "2", "quantized": json.dumps({"w": {"bits": bits, "grid": grid}})}
    plain, grids, _ = from_tensors(state, metadata, Path("w.safetensors"))
    expected = torch.tensor([step]) * (torch.arange(lowest, highest + 1) - zero).float()
    assert torch.equal(plain["w"], expected)
    assert torch.equal(grids["w"].codes, codes)

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.checkpoint import read_checkpoint
from qfair_check.inputs.model import load_model

STATE = {
    "0.weight": torch.arange(12.0).reshape(4, 3),
    "0.bias": torch.ones(4),
    "2.weight": torch.arange(8.0).reshape(2, 4),
    "2.bias": torch.zeros(2),
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
PLACES = {"0.weight": SHARDS[0], "0.bias": SHARDS[0], "2.weight": SHARDS[1], "2.bias": SHARDS[1]}
CURE = "save or download the model again, with all its files"


def write(folder: Path, places: object = PLACES, state: dict[str, Tensor] = STATE) -> Path:
    """Write the two shards as they should be, and an index that may say something else."""
    for shard in SHARDS:
        save_file({name: value for name, value in state.items() if PLACES.get(name) == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 104}, "weight_map": places}))
    return index


def message(index: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_checkpoint(index)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(index.parent) + "/", "").replace(index.name, "index")


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_tensor_comes_from_its_shard(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path))
    assert same(read.state, STATE)
    assert list(read.state) == list(STATE)
    assert (read.module, read.config, read.notices) == (None, None, ())


def test_the_folder_is_its_index(tmp_path: Path) -> None:
    write(tmp_path)
    assert same(read_checkpoint(tmp_path).state, STATE)


def test_a_model_in_shards_with_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qfair_sharded_net.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "qfair_sharded_net", raising=False)
    model = load_model(write(tmp_path), arch="qfair_sharded_net:net")
    assert same(model.module.state_dict(), STATE)
    assert model.forward(torch.ones(1, 3)).tolist() == [[150.0, 430.0]]
    del sys.modules["qfair_sharded_net"]


def test_a_prefix_of_every_name_is_stripped(tmp_path: Path) -> None:
    save_file({f"module.{name}": value for name, value in STATE.items()}, tmp_path / "all.safetensors")
    index = tmp_path / "net.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"module.{name}": "all.safetensors" for name in STATE}}))
    assert same(read_checkpoint(index).state, STATE)


def test_shards_that_are_links_are_read(tmp_path: Path) -> None:
    """As the cache of a hub holds them."""
    index = write(tmp_path)
    (tmp_path / "blobs").mkdir()
    for shard in SHARDS:
        (tmp_path / shard).rename(tmp_path / "blobs" / shard)
        (tmp_path / shard).symlink_to(tmp_path / "blobs" / shard)
    assert same(read_checkpoint(index).state, STATE)


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "inner/net.safetensors", "..", ".", "", "..\\secret", "C:\\net", "C:net"],
)
def test_a_shard_elsewhere_is_refused(tmp_path: Path, shard: str) -> None:
    save_file({"0.bias": torch.ones(4)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "net"
    folder.mkdir()
    assert message(write(folder, PLACES | {"0.bias": shard})) == (
        f"index names the shard {shard!r}, which is no file beside it: do not trust this index"
    )


def test_a_name_with_a_null_byte(tmp_path: Path) -> None:
    told = message(write(tmp_path, PLACES | {"0.bias": "net\0"}))
    assert "embedded null byte" in told or "embedded null character" in told  # the second from Python 3.13 on


def test_a_missing_shard(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / SHARDS[1]).unlink()
    assert message(index) == f"there is no model file {SHARDS[1]}: index names it; {CURE}"


@pytest.mark.parametrize(("kind", "told"), [("folder", "is a folder"), ("empty", "is empty")])
def test_a_shard_that_is_no_file(tmp_path: Path, kind: str, told: str) -> None:
    index = write(tmp_path)
    (tmp_path / SHARDS[0]).unlink()
    (tmp_path / SHARDS[0]).mkdir() if kind == "folder" else (tmp_path / SHARDS[0]).touch()
    assert message(index) == f"{SHARDS[0]} {told}: index names it; {CURE}"


def test_a_damaged_shard(tmp_path: Path) -> None:
    index = write(tmp_path)
    whole = (tmp_path / SHARDS[1]).read_bytes()
    (tmp_path / SHARDS[1]).write_bytes(whole[:-5])
    assert message(index).startswith(f"cannot read {SHARDS[1]} as safetensors (truncated or damaged?): ")


def test_a_tensor_that_is_not_in_its_shard(tmp_path: Path) -> None:
    index = write(tmp_path, state={name: value for name, value in STATE.items() if name != "2.bias"})
    assert message(index) == f"index says that {SHARDS[1]} holds 2.bias, and it does not: {CURE}"
    index = write(tmp_path, PLACES | {"3.weight": SHARDS[0]})
    assert message(index) == f"index says that {SHARDS[0]} holds 3.weight, and it does not: {CURE}"


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    index = write(tmp_path)
    save_file({name: STATE[name] for name in ("2.weight", "2.bias", "0.bias")}, tmp_path / SHARDS[1])
    assert message(index) == f"{SHARDS[1]} holds 0.bias, for which index names {SHARDS[0]}: {CURE}"


def test_a_tensor_that_the_index_does_not_name(tmp_path: Path) -> None:
    index = write(tmp_path, {name: place for name, place in PLACES.items() if name != "0.bias"})
    assert message(index) == f"{SHARDS[0]} holds 0.bias, which index does not name: {CURE}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "JSON is malformed: invalid character"),
        ('{"weight_map": {', "Input data was truncated"),
        ('{"weight_map": {}, "metadata": ' + "[" * 100_000, "ecursion"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "Object missing required field `weight_map`"),
        ('{"weight_map": []}', "Expected `object`, got `array`"),
        ('{"weight_map": {"0.weight": 3}}', "Expected `str`, got `int`"),
        ('{"weight_map": {"0.weight": null}}', "Expected `str`, got `null`"),
        ('{"weight_map": "x"}', "Expected `object`, got `str`"),
    ],
    ids=lambda text: text[:32],
)
def test_an_index_that_cannot_be_read(tmp_path: Path, content: str, told: str) -> None:
    index = write(tmp_path)
    index.write_text(content)
    found = message(index)
    assert found.startswith("cannot read index as the index of sharded weights (")
    assert told in found
    assert found.endswith(CURE)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    index = write(tmp_path)
    index.write_bytes(b'{"weight_map": {"\xff\xfe": "a"}}')
    assert message(index).startswith("cannot read index as the index of sharded weights (")


def test_an_index_that_names_nothing(tmp_path: Path) -> None:
    assert message(write(tmp_path, {})) == f"index names no tensors: {CURE}"


def test_an_empty_index_and_none(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    assert message(index) == f"there is no model file index: {CURE}"
    index.touch()
    assert message(index) == f"index is empty: {CURE}"


def test_an_index_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5.index.json").write_text("{}")
    assert message(tmp_path / "tf_model.h5.index.json").startswith("index is of a kind that cannot be read: ")


def test_a_pickled_shard_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "marker"), "w")

    torch.save(Malicious(), tmp_path / "a.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"0.weight": "a.bin"}}))
    with pytest.raises(UntrustedPickleError, match=r"a\.bin is not a plain state dict"):
        read_checkpoint(index)
    assert not (tmp_path / "marker").exists()


def test_a_pickle_is_no_shard_of_safetensors(tmp_path: Path) -> None:
    index = write(tmp_path)
    torch.save({name: STATE[name] for name in ("2.weight", "2.bias")}, tmp_path / SHARDS[1])
    assert message(index).startswith(f"cannot read {SHARDS[1]} as safetensors")

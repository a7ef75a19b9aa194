import collections
import errno
import json
import os
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.checkpoint import Checkpoint, read_checkpoint
from qfair_check.inputs.options import Preprocessing

REFUSED = (
    "{} is not a plain state dict: loading it would run code that the file brings{}. Either save the weights alone "
    "(torch.save(model.state_dict(), ...) or qfair_check.save_model(model, ..., arch=...)) and name the architecture, "
    "or, if you made the file yourself, pass --qfair-trust-pickle"
)
ACCEPTED = "give a model file (.safetensors, .pt, .pth, .pt2, .ckpt, .bin), or a folder of Hugging Face"


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.marker), "w")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x))


def seeded_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    drawn = {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for name, value in Net().state_dict().items()
    }
    return dict(drawn)


STATE = seeded_state()


def saved(folder: Path, content: object, name: str = "net.pt", **options: object) -> Path:
    path = folder / name
    torch.save(content, path, **options)
    return path


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return (
        found.keys() == expected.keys()
        and all(torch.equal(found[name], expected[name]) for name in expected)
        and all(found[name].dtype == expected[name].dtype for name in expected)
    )


def message(path: Path, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        read_checkpoint(path, **options)
    assert type(caught.value) is InputError
    return str(caught.value).replace(str(path), "net")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_saved_by_torch(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = saved(tmp_path, STATE, f"net{suffix}", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert same(read.state, STATE)
    assert (read.module, read.architecture, read.classes, read.preprocessing) == (None, None, (), None)


def test_a_state_dict_saved_by_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(STATE))
    read = read_checkpoint(path)
    assert same(read.state, STATE)
    assert (read.module, read.architecture, read.classes, read.preprocessing) == (None, None, (), None)


def test_metadata_of_another_program_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(STATE, {"format": "pt", "architecture": "other", "classes": "{damaged"}))
    read = read_checkpoint(path)
    assert (read.architecture, read.classes, read.preprocessing) == (None, (), None)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_types_are_kept(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    state = {"weight": torch.tensor([[1.0, 0.0], [0.5, 2.0]]).to(dtype)}
    path = tmp_path / f"net{suffix}"
    path.write_bytes(save(state)) if suffix == ".safetensors" else saved(tmp_path, state)
    read = read_checkpoint(path).state["weight"]
    assert read.dtype == dtype
    assert torch.equal(read.to(torch.float32), state["weight"].to(torch.float32))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model_state", "model"])
def test_the_wrappers_of_common_trainers(tmp_path: Path, key: str) -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()
    path = saved(tmp_path, {"epoch": 3, "optimizer": optimizer, key: STATE, "loss": torch.tensor(0.5)})
    assert same(read_checkpoint(path).state, STATE)


def test_wrappers_in_wrappers(tmp_path: Path) -> None:
    path = saved(tmp_path, {"epoch": 1, "model": {"step": 4, "state_dict": {"model_state": STATE}}})
    assert same(read_checkpoint(path).state, STATE)


def test_of_several_wrappers_the_state_dict_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": {"name": "resnet"}, "state_dict": STATE})
    assert same(read_checkpoint(path).state, STATE)


def test_a_wrapper_that_holds_no_mapping_is_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": None, "model": STATE})
    assert same(read_checkpoint(path).state, STATE)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_prefixes_are_stripped(tmp_path: Path, prefix: str, suffix: str) -> None:
    prefixed = {prefix + name: value for name, value in STATE.items()}
    path = tmp_path / f"net{suffix}"
    path.write_bytes(save(prefixed)) if suffix == ".safetensors" else saved(tmp_path, {"state_dict": prefixed})
    assert same(read_checkpoint(path).state, STATE)


def test_a_prefix_that_only_some_names_have_is_a_name(tmp_path: Path) -> None:
    state = {"module.weight": torch.ones(2), "head.weight": torch.ones(3)}
    assert same(read_checkpoint(saved(tmp_path, state)).state, state)


def test_extras_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    state = {**STATE, "norm._extra_state": {"scale": 1.5}, "version": 3}
    assert same(read_checkpoint(saved(tmp_path, state)).state, STATE)


def test_ordered_mappings_and_parameters_are_state_dicts(tmp_path: Path) -> None:
    parameters = collections.OrderedDict((name, nn.Parameter(STATE[name])) for name in ("fc.weight", "fc.bias"))
    assert same(read_checkpoint(saved(tmp_path, parameters)).state, {name: STATE[name] for name in parameters})


def test_the_metadata_of_a_self_describing_file(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    metadata = {
        "qfair_check": "1",
        "architecture": "nets:net",
        "classes": '["Asian", "×", "a,b"]',
        "preprocessing": '{"image_size": [8, 16], "mean": [0.5, 0.25, 1], "std": [1, 2, 3]}',
    }
    path.write_bytes(save(STATE, metadata))
    read = read_checkpoint(path)
    assert same(read.state, STATE)
    assert (read.architecture, read.classes) == ("nets:net", ("Asian", "×", "a,b"))
    assert read.preprocessing == Preprocessing((8, 16), (0.5, 0.25, 1.0), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"classes": '["a", '}, "Input data was truncated"),
        ({"classes": "3"}, "Expected `array`, got `int`"),
        ({"classes": '"abc"'}, "Expected `array`, got `str`"),
        ({"preprocessing": "{"}, "Input data was truncated"),
        ({"preprocessing": "[]"}, "Expected `object | null`, got `array`"),
        ({"preprocessing": '{"image_size": 3}'}, "Expected `array | null`, got `int` - at `$.image_size`"),
        ({"preprocessing": '{"image_size": [3]}'}, "Expected `array` of length 2 - at `$.image_size`"),
        ({"preprocessing": '{"mean": ["x"]}'}, "Expected `float`, got `str` - at `$.mean[0]`"),
    ],
)
def test_damaged_metadata(tmp_path: Path, damage: dict[str, str], reason: str) -> None:
    path = tmp_path / "net.safetensors"
    metadata = {"qfair_check": "1", "architecture": "nets:net", "classes": "[]", "preprocessing": "null", **damage}
    path.write_bytes(save(STATE, metadata))
    assert message(path) == f"the metadata of net cannot be read ({reason}): save the model again"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"epoch": 3, "optimizer": {"lr": 0.1}},
            "net holds no state dict: its keys are epoch, optimizer; expected tensors by name, or a checkpoint with "
            "one of state_dict, model_state_dict, model_state, model",
        ),
        (
            {},
            "net holds no state dict: its keys are none; expected tensors by name, or a checkpoint with one of "
            "state_dict, model_state_dict, model_state, model",
        ),
        (
            {"epoch": 3, "state_dict": {}},
            "net holds no state dict: its keys are none; expected tensors by name, or a checkpoint with one of "
            "state_dict, model_state_dict, model_state, model",
        ),
        (
            {"state_dict": {f"key{index}": index for index in range(12)}},
            "net holds no state dict: its keys are key0, key1, key2, key3, key4, key5, key6, key7; expected tensors by "
            "name, or a checkpoint with one of state_dict, model_state_dict, model_state, model",
        ),
        ([torch.ones(2)], "net holds a list, not a state dict: save model.state_dict()"),
        (torch.ones(2), "net holds a Tensor, not a state dict: save model.state_dict()"),
        (None, "net holds a NoneType, not a state dict: save model.state_dict()"),
        ("weights", "net holds a str, not a state dict: save model.state_dict()"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path: Path, content: object, expected: str) -> None:
    assert message(saved(tmp_path, content)) == expected


def test_no_tensors_at_all(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(save({}))
    assert message(path) == "net holds no tensors"


def test_a_folder(tmp_path: Path) -> None:
    assert message(tmp_path) == (
        "net is a folder without weights: give a model file, or a folder as save_pretrained writes it, with one of "
        "model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json"
    )


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.onnx", "folder/net.pt"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    assert message(tmp_path / name) == f"there is no model file net: {ACCEPTED}"


def test_a_dangling_link(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.symlink_to(tmp_path / "gone.pt")
    assert message(path) == f"there is no model file net: {ACCEPTED}"


@pytest.mark.parametrize("name", ["net.onnx", "net", "net.txt", "net.safetensors.gz"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x08\x07")
    assert message(path) == f"net is of a kind that cannot be read: {ACCEPTED}"


@pytest.mark.skipif(not Path(os.devnull).is_char_device(), reason="there is no null device")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_device(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.symlink_to(os.devnull)
    assert message(path) == f"net is a device or a pipe: {ACCEPTED}"
    assert "is a device or a pipe" in message(Path(os.devnull))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pt")
    assert message(tmp_path / "net.pt") == f"net is a device or a pipe: {ACCEPTED}"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"net{suffix}").touch()
    assert message(tmp_path / f"net{suffix}") == f"net is empty: {ACCEPTED}"


def test_a_checkpoint_that_contains_itself(tmp_path: Path) -> None:
    wrapped: dict[str, object] = {"epoch": 1}
    wrapped["model"] = wrapped
    assert message(saved(tmp_path, wrapped)) == ("net holds a checkpoint that contains itself: save model.state_dict()")


def test_averaged_weights_lose_their_prefix_and_counter(tmp_path: Path) -> None:
    averaged = {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in STATE.items()}
    assert read_checkpoint(saved(tmp_path, averaged)).state.keys() == STATE.keys()


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE).rename(tmp_path / "net.PT")
    assert read_checkpoint(path).state.keys() == STATE.keys()


DAMAGED = {
    "one byte": b"\x80",
    "text": b"hello, I am no model\n",
    "bytes": bytes(range(256)) * 4,
    "zeros": bytes(4096),
    "a page": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a zip": b"PK\x03\x04" + bytes(100),
    "a huge header": struct.pack("<Q", 2**62) + b"{}",
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_a_damaged_file(tmp_path: Path, suffix: str, content: bytes, trust_pickle: bool) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    kind = " as safetensors" if suffix == ".safetensors" else ""
    told = message(path, trust_pickle=trust_pickle)
    assert told.startswith(f"cannot read net{kind} (truncated or damaged?): ")
    assert "\n" not in told


@pytest.mark.parametrize("part", [0.25, 0.5, 0.9])
def test_half_a_download(tmp_path: Path, part: float) -> None:
    whole = save(STATE)
    path = tmp_path / "net.safetensors"
    path.write_bytes(whole[: int(len(whole) * part)])
    assert message(path).startswith("cannot read net as safetensors (truncated or damaged?): ")
    path = saved(tmp_path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert message(path).startswith("cannot read net (truncated or damaged?): RuntimeError: PytorchStreamReader failed")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(save(STATE))
    path.chmod(0)
    assert message(path).startswith("cannot read net")
    assert "ermission denied" in message(path)


@pytest.mark.parametrize(("suffix", "reader"), [(".pt", "torch.load"), (".safetensors", "safe_open")])
def test_a_file_that_the_system_will_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, reader: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = tmp_path / f"net{suffix}"
    path.write_bytes(save(STATE))
    monkeypatch.setattr(f"qfair_check.inputs.checkpoint.{reader}", refuse)
    assert message(path).startswith("cannot read net")
    assert message(path).endswith("[Errno 13] Permission denied: 'net'")


FORMATS: dict[str, Callable[[object, Path], object]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    **{
        f"pickle {protocol}": lambda content, path, protocol=protocol: path.write_bytes(
            pickle.dumps(content, protocol=protocol)
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("place", ["alone", "among weights", "in a wrapper"])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    tmp_path: Path, write: Callable[[object, Path], object], place: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "net.pt"
    bad = Malicious(marker)
    write(
        {"alone": bad, "among weights": {**STATE, "x": bad}, "in a wrapper": {"state_dict": STATE, "x": bad}}[place],
        path,
    )
    with pytest.raises(UntrustedPickleError) as caught:
        read_checkpoint(path)
    named = re.search(r" \([\w.]+\)(?=\. Either)", str(caught.value))
    assert str(caught.value) == REFUSED.format(path, named[0] if named else "")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_malicious_pickle_of_the_oldest_protocols_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "marker", tmp_path / "net.pt"
    path.write_bytes(pickle.dumps({"state_dict": Malicious(marker)}, protocol=protocol))
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_checkpoint(path)
    assert not marker.exists()


def test_the_same_file_runs_when_it_is_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = saved(tmp_path, {"state_dict": STATE, "x": Malicious(marker)})
    with warnings.catch_warnings(action="ignore"):
        read = read_checkpoint(path, trust_pickle=True)
    assert marker.exists()
    assert same(read.state, STATE)


def test_trusted_code_that_fails(tmp_path: Path) -> None:
    path = saved(tmp_path, Malicious(tmp_path / "no folder" / "marker"))
    assert "No such file or directory" in message(path, trust_pickle=True)


def test_a_malicious_pickle_in_a_safetensors_file_is_damage(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "net.safetensors"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    assert message(path, trust_pickle=True).startswith("cannot read net as safetensors")
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, nn.Linear(3, 2), _use_new_zipfile_serialization=zipped)
    with pytest.raises(UntrustedPickleError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == REFUSED.format(path, " (torch.nn.modules.linear.Linear)")


def test_a_whole_module_is_loaded_when_it_is_trusted(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    read = read_checkpoint(saved(tmp_path, module), trust_pickle=True)
    assert isinstance(read.module, nn.Linear)
    assert same(read.module.state_dict(), module.state_dict())
    assert read.state == {}


def test_a_module_in_a_wrapper_gives_its_state_dict_when_it_is_trusted(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    path = saved(tmp_path, {"epoch": 3, "model": module})
    assert same(read_checkpoint(path, trust_pickle=True).state, module.state_dict())


def test_torchscript_is_refused_and_loaded_when_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    module = nn.Linear(3, 2)
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3)), path)
    with pytest.raises(UntrustedPickleError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == REFUSED.format(path, "")
    read = read_checkpoint(path, trust_pickle=True)
    assert same(read.module.state_dict(), module.state_dict())


def test_reading_leaves_the_random_state_as_it_is(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    read_checkpoint(saved(tmp_path, STATE))
    assert torch.equal(torch.random.get_rng_state(), before)


def read_or_refuse(path: Path, content: bytes) -> Checkpoint | None:
    path.write_bytes(content)
    try:
        return read_checkpoint(path)
    except InputError as error:
        refusal = error
    assert str(path) in str(refusal)
    return None


WITH_METADATA = {
    "qfair_check": "1",
    "architecture": "nets:net",
    "classes": json.dumps(["a", "b"]),
    "preprocessing": json.dumps({"image_size": [8, 8], "mean": [0.5], "std": [0.25]}),
}
ANY_PLACE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@ANY_PLACE
@given(data=st.data())
def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pt")
    if kind == "safetensors":
        path.write_bytes(save(STATE, WITH_METADATA))
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    read = read_or_refuse(path, whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert read is None or same(read.state, STATE)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@ANY_PLACE
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    assert read_or_refuse(tmp_path / f"net{suffix}", content) is None


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@ANY_PLACE
@given(data=st.data())
def test_a_changed_byte_gives_no_other_error(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pt")
    if kind == "safetensors":
        path.write_bytes(save(STATE, WITH_METADATA))
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    read = read_or_refuse(path, bytes(content))
    assert read is None or read.state


@pytest.mark.parametrize("damage", [b"PK\x01\x03", b"PK\x01\x02" + bytes(4) + b"\x00\x08"])
def test_a_damaged_directory_of_a_zip_file(tmp_path: Path, damage: bytes) -> None:
    path = saved(tmp_path, STATE)
    content = bytearray(path.read_bytes())
    last = content.rindex(b"PK\x01\x02")
    content[last : last + len(damage)] = damage
    if len(damage) > 4:
        content[last + 50] = 0xD6
    assert read_or_refuse(path, bytes(content)) is None


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "net" in message(tmp_path / f"{'n' * 300}.pt")


@pytest.mark.parametrize("beside", [STATE, {"module": STATE, "decay": 0.9}, {"state_dict": STATE}])
def test_weights_that_are_left_out_are_told(tmp_path: Path, beside: dict[str, object]) -> None:
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    path = saved(tmp_path, {"model": STATE, "model_ema": beside, "optimizer": optimizer})
    assert read_checkpoint(path).notices == (
        f"{path} also holds weights under model_ema, left out: those under model are audited",
    )

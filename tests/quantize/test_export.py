import contextlib
import json
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from qfair_check import audit, load_model, model_file_size, quantize_model, save_model, save_quantized
from qfair_check.cli import main
from qfair_check.errors import InputError, OptionError, QFairError
from qfair_check.quantize.export import export_quantized
from qfair_check.record import Audit


@pytest.fixture(params=[(2, "absmax"), (3, "mse/full"), (4, "absmax/asymmetric/per-channel"), (8, "absmax")])
def saved(request, tmp_path):
    """The demo on a grid, with the audit of what it was made from."""
    bits, scheme = request.param
    demo = load_model("demo")
    path = tmp_path / "plain.safetensors"
    origin = audit("demo", "demo", bits)
    quantized = quantize_model(demo.module, bits, scheme)
    save_quantized(quantized, path, arch=demo.architecture, classes=demo.classes, origin=origin)
    return path


def read(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)


def header_size(path):
    """The length of the header comes first, in eight bytes, as the description of safetensors says."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_a_packed_model_is_the_same_model_sample_for_sample(saved, tmp_path):
    packed = tmp_path / "packed.safetensors"
    export_quantized(saved, packed)
    one, other = load_model(saved), load_model(packed)
    assert one.sha256 == other.sha256
    assert one.classes == other.classes
    for name, grid in one.grids.items():
        assert torch.equal(grid.codes, other.grids[name].codes)
        assert (grid.bits, grid.grid) == (other.grids[name].bits, other.grids[name].grid)
    before, after = audit(saved, "demo", "asis"), audit(packed, "demo", "asis")
    assert after.reference.sha256 == before.reference.sha256
    assert after.outcomes["asis"] == before.outcomes["asis"]
    assert after.at("asis").fvo_increase == before.at("asis").fvo_increase


def test_codes_take_their_bits(saved, tmp_path):
    packed = tmp_path / "packed.safetensors"
    export_quantized(saved, packed)
    tensors, metadata = read(packed)
    assert metadata["qfair_check"] == "3"
    sizes = {name: tensors[f"{name}.packed"].numel() for name in json.loads(metadata["quantized"])}
    for name, grid in load_model(saved).grids.items():
        assert sizes[name] == -(-grid.codes.numel() * grid.bits // 8)
    before, after = model_file_size(saved), model_file_size(packed)
    assert (before.fp32, before.theoretical) == (after.fp32, after.theoretical)
    assert after.theoretical == after.file - header_size(packed)
    bytes_less = sum(grid.codes.numel() for grid in load_model(saved).grids.values()) - sum(sizes.values())
    assert before.file - header_size(saved) - after.theoretical == bytes_less


def test_packing_again_changes_nothing(saved, tmp_path):
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    again = tmp_path / "again" / twice.name
    again.parent.mkdir()
    export_quantized(saved, once)
    export_quantized(once, twice)
    export_quantized(once, again)
    assert again.read_bytes() == twice.read_bytes()


def test_a_model_behind_a_link_keeps_its_origin(saved, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    link = folder / "link.safetensors"
    link.symlink_to(saved)
    assert audit(link, "demo", "asis").reference.kind == "beside"
    assert export_quantized(link, folder / "packed.safetensors") == ()
    assert (folder / "packed.origin.json").exists()


def test_where_the_model_cannot_be_written_nothing_is(saved, tmp_path, monkeypatch):
    folder = tmp_path / "full"
    folder.mkdir()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qfair_check.inputs.model.replace_file", fail)
    with pytest.raises(InputError, match="No space left on device"):
        export_quantized(saved, folder / "packed.safetensors")
    assert list(folder.iterdir()) == []


def test_the_origin_goes_along_and_is_left_out_where_it_is_gone(saved, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    assert export_quantized(saved, folder / "packed.safetensors") == ()
    assert Audit.load(folder / "packed.origin.json").data.sha256 == audit("demo", "demo", 8).data.sha256
    (tmp_path / "plain.origin.json").unlink()
    assert export_quantized(saved, folder / "alone.safetensors") == (
        f"{tmp_path / 'plain.origin.json'}, the audit of its origin, is not there: limits relative to fp32 need "
        "--qfair-reference",
    )
    origin = load_model(folder / "alone.safetensors").origin
    assert origin.audit is None
    assert origin.sha256 == load_model(saved).origin.sha256


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda packed: packed[:-1],
            "72 codes of 2 bits are a row of 18 bytes of uint8, and there is a shape of (17,) ",
        ),
        (lambda packed: packed.to(torch.int16), "there is a shape of (18,) and torch.int16"),
        (lambda packed: packed[None], "there is a shape of (1, 18) and torch.uint8"),
        (lambda packed: torch.full_like(packed, 0b10101010), "codes of 0.weight lie outside its grid of 2 bits"),
    ],
)
def test_a_damaged_file_is_one_error(change, told, tmp_path):
    demo = load_model("demo")
    plain, packed = tmp_path / "plain.safetensors", tmp_path / "packed.safetensors"
    save_quantized(quantize_model(demo.module, 2), plain, arch=demo.architecture)
    export_quantized(plain, packed)
    tensors, metadata = read(packed)
    save_file(tensors | {"0.weight.packed": change(tensors["0.weight.packed"]).clone()}, packed, metadata)
    with pytest.raises(InputError, match="was edited or damaged") as caught:
        load_model(packed)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (None, "0.weight is packed, and its shape is missing"),
        ([10**12, 1, 1, 1], "1000000000000 codes of 2 bits are a row of 250000000000 bytes of uint8"),
        ([10**12, 10**12], "no tensor has such a shape"),
        ([0, 2**62, 2**62, 3], "no tensor has such a shape"),
        ([10**18] * 300, "no tensor has such a shape"),
        ([72] + [1] * 70, "no tensor has such a shape"),
        ([0, 10**30], "Expected `int` <= 9223372036854775807"),
        ([72, -1], "Expected `int` >= 0"),
        ([3, 3, 1, 8], r"0\.weight \(3, 3, 1, 8\), not \(8, 1, 3, 3\)"),
    ],
)
def test_a_forged_shape_is_one_error(shape, told, tmp_path):
    demo = load_model("demo")
    plain, packed = tmp_path / "plain.safetensors", tmp_path / "packed.safetensors"
    save_quantized(quantize_model(demo.module, 2), plain, arch=demo.architecture)
    export_quantized(plain, packed)
    tensors, metadata = read(packed)
    layers = json.loads(metadata["quantized"])
    layers["0.weight"]["shape"] = shape
    save_file(tensors, packed, metadata | {"quantized": json.dumps(layers)})
    with pytest.raises(InputError, match=told):
        load_model(packed)


@pytest.mark.parametrize(
    ("bits", "told"),
    [
        (1, "Expected `int` >= 2"),
        (9, "Expected `int` <= 8"),
        (4, "72 codes of 4 bits are a row of 36 bytes of uint8, and there is a shape of (18,)"),
    ],
)
def test_another_width_is_one_error(bits, told, tmp_path):
    demo = load_model("demo")
    plain, packed = tmp_path / "plain.safetensors", tmp_path / "packed.safetensors"
    save_quantized(quantize_model(demo.module, 2), plain, arch=demo.architecture)
    export_quantized(plain, packed)
    tensors, metadata = read(packed)
    layers = json.loads(metadata["quantized"])
    layers["0.weight"]["bits"] = bits
    save_file(tensors, packed, metadata | {"quantized": json.dumps(layers)})
    with pytest.raises(InputError, match=f"{re.escape(told)}.*: save the model again"):
        load_model(packed)


@pytest.mark.parametrize("length", [0, 7, 9, 500, -1])
def test_a_truncated_file_is_one_error(length, tmp_path):
    demo = load_model("demo")
    plain, packed = tmp_path / "plain.safetensors", tmp_path / "packed.safetensors"
    save_quantized(quantize_model(demo.module, 2), plain, arch=demo.architecture)
    export_quantized(plain, packed)
    packed.write_bytes(packed.read_bytes()[:length])
    for reads in (load_model, model_file_size, lambda path: export_quantized(path, tmp_path / "again.safetensors")):
        with pytest.raises(InputError, match=r"is empty|truncated or damaged"):
            reads(packed)
    assert not (tmp_path / "again.safetensors").exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_of_ours_or_another_model(place, value, tmp_path):
    packed, damaged = tmp_path / "packed.safetensors", tmp_path / "damaged.safetensors"
    if not packed.exists():
        demo = load_model("demo")
        save_quantized(quantize_model(demo.module, 2), tmp_path / "plain.safetensors", arch=demo.architecture)
        export_quantized(tmp_path / "plain.safetensors", packed)
    content = bytearray(packed.read_bytes())
    content[place] = value
    damaged.write_bytes(content)
    with contextlib.suppress(QFairError):
        load_model(damaged)


def test_a_link_to_the_model_is_the_model(tmp_path):
    demo = load_model("demo")
    plain, link = tmp_path / "plain.safetensors", tmp_path / "link.safetensors"
    save_quantized(quantize_model(demo.module, 2), plain, arch=demo.architecture)
    link.symlink_to(plain)
    for source, target in ((plain, link), (link, plain)):
        with pytest.raises(OptionError, match="name another file"):
            export_quantized(source, target)


def test_what_cannot_be_packed_is_refused(tmp_path):
    demo = load_model("demo")
    plain = tmp_path / "plain.safetensors"
    save_quantized(quantize_model(demo.module, 2), plain, arch=demo.architecture)
    before = plain.read_bytes()
    with pytest.raises(OptionError, match="is the model that is to be packed: name another file"):
        export_quantized(plain, plain)
    assert plain.read_bytes() == before
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(InputError, match=r"was not saved by qfair_check: give a \.safetensors file that qfair rem"):
        export_quantized(other, tmp_path / "packed.safetensors")
    save_model(demo.module, other, arch=demo.architecture)
    with pytest.raises(InputError, match="nothing to pack: give a file that qfair remediate or save_quantized wrote"):
        export_quantized(other, tmp_path / "packed.safetensors")
    torch.save(demo.module.state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"is no \.safetensors file: give a \.safetensors file that qfair remediate"):
        export_quantized(tmp_path / "model.pt", tmp_path / "packed.safetensors")
    with pytest.raises(OptionError, match=r"must end in .safetensors"):
        export_quantized(plain, tmp_path / "packed.pt")
    assert not (tmp_path / "packed.safetensors").exists()


def test_a_packed_model_is_not_quantized_again(saved, tmp_path, capsys):
    packed = tmp_path / "packed.safetensors"
    export_quantized(saved, packed)
    fair = str(tmp_path / "fair.safetensors")
    for command in (
        ["audit", str(packed), "--data", "demo", "--bits", "4"],
        ["remediate", str(packed), "--data", "demo"],
    ):
        assert main([*command, "--out", fair]) == 4
        assert f"{packed} lies on a grid of its own already" in capsys.readouterr().err


def test_the_command_says_the_sizes(saved, tmp_path, capsys):
    out = tmp_path / "packed.safetensors"
    assert main(["export", str(saved), "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{path}: {model_file_size(path)}" for path in (saved, out)]
    assert main(["export", str(tmp_path / "absent.safetensors"), "--out", str(out)]) == 4
    assert main(["export", str(saved), "--out", str(tmp_path / "nowhere" / "x.safetensors")]) == 4
    assert "there is no folder" in capsys.readouterr().err
    assert main(["export", str(saved), "--out", str(tmp_path / f"{'x' * 300}.safetensors")]) == 4
    assert "File name too long" in capsys.readouterr().err
    (tmp_path / "plain.origin.json").unlink()
    assert main(["export", str(saved), "--out", str(out)]) == 0
    assert "note: " in (told := capsys.readouterr().out)
    assert told.count("limits relative to fp32 need --reference") == 1

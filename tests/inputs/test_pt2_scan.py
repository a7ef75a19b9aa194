import io
import json
import logging
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, export, save

from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.model import load_model

pytest.importorskip("torch.export.pt2_archive", reason="torch 2.7 and older write .pt2 files of an older layout")

X = torch.randn(4, 3)
TOUCH = "__import__('pathlib').Path('marker').touch()"
AGAIN = "export the model again with torch.export.save of a current torch"


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("marker",)


@cache
def archive() -> bytes:
    batch = Dim("batch", min=2, max=32)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    buffer = io.BytesIO()
    save(export(net, (X,), dynamic_shapes=({0: batch},)), buffer)
    return buffer.getvalue()


def members(content: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as held:
        for name in held.namelist():
            yield name.partition("/")[2], held.read(name)


def written(
    path: Path,
    change: Callable[[dict[str, Any]], object] | None = None,
    replaced: dict[str, bytes | None] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write the archive with its program changed, and members replaced, added or left out."""
    held = dict(members(archive()))
    if change:
        program = json.loads(held["models/model.json"])
        change(program)
        held["models/model.json"] = json.dumps(program).encode()
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in {**held, **(replaced or {})}.items():
            if content is not None:
                made.writestr(f"net/{name}", content)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module that a file may name: importing it leaves a marker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_of_test.py").write_text("open('marker', 'w')\nfound = dict\n")
    yield tmp_path
    assert not (tmp_path / "marker").exists()
    assert "evil_of_test" not in sys.modules


def graph(program: dict[str, Any]) -> dict[str, Any]:
    return program["graph_module"]["graph"]


def call(target: str, **arguments: Any) -> Callable[[dict[str, Any]], object]:
    """Let the second operator be another one."""
    inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
    return lambda program: graph(program)["nodes"][1].update(target=target, inputs=inputs)


def told(path: Path) -> str:
    with pytest.raises(UntrustedPickleError) as error:
        load_model(path)
    start, end = f"{path} is not a plain exported program: it ", ", and loading or running it could run code"
    message = str(error.value)
    assert message.startswith(start)
    assert message.endswith("Either save the weights alone (torch.save(model.state_dict(), ...)) and name the "
                            "architecture, or, if you made the file yourself, pass --qfair-trust-pickle")  # fmt: skip
    return message[len(start) : message.index(end)]


def test_the_archive_that_the_others_are_made_of(folder):
    loaded = load_model(written(folder / "net.pt2")).module
    assert loaded(X).shape == (4, 2)


STRING = {"as_string": "marker"}
OPERATORS = {
    "torch.os.mkdir": call("torch.os.mkdir", path=STRING),
    "torch.os.system": call("torch.os.system", command={"as_string": "touch marker"}),
    "torch.serialization.load": call("torch.serialization.load", f=STRING),
    "torch.hub.load": call("torch.hub.load", repo=STRING),
    "torch.jit.load": call("torch.jit.load", f=STRING),
    "torch.ops.load_library": call("torch.ops.load_library", path=STRING),
    "torch.utils.cpp_extension.load": call("torch.utils.cpp_extension.load", name=STRING),
    "math.__loader__.load_module": call("math.__loader__.load_module", name=STRING),
    "_operator.methodcaller": call("_operator.methodcaller", name=STRING),
    "_operator.attrgetter": call("_operator.attrgetter", name=STRING),
    "#evil:op": call("#evil:op", name=STRING),
    "evil_of_test.found": call("evil_of_test.found"),
    "torch.ops.aten.from_file.default": call("torch.ops.aten.from_file.default", filename=STRING, size={"as_int": 4}),
    "torch.ops.aten.from_file.out": call("torch.ops.aten.from_file.out", filename=STRING),
    "torch.ops.aten.save.default": call("torch.ops.aten.save.default", item=STRING, filename=STRING),
    "torch.ops.aten.set_grad_enabled.default": call("torch.ops.aten.set_grad_enabled.default", val={"as_bool": False}),
    "torch.ops.aten.manual_seed.default": call("torch.ops.aten.manual_seed.default", seed={"as_int": 1}),
    "torch.ops.aten._reshape_alias.default": call("torch.ops.aten._reshape_alias.default"),
    "torch.ops.aten._sparse_coo_tensor_unsafe.default": call("torch.ops.aten._sparse_coo_tensor_unsafe.default"),
    "torch.ops.aten._nested_view_from_buffer.default": call("torch.ops.aten._nested_view_from_buffer.default"),
    "torch.ops.aten.set_.source_Storage": call("torch.ops.aten.set_.source_Storage"),
    "torch.ops.aten.__class__.__name__": call("torch.ops.aten.__class__.__name__"),
    "torch.ops.aten.relu.__call__": call("torch.ops.aten.relu.__call__"),
    "torch.ops.aten.relu.nothing": call("torch.ops.aten.relu.nothing"),
    "torch.ops.mylib.op.default": call("torch.ops.mylib.op.default"),
    "torch.ops.higher_order.map_impl": call("torch.ops.higher_order.map_impl"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_that_are_not_known_are_refused(folder, name):
    path = written(folder / "net.pt2", OPERATORS[name])
    assert told(path) == f"calls {name}, which is not one of the operators that are known to be safe"


def test_a_function_as_an_argument_is_refused(folder):
    change = call("torch.ops.aten.relu.default", self={"as_operator": "torch.os.mkdir"})
    assert told(written(folder / "net.pt2", change)) == "passes operator to an operator"
    change = call("torch.ops.aten.relu.default", self={"as_custom_obj": {"name": "x", "class_fqn": "y"}})
    assert told(written(folder / "net.pt2", change)) == "passes custom_obj to an operator"


def expressions(program: dict[str, Any]) -> None:
    for value in graph(program)["tensor_values"].values():
        for size in value["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = TOUCH


def guards(program: dict[str, Any]) -> None:
    program["guards_code"] = [TOUCH, f'L["x"] == "+{TOUCH}+"']


def metadata(program: dict[str, Any]) -> None:
    for node in graph(program)["nodes"]:
        node["metadata"] = {
            "source_fn_stack": "a,torch.os.system",
            "stack_trace": f"\n{TOUCH}",
            "torch_fn": TOUCH,
            "from_node": '[{"name": "x"}]',
        }
        node["name"] = f"x={TOUCH}"


def names(program: dict[str, Any]) -> None:
    """Let the name of an input be source code, wherever it stands."""
    text = json.dumps(program["graph_module"]["graph"]).replace('"input":', f'"input={TOUCH}":')
    text = text.replace('{"name": "input"}', f'{{"name": "input={TOUCH}"}}')
    program["graph_module"]["graph"] = json.loads(text)
    signature(program)["forward_arg_names"] = [f"input={TOUCH}"]


def signature(program: dict[str, Any]) -> dict[str, Any]:
    return program["graph_module"]["module_call_graph"][0]["signature"]


def output_tree(program: dict[str, Any]) -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    context = {"default_factory_module": "evil_of_test", "default_factory_name": "found", "dict_context": ["a"]}
    tree = {"type": "collections.defaultdict", "context": context, "children_spec": [leaf]}
    signature(program)["out_spec"] = json.dumps([1, tree])


def enum_in_tree(program: dict[str, Any]) -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    context = json.dumps([{"__enum__": True, "fqn": "evil_of_test:found", "name": "found"}])
    signature(program)["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context,
                                                     "children_spec": [leaf]}])  # fmt: skip


def verifier(program: dict[str, Any]) -> None:
    program["verifiers"] = ["evil_of_test.found"]


@pytest.mark.parametrize("change", [expressions, guards, metadata, names, output_tree, verifier])
def test_text_of_the_file_is_not_evaluated(folder, change):
    loaded = load_model(written(folder / "net.pt2", change)).module
    loaded(X)


def test_a_member_of_an_enumeration_is_not_imported(folder):
    loaded = load_model(written(folder / "net.pt2", enum_in_tree)).module
    with pytest.raises(TypeError, match="unhashable"):
        loaded(X)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save((Malicious(),), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data/sample_inputs/model.pt", pickled()),
        ("data/sample_inputs/model.pt", pickle.dumps(Malicious())),
        ("data/sample_inputs/other.pt", pickle.dumps(Malicious(), protocol=0)),
        ("data/weights/model.pt", pickled()),
        ("extra/notes.pkl", pickled()),
    ],
)
def test_pickles_that_bring_code_are_refused(folder, name, content):
    path = written(folder / "net.pt2", replaced={name: content})
    assert told(path).startswith(f"holds a pickle that is not of plain tensors, {name}")


@pytest.mark.parametrize(
    "name",
    ["data/aotinductor/model/model.so", "data/aotinductor/model/anything", "extra/lib.SO", "data/x.dll", "lib.dylib"],
)
def test_native_code_is_refused(folder, name):
    assert told(written(folder / "net.pt2", replaced={name: b"\x7fELF"})) == f"holds native code ({name})"


@pytest.mark.parametrize("name", ["data/constants/custom_obj_0", "data/constants/opaque_obj_0"])
def test_custom_objects_are_refused(folder, name):
    path = written(folder / "net.pt2", replaced={name: pickle.dumps(Malicious())})
    assert told(path) == f"holds a custom object ({name})"


def config(kind: str) -> dict[str, Any]:
    return json.loads(dict(members(archive()))[f"data/{kind}/model_{kind}_config.json"])


def test_a_weight_that_is_a_pickle_is_refused(folder):
    changed = config("weights")
    changed["config"]["0.weight"]["use_pickle"] = True
    replaced = {
        "data/weights/model_weights_config.json": json.dumps(changed).encode(),
        "data/weights/weight_0": pickle.dumps(Malicious()),
    }
    assert told(written(folder / "net.pt2", replaced=replaced)) == "holds 0.weight as a pickle (weight_0)"


def test_a_file_that_is_trusted_is_loaded_by_torch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "net.pt2", replaced={"extra/lib.so": b"\x7fELF"})
    with pytest.raises(UntrustedPickleError):
        load_model(path)
    expected = load_model(written(tmp_path / "plain.pt2")).module
    logging.disable(logging.WARNING)
    try:
        loaded = load_model(path, trust_pickle=True).module
        assert torch.equal(loaded(X), expected(X))
        opened = written(tmp_path / "net.pt2", replaced={"data/sample_inputs/model.pt": pickled()})
        assert torch.equal(load_model(opened, trust_pickle=True).module(X), expected(X))
    finally:
        logging.disable(logging.NOTSET)
    assert (tmp_path / "marker").exists()  # the pickle ran, as the caller allowed


def message(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_model(path)
    assert type(error.value) is InputError
    return str(error.value).replace(str(path), "net")


@pytest.mark.parametrize("keep", [1, 100, 0.5, 0.99])
def test_a_truncated_archive(tmp_path, keep):
    path = tmp_path / "net.pt2"
    path.write_bytes(archive()[: keep if keep >= 1 else int(len(archive()) * keep)])
    assert message(path).startswith(
        ("cannot read net as an exported program (truncated or damaged?): BadZipFile", "net is not an archive of torch")
    )


def test_an_empty_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w"):
        pass
    assert message(tmp_path / "net.pt2") == f"net is an empty archive: {AGAIN}"


def test_what_is_no_program(tmp_path):
    path = tmp_path / "net.pt2"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    assert message(path).startswith("net is not an archive of torch.export.save: name a state dict .pt")
    path.write_bytes(b"text")
    assert message(path).startswith("cannot read net as an exported program (truncated or damaged?): BadZipFile")


def test_a_compressed_archive(tmp_path):
    path = written(tmp_path / "net.pt2", compression=zipfile.ZIP_DEFLATED)
    assert message(path).endswith(f"compressed, which torch.export.save never writes: {AGAIN}")


def test_members_that_overlap(tmp_path):
    path = written(tmp_path / "net.pt2", replaced={"extra/a": b"a" * 10_000})
    content = path.read_bytes()
    start = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    entry = content[start:end]
    names = [entry.replace(b"net/extra/a", b"net/extra/%c" % letter) for letter in b"bcdefgh"]
    count = int.from_bytes(content[end + 10 : end + 12], "little") + len(names)
    size = int.from_bytes(content[end + 12 : end + 16], "little") + len(entry) * len(names)
    tail = content[end : end + 8] + count.to_bytes(2, "little") * 2 + size.to_bytes(4, "little") + content[end + 16 :]
    path.write_bytes(content[:end] + b"".join(names) + tail)
    assert message(path) == f"net is smaller than what it says it holds (truncated or damaged?): {AGAIN}"


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_that_comes_twice(tmp_path):
    path = written(tmp_path / "net.pt2")
    with zipfile.ZipFile(path, "a") as made:
        made.writestr("net/archive_format", "pt2")
    assert message(path) == f"net holds archive_format twice: {AGAIN}"


@pytest.mark.parametrize(
    ("replaced", "expected"),
    [
        ({"archive_version": b"9"}, f"net is of archive version 9, and 0 is known: {AGAIN}"),
        ({"byteorder": b"big"}, f"net was written in big-endian order on another kind of machine: {AGAIN} here"),
        ({"models/model.json": None}, f"net holds no exported program: {AGAIN}"),
        (
            {"models/model.json": None, "models/a.json": b"{}", "models/b.json": b"{}"},
            "net holds several programs, a, b: save the one to audit on its own",
        ),
        (
            {"serialized_exported_program.json": b"{}", "archive_format": None},
            "net is not an archive of torch.export.save: name a state dict .pt, and save a program with "
            "torch.export.save(torch.export.export(model.eval(), ...), ...)",
        ),
    ],
)
def test_other_layouts(tmp_path, replaced, expected):
    assert message(written(tmp_path / "net.pt2", replaced=replaced)) == expected


def test_the_layout_of_an_older_torch(tmp_path):
    for name in ("net.pt2", "net.pt"):
        with zipfile.ZipFile(tmp_path / name, "w") as made:
            made.writestr("version", "8.8")
            made.writestr("serialized_exported_program.json", "{}")
        assert message(tmp_path / name) == f"net is of the layout of torch 2.7 and older: load it there, and {AGAIN}"


def test_another_schema(tmp_path):
    path = written(tmp_path / "net.pt2", lambda program: program["schema_version"].update(major=9))
    assert message(path) == (
        "net is of schema version 9, and 8 is known: export the model again with a torch that writes it"
    )


def removed(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda program: graph(program).pop(key)


def misnamed(program: dict[str, Any]) -> None:
    for spec in program["graph_module"]["signature"]["input_specs"]:
        if "parameter" in spec:
            spec["parameter"]["parameter_name"] = f'0.weight"); {TOUCH} #'


@pytest.mark.parametrize("change", [removed("nodes"), removed("inputs"), removed("tensor_values"), misnamed])
def test_a_program_that_contradicts_itself(folder, change):
    path = written(folder / "net.pt2", change)
    assert message(path).startswith("cannot read net as an exported program (truncated or damaged?): ")


def reshaped(**changes: Any) -> bytes:
    changed = config("weights")
    changed["config"]["0.weight"]["tensor_meta"].update(changes)
    return json.dumps(changed).encode()


@pytest.mark.parametrize(
    "content",
    [
        reshaped(sizes=[{"as_int": 4000}, {"as_int": 3}]),
        reshaped(storage_offset={"as_int": 10**9}),
        reshaped(strides=[{"as_int": -3}, {"as_int": 1}]),
        reshaped(sizes=[{"as_int": "4"}, {"as_int": 3}]),
        reshaped(dtype=99),
        b"[]",
        b"{",
        b"[" * 100_000,
    ],
)
def test_a_weight_that_does_not_fit_its_bytes(tmp_path, content):
    path = written(tmp_path / "net.pt2", replaced={"data/weights/model_weights_config.json": content})
    assert message(path).startswith("cannot read net as an exported program (truncated or damaged?): ")


def test_a_weight_that_is_missing(tmp_path):
    path = written(tmp_path / "net.pt2", replaced={"data/weights/weight_0": None})
    assert "data/weights/weight_0" in message(path)


def test_a_damaged_weight(tmp_path):
    content = bytearray(archive())
    content[content.index(dict(members(archive()))["data/weights/weight_0"])] ^= 255
    (tmp_path / "net.pt2").write_bytes(content)
    assert "Bad CRC-32" in message(tmp_path / "net.pt2")


def test_the_gate_refuses_with_exit_code_4(pytester):
    written(pytester.path / "net.pt2", replaced={"data/sample_inputs/model.pt": pickled()})
    result = pytester.runpytest("--qfair-model=net.pt2", "--qfair-data=demo", "--bits=8")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*net.pt2 is not a plain exported program*--qfair-trust-pickle"])
    assert not (pytester.path / "marker").exists()

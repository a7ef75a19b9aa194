"""The loaders that read files of strangers, and a few small files of each that are read."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save

import qfair_check
from qfair_check.baseline_file import read_baseline, write_baseline
from qfair_check.baseline_record import Baseline
from qfair_check.inputs.data import read_data
from qfair_check.inputs.images import ImageFiles
from qfair_check.inputs.options import DataOptions, Preprocessing
from qfair_check.judge.limits import gate_limits
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import judge_audit
from qfair_check.record import Audit
from qfair_check.report.terminal import render

Forge = Callable[[bytes, Callable[[Any], Any]], bytes]


@dataclass(frozen=True, slots=True)
class Loader:
    """A loader, the name of the file that it reads, and how a file of it is forged through its JSON."""

    name: str
    file: str
    read: Callable[[Path], object]
    make: Callable[[Path], list[bytes]]
    forge: Forge | None = None


def seeds_of(loader: Loader, folder: Path) -> list[bytes]:
    """Return small files that the loader reads; every one is."""
    seeds = loader.make(folder)
    for seed in seeds:
        (folder / loader.file).write_bytes(seed)
        loader.read(folder / loader.file)
    return seeds


def _forged_json(content: bytes, change: Callable[[Any], Any]) -> bytes:
    return json.dumps(change(json.loads(content))).encode("utf-8", "surrogatepass")


def _forged_header(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """Change the JSON header of a safetensors file, and the JSON in its metadata."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    inner = header.get("__metadata__", {})
    if isinstance(inner, dict) and inner and len(content) % 3:
        key = sorted(inner)[len(content) % len(inner)]
        try:
            inner[key] = json.dumps(change(json.loads(inner[key])))
        except ValueError:
            inner[key] = str(change(inner[key]))
    else:
        header = change(header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[end:]


def _data(path: Path) -> object:
    """Read data and every sample of it."""
    data = read_data(DataOptions(str(path)))
    return [data.take_apart(data.inputs[index]) for index in range(min(data.size or 0, 8))]


def _image(path: Path) -> object:
    return ImageFiles(path.parent, [path.name], Preprocessing((4, 4)), lambda index: "an image")[0]


def _audit(path: Path) -> object:
    """Read an audit, judge it and draw its table."""
    audit = Audit.load(path)
    verdicts = judge_audit(audit, gate_limits({"max_fvo": "0.1"}))
    return [render(audit, verdicts, width=80), *(describe(verdict, audit) for verdict in verdicts)]


def _model(path: Path) -> object:
    return qfair_check.load_model(path, arch="qfair_check.demo.network:digits_cnn")


def _checkpoint(path: Path) -> object:
    from qfair_check.errors import InputError
    from qfair_check.remedy.checkpoint import load_checkpoint

    try:
        return load_checkpoint(path, {"recipe": "", "data": "", "model": ""}, None)
    except InputError as error:
        if "is no checkpoint" in str(error) or "of format" in str(error):
            raise
        return None  # it was read as far as the hashes, which are of no run here


def _manifests(folder: Path) -> list[bytes]:
    Image.new("RGB", (4, 4)).save(folder / "face.png")
    return [
        b"path,label,group\nface.png,a,x\nface.png,b,y\n",
        b"x1,x2,label,group\n1.5,2,a,f\n-1e3,7,b,m\n",
        '"path","label"\n"face.png","caf\u00e9, ""x"""\n'.encode(),
    ]


def _parquets(folder: Path) -> list[bytes]:
    made = []
    for label in (["a", "b", "a"], pa.array(["a", "b", "a"]).dictionary_encode()):
        for compression in ("none", "snappy"):
            buffer = io.BytesIO()
            table = pa.table({"x": [1.5, 2.0, 3.0], "n": [1, 2, 3], "label": label, "group": ["x", "y", "x"]})
            pq.write_table(table, buffer, compression=compression)
            made.append(buffer.getvalue())
    return made


def _arrays(folder: Path) -> list[bytes]:
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1])
    made = []
    for write, more in ((np.savez, {}), (np.savez_compressed, {"group": np.array(["a", "b", "a", "b"])})):
        buffer = io.BytesIO()
        write(buffer, x=x, y=y, **more)
        made.append(buffer.getvalue())
    return made


def _tensors(folder: Path) -> list[bytes]:
    arrays = {"x": torch.zeros(4, 3), "y": torch.tensor([0, 1, 0, 1]), "group": torch.tensor([0, 0, 1, 1])}
    return [save(arrays), save(arrays, {"classes": '["a", "b"]', "groups": '["x", "y"]'})]


def _images(folder: Path) -> list[bytes]:
    made = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"):
        buffer = io.BytesIO()
        Image.radial_gradient("L").resize((8, 8)).convert("RGB").save(buffer, kind)
        made.append(buffer.getvalue())
    return made


def _audits(folder: Path) -> list[bytes]:
    made = []
    for bits, curvature in (("8,2", None), ("fp16", qfair_check.CurvatureOptions.of(samples="4"))):
        x = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        audit = qfair_check.audit(net, (x, (x[:, 0] > 0).astype(np.int64)), bits, curvature=curvature)
        audit.save(folder / "seed.json")
        made.append((folder / "seed.json").read_bytes())
    return made


def _baselines(folder: Path) -> list[bytes]:
    path = folder / "seed.json"
    path.write_bytes(_audits(folder)[0])
    write_baseline(Baseline.of(Audit.load(path)), path)
    return [path.read_bytes()]


def _models(folder: Path) -> list[bytes]:
    demo = qfair_check.load_model("demo")
    path, packed = folder / "seed.safetensors", folder / "packed.safetensors"
    qfair_check.save_model(demo.module, path, arch=demo.architecture, classes=demo.classes)
    made = [path.read_bytes()]
    for scheme in ("absmax", "mse/asymmetric/per-channel"):
        quantized = qfair_check.quantize_model(demo.module, 3, scheme)
        qfair_check.save_quantized(quantized, path, arch=demo.architecture, classes=demo.classes, origin="a" * 64)
        qfair_check.export_quantized(path, packed)
        made += [path.read_bytes(), packed.read_bytes()]
    return made


def _state_dicts(folder: Path) -> list[bytes]:
    state = qfair_check.load_model("demo").module.state_dict()
    made = []
    for content, modern in ((state, True), ({"state_dict": state, "epoch": 3}, True), (state, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=modern)
        made.append(buffer.getvalue())
    return made


def _checkpoints(folder: Path) -> list[bytes]:
    buffer = io.BytesIO()
    parts = ("module", "optimizer", "tracker", "records", "kept", "stopped", "seconds")
    content = {"format": 2, "hashes": {"recipe": "r", "data": "d", "model": "m"}, **{name: {} for name in parts}}
    torch.save(content, buffer)
    return [buffer.getvalue()]


def _programs(folder: Path) -> list[bytes]:
    path = folder / "seed.pt2"
    with torch.random.fork_rng():
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    batch = torch.export.Dim("batch", min=1, max=256)
    program = torch.export.export(net, (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return [path.read_bytes()]


def _forged_zip(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """Change the JSON in one member of a zip archive, or put a pickle in place of a member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = names[len(str(change(len(names)))) * 7 % len(names)]
        for name in names:
            held = old.read(name)
            if name == chosen:
                try:
                    held = json.dumps(change(json.loads(held))).encode("utf-8", "surrogatepass")
                except ValueError:
                    held = pickle.dumps(change({"a": 1}))
            new.writestr(name, held)
    return buffer.getvalue()


LOADERS = {
    loader.name: loader
    for loader in (
        Loader("csv", "fuzzed.csv", _data, _manifests),
        Loader("parquet", "fuzzed.parquet", _data, _parquets),
        Loader("npz", "fuzzed.npz", _data, _arrays),
        Loader("data safetensors", "fuzzed.safetensors", _data, _tensors, _forged_header),
        Loader("image", "fuzzed.png", _image, _images),
        Loader("audit", "fuzzed.json", _audit, _audits, _forged_json),
        Loader("baseline", "fuzzed.json", read_baseline, _baselines, _forged_json),
        Loader("model safetensors", "fuzzed.safetensors", _model, _models, _forged_header),
        Loader("state dict", "fuzzed.pt", _model, _state_dicts),
        Loader("checkpoint", "fuzzed.checkpoint", _checkpoint, _checkpoints),
        Loader("pt2", "fuzzed.pt2", lambda path: qfair_check.load_model(path), _programs, _forged_zip),
    )
}

"""A model file or folder becomes a state dict, or a module where the caller trusts it; no code of its own runs."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.architecture import make_working_directory_importable
from qfair_check.inputs.archives import refuse_bomb
from qfair_check.inputs.fit import PREFIXES
from qfair_check.inputs.huggingface import WEIGHTS, described_in, weights_in
from qfair_check.inputs.options import Preprocessing
from qfair_check.inputs.paths import require_file
from qfair_check.inputs.pt2_program import load_program
from qfair_check.inputs.pt2_scan import is_program
from qfair_check.inputs.quantized_file import OWN, Origin, StoredGrid, from_tensors
from qfair_check.inputs.scripted import load_scripted
from qfair_check.inputs.shards import INDEX, read_shards
from qfair_check.inputs.trusted_program import load_trusted_program
from qfair_check.inputs.wording import listed

_SUFFIXES = (".safetensors", ".pt", ".pth", ".pt2", ".ckpt", ".bin")
_ACCEPTED = f"give a model file ({', '.join(_SUFFIXES)}), or a folder of Hugging Face"
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_AVERAGED = "n_averaged"
_LIGHTNING = "; self.save_hyperparameters(ignore=[...]) keeps objects out of a later checkpoint of Lightning"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model file holds: a state dict or a module, and what it says about itself.

    `config` is the configuration of Hugging Face that stands beside the weights; `notices` are what the user
    must see; `grids` has the weights that lie on a grid, and `origin` the model that they were made from.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    module: nn.Module | None = None
    architecture: str | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    config: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()
    grids: Mapping[str, StoredGrid] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def is_described(self) -> bool:
        """Whether no architecture need be named."""
        return self.architecture is not None or self.module is not None or self.config is not None


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Read a model file, the index of a sharded one, or a folder as ``save_pretrained`` writes it.

    Raises
    ------
    UntrustedPickleError
        If loading would run code from the file and `trust_pickle` is false.
    InputError
        If the file is missing, unreadable, damaged, of another kind, or holds no weights.
    """
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises on a name that is too long)
        weights, left_out = weights_in(path)
        read = _with_description(_read_file(weights, trust_pickle), path)
        return replace(read, notices=(*left_out, *read.notices))
    read = _read_file(path, trust_pickle)
    is_described = path.name in WEIGHTS and read.architecture is None and read.module is None
    return _with_description(read, path.parent) if is_described else read


def _with_description(read: Checkpoint, folder: Path) -> Checkpoint:
    found = described_in(folder)
    if found is None:
        return read
    return replace(read, config=found.config, classes=found.classes, notices=(*read.notices, *found.notices))


def _read_file(path: Path, trust_pickle: bool) -> Checkpoint:
    if path.name.endswith(INDEX):
        kind = Path(path.name.removesuffix(INDEX)).suffix
        if kind in _SUFFIXES:
            return Checkpoint(_unprefixed(read_shards(path, lambda shard: _read(shard, kind, trust_pickle).state)))
    require_file(path, "model", _ACCEPTED)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path} is of a kind that cannot be read: {_ACCEPTED}")
    read = _read(path, suffix, trust_pickle)
    return replace(read, state=_unprefixed(read.state)) if read.module is None and not read.architecture else read


def _read(path: Path, suffix: str, trust_pickle: bool) -> Checkpoint:
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".pt2" or is_program(path):
        return Checkpoint(module=_read_program(path, trust_pickle))
    return _read_torch(path, trust_pickle)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as safetensors (truncated or damaged?): {error}") from error
    if not state:
        raise InputError(f"{path} holds no tensors")
    return _described(state, metadata, path) if OWN in metadata else Checkpoint(state)


def _described(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Checkpoint:
    try:
        classes = msgspec.json.decode(metadata.get("classes", "[]"), type=tuple[str, ...])
        preprocessing = msgspec.json.decode(metadata.get("preprocessing", "null"), type=Preprocessing | None)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"the metadata of {path} cannot be read ({error}): save the model again") from error
    plain, grids, origin = from_tensors(state, metadata, path)
    return Checkpoint(plain, None, metadata.get("architecture"), classes, preprocessing, grids=grids, origin=origin)


def _read_program(path: Path, trust_pickle: bool) -> nn.Module:
    try:
        return load_program(path)
    except UntrustedPickleError:
        if not trust_pickle:
            raise
    make_working_directory_importable()
    return load_trusted_program(path)


def _read_torch(path: Path, trust_pickle: bool) -> Checkpoint:
    if trust_pickle:
        make_working_directory_importable()
        if _is_torchscript(path):
            return Checkpoint(module=load_scripted(path))
    refuse_bomb(path, "save it anew with torch.save, which does not compress")
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:  # torch.load, and trusted code in the file, may raise anything
        if not trust_pickle and _brings_code(path, error):
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise UntrustedPickleError(
                f"{path} is not a plain state dict: loading it would run code that the file brings"
                f"{f' ({named[1]})' if named else ''}. Either save the "
                "weights alone (torch.save(model.state_dict(), ...) or qfair_check.save_model(model, ..., arch=...)) "
                "and name the architecture, or, if you made the file yourself, pass --qfair-trust-pickle"
                f"{_LIGHTNING if path.suffix.lower() == '.ckpt' else ''}"
            ) from error
        raise InputError(f"cannot read {path} (truncated or damaged?): {_reason(error)}") from error
    if isinstance(content, nn.Module):
        return Checkpoint(module=content)
    state, notices = _state_dict(content, path)
    return Checkpoint(state, notices=notices)


def _brings_code(path: Path, error: Exception) -> bool:
    """Whether the restricted unpickler stopped at something that is not weights, in what is a pickle at all."""
    if _is_torchscript(path):
        return True
    if not isinstance(error, pickle.UnpicklingError) or "truncated" in str(error):
        return False
    with path.open("rb") as file:
        is_pickle = file.read(1) == pickle.PROTO
    return is_pickle or zipfile.is_zipfile(path) or "GLOBAL" in str(error)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return "it is not what torch.save writes"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except Exception:  # a damaged directory of a zip file raises BadZipFile, UnicodeDecodeError and more
        return False


def _state_dict(content: object, path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the state dict in what was saved, and say which others are beside it."""
    found = content
    notices: list[str] = []
    seen: list[object] = []
    while isinstance(found, Mapping) and not _is_state(found):
        if any(found is earlier for earlier in seen):
            raise InputError(f"{path} holds a checkpoint that contains itself: save model.state_dict()")
        seen.append(found)
        taken = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping | nn.Module)), None)
        if taken is None:
            keys = ", ".join(map(str, list(found)[:8]))
            raise InputError(
                f"{path} holds no state dict: its keys are {keys or 'none'}; expected tensors by name, or a "
                f"checkpoint with one of {', '.join(_WRAPPERS)}"
            )
        left = [str(key) for key, value in found.items() if key != taken and _holds_weights(value)]
        if left:
            notices.append(f"{path} also holds weights under {listed(left)}, left out: those under {taken} are audited")
        inner = found[taken]
        found = inner.state_dict() if isinstance(inner, nn.Module) else inner
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}, tuple(notices)


def _holds_weights(value: object) -> bool:
    if isinstance(value, Mapping):
        return _is_state(value) or any(_holds_weights(value.get(key)) for key in (*_WRAPPERS, "module"))
    return isinstance(value, nn.Module)


def _is_state(found: Mapping[object, object]) -> bool:
    return bool(found) and sum(isinstance(value, Tensor) for value in found.values()) > len(found) / 2


def _unprefixed(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Strip what DistributedDataParallel, torch.compile and AveragedModel put before every name."""
    if _AVERAGED in state and len(state) > 1:
        return _unprefixed({name: value for name, value in state.items() if name != _AVERAGED})
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _unprefixed({name.removeprefix(prefix): value for name, value in state.items()})
    return state

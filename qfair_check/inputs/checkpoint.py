"""A model file becomes a state dict, or a module where the caller trusts it; no code of its own runs."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.architecture import make_working_directory_importable
from qfair_check.inputs.options import Preprocessing
from qfair_check.inputs.paths import require_file
from qfair_check.inputs.pt2_program import load_program
from qfair_check.inputs.pt2_scan import is_program
from qfair_check.inputs.scripted import load_scripted
from qfair_check.inputs.trusted_program import load_trusted_program

_SUFFIXES = (".safetensors", ".pt", ".pth", ".pt2")
_ACCEPTED = f"give a model file ({', '.join(_SUFFIXES)})"
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_AVERAGED = "n_averaged"
_OWN = "qfair_check"
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model file holds: a state dict or a module, and what it says about itself."""

    state: Mapping[str, Tensor] = field(default_factory=dict)
    module: nn.Module | None = None
    architecture: str | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Read a ``.safetensors``, ``.pt``, ``.pth`` or ``.pt2`` file.

    Raises
    ------
    UntrustedPickleError
        If loading would run code from the file and `trust_pickle` is false.
    InputError
        If the file is missing, unreadable, damaged, of another kind, or holds no weights.
    """
    require_file(path, "model", _ACCEPTED)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path} is of a kind that cannot be read: {_ACCEPTED}")
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
    return _described(state, metadata, path) if _OWN in metadata else Checkpoint(_unprefixed(state))


def _described(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Checkpoint:
    try:
        classes = msgspec.json.decode(metadata.get("classes", "[]"), type=tuple[str, ...])
        preprocessing = msgspec.json.decode(metadata.get("preprocessing", "null"), type=Preprocessing | None)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"the metadata of {path} cannot be read ({error}): save the model again") from error
    return Checkpoint(state, None, metadata.get("architecture"), classes, preprocessing)


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
            ) from error
        raise InputError(f"cannot read {path} (truncated or damaged?): {_reason(error)}") from error
    if isinstance(content, nn.Module):
        return Checkpoint(module=content)
    return Checkpoint(_unprefixed(_state_dict(content, path)))


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


def _state_dict(content: object, path: Path) -> Mapping[str, Tensor]:
    found = content
    seen: list[object] = []
    while isinstance(found, Mapping) and not _is_state(found):
        if any(found is earlier for earlier in seen):
            raise InputError(f"{path} holds a checkpoint that contains itself: save model.state_dict()")
        seen.append(found)
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping | nn.Module)), None)
        if isinstance(inner, nn.Module):
            inner = inner.state_dict()
        if inner is None:
            keys = ", ".join(map(str, list(found)[:8]))
            raise InputError(
                f"{path} holds no state dict: its keys are {keys or 'none'}; expected tensors by name, or a "
                f"checkpoint with one of {', '.join(_WRAPPERS)}"
            )
        found = inner
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


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

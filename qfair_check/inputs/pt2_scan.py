"""The archive that torch.export.save writes: examined whole before anything of it is used."""

import io
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError, UntrustedPickleError

_NATIVE = (".so", ".dll", ".dylib", ".pyd", ".o", ".a", ".cubin", ".hsaco", ".ptx", ".cpp", ".pte")
_NATIVE_FOLDERS = ("data/aotinductor/", "data/executorch/")
_CODE_OBJECTS = ("custom_obj_", "opaque_obj_")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle")
_OLD = "serialized_exported_program.json"
_AGAIN = "export the model again with torch.export.save of a current torch"
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
    34: torch.uint32,
    35: torch.uint64,
}


@dataclass(frozen=True, slots=True, eq=False)
class ProgramFile:
    """What an archive holds: the program as JSON, and tensors by name."""

    program: Mapping[str, Any]
    weights: dict[str, Tensor]
    constants: dict[str, Tensor]


def is_program(path: Path) -> bool:
    """Return whether a file is an archive of torch.export.save, of today's layout or the older one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged directory of a zip file raises BadZipFile, UnicodeDecodeError and more
        return False
    return _OLD in names or any(name.endswith("/archive_format") for name in names)


def read_program_file(path: Path) -> ProgramFile:
    """Read an archive without running anything of it.

    Every member is examined. Of pickled members, such as the sample inputs, it is only checked that they hold
    plain tensors; they are not used.

    Raises
    ------
    UntrustedPickleError
        If the archive brings code: a pickle that is not of plain tensors, a native library, a custom object.
    InputError
        If it is damaged, or of another layout.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            _check_layout(archive, members, path)
            _check_no_code(archive, members, path)
            name = _program_name(members, path)
            program = json.loads(archive.read(members[f"models/{name}.json"]))
            weights = _tensors(archive, members, "weights", name, path)
            constants = _tensors(archive, members, "constants", name, path)
    except InputError:
        raise
    except (
        zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
        RuntimeError, NotImplementedError, RecursionError, OverflowError,
    ) as error:  # fmt: skip
        raise damaged(path, error) from error
    return ProgramFile(program, weights, constants)


def damaged(path: Path, error: Exception) -> InputError:
    """Return the error for an archive that breaks off or contradicts itself."""
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return InputError(f"cannot read {path} as an exported program (truncated or damaged?): {reason}")


def refused(path: Path, what: str) -> UntrustedPickleError:
    """Return the error for an archive that could run code."""
    return UntrustedPickleError(
        f"{path} is not a plain exported program: it {what}, and loading or running it could run code that the file "
        "brings. Either save the weights alone (torch.save(model.state_dict(), ...)) and name the architecture, or, "
        "if you made the file yourself, pass --qfair-trust-pickle"
    )


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return members by name without the root folder; what torch writes is stored, not compressed."""
    found: dict[str, zipfile.ZipInfo] = {}
    if not archive.infolist():
        raise InputError(f"{path} is an empty archive: {_AGAIN}")
    if _OLD in archive.namelist():
        raise InputError(f"{path} is of the layout of torch 2.7 and older: load it there, and {_AGAIN}")
    for member in archive.infolist():
        name = member.filename.partition("/")[2]
        if name in found:
            raise InputError(f"{path} holds {name} twice: {_AGAIN}")
        if member.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path} holds {name} compressed, which torch.export.save never writes: {_AGAIN}")
        found[name] = member
    if sum(member.file_size for member in found.values()) > path.stat().st_size:
        raise InputError(f"{path} is smaller than what it says it holds (truncated or damaged?): {_AGAIN}")
    return found


def _check_layout(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path) -> None:
    if "archive_format" not in members or archive.read(members["archive_format"]) != b"pt2":
        raise InputError(
            f"{path} is not an archive of torch.export.save: name a state dict .pt, and save a program with "
            "torch.export.save(torch.export.export(model.eval(), ...), ...)"
        )
    version = archive.read(members["archive_version"]).decode()
    if version != "0":
        raise InputError(f"{path} is of archive version {version[:20]}, and 0 is known: {_AGAIN}")
    order = archive.read(members["byteorder"]).decode() if "byteorder" in members else sys.byteorder
    if order != sys.byteorder:
        raise InputError(f"{path} was written in {order[:20]}-endian order on another kind of machine: {_AGAIN} here")


def _check_no_code(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path) -> None:
    for name, member in members.items():
        if name.lower().endswith(_NATIVE) or name.startswith(_NATIVE_FOLDERS):
            raise refused(path, f"holds native code ({name})")
        if name.rpartition("/")[2].startswith(_CODE_OBJECTS):
            raise refused(path, f"holds a custom object ({name})")
        if member.file_size and (name.startswith("data/sample_inputs/") or name.lower().endswith(_PICKLES)):
            try:
                with warnings.catch_warnings(action="ignore"):
                    torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
            except Exception as error:  # the restricted unpickler may raise anything
                named = re.search(r"GLOBAL ([\w.]+)", str(error))
                told = f" ({named[1]})" if named else ""
                raise refused(path, f"holds a pickle that is not of plain tensors, {name}{told}") from error


def _program_name(members: Mapping[str, zipfile.ZipInfo], path: Path) -> str:
    names = [name[len("models/") : -len(".json")] for name in members if re.fullmatch(r"models/.*\.json", name)]
    if not names:
        raise InputError(f"{path} holds no exported program: {_AGAIN}")
    if len(names) > 1 and "model" not in names:
        raise InputError(f"{path} holds several programs, {', '.join(names[:8])}: save the one to audit on its own")
    return names[0] if len(names) == 1 else "model"


def _tensors(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], kind: str, name: str, path: Path
) -> dict[str, Tensor]:
    if f"data/{kind}/{name}.pt" in members:
        raise InputError(f"{path} holds its {kind} in the layout of an older torch: load it there, and {_AGAIN}")
    config = json.loads(archive.read(members[f"data/{kind}/{name}_{kind}_config.json"]))["config"]
    storages: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    known: dict[tuple[object, ...], Tensor] = {}
    for tensor_name, payload in config.items():
        if payload["use_pickle"]:
            raise refused(path, f"holds {tensor_name} as a pickle ({payload['path_name']})")
        meta, place = payload["tensor_meta"], payload["path_name"]
        dtype = DTYPES[meta["dtype"]]
        sizes = [_whole(size) for size in meta["sizes"]]
        strides = [_whole(stride) for stride in meta["strides"]]
        offset = _whole(meta["storage_offset"])
        key = (place, dtype, *sizes, *strides, offset, payload["is_param"])
        if place not in storages:
            storages[place] = _storage(archive.read(members[f"data/{kind}/{place}"]))
        if key not in known:
            known[key] = _view(storages[place].view(dtype), sizes, strides, offset)
            if payload["is_param"]:
                known[key] = nn.Parameter(known[key], requires_grad=bool(meta["requires_grad"]))
        found[tensor_name] = known[key]
    return found


def _storage(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _view(storage: Tensor, sizes: list[int], strides: list[int], offset: int) -> Tensor:
    """Return the tensor that lies in a storage; torch refuses a view beyond its end."""
    if 0 in sizes:
        return torch.zeros(sizes, dtype=storage.dtype)
    return storage.as_strided(sizes, strides, offset)


def _whole(given: Mapping[str, Any]) -> int:
    """Return a size that is a number."""
    value = given["as_int"]
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value

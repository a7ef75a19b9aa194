"""Arrays x, y and group are read from ``.npz`` and ``.safetensors`` files, and no code with them."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from qfair_check.errors import InputError
from qfair_check.inputs.archives import refuse_bomb
from qfair_check.inputs.wording import listed

_NAMES = ("x", "y", "group")
_DAMAGE = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayFile:
    """What a file holds: arrays or tensors, and the names that their numbers y and group stand for."""

    arrays: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def read_array_file(path: Path, source: str) -> ArrayFile:
    """Read an ``.npz`` or ``.safetensors`` file with x, y and optionally group.

    Raises
    ------
    InputError
        If it is damaged, was saved with pickle, or lacks x or y.
    """
    suffix = path.suffix.lower()
    try:
        held, found = _safetensors(path, source) if suffix == ".safetensors" else _npz(path, source)
    except _DAMAGE as error:
        if "pickle" in str(error):
            raise InputError(
                f"{source} was saved with pickle, which may run code: save plain arrays of numbers and text"
            ) from error
        raise InputError(f"cannot read {source} as {suffix} (truncated or damaged?): {error}") from error
    for name in _NAMES[:2]:
        if name not in found.arrays:
            raise InputError(
                f"{source} has no array {name}: it holds {listed(held) or 'nothing'}; save x, y and optionally group"
            )
    return found


def _npz(path: Path, source: str) -> tuple[list[str], ArrayFile]:
    refuse_bomb(path, "save x and y with np.savez, which does not compress")
    with path.open("rb") as stream:  # np.load leaves a damaged file open
        file = np.load(stream, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise InputError(f"{source} holds a single array: save x and y with np.savez(file, x=x, y=y)")
        return file.files, ArrayFile({name: file[name] for name in _NAMES if name in file.files})


def _safetensors(path: Path, source: str) -> tuple[list[str], ArrayFile]:
    with safe_open(path, framework="pt") as file:
        held = list(file.keys())
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in _NAMES if name in held}
    names = [_list(metadata, key, source) for key in ("classes", "groups")]
    return held, ArrayFile(arrays, *names)


def _list(metadata: Mapping[str, str], key: str, source: str) -> tuple[str, ...]:
    try:
        names = msgspec.json.decode(metadata.get(key, "[]"), type=tuple[str, ...])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{key} in the metadata of {source} is no JSON list of names ({error})") from error
    if len({*names} - {""}) < len(names):
        raise InputError(f"{key} in the metadata of {source} is {listed(map(repr, names))}: name each once")
    return names

"""Weights in several files, and the index that says which file holds which tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import msgspec
from torch import Tensor

from qfair_check.errors import InputError
from qfair_check.inputs.paths import require_file
from qfair_check.inputs.wording import listed

INDEX = ".index.json"

_CURE = "save or download the model again, with all its files"


@dataclass(frozen=True, slots=True)
class _Index:
    weight_map: dict[str, str]


def read_shards(index: Path, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Read the tensors that an index names, each from its shard.

    Parameters
    ----------
    index : Path
        JSON with ``weight_map``, from the name of each tensor to the name of a file beside the index.
    read : callable
        Reads one shard.

    Raises
    ------
    InputError
        If the index cannot be read or names a file elsewhere, or if index and shards do not hold the same
        tensors.
    """
    weight_map = _weight_map(index)
    paths = {shard: _beside(index, shard) for shard in sorted(set(weight_map.values()))}
    for path in paths.values():
        require_file(path, "model", f"{index} names it; {_CURE}")
    state: dict[str, Tensor] = {}
    for shard, path in paths.items():
        tensors = read(path)
        expected = {name for name, place in weight_map.items() if place == shard}
        _check_names(index, shard, expected, set(tensors), weight_map)
        state.update(tensors)
    return {name: state[name] for name in weight_map}


def _weight_map(index: Path) -> dict[str, str]:
    require_file(index, "model", _CURE)
    try:
        weight_map = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
    except (msgspec.MsgspecError, RecursionError, OSError, ValueError) as error:
        raise InputError(f"cannot read {index} as the index of sharded weights ({error}): {_CURE}") from error
    if not weight_map:
        raise InputError(f"{index} names no tensors: {_CURE}")
    return weight_map


def _beside(index: Path, shard: str) -> Path:
    """Return the path of a shard; the index is not trusted to name files elsewhere."""
    if PureWindowsPath(shard).name != shard or shard in ("", ".", ".."):
        raise InputError(f"{index} names the shard {shard!r}, which is no file beside it: do not trust this index")
    return index.parent / shard


def _check_names(index: Path, shard: str, expected: set[str], names: set[str], weight_map: Mapping[str, str]) -> None:
    if absent := sorted(expected - names):
        raise InputError(f"{index} says that {shard} holds {listed(absent)}, and it does not: {_CURE}")
    if moved := sorted(name for name in names - expected if name in weight_map):
        places = sorted({weight_map[name] for name in moved})
        raise InputError(f"{shard} holds {listed(moved)}, for which {index} names {listed(places)}: {_CURE}")
    if extra := sorted(names - expected):
        raise InputError(f"{shard} holds {listed(extra)}, which {index} does not name: {_CURE}")

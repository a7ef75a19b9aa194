"""A quantized model in a file: integer codes and their grid for each quantized weight, the rest as it is."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qfair_check.errors import InputError
from qfair_check.inputs.bit_packing import pack_bits, packed_size, unpack_bits
from qfair_check.inputs.paths import require_file
from qfair_check.integer_grid import Grid, integer_range

PLAIN_FORMAT, FORMAT, PACKED_FORMAT = "1", "2", "3"
OWN = "qfair_check"

_GRIDS, _ORIGIN = "quantized", "origin"
_CODES, _PACKED, _SCALE, _ZERO = ".codes", ".packed", ".scale", ".zero_point"
_INTEGERS = (torch.int8, torch.uint8)
_FP32_BYTES = 4
_MOST_AXES, _MOST_ELEMENTS = 64, 2**63 - 1  # of a tensor, in torch
_TAKEN = "give a .safetensors file that qfair remediate or save_quantized wrote"

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class StoredGrid:
    """The integer codes of one weight, and the grid that gives them values.

    Parameters
    ----------
    bits : int
        2 to 8.
    grid : str
        ``symmetric``, ``full`` or ``asymmetric``.
    codes : int8 or uint8 tensor
        In the shape of the weight; uint8 on asymmetric grids.
    scale : float32 tensor
        The step: one value, or one per channel, in a shape that broadcasts with `codes`.
    zero_point : tensor in the type of `codes` and the shape of `scale`
        The code of real 0.
    """

    bits: int
    grid: Grid
    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def dequantize(self) -> Tensor:
        """Return scale (codes - zero_point), float32."""
        return self.scale * (self.codes.to(torch.int16) - self.zero_point.to(torch.int16)).to(torch.float32)


@dataclass(frozen=True, slots=True)
class Origin:
    """The model that a quantized one was made from.

    Parameters
    ----------
    sha256 : str
        Hash of its state dict.
    audit : str or None
        Name of the file beside the model's that holds its audit.
    """

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    audit: str | None = None


@dataclass(frozen=True, slots=True)
class FileSize:
    """Bytes of a quantized model.

    Parameters
    ----------
    file : int
        On disk, with everything.
    fp32 : int
        What the same tensors take with 4 bytes for each quantized weight.
    theoretical : int
        What they take with each quantized weight at its bits, packed, and with its steps and zero points: a packed file
        without its header.
    """

    file: int
    fp32: int
    theoretical: int

    def __str__(self) -> str:
        """Return it as a sentence without an end, such as ``1,200 bytes on disk, 31.0% of fp32 (3,871); ...``."""
        return (
            f"{self.file:,} bytes on disk, {self.file / self.fp32:.1%} of fp32 ({self.fp32:,}); "
            f"packed at its bits, without a header, {self.theoretical:,} ({self.theoretical / self.fp32:.1%})"
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    bits: Annotated[int, msgspec.Meta(ge=2, le=8)]
    grid: Grid
    shape: tuple[Annotated[int, msgspec.Meta(ge=0, le=_MOST_ELEMENTS)], ...] | None = None

    def __post_init__(self) -> None:
        axes = self.shape or ()
        if len(axes) > _MOST_AXES or math.prod(max(axis, 1) for axis in axes) > _MOST_ELEMENTS:
            raise ValueError("no tensor has such a shape")


def to_tensors(state: State, grids: Mapping[str, StoredGrid], *, packs: bool = False) -> dict[str, Tensor]:
    """Return the tensors that are saved: codes, scale and zero point of each weight on a grid, the others as they are.

    Parameters
    ----------
    state : mapping of str to Tensor
    grids : mapping of str to StoredGrid
        By name in `state`.
    packs : bool
        Whether codes take their bits (`pack_bits`), and not a byte each.
    """
    tensors = {name: value for name, value in state.items() if name not in grids}
    for name, grid in grids.items():
        codes = {name + _PACKED: pack_bits(grid.codes, grid.bits)} if packs else {name + _CODES: grid.codes}
        tensors |= codes | {name + _SCALE: grid.scale, name + _ZERO: grid.zero_point}
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def described(grids: Mapping[str, StoredGrid], origin: Origin | None, *, packs: bool = False) -> dict[str, str]:
    """Return what the metadata of the file says of grids and origin."""
    layers: dict[str, dict[str, object]] = {
        name: {"bits": grid.bits, "grid": grid.grid} | ({"shape": list(grid.codes.shape)} if packs else {})
        for name, grid in grids.items()
    }
    told = {OWN: PACKED_FORMAT if packs else FORMAT, _GRIDS: json.dumps(layers)}
    return told if origin is None else told | {_ORIGIN: msgspec.json.encode(origin).decode()}


def from_tensors(
    state: State, metadata: Mapping[str, str], path: Path
) -> tuple[dict[str, Tensor], dict[str, StoredGrid], Origin | None]:
    """Return the state dict with the weights that codes stand for, their grids, and the origin; as `to_tensors`.

    Raises
    ------
    InputError
        If the file is of a later format, or its metadata and its tensors contradict each other.
    """
    if metadata[OWN] not in (PLAIN_FORMAT, FORMAT, PACKED_FORMAT):
        raise InputError(
            f"{path} is a model file of format {metadata[OWN]}, and this qfair_check reads {PLAIN_FORMAT} to "
            f"{PACKED_FORMAT}: use the version that wrote it"
        )
    packs = metadata[OWN] == PACKED_FORMAT
    try:
        layers = msgspec.json.decode(metadata.get(_GRIDS, "{}"), type=dict[str, _Layer])
        origin = msgspec.json.decode(metadata.get(_ORIGIN, "null"), type=Origin | None)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"the metadata of {path} cannot be read ({error}): save the model again") from error
    named = None if origin is None else origin.audit
    if named is not None and (named in ("", "..") or Path(named).name != named):
        raise InputError(f"the metadata of {path} name an audit in another folder: it was edited; save the model again")
    plain = dict(state)
    grids = {}
    for name, layer in layers.items():
        of_codes = _PACKED if packs else _CODES
        parts = [plain.pop(name + part, None) for part in (of_codes, _SCALE, _ZERO)]
        problem = _absent(name, dict(zip((of_codes, _SCALE, _ZERO), parts, strict=True)))
        if packs and not problem:
            parts[0], problem = _spread(name, layer, parts[0])
        problem = problem or _problem(name, layer, *parts)
        if problem or name in plain:
            told = problem or f"{name} is there twice, with a grid and without"
            raise InputError(f"{path} was edited or damaged ({told}): save the model again")
        codes, scale, zero_point = (part for part in parts if part is not None)
        grids[name] = StoredGrid(layer.bits, layer.grid, codes, scale, zero_point)
    return plain | {name: grid.dequantize() for name, grid in grids.items()}, grids, origin


def origin_beside(model: str | Path, audit: str) -> Path:
    """Return where the audit of a model's origin is: beside the model, or beside the file that it links to."""
    here = Path(model).with_name(audit)
    return here if os.path.lexists(here) else Path(os.path.realpath(model)).with_name(audit)


def model_file_size(path: str | Path) -> FileSize:
    """Return how large a model file is, against fp32 and against its bits.

    Raises
    ------
    InputError
        If it cannot be read, or was not saved by qfair_check.

    Examples
    --------
    >>> from pathlib import Path
    >>> import qfair_check.demo
    >>> size = model_file_size(Path(qfair_check.demo.__file__).parent / "digits.safetensors")
    >>> size.theoretical == size.fp32 < size.file
    True
    """
    plain, grids, _, _ = read_quantized(path)
    others = sum(value.nbytes for name, value in plain.items() if name not in grids)
    fp32 = sum(_FP32_BYTES * grid.codes.numel() for grid in grids.values())
    packed = sum(
        packed_size(grid.codes.numel(), grid.bits) + grid.scale.nbytes + grid.zero_point.nbytes
        for grid in grids.values()
    )
    return FileSize(Path(path).stat().st_size, others + fp32, others + packed)


def read_quantized(
    path: str | Path,
) -> tuple[dict[str, Tensor], dict[str, StoredGrid], Origin | None, dict[str, str]]:
    """Return state dict, grids, origin and metadata of a model file.

    Raises
    ------
    InputError
        If it cannot be read, or was not saved by qfair_check.
    """
    target = Path(path)
    require_file(target, "model", _TAKEN)
    if target.suffix.lower() != ".safetensors":
        raise InputError(f"{target} is no .safetensors file: {_TAKEN}")
    try:
        with safe_open(target, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read {target} as safetensors (truncated or damaged?): {error}") from error
    if OWN not in metadata:
        raise InputError(f"{target} was not saved by qfair_check: {_TAKEN}")
    return *from_tensors(state, metadata, target), dict(metadata)


def _absent(name: str, parts: Mapping[str, Tensor | None]) -> str | None:
    missing = next((part for part, value in parts.items() if value is None), None)
    return None if missing is None else f"{name} has a grid, and {name}{missing} is missing"


def _spread(name: str, layer: _Layer, packed: Any) -> tuple[Tensor | None, str | None]:
    """Return the codes of a packed weight, or what is wrong with it."""
    if layer.shape is None:
        return None, f"{name} is packed, and its shape is missing"
    try:
        return unpack_bits(packed, layer.bits, layer.shape, signed=layer.grid != "asymmetric"), None
    except InputError as error:
        return None, f"{name}: {error}"


def _problem(name: str, layer: _Layer, codes: Any, scale: Any, zero_point: Any) -> str | None:
    """Return what is wrong with a weight on a grid; None if nothing is."""
    if codes.dtype not in _INTEGERS or zero_point.dtype != codes.dtype or scale.dtype != torch.float32:
        return f"the grid of {name} is not of integer codes and float32 steps"
    fits = scale.ndim == codes.ndim <= _MOST_AXES and all(
        own in (1, whole) for own, whole in zip(scale.shape, codes.shape, strict=True)
    )
    if not fits or zero_point.shape != scale.shape:
        shapes = ", ".join(str(tuple(value.shape)) for value in (codes, scale, zero_point))
        return f"codes, steps and zero points of {name} have shapes that do not go together: {shapes}"
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        return f"a step of {name} is not a finite number above 0"
    lowest, highest = integer_range(layer.bits, layer.grid)
    beyond = int(((codes.to(torch.int16) < lowest) | (codes.to(torch.int16) > highest)).sum())
    if beyond:
        return f"{beyond} codes of {name} lie outside its grid of {layer.bits} bits, {lowest} to {highest}"
    least, most = (lowest, highest) if layer.grid == "asymmetric" else (0, 0)
    if not bool(((zero_point >= least) & (zero_point <= most)).all()):
        return f"a zero point of {name} lies outside its {layer.grid} grid"
    return None

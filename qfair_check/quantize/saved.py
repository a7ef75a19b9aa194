"""A quantized model goes into a file that is audited as it is."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from qfair_check.audit_file import files_of, outcomes_digest
from qfair_check.errors import InputError, OptionError
from qfair_check.files import undone_on_error
from qfair_check.inputs.architecture import build_architecture
from qfair_check.inputs.fit import check_fit, place
from qfair_check.inputs.model import distinct_state, model_metadata, model_target, write_model_file
from qfair_check.inputs.quantized_file import Origin, StoredGrid, described, to_tensors
from qfair_check.integer_grid import Grid
from qfair_check.quantize.uniform import QuantizedTensor
from qfair_check.record import Audit


class OnGrid(Protocol):
    """The grid of one weight, and its codes."""

    @property
    def bits(self) -> int:
        """Bits per weight."""

    @property
    def grid(self) -> Grid:
        """Which codes there are."""

    @property
    def tensor(self) -> QuantizedTensor:
        """The codes, and what gives them values."""


class Quantized(Protocol):
    """A plain module, and by name of each quantized weight the grid it lies on: `quantize_model`, `freeze_lsq`."""

    @property
    def module(self) -> nn.Module:
        """The module, whose weights have the values of their codes."""

    @property
    def grids(self) -> Mapping[str, OnGrid]:
        """By name of the weight."""


def save_quantized(
    quantized: Quantized,
    path: str | os.PathLike[str],
    *,
    arch: str,
    classes: Iterable[str] = (),
    image_size: tuple[int, int] | None = None,
    mean: Iterable[float] = (),
    std: Iterable[float] = (),
    transforms: str | None = None,
    origin: Audit | str | None = None,
) -> None:
    """Save a quantized model as integers with their grids, to be audited as it is (``--bits asis``).

    `load_model` gives back a model whose weights are scale (code - zero_point) in float32, bit for bit. The origin is
    what limits relative to fp32 compare with: its audit is saved beside the model, as ``<stem>.origin.json``, where an
    audit of the model finds it.

    Parameters
    ----------
    quantized : QuantizedModel or FrozenModel
        From `quantize_model` at an integer precision, or from `freeze_lsq`.
    path : path-like
        Ends in ``.safetensors``.
    arch, classes, image_size, mean, std, transforms
        As in `save_model`.
    origin : Audit or str, optional
        An audit of the model that it was made from, or only that model's hash (`ModelRecord.sha256`).

    Raises
    ------
    OptionError
        If the path has another suffix, the preprocessing or the origin makes no sense, or no weight lies on a grid.
    InputError
        If the architecture does not build a module with these weights, a weight has other values than its codes, or
        the file cannot be written.

    Examples
    --------
    >>> import tempfile, torchvision
    >>> from qfair_check import load_model, quantize_model
    >>> net = torchvision.models.squeezenet1_1(num_classes=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_quantized(quantize_model(net, 4), f"{folder}/net.safetensors", arch="squeezenet1_1")
    ...     load_model(f"{folder}/net.safetensors").grids["features.0.weight"].bits
    4
    """
    target = model_target(path)
    metadata = model_metadata(arch, classes, image_size, mean, std, transforms)
    state = distinct_state(quantized.module)
    grids = _stored(quantized, state)
    if not grids:
        raise OptionError("no weight of the model lies on an integer grid: save it with qfair_check.save_model")
    check_fit(build_architecture(arch, state), state, f"the model to be saved as {target}", arch)
    source = _origin(origin, target)
    tensors, told = to_tensors(state, grids), metadata | described(grids, source)
    if isinstance(origin, Audit) and source and source.audit:
        write_with_origin(target, tensors, told, _baseline(origin), source.audit)
    else:
        write_model_file(target, tensors, told)


def write_with_origin(
    target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], origin: Audit, name: str
) -> None:
    """Write a model file, and beside it the audit of its origin, under the name that the metadata give; or neither.

    Raises
    ------
    InputError
        If one of them cannot be written.
    """
    beside = target.with_name(name)
    with undone_on_error(files_of(origin, beside)):
        origin.save(beside)  # first: the model's file names it
        write_model_file(target, tensors, metadata)


def _stored(quantized: Quantized, state: Mapping[str, Tensor]) -> dict[str, StoredGrid]:
    """Return the grids under the names of the state dict, which holds a tied weight under its first name."""
    places: dict[tuple[object, ...], str] = {}
    every = quantized.module.state_dict()
    for name in state:
        places[place(every[name])] = name
    stored = {}
    for name, on_grid in quantized.grids.items():
        kept = name if name in state else places[place(every[name])]
        grid = _as_stored(on_grid)
        if not torch.equal(grid.dequantize(), state[kept].float()):
            raise InputError(f"{name} has other values than its codes: quantize the model again, and save that")
        stored[kept] = grid
    return stored


def _as_stored(on_grid: OnGrid) -> StoredGrid:
    kind = torch.uint8 if on_grid.grid == "asymmetric" else torch.int8
    tensor = on_grid.tensor
    codes, zero_point = (part.detach().cpu().to(kind) for part in (tensor.codes, tensor.zero_point))
    return StoredGrid(on_grid.bits, on_grid.grid, codes, tensor.scale.detach().cpu().float(), zero_point)


def _origin(origin: Audit | str | None, target: Path) -> Origin | None:
    if origin is None:
        return None
    sha256 = origin.origin_sha256 if isinstance(origin, Audit) else origin
    if sha256 is None or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise OptionError(
            "the origin is the audit of the model that this one was made from, with its fp32 values, or that model's "
            "hash: 64 hexadecimal digits"
        )
    return Origin(sha256, f"{target.stem}.origin.json" if isinstance(origin, Audit) else None)


def _baseline(audit: Audit) -> Audit:
    """Return the fp32 part of an audit; all of one at asis, whose fp32 values are those of its own reference."""
    if audit.reference is not None:
        return audit
    outcomes = {name: right for name, right in audit.outcomes.items() if name == audit.fp32.precision}
    digest = outcomes_digest(outcomes, audit.group_bits) if outcomes else audit.outcomes_sha256
    return replace(audit, precisions=audit.precisions[:1], outcomes=outcomes, outcomes_sha256=digest)

"""The state of a training run after an epoch, as a file of plain tensors that it goes on from."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qfair_check.errors import InputError
from qfair_check.files import replace_file
from qfair_check.quantize.model import copy_of
from qfair_check.quantize.uniform import QuantizedTensor
from qfair_check.remedy.attach import FrozenModel, LearnedGrid
from qfair_check.remedy.epoch import EpochLoss, Trainee
from qfair_check.remedy.selection import Candidate, GroupCounts

_FORMAT = 2
_PARTS = {"format", "hashes", "module", "optimizer", "tracker", "records", "kept", "stopped", "seconds"}
_WHAT = {"recipe": "another recipe", "data": "other training data", "model": "another model"}


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What an epoch gave.

    Parameters
    ----------
    epoch : int
        From 1.
    loss : EpochLoss
    candidates : tuple of Candidate
        Counted on held-out samples.
    fit : GroupCounts
        Of the first candidate on samples that are trained on, of each group as many as are held out.
    oscillating : float or None
        Share of the weights that flip between two codes.
    """

    epoch: int
    loss: EpochLoss
    candidates: tuple[Candidate, ...]
    fit: GroupCounts
    oscillating: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Progressed:
    """Where a run stands.

    Parameters
    ----------
    records : tuple of EpochRecord
    kept : mapping of Candidate to mapping
        Quantized models that are still worth keeping.
    stopped : str
        Why it ended early.
    seconds : float
        How much of a budget in minutes is spent.
    """

    records: tuple[EpochRecord, ...]
    kept: Mapping[Candidate, Mapping[str, Any]]
    stopped: str = ""
    seconds: float = 0.0


def frozen_state(model: FrozenModel) -> dict[str, Any]:
    """Return copies of a quantized model's values and grids, on the CPU, as plain tensors and numbers."""
    return {
        "state": {name: value.detach().cpu().contiguous().clone() for name, value in model.module.state_dict().items()},
        "grids": {
            name: {
                "bits": learned.bits,
                "grid": learned.grid,
                "codes": learned.tensor.codes.cpu().contiguous().clone(),
                "scale": learned.tensor.scale.detach().cpu().clone(),
                "zero_point": learned.tensor.zero_point.cpu().clone(),
                "clipped": learned.tensor.clipped,
            }
            for name, learned in model.grids.items()
        },
    }


def frozen_model(module: nn.Module, kept: Mapping[str, Any]) -> FrozenModel:
    """Return the quantized model of a state, as a copy of the module that it was made from."""
    plain = copy_of(module).float().cpu().eval()
    plain.load_state_dict(kept["state"])
    grids = {
        name: LearnedGrid(
            grid["bits"],
            grid["grid"],
            QuantizedTensor(grid["codes"], grid["scale"], grid["zero_point"], grid["clipped"]),
        )
        for name, grid in kept["grids"].items()
    }
    return FrozenModel(plain, grids)


def save_checkpoint(path: Path, hashes: Mapping[str, str], trainee: Trainee, progressed: Progressed) -> None:
    """Write a run to a file, whole or not at all.

    Parameters
    ----------
    path : Path
    hashes : mapping of str to str
        Of ``recipe``, ``data`` and ``model``, without which the file is not gone on from.

    Raises
    ------
    InputError
        If it cannot be written; what was there stays.
    """
    content = io.BytesIO()
    torch.save(
        {
            "format": _FORMAT,
            "hashes": dict(hashes),
            "module": trainee.module.state_dict(),
            "optimizer": trainee.optimizer.state_dict(),
            "tracker": trainee.tracker.state_dict() if trainee.tracker else {},
            "records": [asdict(record) for record in progressed.records],
            "kept": [{"candidate": asdict(candidate), **state} for candidate, state in progressed.kept.items()],
            "stopped": progressed.stopped,
            "seconds": progressed.seconds,
        },
        content,
    )
    try:
        replace_file(path, content.getvalue())
    except OSError as error:
        kept = "; the one of the epoch before is kept" if path.exists() else ""
        raise InputError(f"cannot write the checkpoint {path}: {error.strerror or error}{kept}") from error


def load_checkpoint(path: Path, hashes: Mapping[str, str], trainee: Trainee) -> Progressed:
    """Go on from a file: the trainee gets the state that was saved.

    Raises
    ------
    InputError
        If it cannot be read, or is of another recipe, model or training data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    refused = f"{path} is no checkpoint of a training run, or damaged: delete it, or name another file"
    try:
        if zipfile.ZipFile(io.BytesIO(content)).testzip() is not None:  # torch.load checks no checksums
            raise InputError(refused)
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        of_format = saved["format"]
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(refused) from error
    if of_format != _FORMAT:
        raise InputError(f"{path} is a checkpoint of format {of_format}, not {_FORMAT}: delete it to start anew")
    if saved.keys() != _PARTS:
        raise InputError(refused)
    other = [what for name, what in _WHAT.items() if saved["hashes"].get(name) != hashes[name]]
    if other:
        raise InputError(
            f"{path} is the checkpoint of a run with {' and '.join(other)}: give what that run had, name another file, "
            "or delete this one to start anew"
        )
    trainee.module.load_state_dict(saved["module"])
    trainee.optimizer.load_state_dict(saved["optimizer"])
    if trainee.tracker:
        device = next(trainee.module.parameters()).device
        trainee.tracker.load_state_dict(
            {name: {key: value.to(device) for key, value in trace.items()} for name, trace in saved["tracker"].items()}
        )
    return Progressed(
        tuple(_record(plain) for plain in saved["records"]),
        {_candidate(kept["candidate"]): {"state": kept["state"], "grids": kept["grids"]} for kept in saved["kept"]},
        saved["stopped"],
        saved["seconds"],
    )


def _record(plain: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(
        plain["epoch"],
        EpochLoss(**plain["loss"]),
        tuple(_candidate(candidate) for candidate in plain["candidates"]),
        _counts(plain["fit"]),
        plain["oscillating"],
    )


def _candidate(plain: Mapping[str, Any]) -> Candidate:
    return Candidate(**{**plain, "counts": _counts(plain["counts"])})


def _counts(plain: Mapping[str, Any]) -> GroupCounts:
    return GroupCounts(tuple(plain["correct"]), tuple(plain["samples"]))

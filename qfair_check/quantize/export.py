"""A quantized model with the codes of its weights packed at their bits."""

import os
from dataclasses import replace
from pathlib import Path

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.model import model_target, write_model_file
from qfair_check.inputs.quantized_file import Origin, described, read_quantized, to_tensors
from qfair_check.record import Audit


def export_quantized(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write a quantized model anew, with each code at its bits instead of a byte (`pack_bits`).

    The new file is read as the old one is, and gives the same weights bit for bit. The audit of its origin, if one is
    beside the old file, is put beside the new one.

    Parameters
    ----------
    path : path-like
        A file that `save_quantized` or ``qfair remediate`` wrote.
    out : path-like
        Another file, which ends in ``.safetensors``.

    Raises
    ------
    InputError
        If the file cannot be read or written, or holds no weight on a grid.
    OptionError
        If both are the same file, or `out` has another suffix.

    Examples
    --------
    >>> import tempfile, torch, torchvision
    >>> from qfair_check import load_model, model_file_size, quantize_model, save_quantized
    >>> net = quantize_model(torchvision.models.squeezenet1_1(num_classes=2), 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, other = f"{folder}/net.safetensors", f"{folder}/net.packed.safetensors"
    ...     save_quantized(net, one, arch="squeezenet1_1")
    ...     export_quantized(one, other)
    ...     round(model_file_size(one).file / model_file_size(other).file, 1)
    ...     load_model(one).sha256 == load_model(other).sha256
    1.9
    True
    """
    source, target = Path(path), model_target(out)
    if target.exists() and source.exists() and target.samefile(source):
        raise OptionError(f"{target} is the model that is to be packed: name another file")
    state, grids, origin, metadata = read_quantized(source)
    if not grids:
        raise InputError(f"no weight of {source} lies on an integer grid, so that there is nothing to pack")
    origin = None if origin is None else _moved(origin, source, target)
    kept = {name: value for name, value in metadata.items() if name not in described(grids, _NOWHERE)}
    write_model_file(target, to_tensors(state, grids, packs=True), kept | described(grids, origin, packs=True))


_NOWHERE = Origin("0" * 64)


def _moved(origin: Origin, source: Path, target: Path) -> Origin:
    """Put the audit of the origin beside the new file, under its name."""
    audit = None if origin.audit is None else source.with_name(origin.audit)
    if audit is None or not audit.exists():
        return replace(origin, audit=None)
    name = f"{target.stem}.origin.json"
    Audit.load(audit).save(target.with_name(name))
    return replace(origin, audit=name)

"""A quantized model with the codes of its weights packed at their bits."""

import os
from dataclasses import replace
from pathlib import Path

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.model import model_target, write_model_file
from qfair_check.inputs.quantized_file import Origin, described, origin_beside, read_quantized, to_tensors
from qfair_check.quantize.saved import write_with_origin
from qfair_check.record import Audit


def export_quantized(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write a quantized model anew, with each code at its bits instead of a byte (`pack_bits`).

    The new file is read as the old one is, and gives the same weights bit for bit. The audit of its origin, if one is
    beside the old file, is put beside the new one.

    Parameters
    ----------
    path : path-like
        A file that `save_quantized` or ``qfair remediate`` wrote.
    out : path-like
        Another file, which ends in ``.safetensors``.

    Returns
    -------
    tuple of str
        What a user must know: that the audit of its origin is named and is not there.

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
    ...     notices = export_quantized(one, other)
    ...     round(model_file_size(one).file / model_file_size(other).file, 1)
    ...     load_model(one).sha256 == load_model(other).sha256
    1.9
    True
    """
    source, target = Path(path), model_target(out)
    if _exists(target) and _exists(source) and target.samefile(source):
        raise OptionError(f"{target} is the model that is to be packed: name another file")
    state, grids, origin, metadata = read_quantized(source)
    if not grids:
        raise InputError(
            f"no weight of {source} lies on an integer grid, so that there is nothing to pack: give a file that qfair "
            "remediate or save_quantized wrote"
        )
    kept = {name: value for name, value in metadata.items() if name not in described(grids, _NOWHERE)}
    tensors = to_tensors(state, grids, packs=True)
    beside = None if origin is None or origin.audit is None else origin_beside(source, origin.audit)
    if origin is not None and beside is not None and _exists(beside):
        name = f"{target.stem}.origin.json"
        told = described(grids, replace(origin, audit=name), packs=True)
        write_with_origin(target, tensors, kept | told, Audit.load(beside), name)
        return ()
    nowhere = origin and replace(origin, audit=None)
    write_model_file(target, tensors, kept | described(grids, nowhere, packs=True))
    gone = f"{beside}, the audit of its origin, is not there: limits relative to fp32 need --qfair-reference"
    return () if beside is None else (gone,)


_NOWHERE = Origin("0" * 64)


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises on a name that is too long)

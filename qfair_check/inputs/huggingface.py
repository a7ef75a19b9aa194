"""The folder that ``save_pretrained`` of Hugging Face writes: where its weights are, and what it says of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.options import class_names
from qfair_check.inputs.paths import require_file
from qfair_check.inputs.shards import INDEX
from qfair_check.inputs.wording import listed

WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
CONFIG = "config.json"
_PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class Description:
    """What ``config.json`` says: the class names in the order of the logits, and all of it as it stands."""

    config: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def weights_in(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the file of weights in a folder, or the index of its shards, and what is left out beside it.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    found = [name for name in WEIGHTS if name in names]
    if not found:
        inner = [name for name in names if any((folder / name / weights).exists() for weights in WEIGHTS)]
        hint = f"; {listed(inner)} in it is such a folder" if inner else ""
        raise InputError(
            f"{folder} is a folder without weights: give a model file, or a folder as save_pretrained writes it, with "
            f"one of {', '.join(WEIGHTS)}{hint}"
        )
    left = found[1:]
    notices = (f"{folder} also holds {listed(left)}, which is left out: {found[0]} is audited",) if left else ()
    return folder / found[0], notices


def described_in(folder: Path) -> Description | None:
    """Read ``config.json`` in a folder; None if there is none.

    Raises
    ------
    InputError
        If it cannot be read, or is no JSON object.
    """
    path = folder / CONFIG
    if not path.exists():
        return None
    require_file(path, "configuration", "save the model again")
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): save the model again") from error
    classes, notices = _classes(config, path)
    if (folder / _PREPROCESSOR).exists():
        notices += (
            f"{folder / _PREPROCESSOR} is not read: say how images are prepared by --qfair-image-size, --qfair-mean "
            "and --qfair-std",
        )
    return Description(config, classes, notices)


def _classes(config: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of ``id2label``; the ones that transformers makes up are none."""
    names = config.get("id2label")
    if not names:
        return (), ()
    try:
        ordered = [str(names[str(index)]) for index in range(len(names))]
        if ordered == [f"LABEL_{index}" for index in range(len(names))]:
            return (), ()
        return class_names(ordered), ()
    except (KeyError, TypeError, OptionError):
        return (), (f"id2label in {path} does not name the classes 0, 1, 2, ... once each, and is left out",)

"""A folder of images, by class or named as UTKFace names them, becomes a table."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from qfair_check.errors import InputError
from qfair_check.inputs.table import TextTable
from qfair_check.inputs.wording import counted, listed

_GENDERS = ("male", "female")
_RACES = ("White", "Black", "Asian", "Indian", "Others")
_PARTS = ("part1", "part2", "part3")
_FACE = re.compile(r"([0-9]{1,3})_([01])_([0-4])_[0-9]")


def read_folder(path: Path, source: str) -> TextTable:
    """Read a folder of class folders, or of faces named ``age_gender_race_date...`` as in UTKFace.

    Raises
    ------
    InputError
        If it is neither, cannot be read, holds no image, or a face is named otherwise.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        folders = [entry.name for entry in entries if entry.is_dir()]
        files = [entry.name for entry in entries if not entry.is_dir()]
        below = [f"{part}/{entry.name}" for part in _PARTS if part in folders for entry in os.scandir(path / part)]
        if any(_FACE.match(Path(name).name) for name in filter(_is_image, [*files, *below])):
            return _faces(path, source, sorted([*files, *below]), [name for name in folders if name not in _PARTS])
        if folders:
            return _classes(path, source, folders, files)
    except OSError as error:
        raise InputError(f"cannot read the folder {error.filename or source}: {error.strerror or error}") from error
    raise InputError(
        f"{source} is a folder with neither class folders (CLASS/image.jpg) nor UTKFace images "
        "(age_gender_race_date.jpg): give one of these, or a manifest of its images"
    )


def _classes(path: Path, source: str, folders: Sequence[str], beside: Sequence[str]) -> TextTable:
    classes = tuple(os.fsencode(name).decode("utf-8", "backslashreplace") for name in folders)
    found = [
        (name, label)
        for folder, label in zip(folders, classes, strict=True)
        for name in _files_below(path, folder, source)
    ]
    images = [name for name, _ in found if _is_image(name)]
    if not images:
        raise InputError(f"{source} has class folders ({listed(classes)}) and no image in them")
    cells = {"path": images, "label": [label for name, label in found if _is_image(name)]}
    return _table(path, source, cells, [*beside, *(name for name, _ in found if not _is_image(name))], classes)


def _files_below(path: Path, folder: str, source: str) -> list[str]:
    """Return the files below a class folder, through links too, in the order of torchvision's ImageFolder."""
    way: dict[Path, tuple[str, ...]] = {path: (os.path.realpath(path),)}
    walked = []
    for root, _, names in os.walk(path / folder, followlinks=True, onerror=_refuse):
        here = Path(root)
        before, real, inside = way[here.parent], os.path.realpath(here), here.relative_to(path)
        if real in before:
            raise InputError(f"the folder {inside} in {source} is a link to a folder that holds it: remove it")
        way[here] = (*before, real)
        walked.append((root, [str(inside / name) for name in sorted(names)]))
    return [name for _, names in sorted(walked) for name in names]


def _refuse(error: OSError) -> NoReturn:
    raise error


def _faces(path: Path, source: str, names: Sequence[str], beside: Sequence[str]) -> TextTable:
    images = [name for name in names if _is_image(name)]
    found = [_FACE.match(Path(name).name) for name in images]
    strange = [name for name, match in zip(images, found, strict=True) if match is None]
    if strange:
        raise InputError(
            f"{source} holds UTKFace images, and {counted(len(strange), 'image')} not named age_gender_race_date: "
            f"{listed(strange)}; rename or remove them"
        )
    faces = [match.groups() for match in found if match]
    cells = {
        "path": images,
        "age": [str(int(age)) for age, _, _ in faces],
        "gender": [_GENDERS[int(gender)] for _, gender, _ in faces],
        "race": [_RACES[int(race)] for _, _, race in faces],
    }
    return _table(path, source, cells, [*(name for name in names if not _is_image(name)), *beside])


def _table(
    path: Path, source: str, cells: dict[str, list[str]], others: Sequence[str], classes: tuple[str, ...] = ()
) -> TextTable:
    shown = [name for name in others if not Path(name).name.startswith(".")]
    verb = "is no image by its name" if len(shown) == 1 else "are no images by their names"
    return TextTable(
        source=source,
        folder=path,
        size=len(cells["path"]),
        columns=tuple(cells),
        numbers=None,
        classes=classes,
        notices=(f"left out of {source}: {listed(shown)}, which {verb} or place",) if shown else (),
        cells=cells,
    )


def _is_image(name: str) -> bool:
    return bool(has_file_allowed_extension(name, IMG_EXTENSIONS))

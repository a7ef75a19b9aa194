"""What a user may say about a model file and a data file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from qfair_check.errors import OptionError
from qfair_check.inputs.bins import Bins

IMAGE_COLUMNS = ("path", "image", "file", "filename", "filepath", "image_path")
BadSample = Literal["fail", "insufficient"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images become tensors: RGB in [0, 1], resized, then ``(x - mean) / std`` by channel; or by transforms.

    Parameters
    ----------
    image_size : (int, int) or None
        Height and width in pixels; None keeps the size of the files.
    mean, std : tuple of float
        One value per channel; empty for no normalization.
    transforms : str or None
        Those of torchvision's weights of this name, which stand in for all the others.
    """

    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    transforms: str | None = None


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Where the model is and how to load it."""

    path: str
    arch: str | None = None
    trust_pickle: bool = False


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where the grouped data is and how to read it; None or empty means not given."""

    path: str
    label: str | None = None
    group_by: tuple[str, ...] = ()
    bins: tuple[Bins, ...] = ()
    split: str | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    transforms: str | None = None
    allow_outside: bool = False


def class_names(given: Iterable[object]) -> tuple[str, ...]:
    """Return class names as text.

    Raises
    ------
    OptionError
        If they are one text, which is no list of names.
    """
    if isinstance(given, str):
        raise OptionError(f"classes is {given!r}: give a list of names")
    names = tuple(map(str, given))
    if "" in names or len(set(names)) < len(names):
        raise OptionError(f"classes are {', '.join(map(repr, names))}: name every class once")
    return names


def channel_values(name: str, given: object) -> tuple[float, ...]:
    """Return a mean or standard deviation by channel; one number serves every channel.

    Raises
    ------
    OptionError
        If it is neither a number nor a sequence of numbers.
    """
    values: Iterable[Any] = given if isinstance(given, Iterable) else (given,)
    try:
        return tuple(map(float, values))
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name} is {given!r}: give a number, or one for each channel") from error

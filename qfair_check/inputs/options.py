"""What a user may say about a model file and a data file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images become tensors: RGB in [0, 1], resized, then ``(x - mean) / std`` by channel.

    Parameters
    ----------
    image_size : (int, int) or None
        Height and width in pixels; None keeps the size of the files.
    mean, std : tuple of float
        One value per channel; empty for no normalization.
    """

    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


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
    split: str | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

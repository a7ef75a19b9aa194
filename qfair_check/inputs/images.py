"""Image files become input tensors, one at a time."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.options import Preprocessing
from qfair_check.inputs.sample import Sample


class ImageFiles(Dataset[Sample]):
    """Images, decoded when they are asked for: float32 RGB of shape (3, height, width).

    Parameters
    ----------
    folder : Path
        Where relative paths start.
    paths : sequence of str
        One file for each sample.
    preprocessing : Preprocessing
        Size, mean and standard deviation.
    where : callable
        Names sample i in a message.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        preprocessing: Preprocessing,
        where: Callable[[int], str],
    ) -> None:
        self._folder = folder
        self._paths = paths
        self._preprocessing = preprocessing
        self._where = where

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self._folder / self._paths[index]
        try:
            image = decode(path)
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
            raise InputError(f"the image of {self._where(index)} cannot be decoded: {_reason(error)}") from error
        size = self._preprocessing.image_size
        if size and image.shape[1:] != size:
            image = interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        return normalized(image, self._preprocessing)


def decode(path: Path) -> Tensor:
    """Decode one image to float32 RGB in [0, 1], in the orientation in which its pixels are stored.

    Pillow decodes: torchvision's decoders crash the process on a damaged PNG, and are deprecated.
    """
    with warnings.catch_warnings():  # about odd metadata
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); save it with 8")
            pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def normalized(value: Tensor, preprocessing: Preprocessing, axis: int = 0) -> Tensor:
    """Return ``(value - mean) / std`` by channel (on `axis`), or the value itself without a mean."""
    if not preprocessing.mean:
        return value
    by_channel = (*[1] * axis, -1, *[1] * (value.ndim - axis - 1)) if value.ndim > axis else (-1,)
    mean = torch.tensor(preprocessing.mean, dtype=value.dtype).reshape(by_channel)
    return (value - mean) / torch.tensor(preprocessing.std, dtype=value.dtype).reshape(by_channel)


def check_preprocessing(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """Return `preprocessing` if its values fit so many channels.

    Raises
    ------
    OptionError
        If they do not, or make no sense.
    """
    size, mean, std = preprocessing.image_size, preprocessing.mean, preprocessing.std
    if size and min(size) < 1:
        raise OptionError(f"an image size of {size[0]}x{size[1]} pixels makes no sense: give height x width")
    if bool(mean) != bool(std):
        raise OptionError(
            f"a {'mean' if mean else 'std'} is given without {'std' if mean else 'mean'}: give both or neither"
        )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (0, 1, channels):
            raise OptionError(f"{name} has {len(values)} values: give one, or one for each of the {channels} channels")
        if not all(map(math.isfinite, values)):
            raise OptionError(f"{name} is {', '.join(map(str, values))}: give finite numbers")
    if any(value <= 0 for value in std):
        raise OptionError(f"std is {', '.join(map(str, std))}: every value must be above 0")
    return preprocessing

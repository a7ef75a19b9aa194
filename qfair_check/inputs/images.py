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
from qfair_check.inputs.options import DataOptions, Preprocessing
from qfair_check.inputs.sample import Sample
from qfair_check.inputs.transforms import weights_transforms

_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Pillow reads more: EPS by running Ghostscript, which runs the program that such a file is."""
_MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb: 256 MiB of RGB


class ImageFiles(Dataset[Sample]):
    """Images, decoded when they are asked for: float32 RGB of shape (3, height, width).

    Parameters
    ----------
    folder : Path
        Where relative paths start.
    paths : sequence of str
        One file for each sample.
    preprocessing : Preprocessing
        Size, mean and standard deviation, or the name of transforms.
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
        self._transform = weights_transforms(preprocessing.transforms)[1] if preprocessing.transforms else None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self._folder / self._paths[index]
        try:
            image = decode(path)
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
            raise InputError(f"the image of {self._where(index)} cannot be decoded: {_reason(error)}") from error
        if self._transform is None:
            return prepared(image, self._preprocessing)
        try:
            return self._transform(image)
        except Exception as error:  # transforms of videos and of pairs of images raise what they like
            raise InputError(
                f"the transforms {self._preprocessing.transforms} fail on the image of {self._where(index)}: "
                f"{type(error).__name__}: {error}"
            ) from error


def decode(path: Path) -> Image.Image:
    """Decode one image to RGB, in the orientation in which its pixels are stored.

    Pillow decodes: torchvision's decoders crash the process on a damaged PNG, and are deprecated.
    """
    with warnings.catch_warnings():  # about odd metadata
        warnings.simplefilter("ignore")
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"it has {image.width:,} x {image.height:,} pixels, more than {_MOST_PIXELS:,}")
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); save it with 8")
            return image.convert("RGB")


def prepared(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return float32 values in [0, 1] of shape (3, height, width), resized, then normalized."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format) / 255
    size = preprocessing.image_size
    if size and values.shape[1:] != size:
        values = interpolate(values[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return normalized(values, preprocessing)


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
    """Return `preprocessing`, with the full name of its transforms, if its values fit so many channels.

    Raises
    ------
    OptionError
        If they do not, make no sense, or stand beside transforms.
    """
    size, mean, std = preprocessing.image_size, preprocessing.mean, preprocessing.std
    if preprocessing.transforms:
        if size or mean or std:
            raise OptionError(
                f"the transforms {preprocessing.transforms} bring a size, mean and std of their own: leave out "
                "--qfair-image-size, --qfair-mean and --qfair-std, or --qfair-transforms"
            )
        return Preprocessing(transforms=weights_transforms(preprocessing.transforms)[0])
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


def choose_preprocessing(options: DataOptions, model: Preprocessing | None) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return what is done to images, and notices: what the options say, else the model file, value by value.

    Transforms stand for all values: those of the options go before the model file, and values of the options
    before the transforms of the model file.

    Raises
    ------
    OptionError
        If transforms and values are both given, or one of them makes no sense.
    """
    given = Preprocessing(options.image_size, options.mean, options.std, options.transforms)
    known = model or Preprocessing()
    if given.transforms:
        chosen = check_preprocessing(given, channels=3)
        if known in (Preprocessing(), chosen):
            return chosen, ()
        return chosen, (f"images are prepared by the transforms {chosen.transforms}, not as the model file says",)
    if known.transforms and given == Preprocessing():
        return check_preprocessing(known, channels=3), ()
    chosen = check_preprocessing(
        Preprocessing(given.image_size or known.image_size, given.mean or known.mean, given.std or known.std),
        channels=3,
    )
    notices = []
    if known.transforms:
        notices.append(f"images are prepared as given, without the transforms {known.transforms} of the model file")
    if not chosen.mean:
        notices.append(
            "images are scaled to [0, 1] and not normalized: pass --qfair-mean and --qfair-std if the model was "
            "trained with them"
        )
    return chosen, tuple(notices)

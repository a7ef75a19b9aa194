"""Images changed in ways that a model tells no apart, so that fewer of them are learned by heart."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from qfair_check.errors import OptionError
from qfair_check.inputs.sample import Sample

Augmentation = Literal["flip", "shift"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
_IMAGE_AXES = 4
_SIDE_PER_PIXEL = 16
_SMALLEST_SIDE = 2 * _SIDE_PER_PIXEL


def are_images(inputs: Sample) -> bool:
    """Whether inputs are one floating tensor of four axes: samples, channels, height, width."""
    return isinstance(inputs, Tensor) and inputs.ndim == _IMAGE_AXES and inputs.is_floating_point()


def applicable(inputs: Sample) -> tuple[Augmentation, ...]:
    """Return the ways in which inputs can be changed: all for images with sides of at least 32 pixels, else none."""
    large = are_images(inputs) and min(inputs.shape[2:]) >= _SMALLEST_SIDE  # type: ignore[union-attr]
    return AUGMENTATIONS if large else ()


def augmented(inputs: Tensor, kinds: Sequence[Augmentation], generator: torch.Generator) -> Tensor:
    """Return a batch of images, each changed at random: ``flip`` mirrors half of them left to right, ``shift`` moves.

    A shift is by up to 1/16 of the side in each direction, whole pixels, uniform, and the edge mirrors what comes in.

    Parameters
    ----------
    inputs : floating tensor, shape (samples, channels, height, width)
    kinds : sequence of str
    generator : torch.Generator
        On the CPU.

    Raises
    ------
    OptionError
        If there is no such kind.

    Examples
    --------
    >>> images = torch.arange(6.0).reshape(1, 1, 2, 3).repeat(8, 1, 1, 1)
    >>> sorted({tuple(image[0, 0].tolist()) for image in augmented(images, ["flip"], torch.Generator())})
    [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """
    if unknown := [kind for kind in kinds if kind not in AUGMENTATIONS]:
        raise OptionError(f"there is no augmentation {unknown[0]!r}: known are {', '.join(AUGMENTATIONS)}")
    if "flip" in kinds:
        mirrored = torch.rand(len(inputs), generator=generator).to(inputs.device) < 1 / 2
        inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    return _shifted(inputs, generator) if "shift" in kinds else inputs


def _shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    samples, _, height, width = inputs.shape
    down, right = (side // _SIDE_PER_PIXEL for side in (height, width))
    padded = functional.pad(inputs, (right, right, down, down), mode="reflect")
    top = torch.randint(2 * down + 1, (samples, 1), generator=generator).to(inputs.device)
    left = torch.randint(2 * right + 1, (samples, 1), generator=generator).to(inputs.device)
    rows = top + torch.arange(height, device=inputs.device)
    columns = left + torch.arange(width, device=inputs.device)
    sample = torch.arange(samples, device=inputs.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

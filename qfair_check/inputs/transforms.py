"""The transforms that torchvision's pretrained weights were trained with, by the name of the weights."""

import difflib
from collections.abc import Callable

from PIL.Image import Image
from torch import Tensor

from qfair_check.errors import OptionError


def weights_transforms(name: str) -> tuple[str, Callable[[Image], Tensor]]:
    """Return the full name of the weights and their transforms; nothing is downloaded.

    Raises
    ------
    OptionError
        If torchvision has no weights of this name.

    Examples
    --------
    >>> weights_transforms("ResNet18_Weights.DEFAULT")[0]
    'ResNet18_Weights.IMAGENET1K_V1'
    """
    from torchvision import models

    try:
        weights = models.get_weight(name.strip())
    except (ValueError, KeyError, TypeError):
        near = _near(name.strip().lower())
        hint = f"; close: {', '.join(near)}" if near else ""
        raise OptionError(
            f"torchvision has no weights {name!r}{hint}: give --qfair-transforms a name such as "
            "ResNet18_Weights.IMAGENET1K_V1"
        ) from None
    return str(weights), weights.transforms()


def _near(given: str) -> list[str]:
    from torchvision import models

    names = [str(weights) for model in models.list_models() for weights in models.get_model_weights(model)]
    known = {name.lower(): name for name in names}
    near = [name for name in known if given and name.startswith(given)] or difflib.get_close_matches(given, known)
    return [known[name] for name in near[:3]]

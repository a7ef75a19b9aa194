"""What a model answers, read as a batch of logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qfair_check.errors import MeasureError


def logits_of(answer: Any, samples: int) -> Tensor:
    """Return the logits of a batch, (samples, classes), from what a model answered.

    Accepted are a tensor, an object or mapping with ``logits``, and a tuple or list whose first element is one of
    these. One logit z for each sample, of shape (samples,) or (samples, 1), is that of the second of two classes:
    it becomes (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)).

    Parameters
    ----------
    answer : object
    samples : int
        Samples in the batch.

    Raises
    ------
    MeasureError
        If the answer holds no logits, or not one row for each sample.

    Examples
    --------
    >>> logits_of((torch.tensor([[0.5], [-2.0]]), "features"), 2)
    tensor([[ 0.0000,  0.5000],
            [ 0.0000, -2.0000]])
    """
    found = _unwrapped(answer)
    if not isinstance(found, Tensor):
        said = "" if found is answer else f" in a {type(answer).__name__}"
        raise MeasureError(
            f"it returned a {type(found).__name__}{said}, not a tensor of logits, a tuple that starts with one, or an "
            "object with .logits"
        )
    if found.is_complex():
        raise MeasureError("it returned complex numbers, and logits are real")
    if found.ndim in (1, 2) and found.shape[0] == samples and found.numel() == samples:
        column = found.reshape(samples, 1)
        return torch.cat([torch.zeros_like(column), column], dim=1)
    if found.ndim != 2 or found.shape[0] != samples or found.shape[1] < 2:
        raise MeasureError(f"its output has shape {tuple(found.shape)}, not ({samples}, number of classes)")
    return found


def _unwrapped(answer: Any) -> Any:
    while not isinstance(answer, Tensor):
        if isinstance(answer, Mapping) and "logits" in answer:
            answer = answer["logits"]
        elif hasattr(answer, "logits"):
            answer = answer.logits
        elif isinstance(answer, tuple | list) and answer:
            answer = answer[0]
        else:
            break
    return answer

"""Offsets of a model's outputs that bring classes to one accuracy, fitted on held-out samples."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.gaps import accuracy_gap
from qfair_check.inputs.sample import Sample, size
from qfair_check.quantize.model import copy_of
from qfair_check.remedy.answer import answered
from qfair_check.remedy.selection import GroupCounts

_STEPS = 200
_FIRST_STEP = 0.2
_HALF_LIFE = 20


def equalizing_offsets(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what to add to the logit of each class so that classes are recalled as alike as can be.

    b_c grows while class c is recalled less often than the mean class, and falls while it is recalled more often:
    b <- b + step_k (mean recall - recall_c), with steps that shrink and are measured in the typical distance of the
    two largest logits. Of all points on the way the one with the least gap in recall is returned, of equals the most
    accurate. Where classes are the groups that gap is FVO.

    Parameters
    ----------
    logits : floating tensor, shape (samples, classes)
        Of samples that did not train the model: it is right too often on those that did, and the offsets come out too
        small.
    labels : int64 tensor, shape (samples,)

    Returns
    -------
    float64 tensor, shape (classes,)
        With mean 0; 0 for classes without samples before the mean is taken out.

    Raises
    ------
    InputError
        If there are no samples, or a logit is NaN or infinite.

    Source: Menon et al. 2021, arXiv 2007.07314, section 4.1, adds such offsets after training and takes them from the
    shares of the classes; fitting them on held-out samples is ours.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0], [1.9, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> offsets = equalizing_offsets(logits, labels)
    >>> (logits + offsets).argmax(dim=1).tolist()
    [0, 0, 1, 1]
    """
    if not len(labels) or not bool(torch.isfinite(logits).all()):
        raise InputError("offsets need samples, and logits that are finite numbers")
    values = logits.double()
    classes = values.shape[1]
    held = torch.bincount(labels, minlength=classes)
    there = held > 0
    highest = values.topk(2, dim=1).values
    scale = float((highest[:, 0] - highest[:, 1]).median()) or 1.0
    offsets: Tensor = torch.zeros(classes, dtype=torch.float64, device=values.device)
    best = offsets
    least = None
    for step in range(_STEPS):
        right = labels[(values + offsets).argmax(dim=1) == labels]
        correct = torch.bincount(right, minlength=classes)
        counts = GroupCounts(tuple(correct[there].tolist()), tuple(held[there].tolist()))
        rank = accuracy_gap(list(counts.accuracies)), -counts.overall_accuracy
        if least is None or rank < least:
            least, best = rank, offsets
        recall = torch.where(there, correct / held.clamp(min=1), 0.0).double()
        move = torch.where(there, recall.sum() / there.sum() - recall, 0.0)
        offsets = offsets + _FIRST_STEP * scale / (1 + step / _HALF_LIFE) * move
    return best - best.mean()


def output_bias(module: nn.Module, batch: Sample) -> str | None:
    """Return the name of the parameter whose sum with a vector moves the logits by that vector; None without one.

    It is found by trial on a copy, so that whatever lies behind the last layer is seen. Of a model that answers one
    logit z for two classes it is the bias of z.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode.
    batch : tensor, tuple or dict of tensors
        A few samples, on the device of the module.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> output_bias(net, torch.zeros(5, 3))
    '2.bias'
    >>> output_bias(nn.Sequential(net, nn.Softmax(dim=1)), torch.zeros(5, 3)) is None
    True
    """
    tried = copy_of(module).eval()
    with torch.no_grad():
        before = _logits(tried, batch)
        scale = float(before.abs().mean() + 1)
        for name, parameter in reversed(list(_possible(tried, before.shape[1]))):
            kept = parameter.clone()
            added = scale * torch.linspace(-1, 2, parameter.numel() + 1, device=kept.device)[1:].to(kept.dtype)
            parameter.add_(added)
            moved = _logits(tried, batch) - before
            parameter.copy_(kept)
            whole = parameter.numel() == before.shape[1]
            expected = added if whole else torch.stack([added.new_zeros(()), added[0]])
            if torch.allclose(moved, expected.expand_as(moved), rtol=1e-3, atol=1e-3 * scale):
                return name
    return None


def moved_bias(bias: Tensor, offsets: Tensor) -> Tensor:
    """Return the bias with offsets of the classes added: their difference, where one logit stands for two classes.

    Examples
    --------
    >>> moved_bias(torch.tensor([0.5]), torch.tensor([-1.0, 1.0]))
    tensor([2.5000])
    """
    change = offsets if bias.numel() == len(offsets) else (offsets[1] - offsets[0]).reshape(1)
    return (bias.double() + change.to(bias.device)).to(bias.dtype)


def _possible(module: nn.Module, classes: int) -> Iterator[tuple[str, nn.Parameter]]:
    sizes = (classes, 1) if classes == 2 else (classes,)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and parameter.numel() in sizes:
            yield name, parameter


def _logits(module: nn.Module, batch: Sample) -> Tensor:
    return answered(module, batch, size(batch))

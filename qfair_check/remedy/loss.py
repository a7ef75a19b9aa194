"""Cross-entropy that weights groups, and weights for it."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor
from torch.nn import functional

from qfair_check.errors import InputError, OptionError

_SUM_TOLERANCE = 1e-6


def weighted_cross_entropy(logits: Tensor, labels: Tensor, groups: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """Return the cross-entropy with a weight for each group (WCR), (1/M) sum_i a_g(i) CE(logits_i, label_i).

    M is the number of samples. `torch.nn.functional.cross_entropy` with class weights divides by the sum of the
    samples' weights instead, so that a batch of one group has the same loss whatever its weight. Since the weights
    sum to 1, G equal ones give 1/G of the plain mean: multiply the loss or the learning rate by G to compare.

    Parameters
    ----------
    logits : floating tensor, shape (samples, classes)
    labels : int64 tensor, shape (samples,)
    groups : int64 tensor, shape (samples,)
        Of each sample, its place in `weights`: the labels again where classes are the groups.
    weights : sequence of float or tensor, shape (groups,)
        a_g, not negative, with sum 1 (`group_weights`, `group_weights_from_difficulty`). On a GPU, weights that are
        not a tensor there save a transfer at each call.

    Returns
    -------
    tensor without axes

    Raises
    ------
    InputError
        If there are no samples, or a sample's group has no weight.
    OptionError
        If a weight is negative or not finite, or they do not sum to 1.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (12).

    Examples
    --------
    >>> logits, labels = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    >>> weighted_cross_entropy(logits, labels, labels, [0.2, 0.8])  # log 2 * (0.2 + 0.8) / 2
    tensor(0.3466)
    """
    given = weights.tolist() if isinstance(weights, Tensor) else [float(weight) for weight in weights]
    _check(given)
    if not len(labels):
        raise InputError("there are no samples, so that their mean loss is undefined")
    lowest, highest = (int(end) for end in torch.aminmax(groups))
    if lowest < 0 or highest >= len(given):
        place = lowest if lowest < 0 else highest
        raise InputError(f"a sample is of group {place}, and there are {len(given)} weights: give one for each group")
    losses = functional.cross_entropy(logits, labels, reduction="none")
    scaled = torch.as_tensor(weights, dtype=losses.dtype, device=losses.device)[groups]
    return (scaled * losses).sum() / len(labels)


def group_weights(given: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return weights given by name in the order of the groups.

    Parameters
    ----------
    given : mapping of str to float
        One for each group: not negative, with sum 1.
    names : sequence of str
        Of all groups.

    Returns
    -------
    float32 tensor, shape (groups,)

    Raises
    ------
    OptionError
        If a group is unknown or has no weight, a weight is negative or not finite, or they do not sum to 1.

    Examples
    --------
    >>> group_weights({"Others": 0.6, "White": 0.4}, ["White", "Others"])
    tensor([0.4000, 0.6000])
    """
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise OptionError(f"there is a weight for {name!r}, which is no group: {hint}Groups are {', '.join(names)}")
    if missing := [name for name in names if name not in given]:
        raise OptionError(f"{', '.join(missing)} has no weight: give one for each group")
    ordered = [float(given[name]) for name in names]
    _check(ordered)
    return torch.tensor(ordered)


def group_weights_from_difficulty(correct: Sequence[int], samples: Sequence[int]) -> Tensor:
    """Return weights in proportion to each group's error on samples held out from balanced training.

    a_g = e_g / sum_h e_h with e_g = (n_g - c_g + 1) / (n_g + 2), the error rate drawn towards 1/2 as if two more
    samples had been seen, one of them wrong, so that no group gets weight 0. Counts of a model that was trained on
    groups of equal size tell what that balance leaves; those of another model count the imbalance twice.

    Parameters
    ----------
    correct : sequence of int, shape (groups,)
        Correct predictions among the held-out samples of each group, c_g.
    samples : sequence of int, shape (groups,)
        How many there are, n_g.

    Returns
    -------
    float32 tensor, shape (groups,)

    Raises
    ------
    InputError
        If the counts contradict each other, or a group has no samples.

    Source: Bellam & Kim, arXiv 2509.07222, section 4.6, defines the difficulty and section 6 sets the weights by it
    (0.6 for the one difficult group, 0.1 for the others) without a formula. The proportion is ours.

    Examples
    --------
    >>> group_weights_from_difficulty([98, 98, 73], [98, 98, 98])
    tensor([0.0357, 0.0357, 0.9286])
    """
    if len(correct) != len(samples) or not len(samples):
        raise InputError(f"there are {len(correct)} counts of correct predictions and {len(samples)} of samples")
    for right, held in zip(correct, samples, strict=True):
        if not 0 <= right <= held or not held:
            raise InputError(f"{right} of {held} held-out samples are correct: hold out samples of every group")
    errors = [(held - right + 1) / (held + 2) for right, held in zip(correct, samples, strict=True)]
    return torch.tensor([error / math.fsum(errors) for error in errors])


def _check(weights: Sequence[float]) -> None:
    if wrong := [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]:
        raise OptionError(f"a group's weight is {wrong[0]:g}: give numbers that are not negative")
    total = math.fsum(weights)
    if abs(total - 1) > _SUM_TOLERANCE:
        raise OptionError(f"the weights of the groups sum to {total:g}, not 1: divide each by {total:g}")

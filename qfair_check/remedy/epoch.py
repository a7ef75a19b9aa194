"""One epoch of training: samples in an order that seed and epoch alone decide, and a step for each batch."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from qfair_check.errors import MeasureError
from qfair_check.remedy.answer import answered
from qfair_check.remedy.attach import lsq_layers, step_parameters
from qfair_check.remedy.budget import Budget
from qfair_check.remedy.dampening import OscillationTracker, dampen, dampening_coefficient
from qfair_check.remedy.loss import weighted_cross_entropy
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import Batch
from qfair_check.remedy.sampling import GroupBalancedSampler

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Step:
    """What progress is told after each batch: the epoch from 1, the batch in it from 1, and the loss."""

    epoch: int
    batch: int
    batches: int
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Trainee:
    """A module in training, which `train_epoch` changes, with its optimizer and, on a grid, its oscillations."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    tracker: OscillationTracker | None = None


@dataclass(frozen=True, slots=True)
class EpochLoss:
    """Mean over the samples of an epoch.

    Parameters
    ----------
    cross_entropy : float
        What is minimized but for dampening: with group weights G times the weighted one, with distillation the mix of
        both.
    dampening : float
        Its loss times its coefficient.
    """

    cross_entropy: float
    dampening: float


class DivergedError(MeasureError):
    """The loss or a weight became NaN or infinite."""


def trainee_of(module: nn.Module, recipe: Recipe) -> Trainee:
    """Return a module with a new optimizer: steps of grids have their own rate, and matrices alone decay."""
    steps = step_parameters(module)
    known = {id(parameter) for parameter in steps}
    others = [value for value in module.parameters() if value.requires_grad and id(value) not in known]
    groups = [
        ([value for value in others if value.ndim > 1], recipe.learning_rate, recipe.weight_decay),
        ([value for value in others if value.ndim <= 1], recipe.learning_rate, 0.0),
        ([value for value in steps if value.requires_grad], recipe.step_learning_rate, 0.0),
    ]
    settings = [
        {"params": values, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for values, rate, decay in groups
        if values
    ]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.AdamW(settings)
    else:
        optimizer = torch.optim.SGD(settings, momentum=recipe.momentum)
    return Trainee(module, optimizer, OscillationTracker(module) if recipe.trains_grid else None)


def epoch_order(recipe: Recipe, groups: Integers, epoch: int) -> Integers:
    """Return the samples of an epoch in order: of every group equally many if the recipe balances them, else each once.

    A last batch of a single sample, which has no variance for BatchNorm, is left out.

    Parameters
    ----------
    groups : int64 array, shape (samples,)
    epoch : int
        From 0.
    """
    if recipe.balances_samples:
        sampler = GroupBalancedSampler(groups, seed=recipe.seed)
        sampler.set_epoch(epoch)
        order = np.fromiter(sampler, np.int64)
    else:
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(groups))
    return without_single(order, recipe.batch_size)


def without_single(order: Integers, batch_size: int) -> Integers:
    """Leave out the last sample if it would be a batch of its own, and not the only one."""
    return order[:-1] if len(order) % batch_size == 1 and len(order) > 1 else order


def cosine_rate(rate: float, passed: float) -> float:
    """Return rate (1 + cos(pi r)) / 2, with r the fraction of the training that has passed.

    Examples
    --------
    >>> [round(cosine_rate(0.1, t / 4), 3) for t in range(5)]
    [0.1, 0.085, 0.05, 0.015, 0.0]
    """
    return rate * (1 + math.cos(math.pi * passed)) / 2


def train_epoch(
    trainee: Trainee,
    batches: Iterable[Batch],
    recipe: Recipe,
    weights: Tensor | None,
    *,
    epoch: int,
    per_epoch: int,
    budget: Budget,
    teacher: nn.Module | None = None,
    progress: Callable[[Step], object] | None = None,
) -> EpochLoss:
    """Train for one epoch: cross-entropy, weighted by group, plus lambda(t) times the dampening loss.

    Where the recipe distils, a share of the cross-entropy is replaced by `distillation_loss`.

    With weights the loss is G times `weighted_cross_entropy`, so that G equal ones give the plain mean, and a learning
    rate means the same with and without them.

    Parameters
    ----------
    trainee : Trainee
        Changed.
    batches : iterable of Batch
    weights : tensor, shape (groups,), optional
        On the device of the batches.
    epoch : int
        From 0.
    per_epoch : int
        Batches in an epoch.
    budget : Budget
        Rates and coefficients follow the fraction of it that has passed; where it is used up the epoch ends, after its
        first batch at the soonest.
    teacher : torch.nn.Module, optional
        In eval mode; its outputs are part of the target where the recipe distils.
    progress : callable, optional

    Raises
    ------
    MeasureError
        If the module fails, or its outputs take no gradient.
    DivergedError
        If the loss is NaN or infinite, before it reaches the weights; or weights are, after the epoch.
    """
    trainee.module.train()
    total = damped = 0.0
    seen = 0
    for index, batch in enumerate(batches):
        passed = min(budget.passed(epoch * per_epoch + index), 1.0)
        if passed == 1 and seen:  # an epoch of no batch would have no loss
            break
        for group in trainee.optimizer.param_groups:
            group["lr"] = cosine_rate(group["initial_lr"], passed)
        trainee.optimizer.zero_grad(set_to_none=True)
        fitted = _fitted(trainee.module, batch, recipe, weights, teacher)
        if not fitted.requires_grad:
            raise MeasureError(
                "the outputs of the model take no gradient, so that nothing can be trained: its forward pass runs "
                "under torch.no_grad, or uses none of the parameters with requires_grad"
            )
        torch.autograd.backward(fitted)
        coefficient = dampening_coefficient(passed, recipe.dampening) if trainee.tracker else 0.0
        extra = float(dampen(trainee.module, coefficient)) if coefficient else 0.0
        value = float(fitted.detach()) + extra
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss became {value} at batch {index + 1} of epoch {epoch + 1}: give a lower learning rate than "
                f"{recipe.learning_rate:g}, or look for NaN in the training data"
            )
        trainee.optimizer.step()
        if trainee.tracker:
            trainee.tracker.update()
        total += (value - extra) * len(batch)
        damped += extra * len(batch)
        seen += len(batch)
        if progress:
            progress(Step(epoch + 1, index + 1, per_epoch, value))
    if broken := [name for name, value in trainee.module.named_parameters() if not bool(torch.isfinite(value).all())]:
        raise DivergedError(
            f"{broken[0]} became NaN or infinite in epoch {epoch + 1}: give a lower learning rate than "
            f"{recipe.learning_rate:g}"
        )
    return EpochLoss(total / max(seen, 1), damped / max(seen, 1))


def oscillating_share(trainee: Trainee) -> float | None:
    """Return the share of all weights on a grid that oscillate; None off the grid."""
    if trainee.tracker is None:
        return None
    shares = trainee.tracker.shares()
    sizes = {layer.name: layer.weight.numel() for layer in lsq_layers(trainee.module)}
    return math.fsum(shares[name] * size for name, size in sizes.items()) / max(sum(sizes.values()), 1)


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float = 2.0) -> Tensor:
    """Return T^2 KL(softmax(taught / T) || softmax(logits / T)), the mean over samples.

    Parameters
    ----------
    logits, taught : floating tensor, shape (samples, classes)
        Of the model in training, and of its teacher.
    temperature : float
        T; T^2 keeps gradients of one size whatever it is.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.

    Examples
    --------
    >>> one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> distillation_loss(one, one).item(), round(distillation_loss(one, other).item(), 4)
    (0.0, 1.8485)
    """
    student, teacher = (functional.log_softmax(values / temperature, dim=1) for values in (logits, taught))
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _fitted(
    module: nn.Module, batch: Batch, recipe: Recipe, weights: Tensor | None, teacher: nn.Module | None
) -> Tensor:
    logits = _outputs(module, batch, recipe)
    if weights is None:
        loss = functional.cross_entropy(logits, batch.labels)
    else:
        loss = len(weights) * weighted_cross_entropy(logits, batch.labels, batch.groups, weights)
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = _outputs(teacher, batch, recipe)
    share = recipe.distillation or 0.0
    return (1 - share) * loss + share * distillation_loss(logits, taught)


def _outputs(module: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=recipe.amp):
        return answered(module, batch.inputs, len(batch))

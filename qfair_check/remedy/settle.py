"""What a recipe leaves open is settled by the data and by the model as it is given."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from qfair_check.errors import InputError
from qfair_check.measure.chunks import CHUNK
from qfair_check.remedy.augment import Augmentation, applicable, are_images, augmented
from qfair_check.remedy.evaluate import Bench, logits_on, movable_output
from qfair_check.remedy.recipe import Balance, Recipe
from qfair_check.remedy.selection import GroupCounts

_MOST_HARM = 0.02
_LEAST_GAP = 0.05
_DISTILLED = 0.5


def settled(recipe: Recipe, given: nn.Module, bench: Bench, origin: GroupCounts) -> Recipe:
    """Return the recipe with its balance, distillation and augmentation decided.

    Parameters
    ----------
    given : torch.nn.Module
        As it was given, in eval mode, on the device of the bench.
    origin : GroupCounts
        Of that model on the held-out samples. Where its groups are within 0.05 of one another there, such as where it
        knows those samples by heart, offsets would have nothing to correct, and samples are balanced.

    Raises
    ------
    InputError
        If outputs are to be balanced and cannot be, or images are to be changed and there are none.
    """
    if recipe.strategy == "ptq":
        return recipe
    if recipe.augmentation and not are_images(bench.samples.inputs):
        raise InputError(
            f"the training data holds no images, which {' and '.join(recipe.augmentation)} would change: leave out the "
            "augmentation"
        )
    balance = _balance(recipe, given, bench, origin)
    distillation, kinds = recipe.distillation, recipe.augmentation
    if distillation is None:
        distillation = _DISTILLED if balance == "outputs" else 0.0
    return replace(
        recipe,
        balance=balance,
        distillation=distillation,
        augmentation=harmless(given, bench, recipe.seed) if kinds is None else kinds,
    )


def _balance(recipe: Recipe, given: nn.Module, bench: Bench, origin: GroupCounts) -> Balance | None:
    if not recipe.is_fair or recipe.balance == "samples":
        return recipe.balance
    is_default = recipe.balance is None
    if is_default and (recipe.strategy == "fair-base" or recipe.group_weights is not None or origin.fvo < _LEAST_GAP):
        return "samples"
    if movable_output(given, bench) is not None:
        return "outputs"
    if is_default:
        return "samples"
    raise InputError(
        "outputs cannot be balanced: that needs groups that are the classes, and a bias of the outputs; balance samples"
    )


def harmless(given: nn.Module, bench: Bench, seed: int) -> tuple[Augmentation, ...]:
    """Return the changes of images under which a model that was not trained here stays accurate.

    A change is one that the task allows if at most 0.02 of the overall accuracy on held-out samples is lost by it: the
    mirror image of a face is a face, that of a digit is not. Data that are no images allow none.

    Parameters
    ----------
    given : torch.nn.Module
        In eval mode, on the device of the bench.
    bench : Bench
    seed : int
    """
    held = bench.split.held_out
    labels = torch.from_numpy(bench.samples.labels[held])

    def correct(kinds: tuple[Augmentation, ...]) -> int:
        generator = torch.Generator().manual_seed(seed)
        batches = bench.samples.batches(held, CHUNK, bench.device)
        changed = (replace(one, inputs=augmented(cast(Tensor, one.inputs), kinds, generator)) for one in batches)
        return int((logits_on(given, changed).argmax(dim=1).cpu() == labels).sum())

    kinds = applicable(bench.samples.inputs)
    least = correct(()) - _MOST_HARM * len(held) if kinds else 0
    return tuple(kind for kind in kinds if correct((kind,)) >= least)

import numpy as np
import pytest
import torch
from torch import nn

from qfair_check.errors import InputError
from qfair_check.inputs.data import grouped_data
from qfair_check.remedy.evaluate import Bench, count_correct
from qfair_check.remedy.holdout import split_by_group
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import read_samples
from qfair_check.remedy.settle import harmless, settled


def bench_of(x, y, group):
    samples = read_samples(grouped_data(x, y, group, classes=["a", "b"]))
    split = split_by_group(samples.labels, samples.groups, samples.group_names, share=0.5, seed=0)
    return Bench(samples, split, torch.device("cpu"), 16, 0)


def of_vectors(*, classes_are_groups):
    y = np.arange(80) % 4 == 0
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    x[:, 0] += 2 * y
    return bench_of(x, y.astype(np.int64), np.where(y if classes_are_groups else np.arange(80) % 3, "one", "other"))


def model(*, leans, bias=True):
    module = nn.Linear(3, 2, bias=bias)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0, 0], [5.0, 0, 0]]))
        if bias:
            module.bias.copy_(torch.tensor([15.0 if leans else 5.0, 0.0]))
    return module.eval()


def settle(recipe, given, bench):
    return settled(recipe, given, bench, count_correct(given, bench, bench.split.held_out))


def test_outputs_are_balanced_where_classes_are_groups_and_the_model_leans():
    made = settle(Recipe.of(), model(leans=True), of_vectors(classes_are_groups=True))
    assert (made.balance, made.distillation, made.augmentation) == ("outputs", 0.5, ())
    assert not made.balances_samples


@pytest.mark.parametrize(
    ("recipe", "given", "classes_are_groups"),
    [
        (Recipe.of(), model(leans=True), False),
        (Recipe.of(), model(leans=True, bias=False), True),
        (Recipe.of(group_weights={"one": 0.5, "other": 0.5}), model(leans=True), True),
        (Recipe.of("fair-base"), model(leans=True), True),
        (Recipe.of(balance="samples"), model(leans=True), True),
    ],
)
def test_samples_are_balanced_elsewhere(recipe, given, classes_are_groups):
    made = settle(recipe, given, of_vectors(classes_are_groups=classes_are_groups))
    assert (made.balance, made.distillation) == ("samples", 0.0)
    assert made.balances_samples


def test_samples_are_balanced_where_the_model_knows_those_held_out_by_heart():
    bench = of_vectors(classes_are_groups=True)
    bench.samples.inputs[:, 0] = 4.0 * torch.from_numpy(bench.samples.labels)
    given = model(leans=False)
    assert count_correct(given, bench, bench.split.held_out).fvo == 0
    assert settle(Recipe.of(), given, bench).balance == "samples"


def test_what_is_asked_for_is_kept_and_what_cannot_be_is_refused():
    bench = of_vectors(classes_are_groups=True)
    given = model(leans=True)
    assert settle(Recipe.of(distillation=0.25), given, bench).distillation == 0.25
    assert settle(Recipe.of("fair-base", balance="outputs"), given, bench).balance == "outputs"
    assert settle(Recipe.of("mpqat"), given, bench).balance is None
    assert settle(Recipe.of("ptq"), given, bench) == Recipe.of("ptq")
    with pytest.raises(InputError, match="needs groups that are the classes, and a bias of the outputs"):
        settle(Recipe.of(balance="outputs"), given, of_vectors(classes_are_groups=False))


class Side(nn.Module):
    """Tells on which side of an image the light is, or whether there is any."""

    def __init__(self, *, mirrored):
        super().__init__()
        self.mirrored = mirrored

    def forward(self, images):
        left, right = images[..., :16].sum((1, 2, 3)), images[..., 16:].sum((1, 2, 3))
        light = left - right if self.mirrored else left + right - 1
        return torch.stack([-light, light], dim=1)


@pytest.mark.parametrize(("mirrored", "kinds"), [(True, ("shift",)), (False, ("flip", "shift"))])
def test_images_are_mirrored_only_where_that_costs_no_accuracy(mirrored, kinds):
    images = np.zeros((40, 1, 32, 32), np.float32)
    lit = np.arange(40) % 2 == 0
    images[lit, :, 8:20, 4:10] = 1
    if mirrored:
        images[~lit, :, 8:20, 20:26] = 1
    bench = bench_of(images, lit.astype(np.int64), np.where(np.arange(40) % 3, "one", "other"))
    assert harmless(Side(mirrored=mirrored), bench, 0) == kinds


def test_what_is_no_image_is_not_changed():
    assert harmless(model(leans=True), of_vectors(classes_are_groups=True), 0) == ()

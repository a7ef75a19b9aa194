from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from qfair_check.quantize.allocation import Allocation
from qfair_check.remedy.attach import attach_lsq, lsq_layers
from qfair_check.remedy.budget import Iterations, Seconds
from qfair_check.remedy.dampening import dampening_coefficient, dampening_loss
from qfair_check.remedy.epoch import (
    DivergedError,
    Step,
    cosine_rate,
    distillation_loss,
    epoch_order,
    oscillating_share,
    train_epoch,
    trainee_of,
)
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import Batch

PLAIN = Recipe.of("mpqat", 3, allocation=Allocation(), epochs=1, momentum=0.0, weight_decay=0.0, dampening=0.0)


def batch_of(size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 2
    return Batch(torch.randn(size, 3, generator=generator), labels, (torch.arange(size) % 3 == 0).long())


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def trained(trainee, batches, recipe, weights, *, epoch, per_epoch, budget=None, **others):
    budget = budget or Iterations(recipe.epochs * per_epoch)
    return train_epoch(trainee, batches, recipe, weights, epoch=epoch, per_epoch=per_epoch, budget=budget, **others)


def test_one_step_is_that_of_plain_gradient_descent():
    module, batch = network(), batch_of()
    recipe = replace(PLAIN, strategy="fair-base", learning_rate=0.1)
    loss = functional.cross_entropy(module(batch.inputs), batch.labels)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    wanted = [value.detach() - 0.1 * gradient for value, gradient in zip(module.parameters(), gradients, strict=True)]
    told = trained(trainee_of(module, recipe), [batch], recipe, None, epoch=0, per_epoch=1)
    assert told.cross_entropy == pytest.approx(loss.item())
    for value, target in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(value.detach(), target)


def test_equal_weights_of_groups_give_the_plain_mean_and_others_the_weighted_one():
    module, batch = network(), batch_of()
    recipe = replace(PLAIN, strategy="fair-base", learning_rate=1e-9)
    losses = functional.cross_entropy(module(batch.inputs), batch.labels, reduction="none").detach()

    def loss(weights):
        told = trained(trainee_of(network(), recipe), [batch], recipe, weights, epoch=0, per_epoch=1)
        return told.cross_entropy

    assert loss(torch.tensor([0.5, 0.5])) == pytest.approx(losses.mean().item())
    weights = torch.tensor([0.1, 0.9])
    assert loss(weights) == pytest.approx(2 * (weights[batch.groups] * losses).mean().item())


def test_dampening_is_added_from_the_second_quarter_on():
    recipe = replace(PLAIN, dampening=0.5, epochs=2, learning_rate=1e-9, step_learning_rate=1e-9)
    trainee = trainee_of(attach_lsq(network(), 3, allocation=Allocation()), recipe)
    penalty = dampening_loss(trainee.module).item()
    batches = [batch_of()] * 4
    first = trained(trainee, batches, recipe, None, epoch=0, per_epoch=4)
    second = trained(trainee, batches, recipe, None, epoch=1, per_epoch=4)
    passed = [max(0.0, (t / 8 - 0.25) / 0.75) for t in range(8)]
    lambdas = [0.5 * (1 - np.cos(np.pi * r)) / 2 for r in passed]
    assert first.dampening == pytest.approx(penalty * np.mean(lambdas[:4]), rel=1e-4)
    assert second.dampening == pytest.approx(penalty * np.mean(lambdas[4:]), rel=1e-4)


def test_a_step_is_that_of_the_sum_of_both_losses():
    recipe = replace(PLAIN, dampening=0.5, epochs=2, learning_rate=0.1)
    trainee, by_hand = (trainee_of(attach_lsq(network(), 3, allocation=Allocation()), recipe) for _ in range(2))
    batch = batch_of()
    trained(trainee, [batch], recipe, None, epoch=1, per_epoch=1)

    passed = 0.5
    for group in by_hand.optimizer.param_groups:
        group["lr"] = cosine_rate(group["initial_lr"], passed)
    loss = functional.cross_entropy(by_hand.module(batch.inputs), batch.labels)
    (loss + dampening_coefficient(passed, 0.5) * dampening_loss(by_hand.module)).backward()
    by_hand.optimizer.step()

    for value, wanted in zip(trainee.module.parameters(), by_hand.module.parameters(), strict=True):
        assert torch.allclose(value, wanted, rtol=1e-6, atol=1e-8)


def test_steps_have_their_own_rate_and_only_matrices_decay():
    recipe = Recipe.of("mpqat", 3, learning_rate=0.1, step_learning_rate=0.001, weight_decay=0.5)
    module = attach_lsq(network(), 3, allocation=Allocation())
    groups = trainee_of(module, recipe).optimizer.param_groups
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
    slow = {id(value) for group in groups if group["lr"] == 0.001 for value in group["params"]}
    assert decayed == {id(layer.weight) for layer in lsq_layers(module)}
    assert slow == {id(layer.lsq.step) for layer in lsq_layers(module)}
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_lowers_the_loss_and_follows_oscillations(optimizer):
    recipe = Recipe.of("mpqat", 2, epochs=20, optimizer=optimizer, learning_rate=0.05, allocation=Allocation())
    trainee = trainee_of(attach_lsq(network(), 2, allocation=Allocation()), recipe)
    batch = batch_of(32)
    losses = [
        trained(trainee, [batch] * 4, recipe, None, epoch=epoch, per_epoch=4).cross_entropy for epoch in range(20)
    ]
    assert losses[-1] < losses[0]
    assert 0 <= oscillating_share(trainee) <= 1


def test_progress_is_told_after_each_batch():
    told = []
    recipe = replace(PLAIN, epochs=3)
    trainee = trainee_of(attach_lsq(network(), 3, allocation=Allocation()), recipe)
    trained(trainee, [batch_of(), batch_of()], recipe, None, epoch=2, per_epoch=2, progress=told.append)
    assert [(step.epoch, step.batch, step.batches) for step in told] == [(3, 1, 2), (3, 2, 2)]
    assert all(isinstance(step, Step) for step in told)


def test_a_loss_that_is_nan_stops_before_it_reaches_the_weights():
    module, batch = network(), batch_of()
    before = [value.clone() for value in module.parameters()]
    batch.inputs[3] = float("nan")
    recipe = replace(PLAIN, strategy="fair-base")
    with pytest.raises(DivergedError, match=r"^the loss became nan at batch 1 of epoch 1: give a lower learning rate"):
        trained(trainee_of(module, recipe), [batch], recipe, None, epoch=0, per_epoch=1)
    assert all(torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))


def test_weights_that_become_infinite_in_the_last_step_are_seen():
    recipe = replace(PLAIN, strategy="fair-base", learning_rate=3e38)
    batch = batch_of()
    batch.inputs.mul_(1e3)
    with pytest.raises(DivergedError, match="became NaN or infinite in epoch 1"):
        trained(trainee_of(network(), recipe), [batch], recipe, None, epoch=0, per_epoch=1)


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 8))
def test_distillation_is_the_divergence_of_softened_outputs(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits, taught = (3 * torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = (torch.distributions.Categorical(logits=values / temperature) for values in (taught, logits))
    wanted = temperature**2 * torch.distributions.kl_divergence(p, q).mean()
    torch.testing.assert_close(distillation_loss(logits, taught, temperature), wanted)


def test_a_teacher_takes_its_share_of_the_loss_and_no_gradient():
    module, teacher, batch = network(), nn.Linear(3, 2).eval(), batch_of()
    recipe = replace(PLAIN, strategy="fair-base", distillation=0.25, learning_rate=1e-9)
    logits, taught = module(batch.inputs).detach(), teacher(batch.inputs).detach()
    told = trained(trainee_of(module, recipe), [batch], recipe, None, epoch=0, per_epoch=1, teacher=teacher)
    of_labels = functional.cross_entropy(logits, batch.labels).item()
    assert told.cross_entropy == pytest.approx(0.75 * of_labels + 0.25 * distillation_loss(logits, taught).item())
    assert all(value.grad is None for value in teacher.parameters())


def test_an_epoch_ends_where_the_time_is_over_and_rates_follow_the_clock():
    recipe = replace(PLAIN, strategy="fair-base", learning_rate=0.1)
    clock = iter([0.0, 0.0, 5.0, 10.0, 15.0]).__next__
    trainee, rates = trainee_of(network(), recipe), []
    told = trained(
        trainee,
        [batch_of()] * 9,
        recipe,
        None,
        epoch=0,
        per_epoch=9,
        budget=Seconds.start(10.0, clock=clock),
        progress=lambda step: rates.append((step.batch, trainee.optimizer.param_groups[0]["lr"])),
    )
    assert rates == [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))]
    assert told.cross_entropy > 0


def test_an_epoch_that_starts_when_the_time_is_over_has_the_loss_of_one_batch():
    clock = iter([0.0, 10.0, 11.0, 12.0]).__next__
    recipe = replace(PLAIN, dampening=0.1)
    module = attach_lsq(network(), 3, allocation=Allocation())
    told = trained(
        trainee_of(module, recipe),
        [batch_of()] * 3,
        recipe,
        None,
        epoch=1,
        per_epoch=3,
        budget=Seconds.start(10.0, clock=clock),
    )
    assert told.cross_entropy > 0


def test_bfloat16_is_of_layers_alone_and_near_float32():
    module, batch = network(), batch_of(64)
    seen = []
    module[0].register_forward_hook(lambda layer, given, output: seen.append((output.dtype, layer.weight.dtype)))
    recipe = replace(PLAIN, strategy="fair-base", learning_rate=1e-9)
    exact = trained(trainee_of(module, recipe), [batch], recipe, None, epoch=0, per_epoch=1)
    rough = trained(trainee_of(module, recipe), [batch], replace(recipe, amp=True), None, epoch=0, per_epoch=1)
    assert seen == [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)]
    assert rough.cross_entropy == pytest.approx(exact.cross_entropy, rel=0.02)
    assert rough != exact


def test_an_epoch_is_balanced_only_if_the_recipe_is_fair_and_depends_on_seed_and_epoch():
    groups = np.array([0] * 60 + [1] * 20)
    fair, plain = Recipe.of("fair-qat"), Recipe.of("mpqat")
    assert Counter(groups[epoch_order(fair, groups, 0)].tolist()) == {0: 40, 1: 40}
    assert sorted(epoch_order(plain, groups, 0)) == list(range(80))
    for recipe in (fair, plain):
        orders = [epoch_order(recipe, groups, epoch).tolist() for epoch in (0, 1, 0)]
        assert orders[0] == orders[2] != orders[1]
        assert epoch_order(replace(recipe, seed=1), groups, 0).tolist() != orders[0]


def test_a_last_batch_of_one_sample_is_left_out():
    recipe = replace(Recipe.of("mpqat"), batch_size=8)
    sizes = {count: len(epoch_order(recipe, np.zeros(count, np.int64), 0)) for count in (1, 8, 9, 10)}
    assert sizes == {1: 1, 8: 8, 9: 8, 10: 10}

import pytest

from qfair_check.errors import OptionError
from qfair_check.remedy.recipe import STRATEGIES, Recipe


def test_defaults_are_those_of_the_bits_and_the_optimizer():
    assert [Recipe.of("mpqat", bits).learning_rate for bits in (2, 3, 4, "int8")] == [0.02, 0.01, 0.01, 0.01]
    assert Recipe.of("mpqat", 2, optimizer="adam").step_learning_rate == 0.002
    assert Recipe.of(learning_rate=0.3).step_learning_rate == 0.3
    assert Recipe.of().allocation.first_last.bits == 8


def test_a_budget_in_minutes_sets_no_other():
    assert Recipe.of(minutes=5.0).epochs > 10_000
    assert Recipe.of(minutes=5.0, epochs=3).epochs == 3


def test_every_field_is_in_the_hash():
    one = Recipe.of("fair-qat", 4)
    others = [
        Recipe.of("mpqat", 4),
        Recipe.of("fair-qat", 3),
        Recipe.of("fair-qat", 4, seed=1),
        Recipe.of("fair-qat", 4, epochs=3),
        Recipe.of("fair-qat", 4, group_weights={"a": 0.5, "b": 0.5}),
        Recipe.of("fair-qat", 4, dampening=0.0),
        Recipe.of("fair-qat", 4, scheme="absmax"),
        Recipe.of("fair-qat", 4, minutes=1.0),
        Recipe.of("fair-qat", 4, amp=True),
        Recipe.of("fair-qat", 4, augmentation=()),
        Recipe.of("fair-qat", 4, balance="samples"),
        Recipe.of("fair-qat", 4, distillation=0.5),
    ]
    assert len({recipe.sha256 for recipe in [one, *others]}) == 13
    assert one.sha256 == Recipe.of("fair-qat", "int4").sha256


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"strategy": "magic"}, "no strategy 'magic': known are ptq, fair-base, mpqat, fair-qat"),
        ({"optimizer": "lion"}, "no optimizer 'lion': known are sgd, adam"),
        ({"bits": "fp16"}, "integers of 2 to 8 bits, not for fp16"),
        ({"scheme": "mse/per-channel"}, "a step for each channel"),
        ({"epochs": 0}, "epochs is 0: give a whole number, 1 or more"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"seed": -1}, "seed is -1: give a whole number, 0 or more"),
        ({"seed": 2**32}, "seed is 4294967296: give a number below"),
        ({"learning_rate": float("nan")}, "learning_rate is nan: give a number above 0"),
        ({"step_learning_rate": 0.0}, "step_learning_rate is 0"),
        ({"dampening": -0.1}, "dampening is -0.1"),
        ({"strategy": "mpqat", "balance": "samples"}, "the strategy mpqat cannot balance 'samples'"),
        ({"balance": "all"}, "cannot balance 'all': fair-qat and fair-base balance samples or outputs"),
        ({"balance": "outputs", "group_weights": {"a": 1.0}}, "outputs are balanced without group weights"),
        ({"distillation": 1.5}, "the share of distillation is 1.5: give a number from 0 to 1"),
        ({"minutes": 0.0}, "minutes is 0: give a number above 0"),
        ({"augmentation": ("turn",)}, "no augmentation 'turn': known are flip, shift"),
        ({"momentum": 1}, "momentum is 1"),
        ({"held_out": 1.0}, "held-out share is 1"),
        ({"strategy": "mpqat", "group_weights": {"a": 1.0}}, "without group weights"),
        ({"epoch": 3}, "a recipe has no epoch"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(given, told):
    with pytest.raises(OptionError) as caught:
        Recipe.of(**given)
    assert told in str(caught.value)


def test_strategies_say_what_they_do():
    made = [(Recipe.of(name).is_fair, Recipe.of(name).trains_grid) for name in STRATEGIES]
    assert made == [(False, False), (True, False), (False, True), (True, True)]

"""What a training run is to do: every number that its result depends on."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from qfair_check.errors import OptionError
from qfair_check.precision import Precision
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.spec import Scheme
from qfair_check.remedy.attach import FIRST_LAST_8
from qfair_check.remedy.augment import AUGMENTATIONS, Augmentation

Strategy = Literal["ptq", "fair-base", "mpqat", "fair-qat"]
Optimizer = Literal["sgd", "adam"]
Balance = Literal["samples", "outputs"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
_LOW_BITS = 2
_MANY_EPOCHS = 100_000
_SEEDS = 2**32
_LEAST_ERROR = Scheme("mse")
_RATES: dict[Optimizer, float] = {"sgd": 0.01, "adam": 0.001}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is made fairer at some bits; `Recipe.of` reads one and fills in what is not said.

    Parameters
    ----------
    strategy : str
        ``ptq``: round the weights; ``fair-base``: train in fp32 on balanced groups with group weights, then round;
        ``mpqat``: train on the grid, on data as it is; ``fair-qat``: train on the grid, with groups brought to one
        level as `balance` says.
    bits : Precision
        int2 to int8.
    learning_rate, step_learning_rate : float
        Of weights and of the steps of grids, at the first iteration; a half cosine takes both to 0.
    optimizer : str
        ``sgd``, with momentum, or ``adam``.
    momentum, weight_decay : float
        Momentum is SGD's; decay is that of weights of two axes or more, none of steps, norms and biases.
    epochs, batch_size : int
        At most so many epochs, and samples in a step.
    minutes : float, optional
        Train for so long instead: schedules follow the clock, so that no two runs are the same bit for bit.
    amp : bool
        Whether layers compute in bfloat16, channels last, while they train. All else stays in float32.
    augmentation : tuple of str, or None
        How images are changed at random while they train: ``flip``, ``shift``. None takes those under which the model
        as it is given stays accurate on held-out samples (`harmless`).
    balance : str, or None
        What brings groups to one level in a fair strategy. ``samples``: as many of every group are trained on, and
        weights of groups may follow. ``outputs``, where the classes are the groups: data are trained on as they are,
        and offsets of the outputs are fitted on held-out samples after each epoch (`equalizing_offsets`). None is
        settled when the data are known: outputs for fair-qat without group weights where they can be moved.
    distillation : float, or None
        Share of the loss that compares outputs with those of the model as it is given, instead of with labels. None is
        0.5 where outputs are balanced, for then that model's outputs are the aim, and else 0.
    allocation : Allocation
        Layers of other bits, or left out; the first and the last one have 8 by default.
    scheme : Scheme
        The grid, per tensor, and the rule for its first step.
    group_weights : tuple of (str, float), or None
        By name of each group, with sum 1; None weighs groups alike. Balanced sampling corrects the imbalance already,
        so that weights must be fitted to what it leaves. The loss is multiplied by the number of groups.
    dampening : float
        Where the coefficient of the dampening loss ends.
    held_out : float
        Share of each group that is held out to choose by.
    patience : int
        Stop after so many epochs without a better candidate.
    seed : int
    device : str

    Raises
    ------
    OptionError
        If one of them makes no sense.
    """

    strategy: Strategy
    bits: Precision
    learning_rate: float
    step_learning_rate: float
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 12
    batch_size: int = 64
    minutes: float | None = None
    amp: bool = False
    augmentation: tuple[Augmentation, ...] | None = None
    balance: Balance | None = None
    distillation: float | None = None
    allocation: Allocation = FIRST_LAST_8
    scheme: Scheme = _LEAST_ERROR
    group_weights: tuple[tuple[str, float], ...] | None = None
    dampening: float = 0.1
    held_out: float = 0.2
    patience: int = 6
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise OptionError(f"there is no strategy {self.strategy!r}: known are {', '.join(STRATEGIES)}")
        if self.optimizer not in get_args(Optimizer):
            raise OptionError(f"there is no optimizer {self.optimizer!r}: known are {', '.join(get_args(Optimizer))}")
        if not self.bits.is_integer:
            raise OptionError(f"a model is trained for integers of 2 to 8 bits, not for {self.bits}: give such bits")
        if self.scheme.granularity != "per-tensor":
            raise OptionError(f"the scheme {self.scheme} has a step for each channel: training learns one per tensor")
        for name in ("epochs", "batch_size", "patience"):
            _check_whole(name, getattr(self, name), 1)
        _check_whole("seed", self.seed, 0)
        if self.seed >= _SEEDS:
            raise OptionError(f"seed is {self.seed}: give a number below 2^32")
        for name in ("learning_rate", "step_learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise OptionError(f"{name} is {getattr(self, name):g}: give a number above 0")
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise OptionError(f"minutes is {self.minutes:g}: give a number above 0")
        if unknown := [kind for kind in self.augmentation or () if kind not in AUGMENTATIONS]:
            raise OptionError(f"there is no augmentation {unknown[0]!r}: known are {', '.join(AUGMENTATIONS)}")
        for name in ("weight_decay", "dampening"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise OptionError(f"{name} is {getattr(self, name):g}: give a number that is not negative")
        if not 0 <= self.momentum < 1:
            raise OptionError(f"momentum is {self.momentum:g}: give 0 or more, and less than 1")
        if not 0 < self.held_out < 1:
            raise OptionError(f"the held-out share is {self.held_out:g}: give a number above 0 and below 1")
        if self.balance is not None and (self.balance not in get_args(Balance) or not self.is_fair):
            raise OptionError(
                f"the strategy {self.strategy} cannot balance {self.balance!r}: fair-qat and fair-base balance samples "
                "or outputs"
            )
        if self.balance == "outputs" and self.group_weights is not None:
            raise OptionError("outputs are balanced without group weights: leave them out, or balance samples")
        if self.distillation is not None and not 0 <= self.distillation <= 1:
            raise OptionError(f"the share of distillation is {self.distillation:g}: give a number from 0 to 1")
        if self.group_weights is not None and not self.is_fair:
            raise OptionError(
                f"the strategy {self.strategy} trains on data as it is, without group weights: leave them out, or take "
                "fair-qat or fair-base"
            )

    @classmethod
    def of(
        cls,
        strategy: Strategy = "fair-qat",
        bits: str | int | Precision = 4,
        *,
        scheme: str | Scheme = "mse",
        optimizer: Optimizer = "sgd",
        learning_rate: float | None = None,
        step_learning_rate: float | None = None,
        group_weights: Mapping[str, float] | None = None,
        **others: object,
    ) -> "Recipe":
        """Read bits, scheme and weights, and choose learning rates for what is not given.

        SGD starts at 0.01, Adam at 0.001, and both at twice that for 2 bits; steps learn at the rate of the weights.
        With `minutes`, epochs are not limited unless they are given.

        Raises
        ------
        OptionError
            If something makes no sense, or is no part of a recipe.

        Examples
        --------
        >>> recipe = Recipe.of("fair-qat", 2, epochs=4)
        >>> recipe.bits.name, recipe.learning_rate, str(recipe.scheme)
        ('int2', 0.02, 'mse/symmetric/per-tensor')
        """
        precision = Precision.parse(bits)
        known = {field.name for field in fields(cls)}
        if unknown := [name for name in others if name not in known]:
            raise OptionError(f"a recipe has no {unknown[0]}: it has {', '.join(sorted(known))}")
        if others.get("minutes") is not None:
            others.setdefault("epochs", _MANY_EPOCHS)
        rate = learning_rate
        if rate is None:
            rate = _RATES.get(optimizer, 0.01) * (2 if precision.bits == _LOW_BITS else 1)
        return cls(
            strategy,
            precision,
            rate,
            rate if step_learning_rate is None else step_learning_rate,
            optimizer,
            scheme=Scheme.parse(scheme),
            group_weights=None if group_weights is None else tuple(group_weights.items()),
            **others,  # type: ignore[arg-type]  # checked by __post_init__
        )

    @property
    def is_fair(self) -> bool:
        """Whether groups are brought to one level, and may have weights."""
        return self.strategy in ("fair-base", "fair-qat")

    @property
    def balances_samples(self) -> bool:
        """Whether as many samples of every group are trained on."""
        return self.is_fair and self.balance != "outputs"

    @property
    def trains_grid(self) -> bool:
        """Whether weights lie on their grid while they are trained."""
        return self.strategy in ("mpqat", "fair-qat")

    @property
    def sha256(self) -> str:
        """Hash of all fields: equal hashes mean equal results on equal data."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} is {value!r}: give a whole number, {least} or more")

"""How long a model is trained, as a fraction that schedules follow."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Budget(Protocol):
    """What is left of a training run."""

    def passed(self, iteration: int) -> float:
        """Return the fraction of the run that lies before an iteration: 0 at the first, 1 or more if it is over."""


@dataclass(frozen=True, slots=True)
class Iterations:
    """So many iterations: the same on every machine.

    Examples
    --------
    >>> Iterations(8).passed(2)
    0.25
    """

    total: int

    def passed(self, iteration: int) -> float:
        """Return the share of the iterations that lie before this one."""
        return iteration / self.total


@dataclass(frozen=True, slots=True)
class Seconds:
    """So much time on a clock, from the moment that it is made: how far a run comes depends on the machine.

    Examples
    --------
    >>> ticks = iter([100.0, 103.0])
    >>> Seconds.start(12.0, clock=lambda: next(ticks)).passed(7)
    0.25
    """

    total: float
    started: float
    clock: Callable[[], float]

    @classmethod
    def start(cls, total: float, *, spent: float = 0.0, clock: Callable[[], float] = time.monotonic) -> "Seconds":
        """Start the clock, with what was spent before."""
        return cls(total, clock() - spent, clock)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def passed(self, iteration: int) -> float:
        """Return the share of the time that is spent."""
        return self.spent / self.total

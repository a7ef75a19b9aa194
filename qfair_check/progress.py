"""A bar on stderr, while something is measured."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from qfair_check.remedy.epoch import Step


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a function that shows how many of what are done; on a terminal only, and gone at the end."""
    shown: dict[str, tqdm[Any]] = {}

    def show(what: str, done: int, total: int | None) -> None:
        if what not in shown:
            close()
            shown[what] = tqdm(total=total, desc="qfair", unit=f" {what}", file=sys.stderr, disable=None, leave=False)
        shown[what].update(done - shown[what].n)

    def close() -> None:
        for bar in shown.values():
            bar.close()

    try:
        yield show
    finally:
        close()


class TrainingBar:
    """A bar on stderr for each epoch, with the loss of the last batch; on a terminal only."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def step(self, step: "Step") -> None:
        """Show how far an epoch has come."""
        if self._bar is None:
            what = f"epoch {step.epoch:>3}"
            self._bar = tqdm(total=step.batches, desc=what, unit=" batches", file=sys.stderr, disable=None, leave=False)
        self._bar.set_postfix_str(f"loss {step.loss:.4f}", refresh=False)
        self._bar.update(step.batch - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def training_bar() -> Iterator[TrainingBar]:
    """Give a bar that is gone at the end."""
    bar = TrainingBar()
    try:
        yield bar
    finally:
        bar.close()

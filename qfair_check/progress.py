"""A bar on stderr, while something is measured."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


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

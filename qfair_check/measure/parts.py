"""A chunk that does not fit into memory goes through the model in parts."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from qfair_check.inputs.sample import Sample, mapped, size

Run = Callable[[Sample], NDArray[np.float64]]
_TOLD = ("can't allocate memory", "not enough memory", "bad_alloc")


class Parts:
    """Runs chunks of a model at one precision, in as many parts as memory needs from there on.

    Attributes
    ----------
    rows : int or None
        Samples in a part; None while whole chunks fit.
    """

    def __init__(self) -> None:
        self.rows: int | None = None

    def run(self, model: Run, batch: Sample) -> NDArray[np.float64]:
        """Return what the model answers, row by row; where memory runs out, parts are halved, down to one sample.

        Raises
        ------
        Exception
            What the model raises, if it is anything else, or one sample does not fit either.

        Examples
        --------
        >>> def small(batch):
        ...     if len(batch) > 2:
        ...         raise MemoryError
        ...     return batch.double().numpy()
        >>> parts = Parts()
        >>> parts.run(small, torch.arange(5.0)[:, None]).ravel().tolist(), parts.rows
        ([0.0, 1.0, 2.0, 3.0, 4.0], 2)
        """
        whole = size(batch)
        while True:
            rows = min(self.rows or whole, whole)
            try:
                cuts = [_cut(batch, start, start + rows) for start in range(0, whole, rows)]
                return np.concatenate([model(cut) for cut in cuts])
            except Exception as error:
                if rows == 1 or not _is_out_of_memory(error):
                    raise
            self.rows = -(-rows // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _cut(batch: Sample, start: int, stop: int) -> Sample:
    return mapped(lambda part: part[start:stop], batch)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOLD)

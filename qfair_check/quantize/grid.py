"""From a clipping range to a step and a zero point, and the exact error of a tensor on such a grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qfair_check.quantize.spec import Grid, integer_range

Floats = NDArray[np.float32 | np.float64]
Steps = NDArray[np.float64]


def step(low: Steps, high: Steps, bits: int, grid: Grid, dtype: np.dtype[np.floating]) -> tuple[Floats, Steps]:
    """Return the scale and the zero point of clipping ranges.

    Restricted: s = r / (2^(b-1)-1), full: s = r / 2^(b-1), with r = max(|low|, |high|). Asymmetric: the range
    is widened to hold 0, s = (high - low) / (2^b-1), z = round(-low / s). An empty range has s = 1.

    Parameters
    ----------
    low, high : float64 array, shape (ranges,)
    bits : int
    grid : str
    dtype : numpy dtype
        Of the weights; the scale is rounded to it, is at least its smallest normal number, so that a division by
        it stays finite, and at most its largest one.

    Returns
    -------
    scale : array of `dtype`, shape (ranges,)
    zero_point : float64 array of whole numbers, shape (ranges,)

    Source: Nagel et al. 2021, arXiv 2106.08295, section 2.2.

    Examples
    --------
    >>> step(np.array([-1.0]), np.array([2.0]), 2, "asymmetric", np.dtype("float32"))
    (array([1.], dtype=float32), array([1.]))
    """
    lowest, highest = integer_range(bits, grid)
    if grid == "asymmetric":
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        width = (high - low) / highest
    else:
        width = np.maximum(-low, high) / -lowest
    reach = np.finfo(dtype)
    scale = np.where(width > 0, np.clip(width, reach.smallest_normal, reach.max).astype(dtype), dtype.type(1))
    if grid == "asymmetric":
        return scale, np.clip(np.rint(-low / scale), lowest, highest)
    return scale, np.zeros(len(scale))


@dataclass(frozen=True, slots=True, eq=False)
class SortedWeights:
    """Weights in ascending order with prefix sums, from which the error on any grid follows quickly.

    Parameters
    ----------
    values : array, shape (n,)
    sums : float64 array, shape (n + 1,)
        ``sums[i]`` is the sum of the first i values.
    square : float
        Sum of the squares.

    Examples
    --------
    >>> SortedWeights.of(np.array([0.4, -1.0])).mean_squared_error(np.array([1.0]), np.array([0.0]), 2, "full")
    array([0.08])
    """

    values: Floats
    sums: Steps
    square: float

    @classmethod
    def of(cls, values: Floats) -> "SortedWeights":
        """Sort the weights once."""
        ordered = np.sort(values)
        wide = ordered.astype(np.float64)
        return cls(ordered, np.concatenate(([0.0], np.cumsum(wide))), float(wide @ wide))

    def mean_squared_error(self, scale: Floats, zero_point: Steps, bits: int, grid: Grid) -> Steps:
        """Return the mean squared error of rounding to nearest on each of several grids.

        With v_k the value of code k and n_k weights nearest to it, the error is
        (sum_i w_i^2 + sum_k n_k v_k^2 - 2 v_k sum_(i in k) w_i) / n: O(codes log n) for each grid.

        Parameters
        ----------
        scale, zero_point : array, shape (grids,)
        bits : int
        grid : str

        Returns
        -------
        float64 array, shape (grids,)
        """
        lowest, highest = integer_range(bits, grid)
        levels = (np.arange(lowest, highest + 1) - zero_point[:, None]) * scale.astype(np.float64)[:, None]
        middles = (levels[:, 1:] + levels[:, :-1]) / 2
        inner = np.searchsorted(self.values, middles.astype(self.values.dtype))
        edges = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, len(self.values))))
        counts, sums = np.diff(edges), np.diff(self.sums[edges])
        error: Steps = self.square + (levels * (counts * levels - 2 * sums)).sum(axis=1)
        return np.maximum(error, 0.0) / len(self.values)

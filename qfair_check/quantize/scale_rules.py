"""Where each rule clips the range of a tensor."""

from collections.abc import Callable
from functools import lru_cache
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import erf
from torch import Tensor

from qfair_check.quantize.spec import GridName, Scheme, integer_range

Floats = NDArray[np.float64]

_CANDIDATES = 200


def clipping_range(rows: Tensor, bits: int, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Return the clipping range of each channel by the rule of the scheme.

    Parameters
    ----------
    rows : tensor, shape (channels, weights)
    bits : int
    scheme : Scheme

    Returns
    -------
    low, high : tensor, shape (channels,)
        In the type of `rows`; low = -high on a symmetric grid.
    """
    if scheme.rule == "absmax":
        return absmax_range(rows, scheme.grid)
    rule = _RULES[scheme.rule]
    ranges = [rule(row, bits, scheme) for row in rows.to(torch.float64).cpu().numpy()]
    low, high = torch.tensor(ranges, dtype=rows.dtype, device=rows.device).unbind(1)
    return low, high


def absmax_range(rows: Tensor, grid: GridName) -> tuple[Tensor, Tensor]:
    """Return the range that clips nothing: plus and minus max abs(w), or min and max on an asymmetric grid."""
    if not rows.shape[1]:
        zero = rows.new_zeros(len(rows))
        return zero, zero
    if grid == "asymmetric":
        return rows.amin(1), rows.amax(1)
    high = rows.abs().amax(1)
    return -high, high


def mse_range(values: Floats, bits: int, scheme: Scheme) -> tuple[float, float]:
    """Return the range that minimizes the mean squared error of the tensor.

    The widest range is shrunk by one factor, searched over 200 candidates and refined between the
    neighbours of the best. An asymmetric range shrinks at both ends alike.

    Source: Nagel et al., arXiv 2106.08295, section 3.1 (MSE-based range setting).
    """
    low, high = _widest(values, scheme.grid)
    if high <= low:
        return low, high
    error = SquaredError(values, bits, scheme.grid)

    def at(share: float) -> float:
        return error(low * share, high * share)

    shares = np.linspace(1 / _CANDIDATES, 1, _CANDIDATES)
    errors = [at(share) for share in shares]
    best = int(np.argmin(errors))
    bounds = (shares[max(best - 1, 0)], shares[min(best + 1, _CANDIDATES - 1)])
    refined = minimize_scalar(at, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    share = float(refined.x) if refined.fun < errors[best] else float(shares[best])
    return low * share, high * share


def aciq_range(values: Floats, bits: int, scheme: Scheme) -> tuple[float, float]:
    """Return the analytic clip for a Laplace or a normal distribution, whichever fits the tensor better.

    Better is by the actual squared error on the tensor. The clip is centred on 0, or on the mean on an
    asymmetric grid. The analysis assumes 2^bits steps; the restricted symmetric grid has one fewer, which
    matters at 2 bits.

    Source: Banner et al., NeurIPS 2019, arXiv 1810.05723.
    """
    if not values.size or values.max() == values.min():
        return _widest(values, scheme.grid)
    mean = float(values.mean())
    centre = mean if scheme.grid == "asymmetric" else 0.0
    clips = (
        float(np.abs(values - mean).mean()) * laplace_clip(bits),
        float(values.std()) * normal_clip(bits),
    )
    error = SquaredError(values, bits, scheme.grid)
    best = min(clips, key=lambda clip: error(centre - clip, centre + clip))
    return centre - best, centre + best


def percentile_range(values: Floats, bits: int, scheme: Scheme) -> tuple[float, float]:
    """Return the range that holds this share of the weights: of abs(w), or on both sides if asymmetric."""
    if not values.size:
        return 0.0, 0.0
    if scheme.grid == "asymmetric":
        low, high = np.percentile(values, [100 - scheme.percentile, scheme.percentile])
        return float(low), float(high)
    high = float(np.percentile(np.abs(values), scheme.percentile))
    return -high, high


@lru_cache
def laplace_clip(bits: int) -> float:
    """Return alpha / b that minimizes 2 b^2 exp(-alpha/b) + alpha^2 / (3 * 4^bits), for Laplace of scale b.

    Source: Banner et al., arXiv 1810.05723, section 3.

    Examples
    --------
    >>> round(laplace_clip(4), 5)
    5.02864
    """
    return _minimum(lambda alpha: 2 * np.exp(-alpha) + alpha**2 / (3 * 4**bits))


@lru_cache
def normal_clip(bits: int) -> float:
    """Return alpha / sigma that minimizes the clipping and rounding error of a normal distribution.

    (sigma^2 + alpha^2)(1 - erf(alpha / (sigma sqrt 2))) - sqrt(2/pi) alpha sigma exp(-alpha^2 / (2 sigma^2))
    + alpha^2 / (3 * 4^bits).

    Source: Banner et al., arXiv 1810.05723, section 3.

    Examples
    --------
    >>> round(normal_clip(4), 5)
    2.55914
    """
    return _minimum(
        lambda alpha: (
            (1 + alpha**2) * (1 - erf(alpha / sqrt(2)))
            - sqrt(2 / np.pi) * alpha * np.exp(-(alpha**2) / 2)
            + alpha**2 / (3 * 4**bits)
        )
    )


class SquaredError:
    """The mean squared error of a tensor on a uniform grid, exact for any range at the cost of its levels.

    With the values sorted once and prefix sums of w and w^2, the error is a sum over the levels k of
    sum w^2 - 2 v_k sum w + n_k v_k^2, v_k the value of the level and n_k the weights nearest to it.

    Parameters
    ----------
    values : float64 array, shape (weights,)
    bits : int
    grid : str
    """

    def __init__(self, values: Floats, bits: int, grid: GridName) -> None:
        self._sorted = np.sort(values)
        self._sums = np.concatenate([[0.0], np.cumsum(self._sorted)])
        self._squares = np.concatenate([[0.0], np.cumsum(self._sorted**2)])
        self._grid = grid
        self._lowest, self._highest = integer_range(bits, grid)

    def __call__(self, low: float, high: float) -> float:
        """Return the mean squared error of the range from `low` to `high`."""
        codes = np.arange(self._lowest, self._highest + 1)
        if self._grid == "asymmetric":
            low, high = min(low, 0.0), max(high, 0.0)
            scale = (high - low) / (self._highest - self._lowest) or 1.0
            codes = codes - np.clip(np.rint(-low / scale), self._lowest, self._highest)
        else:
            scale = high / (self._highest if self._grid == "symmetric" else -self._lowest) or 1.0
        levels = codes * scale
        edges = np.concatenate(
            [[0], np.searchsorted(self._sorted, (levels[:-1] + levels[1:]) / 2), [len(self._sorted)]]
        )
        counts, sums, squares = np.diff(edges), np.diff(self._sums[edges]), np.diff(self._squares[edges])
        return float((squares - 2 * levels * sums + counts * levels**2).sum() / max(len(self._sorted), 1))


_RULES: dict[str, Callable[[Floats, int, Scheme], tuple[float, float]]] = {
    "mse": mse_range,
    "aciq": aciq_range,
    "percentile": percentile_range,
}


def _widest(values: Floats, grid: GridName) -> tuple[float, float]:
    if not values.size:
        return 0.0, 0.0
    if grid == "asymmetric":
        return float(values.min()), float(values.max())
    high = float(np.abs(values).max())
    return -high, high


def _minimum(error: Callable[[float], float]) -> float:
    return float(minimize_scalar(error, bounds=(0.1, 40.0), method="bounded", options={"xatol": 1e-10}).x)

"""Scale rules: each maps the weights of one tensor or channel to a clipping range.

A clip too wide spends the levels on a few outliers, one too narrow cuts them off.
"""

from collections.abc import Callable
from functools import cache
from math import erfc, exp, pi, sqrt

import numpy as np
from scipy.optimize import minimize_scalar

from qfair_check.quantize.grid import Floats, SortedWeights, step
from qfair_check.quantize.spec import Grid, Scheme

Clip = tuple[float, float]

# Candidate factors of each pass: on (0, 2] at first, then within two steps of the best.
_SEARCH_POINTS = (257, 65, 33)


def clipping_range(values: Floats, bits: int, scheme: Scheme) -> Clip:
    """Return the clipping range (low, high) of some weights by the rule of the scheme.

    Parameters
    ----------
    values : array, shape (n,)
        Finite weights of one tensor or channel.
    bits : int
        2 to 8.
    scheme : Scheme

    Examples
    --------
    >>> clipping_range(np.array([-0.5, 0.0, 2.0]), 4, Scheme()), clipping_range(np.zeros(3), 4, Scheme("mse"))
    ((-2.0, 2.0), (0.0, 0.0))
    """
    if not values.any():
        return 0.0, 0.0
    match scheme.rule:
        case "absmax":
            return absmax(values, scheme.grid)
        case "mse":
            return mse(values, bits, scheme.grid)
        case "aciq":
            return aciq(values, bits, scheme.grid)
        case "percentile":
            return percentile(values, scheme.percentile, scheme.grid)


def absmax(values: Floats, grid: Grid) -> Clip:
    """Return the range that clips nothing: -max |w| to max |w|, or min w to max w on an asymmetric grid.

    Parameters
    ----------
    values : array, shape (n,)
    grid : str

    Examples
    --------
    >>> absmax(np.array([-0.5, 2.0]), "symmetric"), absmax(np.array([-0.5, 2.0]), "asymmetric")
    ((-2.0, 2.0), (-0.5, 2.0))
    """
    low, high = float(values.min()), float(values.max())
    if grid == "asymmetric":
        return low, high
    reach = max(-low, high)
    return -reach, reach


def mse(values: Floats, bits: int, grid: Grid) -> Clip:
    """Return the range with the least mean squared error, among multiples of the widest range.

    The one factor, common to both ends, is searched on (0, 2] at steps of 1/128, and near the best at steps
    of 1/2048, then 1/16384. The error is exact at each, and the factor 1 is among them, so the result is never
    worse than `absmax`. A factor above 1 helps few distinct weights onto levels, and the full grid, whose top
    is one step short.

    Parameters
    ----------
    values : array, shape (n,)
        Not all zero.
    bits : int
    grid : str

    Source: Nagel et al. 2021, arXiv 2106.08295, section 3.1, eq. (16).

    Examples
    --------
    >>> low, high = mse(np.array([1.0] * 99 + [-3.0, 9.0]), 2, "symmetric")
    >>> round(high, 2)  # (99 * 1 + 3 + 9) / 101: each weight is sent to plus or minus the clip
    1.1
    """
    low, high = absmax(values, grid)
    ordered = SortedWeights.of(values)
    best = width = 1.0
    for points in _SEARCH_POINTS:
        factors = best + width * np.linspace(-1.0, 1.0, points)
        factors = factors[factors > 0]
        scale, zero_point = step(low * factors, high * factors, bits, grid, values.dtype)
        best = float(factors[ordered.mean_squared_error(scale, zero_point, bits, grid).argmin()])
        width *= 4 / (points - 1)
    return low * best, high * best


def aciq(values: Floats, bits: int, grid: Grid) -> Clip:
    """Return the clip that is optimal for a Laplace or for a normal distribution, whichever errs less here.

    The clip is centre -+ alpha: centred on 0, or on the mean for an asymmetric grid. alpha is `laplace_clip`
    times mean |w - mean(w)|, or `normal_clip` times the standard deviation; the choice is by the actual
    error on these weights. The analysis assumes 2^b cells of width 2 alpha / 2^b. The restricted symmetric
    grid has a level fewer, which matters at 2 bits: there a Laplace distribution of scale 1 is predicted an
    error of 0.285 and has 0.625. Equal weights have no spread; they get the range of `absmax`.

    Parameters
    ----------
    values : array, shape (n,)
        Not all zero.
    bits : int
    grid : str

    Source: Banner et al., NeurIPS 2019, arXiv 1810.05723, section 2.

    Examples
    --------
    >>> low, high = aciq(np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]), 2, "symmetric")
    >>> round(high, 3)  # 1.71064 * sqrt(1.75)
    2.263
    """
    if values.min() == values.max():
        return absmax(values, grid)
    wide = values.astype(np.float64)
    mean = wide.mean()
    centre = mean if grid == "asymmetric" else 0.0
    alpha = np.array([laplace_clip(bits) * np.abs(wide - mean).mean(), normal_clip(bits) * wide.std()])
    low, high = centre - alpha, centre + alpha
    scale, zero_point = step(low, high, bits, grid, values.dtype)
    best = SortedWeights.of(values).mean_squared_error(scale, zero_point, bits, grid).argmin()
    return float(low[best]), float(high[best])


def percentile(values: Floats, percent: float, grid: Grid) -> Clip:
    """Return the range that keeps `percent` of the weights inside.

    On symmetric grids that is the percentile of |w|; on an asymmetric grid half of the rest is cut off at
    each end. A range of no width, where more weights than that are zero, gives way to that of `absmax`.

    Parameters
    ----------
    values : array, shape (n,)
    percent : float
        In (0, 100].
    grid : str

    Examples
    --------
    >>> percentile(np.arange(-50.0, 151.0), 90, "asymmetric"), percentile(np.arange(101.0), 90, "symmetric")
    ((-40.0, 140.0), (-90.0, 90.0))
    """
    if grid == "asymmetric":
        outside = (100 - percent) / 2
        low, high = (float(end) for end in np.percentile(values, (outside, 100 - outside)))
    else:
        high = float(np.percentile(np.abs(values), percent))
        low = -high
    return (low, high) if low < 0 or high > 0 else absmax(values, grid)


@cache
def laplace_clip(bits: int) -> float:
    """Return the optimal alpha / b for a Laplace distribution of scale b.

    It minimizes 2 b^2 exp(-alpha/b) + alpha^2 / (3 * 4^bits): clipping error plus rounding error.

    Source: Banner et al., NeurIPS 2019, arXiv 1810.05723, section 2.

    Examples
    --------
    >>> round(laplace_clip(4), 5)
    5.02864
    """
    return _argmin(lambda alpha: 2 * exp(-alpha) + alpha**2 / (3 * 4**bits))


@cache
def normal_clip(bits: int) -> float:
    """Return the optimal alpha / sigma for a normal distribution.

    It minimizes (sigma^2 + alpha^2) (1 - erf(alpha / (sigma sqrt(2)))) - sqrt(2/pi) alpha sigma
    exp(-alpha^2 / (2 sigma^2)) + alpha^2 / (3 * 4^bits): clipping error plus rounding error.

    Source: Banner et al., NeurIPS 2019, arXiv 1810.05723, section 2.

    Examples
    --------
    >>> round(normal_clip(4), 5)
    2.55914
    """
    return _argmin(
        lambda alpha: (
            (1 + alpha**2) * erfc(alpha / sqrt(2))
            - sqrt(2 / pi) * alpha * exp(-(alpha**2) / 2)
            + alpha**2 / (3 * 4**bits)
        )
    )


def _argmin(error: Callable[[float], float]) -> float:
    return float(minimize_scalar(error, bounds=(0.0, 20.0), method="bounded", options={"xatol": 1e-10}).x)

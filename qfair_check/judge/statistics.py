"""How far a proportion can be trusted."""

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion.

    (p + z^2/2n +- z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes / n and z the normal
    quantile at (1 + confidence) / 2.

    Parameters
    ----------
    successes, n : int
        0 <= successes <= n and n > 0.
    confidence : float
        Two-sided, in (0, 1).

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.

    Examples
    --------
    >>> low, high = wilson_interval(9, 234)
    >>> f"[{low:.3f}, {high:.3f}]"
    '[0.020, 0.071]'
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)

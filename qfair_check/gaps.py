"""Gaps in accuracy between groups, as exact fractions: the FVO and what quantization added to it."""

from collections.abc import Sequence
from fractions import Fraction

from qfair_check.record import Measures


def accuracy_gap(accuracies: list[Fraction]) -> Fraction:
    """Return the FVO of the paper's eq. (2): max over pairs of abs(acc_g - acc_g'), exactly.

    Parameters
    ----------
    accuracies : list of Fraction
        One accuracy per group, at least one.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (2).

    Examples
    --------
    >>> accuracy_gap([Fraction(9, 10), Fraction(1, 2), Fraction(7, 10)])
    Fraction(2, 5)
    """
    return max(accuracies) - min(accuracies)


def fvo(groups: tuple[Measures, ...]) -> float | None:
    """Return the FVO of all groups; None if any of them has no accuracy, or there are fewer than two.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (2).
    """
    gap = exact_fvo(groups)
    return None if gap is None else float(gap)


def fvo_increase(groups: tuple[Measures, ...], baseline: tuple[Measures, ...]) -> float | None:
    """Return FVO(quantized) - FVO(fp32); None where either is not defined."""
    after, before = exact_fvo(groups), exact_fvo(baseline)
    return None if after is None or before is None else float(after - before)


def exact_fvo(groups: Sequence[Measures]) -> Fraction | None:
    """Return the FVO as an exact fraction; None if a group has no accuracy, or there are fewer than two."""
    accuracies = [accuracy for group in groups if (accuracy := group.exact_accuracy) is not None]
    if len(accuracies) < len(groups) or len(groups) < 2:
        return None
    return accuracy_gap(accuracies)

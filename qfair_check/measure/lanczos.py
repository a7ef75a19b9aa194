"""The largest eigenvalue of a symmetric operator that is known by its products with vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qfair_check.measure.norms import BLOCK, inner_products, norm

TOLERANCE = 5e-2
LEAST_STEPS = 6
SURE_STEPS = 8
SURE = 0.2
MOST_STEPS = 100
STABLE = 5e-3
FLOOR = 1e-7
RANDOM_SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Ritz:
    """The top Ritz pair of a Krylov space.

    Parameters
    ----------
    value : float
        The largest Ritz value: lambda_max is this or more.
    lowest : float
        The smallest Ritz value: the smallest eigenvalue is this or less.
    residual : float
        ‖Hv - value v‖: some eigenvalue is as near as that to `value`.
    products : int
        Products with the operator.
    converged : bool
        Whether the residual, the number of steps, and that value and residual have settled say so.
    vector : Tensor, shape (n,)
        Unit Ritz vector v.
    """

    value: float
    lowest: float
    residual: float
    products: int
    converged: bool
    vector: Tensor


def top_eigenvalue(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    seed: int,
    tolerance: float = TOLERANCE,
    least: int = LEAST_STEPS,
    most: int = MOST_STEPS,
    width: int = MOST_STEPS,
) -> Ritz:
    """Approximate lambda_max, the largest (most positive) eigenvalue of a symmetric H, by the Lanczos method.

    The first vector is `start` / ‖start‖ plus a random vector of norm 0.1, so that one orthogonal to the eigenvector
    cannot hide it. Every further vector is made orthogonal to all before it. The value has converged after 8 steps or
    more where ‖Hv - value v‖ <= max(tolerance abs(value), 1e-7), and after `least` where a fifth of that holds, if the
    last step changed it by at most 0.5%, and did not raise the residual, as it does when a larger eigenvalue begins to
    show; or where the vectors span the whole space. Where they span an invariant subspace, a random vector goes on.
    After `width` vectors the better half of the Ritz vectors is kept and the rest forgotten (thick restart).

    Parameters
    ----------
    product : callable
        Returns H v for a vector v of shape (n,).
    start : Tensor, shape (n,)
        May be zero, and counts as that where 1 / ‖start‖ overflows. The type of its numbers is that of the iteration;
        inner products are summed in float64.
    seed : int
        Of the random vectors.
    tolerance : float
        The largest ‖Hv - value v‖ / abs(value) of a converged value.
    least, most : int
        Steps.
    width : int
        Vectors held at a time, at least 4.

    Source: Lanczos 1950; Parlett, The Symmetric Eigenvalue Problem, 1998, theorem 4.5.1 and chapter 13; the restart:
    Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22 (2).

    Examples
    --------
    >>> diagonal = torch.tensor([3.0, 1.0, -8.0], dtype=torch.float64)
    >>> found = top_eigenvalue(lambda v: diagonal * v, torch.ones(3, dtype=torch.float64), seed=0)
    >>> round(found.value, 9), round(found.lowest, 9), found.products, found.converged
    (3.0, -8.0, 3, True)
    """
    space = _Space(start, min(width, most, len(start)), torch.Generator().manual_seed(seed))
    steps = 0
    before = residual_before = float("nan")
    while True:
        space.extend(product(space.newest))
        steps += 1
        value, lowest, residual = space.top()
        asked = tolerance if steps >= SURE_STEPS else SURE * tolerance
        is_small = residual <= max(asked * abs(value), FLOOR)
        is_stable = abs(value - before) <= max(STABLE * abs(value), FLOOR)
        is_falling = residual <= max(residual_before, FLOOR)
        converged = space.is_whole or (steps >= least and is_small and is_stable and is_falling)
        if converged or steps >= most:
            return Ritz(value, lowest, residual, steps, converged, space.top_vector())
        before, residual_before = value, residual
        space.grow()


class _Space:
    """An orthonormal basis V of a Krylov space, T = VᵀHV, and what is left of the last product."""

    def __init__(self, start: Tensor, width: int, generator: torch.Generator) -> None:
        self._n = len(start)
        self._generator = generator
        self._basis = start.new_empty((width, self._n))
        self._projected = np.zeros((width, width))
        self._size = 0
        length = norm(start)
        first = self._random(like=start)
        if length > torch.finfo(start.dtype).tiny:
            first = first.mul_(RANDOM_SHARE).add_(start, alpha=1 / length)
        self._rest, self._beta = first, 0.0
        self._normalized_rest()

    @property
    def newest(self) -> Tensor:
        """The last vector of the basis."""
        return self._basis[self._size - 1]

    @property
    def is_whole(self) -> bool:
        """Whether there is no direction left."""
        return self._size == self._n

    def extend(self, image: Tensor) -> None:
        """Take H v of the newest vector v."""
        self._rest = image.clone()
        coefficients = self._orthogonalize(self._rest)
        last = self._size - 1
        self._projected[: self._size, last] = coefficients
        self._projected[last, : self._size] = coefficients
        self._beta = 0.0 if self.is_whole else norm(self._rest)

    def top(self) -> tuple[float, float, float]:
        """Return the largest and the smallest Ritz value, and the norm of the residual of the largest."""
        values, vectors = self._eigen()
        return float(values[-1]), float(values[0]), self._beta * abs(float(vectors[-1, -1]))

    def top_vector(self) -> Tensor:
        """Return the Ritz vector of the largest Ritz value."""
        _, vectors = self._eigen()
        weights = torch.as_tensor(vectors[:, -1], dtype=self._basis.dtype, device=self._basis.device)
        return weights @ self._basis[: self._size]

    def grow(self) -> None:
        """Add what is left of the last product as a vector; a random one where nothing is."""
        scale = float(np.abs(self._projected[: self._size, : self._size]).max())
        if self._beta <= 100 * torch.finfo(self._basis.dtype).eps * scale:
            self._rest, self._beta = self._random(like=self._rest), 0.0
        coupling = np.zeros(self._size)
        coupling[-1] = self._beta
        if self._size == len(self._basis):
            coupling = self._restart()
        self._normalized_rest()
        last = self._size - 1
        self._projected[:last, last] = self._projected[last, :last] = coupling

    def _normalized_rest(self) -> None:
        self._orthogonalize(self._rest)
        torch.div(self._rest, norm(self._rest), out=self._basis[self._size])
        self._size += 1

    def _restart(self) -> NDArray[np.float64]:
        """Keep the lowest and the top Ritz vectors, and return how the rest is coupled to each."""
        values, vectors = self._eigen()
        kept = np.r_[0, np.arange(self._size - self._size // 2, self._size)]
        turned = torch.as_tensor(vectors[:, kept].T, dtype=self._basis.dtype, device=self._basis.device)
        for block in _blocks(self._n):
            self._basis[: len(kept), block] = turned @ self._basis[: self._size, block]
        coupling = self._beta * vectors[-1, kept]
        self._size = len(kept)
        self._projected[:] = 0.0
        self._projected[: self._size, : self._size] = np.diag(values[kept])
        return np.asarray(coupling, np.float64)

    def _eigen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, vectors = np.linalg.eigh(self._projected[: self._size, : self._size])
        return values, vectors

    def _orthogonalize(self, vector: Tensor) -> NDArray[np.float64]:
        """Take out of a vector, in place, its part within the basis, and return its coordinates there."""
        whole = np.zeros(self._size)
        for _ in range(2):
            coordinates = inner_products(self._basis[: self._size], vector)
            vector.addmv_(self._basis[: self._size].T, coordinates.to(vector.dtype), alpha=-1)
            whole += coordinates.cpu().numpy()
        return whole

    def _random(self, like: Tensor) -> Tensor:
        drawn = torch.randn(self._n, generator=self._generator, dtype=like.dtype)
        return drawn.div_(norm(drawn)).to(like.device)


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]

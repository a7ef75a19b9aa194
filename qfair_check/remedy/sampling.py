"""Epochs in which every group has the same number of samples."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from qfair_check.errors import InputError, OptionError


class GroupBalancedSampler(Sampler[int]):
    """Draw every group equally often: undersample the majority, oversample the minority (U-O).

    With n_g samples in a group and m wanted, an epoch holds each sample of the group floor(m / n_g) times, and
    m mod n_g of them once more, drawn without replacement: counts within a group differ by at most one. The order is
    that of one shuffle over all groups. It depends on the seed and the epoch alone, and uses no global random state.

    Parameters
    ----------
    groups : array-like, shape (samples,)
        The group of each sample, as a number or a name.
    size : int, optional
        Samples of each group in an epoch, m. The mean group size by default, rounded to a whole number (half to
        even), and at least 1.
    seed : int
        Not negative.
    rank, world_size : int
        This sampler yields every `world_size`-th index of the epoch, from place `rank` on: over all ranks each
        index of the epoch comes once, and lengths differ by at most one.

    Raises
    ------
    InputError
        If there are no samples.
    OptionError
        If the size is below 1, the seed negative, or there is no such rank.

    Source: Bellam & Kim, arXiv 2509.07222, section 5.1, which gives no size; the mean keeps an epoch's length.

    Examples
    --------
    >>> groups = ["a", "a", "a", "a", "a", "a", "b", "b"]
    >>> sampler = GroupBalancedSampler(groups, seed=7)
    >>> sorted(groups[index] for index in sampler)
    ['a', 'a', 'a', 'a', 'b', 'b', 'b', 'b']
    >>> first = list(sampler)
    >>> sampler.set_epoch(1)
    >>> first == list(sampler)
    False
    """

    def __init__(
        self,
        groups: Sequence[int] | Sequence[str] | ArrayLike,
        *,
        size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        members = _members(groups)
        mean = round(sum(map(len, members)) / len(members))
        self._size = mean if size is None else size
        if self._size < 1:
            raise OptionError(f"{self._size} samples of each group make no epoch: give a size of 1 or more")
        if seed < 0:
            raise OptionError(f"the seed is {seed}: give 0 or more")
        if not 0 <= rank < world_size:
            raise OptionError(f"there is no rank {rank} among {world_size}: ranks are 0 to world_size - 1")
        self._members = members
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0

    @property
    def size(self) -> int:
        """How many samples of each group an epoch holds, over all ranks."""
        return self._size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; all ranks must agree on it.

        Raises
        ------
        OptionError
            If it is negative.
        """
        if epoch < 0:
            raise OptionError(f"the epoch is {epoch}: give 0 or more")
        self._epoch = epoch

    def __len__(self) -> int:
        """Return how many indices this rank yields."""
        return len(range(self._rank, self._size * len(self._members), self._world_size))

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this rank."""
        generator = np.random.default_rng((self._seed, self._epoch))
        drawn = [_drawn(indices, self._size, generator) for indices in self._members]
        epoch = generator.permutation(np.concatenate(drawn))
        yield from epoch[self._rank :: self._world_size].tolist()


def _members(groups: ArrayLike) -> list[NDArray[np.int64]]:
    """Return the indices of each group that has samples, in the order of group values."""
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    if not codes.size:
        raise InputError("there are no samples to draw from: give the group of each one")
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _drawn(indices: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    whole, rest = divmod(size, len(indices))
    return np.concatenate([np.tile(indices, whole), generator.permutation(indices)[:rest]])

"""A part of the training data that is held out to choose by, and what must not be in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.wording import listed

Integers = NDArray[np.int64]
MOST_SHARED = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Places of the samples that are trained on, and of those that are held out; both sorted."""

    fit: Integers
    held_out: Integers


def split_by_group(labels: Integers, groups: Integers, names: Sequence[str], *, share: float, seed: int) -> Split:
    """Hold out a share of every group, and within it of every class.

    Of n_g samples round(share n_g) are held out, but at least one, and at least one is left. Classes within the group
    have their shares, rounded so that they add up (largest remainder). It depends on the arguments alone.

    Parameters
    ----------
    labels, groups : int64 array, shape (samples,)
    names : sequence of str
        Of all groups.
    share : float
        In (0, 1).
    seed : int

    Raises
    ------
    OptionError
        If the share is out of range.
    InputError
        If a group has fewer than two samples.

    Examples
    --------
    >>> groups = np.array([0] * 10 + [1] * 4)
    >>> split = split_by_group(np.zeros(14, np.int64), groups, ["a", "b"], share=0.2, seed=0)
    >>> groups[split.held_out].tolist(), len(split.fit)
    ([0, 0, 1], 11)
    """
    if not 0 < share < 1:
        raise OptionError(f"the held-out share is {share:g}: give a number above 0 and below 1")
    counts = np.bincount(groups, minlength=len(names))
    if absent := [name for name, count in zip(names, counts.tolist(), strict=True) if not count]:
        raise InputError(_absent(absent))
    if single := [name for name, count in zip(names, counts.tolist(), strict=True) if count == 1]:
        raise InputError(
            f"the training data has a single sample of {listed(single)}: one must be trained on and another held out, "
            "so give at least two of each group"
        )
    generator = np.random.default_rng(seed)
    held: list[Integers] = []
    for group, count in enumerate(counts.tolist()):
        mine = np.flatnonzero(groups == group)
        wanted = min(max(round(share * count), 1), count - 1)
        cells = [generator.permutation(mine[labels[mine] == label]) for label in np.unique(labels[mine])]
        held += [cell[:size] for cell, size in zip(cells, _shares(list(map(len, cells)), wanted), strict=True)]
    held_out = np.sort(np.concatenate(held))
    return Split(np.setdiff1d(np.arange(len(groups)), held_out), held_out)


def check_groups(trained: Sequence[str], audited: Sequence[str]) -> None:
    """Refuse training data that lacks a group of the audited data.

    Raises
    ------
    InputError
        Naming the groups.
    """
    if absent := [name for name in audited if name not in trained]:
        raise InputError(_absent(absent))


def check_outputs(labels: Integers, classes: Sequence[str], outputs: int) -> None:
    """Refuse training data whose classes are not the outputs of the model.

    Raises
    ------
    InputError
        If a label has no output; or there are fewer names than outputs, so that a class without samples would shift
        those behind it. Names that are the indices 0, 1, ... may be fewer.

    Examples
    --------
    >>> check_outputs(np.array([0, 1]), ["0", "1"], 3)
    """
    if len(beyond := labels[labels >= outputs]):
        label = int(beyond[0])
        raise InputError(
            f"the training data has class {classes[label]!r} (index {label}), and the model has {outputs} outputs; "
            f"labels out of range: {len(beyond)}"
        )
    if len(classes) != outputs and not _are_indices(classes):
        raise InputError(
            f"the training data has {len(classes)} classes ({', '.join(classes[:8])}) and the model {outputs} outputs: "
            f"pass --qfair-classes with {outputs} names in the order of the outputs"
        )


def check_same_classes(trained: Sequence[str], audited: Sequence[str]) -> None:
    """Refuse training data that names the outputs otherwise than the audited data.

    Raises
    ------
    InputError
        Naming both.
    """
    if tuple(trained) != tuple(audited) and not _are_indices(trained) and not _are_indices(audited):
        raise InputError(
            f"the training data has the classes {', '.join(trained[:8])} and the audited data "
            f"{', '.join(audited[:8])}: pass --qfair-classes with the names in the order of the model's outputs"
        )


def overlap_notice(trained: Sequence[bytes], audited: Sequence[bytes]) -> str | None:
    """Say how many audited samples are also trained on, by the digests of their inputs; None if there are none.

    Raises
    ------
    InputError
        If they are more than 1% of the audited ones.

    Examples
    --------
    >>> overlap_notice([b"a", b"b"], [b"b", *(bytes(2) + bytes([i]) for i in range(150))])
    '1 of 151 audited samples is also in the training data: its accuracy tells nothing of new samples'
    """
    known = set(trained)
    shared = sum(digest in known for digest in audited)
    if not shared:
        return None
    told = f"{shared:,} of {len(audited):,} audited samples {'is' if shared == 1 else 'are'} also in the training data"
    if shared > MOST_SHARED * len(audited):
        raise InputError(
            f"{told}, above 1%: what is trained on cannot be audited; name another split, or take these samples out of "
            "the training data"
        )
    return f"{told}: {'its' if shared == 1 else 'their'} accuracy tells nothing of new samples"


def repeated_notice(digests: Sequence[bytes], split: Split) -> str | None:
    """Say how many held-out samples have an input that is trained on too; None if none has.

    Examples
    --------
    >>> repeated_notice([b"a", b"b", b"a"], Split(np.array([0]), np.array([1, 2])))
    '1 of 2 held-out samples has the same input as one that is trained on, and choose as if they were new'
    """
    trained = {digests[index] for index in split.fit}
    repeated = sum(digests[index] in trained for index in split.held_out)
    if not repeated:
        return None
    return (
        f"{repeated:,} of {len(split.held_out):,} held-out samples {'has' if repeated == 1 else 'have'} the same input "
        "as one that is trained on, and choose as if they were new"
    )


def _are_indices(classes: Sequence[str]) -> bool:
    return tuple(classes) == tuple(map(str, range(len(classes))))


def _absent(names: Sequence[str]) -> str:
    verb = "has" if len(names) == 1 else "have"
    return f"{listed(names)} {verb} no samples in the training data, and cannot be balanced: give some of every group"


def _shares(sizes: Sequence[int], wanted: int) -> list[int]:
    """Divide a number in proportion to sizes by the largest remainder; of equal ones the first."""
    exact = [wanted * size / sum(sizes) for size in sizes]
    floors = [int(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda index: floors[index] - exact[index])
    for index in order[: wanted - sum(floors)]:
        floors[index] += 1
    return floors

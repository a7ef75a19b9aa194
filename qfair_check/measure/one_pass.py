"""One pass over the data: each chunk goes through the model at every precision, and is counted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from qfair_check.errors import InputError, MeasureError
from qfair_check.inputs.grouped import GroupedData, Roster
from qfair_check.inputs.sample import described, kind, mapped, parts
from qfair_check.inputs.wording import counted, listed
from qfair_check.measure.chunks import CHUNK, Chunk, Samples
from qfair_check.measure.forward import Forward
from qfair_check.measure.parts import Parts
from qfair_check.measure.tally import Tally
from qfair_check.outcome_rows import pack_bits
from qfair_check.precision import AS_IS

_BLOCK_VALUES = 15_000
_SURE = 30
_MOST_UNREAD = 10

Progress = Callable[[str, int, int | None], object]


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What one pass over the data gave, by precision; `right` packs one bit per sample.

    `position` tells the final position of each group, in the order in which chunks numbered them.
    """

    tallies: list[Tally]
    right: list[bytes]
    digests: list[bytes]
    data: GroupedData
    position: NDArray[np.int64]
    notices: tuple[str, ...]


def one_pass(
    stream: Iterable[Chunk],
    forwards: Sequence[Forward],
    data: Samples,
    roster: Roster,
    *,
    seed: int,
    keep: Callable[[Chunk], object] | None = None,
    progress: Progress | None = None,
) -> Passed:
    """Run every chunk through every precision, the first of which is the baseline, count, and hand it to `keep`.

    Raises
    ------
    MeasureError
        If the model fails, or gives no logits, or not always the same number of them.
    InputError
        If the data does not fit the model.
    """
    counter: _Counter | None = None
    digests = []
    unread: list[str] = []
    parts_of = [Parts() for _ in forwards]
    for chunk in stream:
        answers = [
            _logits(forward, in_parts, chunk, data, seed) for forward, in_parts in zip(forwards, parts_of, strict=True)
        ]
        if counter is None:
            classes = answers[0].shape[1]
            if answers[-1].shape[1] != classes and forwards[-1].precision == AS_IS:
                raise InputError(
                    f"the reference answers with {classes} logits, and the model with {answers[-1].shape[1]}: name the "
                    "model that this one was made from"
                )
            if isinstance(data, GroupedData):
                _fitted(data, classes)
            counter = _Counter(len(forwards), classes, roster)
        for forward, logits in zip(forwards, answers, strict=True):
            if logits.shape[1] != counter.classes:
                raise MeasureError(
                    f"the model at {forward.precision} gave {logits.shape[1]} logits on {data.where(chunk.start)} and "
                    f"the samples after it, and {counter.classes} before"
                )
        _check_labels(chunk, counter.classes, data)
        counter.add(chunk, answers)
        digests.append(chunk.digest)
        unread += [why for why in chunk.unread if why is not None]
        if keep:
            keep(chunk)
        if progress:
            progress("samples", chunk.start + chunk.size, data.size)
    if counter is None:
        raise InputError(f"{data.source} holds no samples")
    counter.count()
    known, position = roster.finish()
    fitted = _fitted(known, counter.classes)
    tallies = [tally.reordered(position, len(fitted.group_names)) for tally in counter.tallies]
    right = [b"".join(packed) for packed in counter.right]
    notices = (*counter.notices(), *_told_of_memory(forwards, parts_of), *_told_of_unread(unread))
    return Passed(tallies, right, digests, fitted, position, notices)


class _Counter:
    """Tallies of blocks of chunks, large enough for numpy to be quick, and small enough to be nothing in memory."""

    def __init__(self, subjects: int, classes: int, roster: Roster) -> None:
        self.classes = classes
        self.tallies = [Tally.empty(roster.n_groups, classes)] * subjects
        self.right: list[list[bytes]] = [[] for _ in range(subjects)]
        self._roster = roster
        self._held: list[tuple[Chunk, list[NDArray[np.float64]]]] = []
        self._waiting = self._samples = 0
        self._lie_in_unit = self._sum_to_one = self._are_single = self._are_null = True

    def add(self, chunk: Chunk, answers: list[NDArray[np.float64]]) -> None:
        """Take a chunk, and what each precision answered."""
        self._held.append((chunk, answers))
        self._waiting += chunk.size * self.classes
        if self._waiting >= _BLOCK_VALUES:
            self.count()

    def count(self) -> None:
        """Count what is held."""
        if not self._held:
            return
        chunks = [chunk for chunk, _ in self._held]
        labels = np.concatenate([chunk.labels for chunk in chunks])
        groups = np.concatenate([chunk.groups for chunk in chunks])
        unread = np.concatenate([chunk.is_unread for chunk in chunks])
        by_subject = [np.concatenate(logits) for logits in zip(*(answers for _, answers in self._held), strict=True)]
        width = max(self._roster.n_groups, self.tallies[0].counts.shape[1])
        for index, logits in enumerate(by_subject):
            tally, right = Tally.of(logits, by_subject[0], labels, groups, width, unread)
            self.tallies[index] = self.tallies[index].widened(width) + tally
            self.right[index].append(pack_bits(right))
        self._look_at(by_subject[0])
        self._held.clear()
        self._waiting = 0

    def notices(self) -> tuple[str, ...]:
        """Say whether the baseline answers with probabilities.

        Raises
        ------
        MeasureError
            If it is a single one: then a logit of 0 is no middle, and every prediction is wrong.
        """
        if not self._lie_in_unit:
            return ()
        if self._are_single and not self._are_null:
            told = (
                f"the model's one output lies between 0 and 1 on all {self._samples} samples, as a probability does: "
                "return the logit, without a sigmoid at the end"
            )
            if self._samples >= _SURE:
                raise MeasureError(told)
            return (told,)
        if self._sum_to_one:
            return (
                "the model's outputs are probabilities (between 0 and 1, adding up to 1): loss, distances and "
                "probabilities are computed as if they were logits; return these, without a softmax at the end",
            )
        return ()

    def _look_at(self, logits: NDArray[np.float64]) -> None:
        self._samples += len(logits)
        if self._lie_in_unit:
            self._lie_in_unit = bool(((logits >= 0) & (logits <= 1)).all())
            self._sum_to_one &= bool((abs(logits.sum(axis=1) - 1) < 1e-3).all())
            self._are_single &= logits.shape[1] == 2 and not logits[:, 0].any()
            self._are_null &= not logits.any()


def _told_of_memory(forwards: Sequence[Forward], parts_of: Sequence[Parts]) -> Iterator[str]:
    """Say at which precisions chunks went through the model in parts; the last bits of floats depend on it."""
    for forward, in_parts in zip(forwards, parts_of, strict=True):
        if in_parts.rows is not None:
            yield (
                f"memory ran out at {forward.precision} with {CHUNK} samples at a time, and chunks went through the "
                f"model {counted(in_parts.rows, 'sample')} at a time: values may differ in their last bits from those "
                "of another run"
            )


def _told_of_unread(whys: Sequence[str]) -> Iterator[str]:
    """Name the samples that could not be read, the first ten of many."""
    if whys:
        more = len(whys) - _MOST_UNREAD
        told = "; ".join(whys[:_MOST_UNREAD]) + (f"; and {more:,} more" if more > 0 else "")
        yield f"{counted(len(whys), 'sample')} could not be read, and their groups cannot be judged: {told}"


def _logits(forward: Forward, in_parts: Parts, chunk: Chunk, data: Samples, seed: int) -> NDArray[np.float64]:
    """Return the logits of a chunk; a model that changes its input or its answers, or draws, disturbs no other."""
    _seed_all(seed + chunk.start, forward.device)
    try:
        with torch.inference_mode():
            answer = in_parts.run(lambda part: forward.logits(mapped(torch.clone, part)), chunk.batch)
            return answer[: chunk.size].copy()
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        raised = "" if isinstance(error, MeasureError) else f"{type(error).__name__}: "
        last = data.where(chunk.start + chunk.size - 1)
        has_floats = any(part.is_floating_point() for _, part in parts(chunk.batch))
        cure = "" if has_floats else "; if the model takes floats, give x as floats"
        if isinstance(chunk.batch, dict) and isinstance(error, TypeError):
            cure = f"; it was called with {listed(chunk.batch)} by name: let samples hold only what the model takes"
        raise MeasureError(
            f"the model at {forward.precision} failed on {data.where(chunk.start)} to {last}, as a batch of shape "
            f"{described(kind(chunk.batch))}: {raised}{error}{cure}"
        ) from error


def _seed_all(seed: int, device: torch.device) -> None:
    """Seed the generators that the caller restores; torch.manual_seed would reach every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _check_labels(chunk: Chunk, classes: int, data: Samples) -> None:
    beyond = np.flatnonzero(chunk.labels >= classes)
    if len(beyond):
        first = int(beyond[0])
        raise InputError(
            f"{data.where(chunk.start + first)} has class index {chunk.labels[first]}, and the model has {classes} "
            "outputs"
        )


def _fitted(data: GroupedData, classes: int) -> GroupedData:
    """Return the data with a name for every output of the model, or say why it does not fit."""
    beyond = np.flatnonzero(data.labels >= classes)
    if len(beyond):
        first = int(beyond[0])
        raise InputError(
            f"{data.where(first)} has class {data.classes[data.labels[first]]!r} (index {data.labels[first]}), and "
            f"the model has {classes} outputs; labels out of range: {len(beyond)}"
        )
    if len(data.classes) == classes:
        return data
    if data.class_order != "indices" or data.classes != tuple(map(str, range(len(data.classes)))):
        raise InputError(
            f"the data has {len(data.classes)} classes ({', '.join(data.classes[:8])}) and the model {classes} "
            f"outputs: pass --qfair-classes with {classes} names in the order of the outputs"
        )
    names = tuple(map(str, range(classes)))
    return replace(data, classes=names, group_names=data.group_names if data.group_by else names)

"""Sums over samples, by group, that merge: everything the forward pass contributes to an audit."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qfair_check.record import DTDB_BINS, UNREAD, Measures, Recall

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

MEANS = (
    "loss",
    "logit_variance",
    "softmax_variance",
    "prediction_probability",
    "l1_distance",
    "l2_distance",
    "cosine_distance",
)
PAIRED = (
    "accuracy_drop",
    "cosine_distance",
    "l1_distance",
    "l2_distance",
    "flips",
    "flip_rate",
    "both_right",
    "right_to_wrong",
    "wrong_to_right",
    "both_wrong",
)
_COUNTS = ("samples", "nonfinite", "null_logits", "correct", "flips", "right_to_wrong", "wrong_to_right", "unread")


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums by group at one precision: `counts` (8, groups), `sums` (7, groups) and three histograms.

    `Tally.of` makes one from a block of samples and `+` joins two, in any order and from any process.
    """

    counts: Integers
    sums: Floats
    dtdb: Integers
    class_samples: Integers
    class_correct: Integers

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.counts + other.counts,
            self.sums + other.sums,
            self.dtdb + other.dtdb,
            self.class_samples + other.class_samples,
            self.class_correct + other.class_correct,
        )

    @classmethod
    def empty(cls, groups: int, classes: int) -> "Tally":
        """Return the tally of no samples."""
        return cls(
            np.zeros((len(_COUNTS), groups), np.int64),
            np.zeros((len(MEANS), groups)),
            np.zeros((groups, DTDB_BINS), np.int64),
            np.zeros((groups, classes), np.int64),
            np.zeros((groups, classes), np.int64),
        )

    @classmethod
    def of(
        cls,
        logits: Floats,
        baseline: Floats,
        labels: Integers,
        groups: Integers,
        n_groups: int,
        unread: Flags | None = None,
    ) -> tuple["Tally", Flags]:
        """Tally a block of samples, and return also whether each prediction was right.

        Parameters
        ----------
        logits, baseline : float64 array, shape (samples, classes)
            f_q(x) and f_o(x).
        labels, groups : int64 array, shape (samples,)
            True class and group of each sample.
        n_groups : int
            Number of groups, also of those without a sample here.
        unread : bool array, shape (samples,), optional
            Which samples could not be read: their logits mean nothing.
        """
        lacking = np.zeros(len(logits), np.bool_) if unread is None else unread
        z = _by_class(logits)
        r = z if baseline is logits else _by_class(baseline)
        finite: Flags = np.asarray(np.isfinite(z).all(axis=0), np.bool_) & ~lacking
        both: Flags = finite if r is z else finite & np.asarray(np.isfinite(r).all(axis=0), np.bool_)
        z[:, ~finite] = 0.0
        r[:, ~both] = 0.0
        of_label = labels * len(logits) + np.arange(len(logits))  # where each sample's class is in z

        predicted = z.argmax(axis=0)
        predicted_before = predicted if r is z else r.argmax(axis=0)
        right = (predicted == labels) & finite
        before = (predicted_before == labels) & both
        changed = (predicted != predicted_before) & both

        top = z.max(axis=0)
        probabilities = z - top
        np.exp(probabilities, out=probabilities)
        total = probabilities.sum(axis=0)
        probabilities /= total
        loss = np.log(total) + top - z.take(of_label)
        with np.errstate(over="ignore", invalid="ignore"):
            logit_variance = z.var(axis=0)
            z[:, ~both] = 0.0
            l1_distance, l2_distance, cosine_distance, null = _distances(z, r)
            means = (
                loss,
                logit_variance,
                probabilities.var(axis=0),
                1 / total,
                l1_distance,
                l2_distance,
                cosine_distance,
            )
        flags = (
            ~finite & ~lacking,
            null & both,
            right,
            changed,
            before & ~right & both,
            right & ~before & both,
            lacking,
        )
        bins = np.minimum((probabilities.take(of_label) * DTDB_BINS).astype(np.int64), DTDB_BINS - 1)
        classes = len(z)
        tally = cls(
            np.stack([np.bincount(part, minlength=n_groups) for part in (groups, *(groups[flag] for flag in flags))]),
            np.stack([np.bincount(groups, value, minlength=n_groups) for value in means]),
            _table(groups, bins, n_groups, DTDB_BINS),
            _table(groups, labels, n_groups, classes),
            _table(groups[right], labels[right], n_groups, classes),
        )
        return tally, right

    def widened(self, groups: int) -> "Tally":
        """Return the tally with further groups of no samples, so that there are `groups`."""
        return self.reordered(np.arange(self.counts.shape[1]), groups)

    def reordered(self, position: Integers, groups: int) -> "Tally":
        """Return the tally with each group at another position, among `groups`."""
        moved = Tally.empty(groups, self.class_samples.shape[1])
        moved.counts[:, position], moved.sums[:, position] = self.counts, self.sums
        moved.dtdb[position] = self.dtdb
        moved.class_samples[position], moved.class_correct[position] = self.class_samples, self.class_correct
        return moved

    def pooled(self) -> "Tally":
        """Return the tally of all groups as one group."""
        return Tally(*(getattr(self, name).sum(axis=axis, keepdims=True) for name, axis in _GROUP_AXIS))

    def measures(self, baseline: "Tally") -> tuple[Measures, ...]:
        """Turn sums into means, one `Measures` per group; `baseline` is the tally at fp32."""
        return tuple(self._measures(group, baseline) for group in range(self.counts.shape[1]))

    def recalls(self, classes: tuple[str, ...]) -> tuple[Recall, ...]:
        """Return recall by class and group; a gap is not defined where logits are not finite, or samples unread."""
        is_finite = not any(self.counts[_COUNTS.index(name)].any() for name in ("nonfinite", "unread"))
        return tuple(
            _recall(label, self.class_samples[:, index], self.class_correct[:, index], is_finite)
            for index, label in enumerate(classes)
        )

    def _measures(self, group: int, baseline: "Tally") -> Measures:
        count = dict(zip(_COUNTS, self.counts[:, group].tolist(), strict=True))
        before = dict(zip(_COUNTS, baseline.counts[:, group].tolist(), strict=True))
        n, compared = count["samples"], count["samples"] - count["null_logits"]
        values: dict[str, float | int | None] = {
            name: float(total) / (compared if name == "cosine_distance" else n)
            if (compared if name == "cosine_distance" else n)
            else None
            for name, total in zip(MEANS, self.sums[:, group], strict=True)
        }
        values |= {
            "correct": count["correct"],
            "accuracy": count["correct"] / n if n else None,
            "accuracy_drop": (before["correct"] - count["correct"]) / n if n else None,
            "flips": count["flips"],
            "flip_rate": count["flips"] / n if n else None,
            "right_to_wrong": count["right_to_wrong"],
            "wrong_to_right": count["wrong_to_right"],
            "both_right": count["correct"] - count["wrong_to_right"],
            "both_wrong": n - count["correct"] - count["right_to_wrong"],
        }
        undefined = _undefined(values, count, before)
        values |= dict.fromkeys(undefined)
        return Measures(
            samples=n,
            nonfinite=count["nonfinite"],
            null_logits=count["null_logits"],
            dtdb=() if "loss" in undefined else tuple(self.dtdb[group].tolist()),
            undefined=undefined,
            **values,  # type: ignore[arg-type]  # counts are int and means are float by name
        )


_GROUP_AXIS = (("counts", 1), ("sums", 1), ("dtdb", 0), ("class_samples", 0), ("class_correct", 0))


def _undefined(values: dict[str, float | int | None], count: dict[str, int], before: dict[str, int]) -> dict[str, str]:
    n = count["samples"]
    if not n:
        return {name: "no samples" for name, value in values.items() if value is None}
    if count["unread"]:
        return dict.fromkeys(values, f"{count['unread']} of {n} samples {UNREAD}")
    if count["nonfinite"]:
        return dict.fromkeys(values, f"{count['nonfinite']} of {n} samples have NaN or infinite logits")
    if before["nonfinite"]:
        reason = f"{before['nonfinite']} of {n} samples have NaN or infinite logits at fp32"
        return dict.fromkeys(PAIRED, reason)
    too_large = [name for name, value in values.items() if value is not None and not math.isfinite(value)]
    undefined = dict.fromkeys(too_large, "logits are too large: a sum of their squares overflows")
    if values["cosine_distance"] is None:
        undefined["cosine_distance"] = f"all {n} samples have a null logit vector"
    return undefined


def _recall(label: str, samples: Integers, correct: Integers, is_finite: bool) -> Recall:
    held = samples > 0
    rates = correct[held] / samples[held]
    gap = float(rates.max() - rates.min()) if is_finite and held.sum() > 1 else None
    return Recall(label, tuple(samples.tolist()), tuple(correct.tolist()), gap)


def _by_class(logits: Floats) -> Floats:
    """Return a copy of shape (classes, samples): numpy adds up few long rows many times faster than many short ones."""
    return np.array(logits.T, np.float64, order="C")


def _distances(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats, Flags]:
    """Return by column the L1, the L2 and the cosine distance, and where a vector is null.

    The cosine distance is 1 - a.b / (|a| |b|), and 0 where a vector is null.
    """
    squares = (a**2).sum(axis=0)
    if b is a:
        nothing = np.zeros(a.shape[1])
        return nothing, nothing, nothing, squares == 0
    norms = np.sqrt(squares) * np.sqrt((b**2).sum(axis=0))
    null = norms == 0
    cosine = (a * b).sum(axis=0) / np.where(null, 1.0, norms)
    difference = a - b
    return (
        np.abs(difference).sum(axis=0),
        np.sqrt((difference**2).sum(axis=0)),
        np.where(null, 0.0, np.maximum(1.0 - cosine, 0.0)),
        null,
    )


def _table(rows: Integers, columns: Integers, n_rows: int, n_columns: int) -> Integers:
    flat = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    return flat.reshape(n_rows, n_columns).astype(np.int64)

"""Sums over samples, by group, that merge: everything the forward pass contributes to an audit."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qfair_check.record import DTDB_BINS, Measures, Recall

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_MEANS = (
    "loss",
    "logit_variance",
    "softmax_variance",
    "prediction_probability",
    "l1_distance",
    "l2_distance",
    "cosine_distance",
)
_PAIRED = (
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
_COUNTS = ("samples", "nonfinite", "null_logits", "correct", "flips", "right_to_wrong", "wrong_to_right")


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums by group at one precision: `counts` (7, groups), `sums` (7, groups) and three histograms.

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
            np.zeros((len(_MEANS), groups)),
            np.zeros((groups, DTDB_BINS), np.int64),
            np.zeros((groups, classes), np.int64),
            np.zeros((groups, classes), np.int64),
        )

    @classmethod
    def of(
        cls, logits: Floats, baseline: Floats, labels: Integers, groups: Integers, n_groups: int
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
        """
        finite: Flags = np.asarray(np.isfinite(logits).all(axis=1), np.bool_)
        both: Flags = finite & np.asarray(np.isfinite(baseline).all(axis=1), np.bool_)
        z = np.where(finite[:, None], logits, 0.0)
        r = np.where(both[:, None], baseline, 0.0)
        rows = np.arange(len(z))

        right = (z.argmax(axis=1) == labels) & finite
        before = (r.argmax(axis=1) == labels) & both
        changed = (z.argmax(axis=1) != r.argmax(axis=1)) & both

        top = z.max(axis=1)
        exponentials = np.exp(z - top[:, None])
        total = exponentials.sum(axis=1)
        probabilities = exponentials / total[:, None]
        loss = np.log(total) + top - z[rows, labels]
        with np.errstate(over="ignore", invalid="ignore"):
            cosine, null = _cosine_distance(np.where(both[:, None], z, 0.0), r)
            difference = np.where(both[:, None], z - r, 0.0)
            means = (
                loss,
                z.var(axis=1),
                probabilities.var(axis=1),
                probabilities.max(axis=1),
                np.abs(difference).sum(axis=1),
                np.sqrt((difference**2).sum(axis=1)),
                cosine,
            )
        flags = (
            np.ones(len(z), np.bool_),
            ~finite,
            null & both,
            right,
            changed,
            before & ~right & both,
            right & ~before & both,
        )
        bins = np.minimum((probabilities[rows, labels] * DTDB_BINS).astype(np.int64), DTDB_BINS - 1)
        classes = z.shape[1]
        tally = cls(
            np.stack([np.bincount(groups[flag], minlength=n_groups) for flag in flags]).astype(np.int64),
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
        """Return recall by class and group; a gap is not defined where a group has NaN or infinite logits."""
        is_finite = not self.counts[_COUNTS.index("nonfinite")].any()
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
            for name, total in zip(_MEANS, self.sums[:, group], strict=True)
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
    if count["nonfinite"]:
        return dict.fromkeys(values, f"{count['nonfinite']} of {n} samples have NaN or infinite logits")
    if before["nonfinite"]:
        reason = f"{before['nonfinite']} of {n} samples have NaN or infinite logits at fp32"
        return dict.fromkeys(_PAIRED, reason)
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


def _cosine_distance(a: Floats, b: Floats) -> tuple[Floats, Flags]:
    """Return 1 - a.b / (|a| |b|) by row, 0 where a vector is null, and where that is."""
    norms = np.sqrt((a**2).sum(axis=1)) * np.sqrt((b**2).sum(axis=1))
    null = norms == 0
    cosine = (a * b).sum(axis=1) / np.where(null, 1.0, norms)
    return np.where(null, 0.0, np.maximum(1.0 - cosine, 0.0)), null


def _table(rows: Integers, columns: Integers, n_rows: int, n_columns: int) -> Integers:
    flat = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    return flat.reshape(n_rows, n_columns).astype(np.int64)

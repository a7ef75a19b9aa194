"""What later audits of the same data are compared with: the counts of each group, by precision and scheme."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from qfair_check.errors import OptionError
from qfair_check.precision import Precision
from qfair_check.record import Audit, PrecisionResult

BASELINE_VERSION = 1
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many samples a group has, and how many of them are right; None where that is not defined."""

    samples: int
    correct: int | None

    @property
    def accuracy(self) -> Fraction | None:
        """The share that is right; None where that is not defined."""
        return None if self.correct is None or not self.samples else Fraction(self.correct, self.samples)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one precision gave.

    Parameters
    ----------
    precision, scheme, allocation : str
        The key: the precision, and the texts of scheme and of bits by layer.
    model : str or None
        Hash of the model's state dict.
    groups : tuple of Tally
        In the order of `Baseline.groups`.
    right : bytes
        One bit per sample in the order of the data, 1 where the prediction was right; empty where it is not known.
    """

    precision: str
    scheme: str
    allocation: str
    model: str | None
    groups: tuple[Tally, ...]
    right: bytes = b""

    @property
    def key(self) -> Key:
        """What entries are told apart by."""
        return self.precision, self.scheme, self.allocation

    @property
    def overall(self) -> Tally:
        """All groups together."""
        correct = [group.correct for group in self.groups if group.correct is not None]
        known = len(correct) == len(self.groups)
        return Tally(sum(group.samples for group in self.groups), sum(correct) if known else None)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What audits of some data gave.

    Parameters
    ----------
    data : str
        Hash of the samples as the model gets them, of labels and of groups.
    groups : tuple of str
    entries : tuple of Entry
        In the order of their keys.
    """

    data: str
    groups: tuple[str, ...]
    entries: tuple[Entry, ...]

    def find(self, key: Key) -> Entry | None:
        """Return the entry of a key; None if there is none."""
        return next((entry for entry in self.entries if entry.key == key), None)

    @classmethod
    def of(cls, audit: Audit, precisions: Iterable[str | Precision] | None = None) -> "Baseline":
        """Return the baseline that an audit makes, of some of its quantized precisions or of all."""
        results = audit.quantized if precisions is None else [audit.at(precision) for precision in precisions]
        return cls(audit.data.sha256, audit.groups, _in_order(entry_of(audit, result) for result in results))

    def updated(self, other: "Baseline", *, new_only: bool = False) -> "Baseline":
        """Return this with the entries of another one of the same data, or with those alone that are new.

        Raises
        ------
        OptionError
            If the other is of other data.
        """
        if other.data != self.data:
            raise OptionError("a baseline of other data cannot be added to: name another file, or update all of it")
        mine = {entry.key: entry for entry in self.entries}
        theirs = {entry.key: entry for entry in other.entries}
        return Baseline(self.data, self.groups, _in_order((theirs | mine if new_only else mine | theirs).values()))


def entry_of(audit: Audit, result: PrecisionResult) -> Entry:
    """Return what an audit tells of one precision."""
    return Entry(
        result.precision,
        audit.settings.scheme,
        audit.settings.allocation,
        audit.model.sha256,
        tuple(Tally(group.samples, group.correct) for group in result.groups),
        audit.outcomes.get(result.precision, b""),
    )


def changes(before: Baseline | None, after: Baseline) -> Sequence[str]:
    """Say in a line each what differs between two baselines."""
    told = []
    old = {entry.key: entry for entry in before.entries} if before and before.data == after.data else {}
    for entry in after.entries:
        was = old.pop(entry.key, None)
        name = " ".join(filter(None, entry.key))
        if was is None:
            told.append(f"{name}: new")
        elif was.groups != entry.groups or was.model != entry.model:
            told.append(f"{name}: accuracy {_shown(was.overall)} → {_shown(entry.overall)}")
            told += [
                f"  {group}  n={tally.samples}  accuracy {_shown(earlier)} → {_shown(tally)}"
                for group, earlier, tally in zip(after.groups, was.groups, entry.groups, strict=True)
                if earlier != tally
            ]
    return told + [f"{' '.join(filter(None, key))}: gone" for key in old]


def _shown(tally: Tally) -> str:
    return "undefined" if tally.accuracy is None else f"{float(tally.accuracy):.4f}"


def _in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.key))

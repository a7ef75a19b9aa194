"""What a report is about: an audit, what it is called, and how it was judged."""

from collections.abc import Iterable
from dataclasses import dataclass

from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE, Insufficient
from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.record import Audit


@dataclass(frozen=True, slots=True)
class Reported:
    """One audit of a report.

    Parameters
    ----------
    name : str
        What the report calls it, distinct from the others; plain text.
    audit : Audit
    verdicts : tuple of Verdict
        On every limit at every precision where it binds.
    insufficient : str
        What becomes of verdicts that could not be reached: ``fail``, ``warn`` or ``pass``.
    min_group_size : int
        Samples that a group needs to be judged.
    path : str
        Where the audit is, as a command names it; empty where nobody knows.
    left_out : int
        How many limits bind beside those: a run left them out, or ended before them.
    """

    name: str
    audit: Audit
    verdicts: tuple[Verdict, ...]
    insufficient: Insufficient = "fail"
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE
    path: str = ""
    left_out: int = 0

    def outcome(self, precision: str | None = None) -> Outcome:
        """Return how the audit, or one precision of it, fares: a broken limit wins over one that cannot be judged."""
        return worst_outcome(
            verdict.outcome for verdict in self.verdicts if precision is None or verdict.precision == precision
        )

    @property
    def is_refused(self) -> bool:
        """Whether a gate with these limits would fail."""
        refused = {Outcome.FAIL} | ({Outcome.INSUFFICIENT} if self.insufficient == "fail" else set())
        return any(verdict.outcome in refused for verdict in self.verdicts)


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """Return FAIL if there is one, else INSUFFICIENT if there is one, else PASS."""
    held = set(outcomes)
    return next((outcome for outcome in (Outcome.FAIL, Outcome.INSUFFICIENT) if outcome in held), Outcome.PASS)

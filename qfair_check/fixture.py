"""What a test gets from the qfair fixture."""

import os
from dataclasses import replace
from decimal import Decimal

from qfair_check.errors import OptionError
from qfair_check.judge.assertions import Number, enforce
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.curvature_assertions import Between, check_between
from qfair_check.judge.limits import Limit
from qfair_check.judge.pareto_assertion import assert_on_pareto_front
from qfair_check.judge.verdicts import Verdict, judge_audit, judge_one
from qfair_check.options import JudgeOptions
from qfair_check.precision import Precision
from qfair_check.record import Audit, PrecisionResult


class QFair:
    """An audit bound to one precision, with every assertion as a method.

    A limit that is not given comes from the command line, the marker, the ini file or the default, in this
    order. `judged` collects the keywords of the limits that were judged, `found` the verdicts on them.

    Parameters
    ----------
    audit : Audit
    precision : Precision
    judging : JudgeOptions
    """

    def __init__(self, audit: Audit, precision: Precision, judging: JudgeOptions) -> None:
        self.audit = audit
        self.precision = precision
        self.judged: set[str] = set()
        self._found: dict[tuple[str, Decimal], Verdict] = {}
        self._judging = judging

    @property
    def bits(self) -> int:
        """Bits per weight."""
        return self.precision.bits

    @property
    def result(self) -> PrecisionResult:
        """What was measured at this precision."""
        return self.audit.at(self.precision)

    @property
    def fp32(self) -> PrecisionResult:
        """What was measured at fp32."""
        return self.audit.fp32

    @property
    def found(self) -> tuple[Verdict, ...]:
        """The verdicts so far, each once."""
        return tuple(self._found.values())

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the verdict on every limit that binds at this precision; nothing is raised."""
        told = judge_audit(
            self.audit,
            self._judging.limits,
            min_group_size=self._judging.min_group_size,
            confidence=self._judging.confidence,
        )
        return tuple(verdict for verdict in told if verdict.precision == self.precision.name)

    def check(self) -> None:
        """Assert every limit that binds at this precision.

        Raises
        ------
        FairnessError
            With one description for each broken limit.
        """
        __tracebackhide__ = True
        verdicts = self.verdicts()
        self.judged |= {CHECKS[verdict.check].keyword for verdict in verdicts}
        self._note(*verdicts)
        enforce(verdicts, self.audit, self._judging.insufficient)

    def assert_fvo_below(self, max_fvo: Number | None = None) -> None:
        """Assert that FVO is at most the limit."""
        __tracebackhide__ = True
        self._assert("fvo", max_fvo)

    def assert_fvo_increase_below(self, max_fvo_increase: Number | None = None) -> None:
        """Assert that FVO rose by at most the limit from fp32."""
        __tracebackhide__ = True
        self._assert("fvo-increase", max_fvo_increase)

    def assert_overall_accuracy_above(self, min_accuracy: Number | None = None) -> None:
        """Assert that overall accuracy is at least the limit."""
        __tracebackhide__ = True
        self._assert("accuracy", min_accuracy)

    def assert_accuracy_drop_below(self, max_accuracy_drop: Number | None = None) -> None:
        """Assert that overall accuracy fell by at most the limit from fp32."""
        __tracebackhide__ = True
        self._assert("accuracy-drop", max_accuracy_drop)

    def assert_group_accuracy_drop_below(self, max_group_drop: Number | None = None) -> None:
        """Assert that no group's accuracy fell by more than the limit from fp32."""
        __tracebackhide__ = True
        self._assert("group-drop", max_group_drop)

    def assert_worst_group_accuracy_above(self, min_worst_group_accuracy: Number) -> None:
        """Assert that no group's accuracy is under the limit."""
        __tracebackhide__ = True
        self._assert("worst-group-accuracy", min_worst_group_accuracy)

    def assert_flip_rate_below(self, max_flip_rate: Number) -> None:
        """Assert that in no group more than this share of predictions differs from fp32."""
        __tracebackhide__ = True
        self._assert("flip-rate", max_flip_rate)

    def assert_sparsity_below(self, max_sparsity: Number) -> None:
        """Assert that at most this share of the quantized weights is exactly zero."""
        __tracebackhide__ = True
        self._assert("sparsity", max_sparsity)

    def assert_cosine_distance_below(self, max_cosine_distance: Number) -> None:
        """Assert that no group's mean cosine distance of logits from fp32 is above the limit."""
        __tracebackhide__ = True
        self._assert("cosine-distance", max_cosine_distance)

    def assert_lambda_max_ratio(self, max_lambda_ratio: Number | None = None, between: Between = "groups") -> None:
        """Assert that the largest Hessian eigenvalue differs by at most this factor between groups, or from fp32.

        With ``between="precisions"`` the limit must be given.
        """
        __tracebackhide__ = True
        self._assert(check_between("lambda-max", between), max_lambda_ratio)

    def assert_gradient_norm_ratio(self, max_gradient_ratio: Number | None = None, between: Between = "groups") -> None:
        """Assert that the norm of the gradient differs by at most this factor between groups, or from fp32.

        With ``between="precisions"`` the limit must be given.
        """
        __tracebackhide__ = True
        self._assert(check_between("gradient-norm", between), max_gradient_ratio)

    def assert_on_pareto_front(self, *others: Audit | str | os.PathLike[str]) -> None:
        """Assert that no precision of the other audits, given or saved, is better than this one.

        Better is as good in both overall accuracy and FVO, and better in one.

        Raises
        ------
        FairnessError
            With who is better and by how much.
        """
        __tracebackhide__ = True
        if not others:
            raise OptionError("there is nothing to compare with: give other audits, or the files that hold them")
        assert_on_pareto_front(
            replace(self.audit, precisions=(self.fp32, self.result)),
            *(other if isinstance(other, Audit) else Audit.load(other) for other in others),
            min_group_size=self._judging.min_group_size,
            insufficient=self._judging.insufficient,
        )

    def _note(self, *verdicts: Verdict) -> None:
        self._found |= {(verdict.check, verdict.limit): verdict for verdict in verdicts}

    def _assert(self, name: str, given: Number | None) -> None:
        __tracebackhide__ = True
        check = CHECKS[name]
        limit = self._judging.limits.get(name) if given is None else Limit.parse(given, check)
        bound = None if limit is None else limit.bound(self.precision.name)
        if bound is None:
            options = f", the marker or --qfair-{check.keyword.replace('_', '-')}" if check.in_gate else ""
            raise OptionError(f"no {check.keyword} is set for {self.precision}: give it to the assertion{options}")
        self.judged.add(check.keyword)
        verdict = judge_one(
            self.audit,
            check,
            bound,
            self.precision,
            min_group_size=self._judging.min_group_size,
            confidence=self._judging.confidence,
        )
        self._note(verdict)
        enforce([verdict], self.audit, self._judging.insufficient)

"""The assertion that no other candidate is better."""

from qfair_check.judge.assertions import Bits, enforce_outcomes, judged_precisions
from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE, Insufficient
from qfair_check.judge.pareto import candidates_of, standings
from qfair_check.judge.pareto_text import describe_standing
from qfair_check.record import Audit


def assert_on_pareto_front(
    audit: Audit,
    *others: Audit,
    bits: Bits | None = None,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    insufficient: Insufficient = "fail",
) -> None:
    """Assert that no candidate has overall accuracy as high and FVO as low, and one of them better.

    Candidates are all quantized precisions of all these audits, which are of the same groups with as many samples
    each. Equal candidates are all on the front. fp32 is the baseline, and no candidate.

    Parameters
    ----------
    audit : Audit
        Whose precisions are judged.
    *others : Audit
        Messages call them ``others[0]``, ``others[1]`` and so on.
    bits : str, int, Precision or iterable of these, optional
        Defaults to every quantized precision of `audit`.
    min_group_size : int
        Samples, at least 1.
    insufficient : str
        ``fail``, ``warn`` or ``pass``: what to do where it cannot be judged.

    Raises
    ------
    FairnessError
        If it does not hold, or cannot be judged and `insufficient` is "fail".
    InputError
        If the audits are of other samples.
    OptionError
        If a precision or another argument makes no sense, or an audit holds fp32 alone.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (3), Fig. 12.
    """
    __tracebackhide__ = True
    audits = (audit, *others)
    names = ("the audit", *(f"others[{index}]" for index in range(len(others))))
    wanted = judged_precisions(audit, bits)
    told = standings(candidates_of(audits, names, min_group_size=min_group_size))
    judged = [one for one in told if one.candidate.audit == 0 and one.candidate.precision in wanted]
    enforce_outcomes([(one.outcome, describe_standing(one, audits, names)) for one in judged], insufficient)

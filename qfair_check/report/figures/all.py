"""Every exhibit of an audit, in the order of the paper's figures."""

from qfair_check.judge.checks import DEFAULT_MIN_GROUP_SIZE
from qfair_check.judge.text import printable
from qfair_check.record import Audit
from qfair_check.report.figures.accounts import account_exhibit
from qfair_check.report.figures.confidence import dtdb_exhibit
from qfair_check.report.figures.difficulty import difficulty_exhibit
from qfair_check.report.figures.exhibit import Absent, Exhibit
from qfair_check.report.figures.front import SOURCE, TITLE, front_exhibit
from qfair_check.report.figures.groups import (
    accuracy_exhibit,
    distance_exhibit,
    logit_variance_exhibit,
    loss_exhibit,
    softmax_variance_exhibit,
)
from qfair_check.report.figures.steepness import gradient_exhibit, lambda_exhibit, log_lambda_exhibit
from qfair_check.report.figures.weights import weight_change_exhibit, weight_distribution_exhibit


def exhibits(
    audit: Audit, prefix: str = "", *, min_group_size: int = DEFAULT_MIN_GROUP_SIZE
) -> tuple[tuple[Exhibit, ...], tuple[Absent, ...]]:
    """Return what the audit can show, and what it cannot and why.

    Parameters
    ----------
    audit : Audit
    prefix : str
        What keys begin with; distinct where a page shows several audits.
    min_group_size : int
        As in `front_exhibit`.
    """
    told = [
        accuracy_exhibit(audit, key=f"{prefix}accuracy"),
        weight_change_exhibit(audit, key=f"{prefix}weight-change"),
        weight_distribution_exhibit(audit, key=f"{prefix}weight-distribution"),
        distance_exhibit(audit, key=f"{prefix}distance"),
        logit_variance_exhibit(audit, key=f"{prefix}logit-variance"),
        softmax_variance_exhibit(audit, key=f"{prefix}softmax-variance"),
        dtdb_exhibit(audit, key=f"{prefix}dtdb"),
        loss_exhibit(audit, key=f"{prefix}loss"),
        gradient_exhibit(audit, key=f"{prefix}gradient"),
        lambda_exhibit(audit, key=f"{prefix}lambda"),
        log_lambda_exhibit(audit, key=f"{prefix}log-lambda"),
        account_exhibit(audit, key=f"{prefix}account"),
        *([difficulty_exhibit(audit.training, key=f"{prefix}difficulty")] if audit.training else []),
        _front(audit, f"{prefix}front", min_group_size),
    ]
    return (
        tuple(one for one in told if isinstance(one, Exhibit)),
        tuple(one for one in told if isinstance(one, Absent)),
    )


def _front(audit: Audit, key: str, min_group_size: int) -> Exhibit | Absent:
    if not audit.quantized:
        reason = "the audit holds no quantized precision: name one with --bits"
        return Absent(TITLE, SOURCE, reason)
    if all(result.fvo is None for result in audit.precisions):
        reason = f"FVO is not defined: {printable(audit.fp32.undefined.get('fvo', 'the audit gives no reason'))}"
        return Absent(TITLE, SOURCE, reason)
    return front_exhibit(["the audit"], [audit], key, min_group_size=min_group_size)

"""Gradient norm and lambda_max of one group at one point."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from qfair_check.curvature_record import GroupCurvature
from qfair_check.errors import MeasureError, QFairError
from qfair_check.inputs.sample import Sample
from qfair_check.measure.footprint import Plan
from qfair_check.measure.group_loss import GroupLoss, Point
from qfair_check.measure.lanczos import FLOOR, TOLERANCE, top_eigenvalue
from qfair_check.measure.norms import norm
from qfair_check.measure.pyhessian import pyhessian_eigenvalue, why_not_lambda_max
from qfair_check.measure.spool import SpooledGroup

LANCZOS, PYHESSIAN = "lanczos", "pyhessian"

_METRICS = ("gradient_norm", "lambda_max")
_ONCE = ("derivative for", "once_differentiable", "double backward", "differentiate twice")


def measure_group(
    point: Point, group: SpooledGroup, plan: Plan, *, method: str, seed: int
) -> tuple[GroupCurvature, GroupLoss | None]:
    """Return gradient norm and lambda_max of a group's loss at a point, and the loss for more; None if it has none.

    What the model or torch raises becomes the reason why a value is not defined.

    Parameters
    ----------
    point : Point
    group : SpooledGroup
    plan : Plan
    method : str
        ``lanczos`` or ``pyhessian``.
    seed : int
        Of the random part of the first vector.
    """
    size = len(group)
    if not size:
        return undefined_group(0, "no samples"), None
    try:
        loss, why_no_hessian = _loss(point, group, plan)
    except MeasureError as error:
        return undefined_group(size, str(error)), None
    known = GroupCurvature(size, loss.loss, norm(loss.gradient))
    if why_no_hessian:
        return replace(known, undefined={"lambda_max": why_no_hessian}), loss
    try:
        with model_errors():
            if method == PYHESSIAN:
                return _by_pyhessian(known, point, loss, group, plan, seed), loss
            return _by_lanczos(known, loss, plan, seed), loss
    except MeasureError as error:
        return replace(known, hvps=loss.products, undefined={"lambda_max": str(error)}), loss


def undefined_group(samples: int, reason: str) -> GroupCurvature:
    """Return what is known of a group without a gradient."""
    return GroupCurvature(samples, undefined=dict.fromkeys(_METRICS, reason))


@contextmanager
def model_errors() -> Iterator[None]:
    """Turn what a model or torch raises into a MeasureError that says what to do about it."""
    try:
        yield
    except QFairError as error:
        raise MeasureError(_with_cure(str(error))) from error
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        told = str(error).strip().splitlines() or [""]
        raise MeasureError(_with_cure(f"{type(error).__name__}: {told[0]}")) from error


def _loss(point: Point, group: SpooledGroup, plan: Plan) -> tuple[GroupLoss, str | None]:
    """Return the loss with its gradient, and why it has no Hessian, as where an operation has no second derivative."""
    chunks = group.chunks(plan.chunk)
    kept = chunks if chunks <= plan.kept else 0

    def made(*, twice: bool) -> GroupLoss:
        with model_errors():
            return GroupLoss(point, lambda: group.batches(plan.chunk), len(group), kept, twice=twice)

    try:
        return made(twice=True), None
    except MeasureError as error:
        return made(twice=False), str(error)


def _by_lanczos(known: GroupCurvature, loss: GroupLoss, plan: Plan, seed: int) -> GroupCurvature:
    found = top_eigenvalue(loss.product, loss.gradient, seed=seed, width=plan.vectors)
    return replace(
        known,
        lambda_max=found.value,
        lambda_min=found.lowest,
        residual=found.residual / abs(found.value) if found.value else None,
        hvps=found.products,
        converged=found.converged,
    )


def _by_pyhessian(
    known: GroupCurvature, point: Point, loss: GroupLoss, group: SpooledGroup, plan: Plan, seed: int
) -> GroupCurvature:
    def batches() -> Iterator[tuple[Sample, Tensor]]:
        for _, batch, labels in group.batches(plan.chunk):
            yield point.placed(batch), labels.to(point.device)

    placed = copy.deepcopy(point.module).to(point.device)
    found = pyhessian_eigenvalue(placed, list(point.values), batches, seed)
    residual = norm(loss.product(found.vector) - found.value * found.vector)
    measured = replace(known, hvps=found.hvps + 1)
    reason = why_not_lambda_max(found.value)
    if reason:
        return replace(measured, lambda_min=found.value, undefined={"lambda_max": reason})
    return replace(
        measured,
        lambda_max=found.value,
        residual=residual / found.value if found.value else None,
        converged=residual <= max(TOLERANCE * found.value, FLOOR),
    )


def _with_cure(told: str) -> str:
    if any(sign in told for sign in _ONCE):
        return (
            f"the Hessian needs operations that torch can differentiate twice, and one cannot be ({told}): write it "
            "with others that can be, for the audit at least"
        )
    if "allocate" in told or "out of memory" in told:
        return f"{told}; a smaller --qfair-curvature-memory or --qfair-curvature-samples takes less"
    return told

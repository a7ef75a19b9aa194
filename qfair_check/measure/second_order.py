"""Why quantization changes a group's loss, tensor by tensor, to second order."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from qfair_check.curvature_record import Account, GroupCurvature
from qfair_check.measure.group_loss import GroupLoss, Point
from qfair_check.measure.norms import norm


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """By how much quantization moves each parameter: d = quantized - fp32."""

    changes: dict[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it moves."""
        return tuple(self.changes)


@dataclass(frozen=True, slots=True)
class Parts:
    """g_k.d_k and d_k.(Hd)_k / 2 by tensor at fp32, and what the bound needs besides lambda_max."""

    first_order: tuple[float, ...]
    second_order: tuple[float, ...]
    distance: float
    gradient_norm: float
    is_trained: bool


def move(before: nn.Module, after: nn.Module, quantized: Sequence[str]) -> Move:
    """Return the change of the quantized weights, in their order, and of every other parameter that differs."""
    old = dict(before.named_parameters())
    changes = {name: value.detach() - old[name].detach() for name, value in after.named_parameters()}
    others = [name for name, change in changes.items() if name not in set(quantized) and bool(change.any())]
    return Move({name: changes[name] for name in (*quantized, *others)})


def parts(point: Point, loss: GroupLoss, moved: Move, *, is_trained: bool) -> Parts:
    """Return the parts of every tensor in the change of a group's loss, from one Hessian product.

    Parameters
    ----------
    point : Point
        The model at fp32, every moved parameter counting.
    loss : GroupLoss
        Of the group at that point.
    moved : Move
    is_trained : bool
        Whether the model trains every parameter that is moved.

    Raises
    ------
    MeasureError
        If the Hessian is not finite, or an operation cannot be differentiated twice.
    """
    direction = point.flat(moved.changes)
    gradients, products = point.apart(loss.gradient), point.apart(loss.product(direction))
    return Parts(
        tuple(_dot(gradients[name], change) for name, change in moved.changes.items()),
        tuple(_dot(products[name], change) / 2 for name, change in moved.changes.items()),
        norm(direction),
        norm(loss.gradient),
        is_trained,
    )


def account(found: Parts, before: GroupCurvature, after: GroupCurvature) -> Account | None:
    """Return the account of a group; None if its loss is not known at the precision.

    The bound is ‖g‖‖d‖ + max(lambda_max, 0) ‖d‖² / 2, where lambda_max at fp32 has converged and is one of all that is
    moved.
    """
    if before.loss is None or after.loss is None:
        return None
    bound = None
    if found.is_trained and before.lambda_max is not None and before.converged:
        bound = found.gradient_norm * found.distance + max(before.lambda_max, 0.0) * found.distance**2 / 2
    return Account(found.first_order, found.second_order, after.loss - before.loss, bound)


def _dot(one: Tensor, other: Tensor) -> float:
    return float(one.flatten().double() @ other.flatten().to(one.device).double())

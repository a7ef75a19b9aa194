"""What the backward pass tells of each group: gradient norm, curvature of the loss, and why quantization hurts."""

from dataclasses import dataclass, field
from math import fsum
from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Account:
    """The change of a group's loss by quantization to second order at fp32, tensor by tensor, and as it was measured.

    With d the change of all parameters, g the gradient and H the Hessian of the group's loss at fp32, the loss changes
    by about g.d + d.Hd / 2. The part of tensor k is g_k.d_k + d_k.(Hd)_k / 2; the parts add up to the whole.

    Parameters
    ----------
    first_order, second_order : tuple of float
        g_k.d_k and d_k.(Hd)_k / 2, in the order of `PrecisionResult.moved`.
    measured : float
        L(quantized) - L(fp32) on the same samples.
    bound : float or None
        ‖g‖‖d‖ + lambda_max ‖d‖² / 2, lambda_max at fp32, at least 0; None where lambda_max is not known.

    Source: Bellam & Kim, arXiv 2509.07222, eq. (4); the bound: Tran et al. 2022, arXiv 2205.13574, theorem 1.
    """

    first_order: tuple[float, ...]
    second_order: tuple[float, ...]
    measured: float
    bound: float | None = None

    @property
    def predicted(self) -> float:
        """The change of the loss to second order."""
        return fsum((*self.first_order, *self.second_order))

    @property
    def by_tensor(self) -> tuple[float, ...]:
        """The part of each tensor in the predicted change."""
        return tuple(map(sum, zip(self.first_order, self.second_order, strict=True)))


@dataclass(frozen=True, slots=True)
class GroupCurvature:
    """The loss of one group at one precision as a function of the parameters that the model trains.

    A value that is not defined is None, and `undefined` says why by metric.

    Parameters
    ----------
    samples : int
        Samples of the group that this was measured on: all, or a subsample (`CurvatureSettings.samples`).
    loss : float or None
        Mean cross-entropy over them.
    gradient_norm : float or None
        The l2 norm of its gradient.
    lambda_max : float or None
        The largest (most positive) eigenvalue of its Hessian.
    lambda_min : float or None
        The smallest Ritz value: the smallest eigenvalue is this or less.
    residual : float or None
        ‖Hv - lambda_max v‖ / abs(lambda_max): some eigenvalue is as near as that to lambda_max. None at lambda_max 0.
    hvps : int
        Hessian-vector products that were needed.
    converged : bool
        Whether residual, number of steps and a stable value meet `CurvatureSettings`.
    account : Account or None
        Why the loss differs from that at fp32; None at fp32.
    """

    samples: Count
    loss: float | None = None
    gradient_norm: float | None = None
    lambda_max: float | None = None
    lambda_min: float | None = None
    residual: float | None = None
    hvps: Count = 0
    converged: bool = False
    account: Account | None = None
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CurvatureSettings:
    """How curvature was measured.

    Parameters
    ----------
    samples : int or None
        At most so many samples of each group were drawn; None for all of them.
    method : str
        ``lanczos`` or ``pyhessian``.
    tolerance : float
        The largest residual of a converged value.
    parameters : int
        Parameters that the model trains; gradient and Hessian are of these.
    chunk : int
        Samples that go through the model at a time.
    """

    samples: Count | None
    method: str
    tolerance: float
    parameters: Count
    chunk: Count

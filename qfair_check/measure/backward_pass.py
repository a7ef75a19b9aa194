"""The backward half of an audit: every group at every precision, from samples that were kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qfair_check.curvature_record import CurvatureSettings, GroupCurvature
from qfair_check.errors import MeasureError, OptionError
from qfair_check.inputs.sample import Sample
from qfair_check.measure.chunks import CHUNK, Chunk
from qfair_check.measure.curvature import LANCZOS, measure_group, model_errors, undefined_group
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.fast import AS_IT_IS, SpeedUp
from qfair_check.measure.footprint import LEAST_VECTORS, Plan, plan
from qfair_check.measure.group_loss import GroupLoss, Point
from qfair_check.measure.lanczos import TOLERANCE
from qfair_check.measure.one_pass import Progress
from qfair_check.measure.second_order import Move, Parts, account, move, parts
from qfair_check.measure.spool import Spool, SpooledGroup

_NO_GRADIENTS = "the model is a plain callable, and has no gradients"
_NO_PARAMETERS = "the model has no parameters, and so no gradients"
_UNKNOWN = Plan(CHUNK, LEAST_VECTORS, 0)
_FROZEN = "the model trains nothing: every parameter is frozen (requires_grad is False)"

Subject = tuple[nn.Module, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Curved:
    """What curvature tells at one precision: of the groups in order, and which tensors their accounts tell of."""

    groups: tuple[GroupCurvature, ...] = ()
    moved: tuple[str, ...] = ()


class BackwardPass:
    """Keeps samples while they pass, and then measures curvature on them at every precision.

    It is made before any data is read, so that a memory too small for one sample fails at once.

    Parameters
    ----------
    subjects : sequence of (torch.nn.Module, tuple of str)
        The model at each precision, fp32 first, in eval mode, and the names of its quantized weights; left as they
        are. None for a plain callable.
    batch : tensor, tuple of tensors, or dict of tensors
        A few samples.
    options : CurvatureOptions
    faster : SpeedUp
    device : torch.device
    seed : int

    Raises
    ------
    OptionError
        If the memory does not hold one sample.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        batch: Sample,
        options: CurvatureOptions,
        *,
        faster: SpeedUp,
        device: torch.device,
        seed: int,
    ) -> None:
        self._subjects = subjects
        self._options = options
        self._faster = faster if options.method == LANCZOS else AS_IT_IS  # PyHessian runs the module as it is
        self._device = device
        self._seed = seed
        parameters = dict(subjects[0][0].named_parameters()) if subjects else {}
        self._every = list(parameters)
        self._trained = [name for name, value in parameters.items() if value.requires_grad]
        self._dimension = sum(parameters[name].numel() for name in self._trained)
        self._plan = self._planned(batch) if self._trained else _UNKNOWN
        self._spool = Spool(options.samples, seed)

    def __enter__(self) -> "BackwardPass":
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    @property
    def settings(self) -> CurvatureSettings:
        """How curvature is measured."""
        options = self._options
        return CurvatureSettings(options.samples, options.method, TOLERANCE, self._dimension, self._plan.chunk)

    def keep(self, chunk: Chunk) -> None:
        """Keep what is drawn of a chunk.

        Raises
        ------
        InputError
            If the disk is full.
        """
        self._spool.add(chunk)

    def measure(self, position: NDArray[np.int64], n_groups: int, progress: Progress | None = None) -> list[Curved]:
        """Return what is found at each precision.

        Parameters
        ----------
        position : int64 array
            Final position of each group, in the order in which chunks numbered them.
        n_groups : int
        progress : callable, optional
            Called with "eigenvalues", how many are known, and how many will be.
        """
        groups = self._spool.groups(position, n_groups)
        if not self._trained:
            reason = _FROZEN if self._every else _NO_PARAMETERS if self._subjects else _NO_GRADIENTS
            told = tuple(undefined_group(len(group), reason) for group in groups)
            return [Curved(told)] * max(len(self._subjects), 1)
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if progress:
                progress("eigenvalues", done, len(groups) * len(self._subjects))

        base = self._subjects[0][0]
        moves = [move(base, module, names) for module, names in self._subjects[1:]]
        origin = self._point(base, self._trained)
        is_trained = {name for one in moves for name in one.names} <= set(self._trained)
        whole = origin if is_trained else self._point(base, self._every)  # an account differentiates in frozen ones too
        at_fp32 = []
        for group in groups:
            at_fp32.append(self._at_fp32(origin, whole, group, moves))
            count()
        found = [Curved(tuple(curvature for curvature, _ in at_fp32))]
        for index, (module, _) in enumerate(self._subjects[1:]):
            point = self._point(module, self._trained)
            here = []
            for group, (before, told_of) in zip(groups, at_fp32, strict=True):
                here.append(_with_account(self._measured(point, group)[0], before, told_of[index]))
                count()
            found.append(Curved(tuple(here), moves[index].names))
        return found

    def _planned(self, batch: Sample) -> Plan:
        kinds = dict.fromkeys(
            (tuple(self._trained), tuple(self._every))
        )  # an account differentiates in frozen ones too
        points = [self._point(self._subjects[0][0], names) for names in kinds]
        extra = 2 * (len(self._subjects) - 1)  # a copy of the model, and how far it is from fp32
        extra += len(points) - 1  # another copy for accounts
        try:
            made = plan(points, batch, self._options.memory, extra)
        except OptionError:
            raise
        except (Exception, SystemExit):  # the user's model may raise anything, and will say so for every group
            return _UNKNOWN
        return made if self._options.method == LANCZOS else replace(made, kept=0)  # PyHessian makes graphs of its own

    def _point(self, module: nn.Module, names: Iterable[str]) -> Point:
        return Point(module, list(names), self._faster, self._device)

    def _measured(self, point: Point, group: SpooledGroup) -> tuple[GroupCurvature, GroupLoss | None]:
        return measure_group(point, group, self._plan, method=self._options.method, seed=self._seed)

    def _at_fp32(
        self, origin: Point, whole: Point, group: SpooledGroup, moves: Sequence[Move]
    ) -> tuple[GroupCurvature, list[Parts | str]]:
        """Return what is measured at fp32, and for each precision the parts of an account, or why there are none."""
        found, loss = self._measured(origin, group)
        if loss is None:
            return found, [found.undefined["gradient_norm"]] * len(moves)
        told: list[Parts | str] = []
        try:
            if whole is not origin:
                del loss  # with the graphs that it keeps
                with model_errors():
                    loss = GroupLoss(whole, lambda: group.batches(self._plan.chunk), len(group))
            for one in moves:
                with model_errors():
                    told.append(parts(whole, loss, one, is_trained=whole is origin))
        except MeasureError as error:
            told += [str(error)] * (len(moves) - len(told))
        return found, told


def _with_account(curvature: GroupCurvature, before: GroupCurvature, told: Parts | str) -> GroupCurvature:
    if isinstance(told, str):
        return replace(curvature, undefined=curvature.undefined | {"account": told})
    made = account(told, before, curvature)
    if made is None:
        return replace(curvature, undefined=curvature.undefined | {"account": curvature.undefined["gradient_norm"]})
    return replace(curvature, account=made)

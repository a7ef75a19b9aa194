"""Running statistics of BatchNorm for weights that have changed since they were gathered."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from qfair_check.errors import InputError
from qfair_check.inputs.sample import Sample, called
from qfair_check.quantize.model import copy_of


def reestimate_batchnorm(module: nn.Module, batches: Iterable[Sample]) -> nn.Module:
    """Return a copy whose BatchNorm statistics are those of the batches, averaged by count.

    mean = sum_b n_b mean_b / sum_b n_b, and likewise the variance, with n_b values of a channel in batch b and the
    variance of each batch around its own mean, ÷ (n_b - 1), as in training. Each BatchNorm sees activations that the
    ones before it have normalized by the statistics of the batch; all other layers are in eval mode. Weights that were
    quantized after the statistics were gathered need this: stale statistics cost most of the accuracy at low bits.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is; returned itself, and no batch is read, if it has no BatchNorm with running statistics.
    batches : iterable of tensor, tuple or dict of tensors
        Shuffled training data of natural distribution, on the device of the module.

    Returns
    -------
    torch.nn.Module
        In the mode, layer by layer, that the module was in.

    Raises
    ------
    InputError
        If there are no batches, a batch gives a channel a single value, or the module cannot be copied.

    Examples
    --------
    >>> norm = nn.BatchNorm1d(1)
    >>> again = reestimate_batchnorm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [5.0], [8.0], [10.0]])])
    >>> again.running_mean, again.running_var  # (2 * 2 + 4 * 7) / 6 and (2 * 2 + 4 * 6) / 6
    (tensor([5.3333]), tensor([4.6667]))
    >>> norm.running_mean
    tensor([0.])
    """
    if not list(_norms(module)):
        return module
    changed = copy_of(module)
    modes = [(part, part.training) for part in changed.modules()]
    momenta = [(norm, norm.momentum, norm.num_batches_tracked) for _, norm in _norms(changed)]
    sums = [_Sums(name, norm) for name, norm in _norms(changed)]
    changed.eval()
    for norm, _, tracked in momenta:
        norm.train()
        norm.momentum = 1.0  # the running statistics become those of the batch
        norm.num_batches_tracked = None if tracked is None else tracked.clone()  # SyncBatchNorm counts in it
    _run(changed, batches, sums)
    for total in sums:
        total.store()
    for norm, momentum, tracked in momenta:
        norm.momentum, norm.num_batches_tracked = momentum, tracked
    for part, training in modes:
        part.training = training
    return changed


class _Sums:
    """Batch statistics of one layer times their counts, in float64."""

    def __init__(self, name: str, norm: _BatchNorm) -> None:
        self._name = name
        self._norm = norm
        self._running = _statistics(norm)
        self._before = [value.clone() for value in self._running]
        self._sums = [torch.zeros_like(value, dtype=torch.float64) for value in self._running]
        self._count = 0
        for value, start in zip(self._running, (0.0, 1.0), strict=True):
            value.fill_(start)  # NaN would outlast a momentum of 1

    def check(self, _: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        """Refuse a batch that has no variance; a hook before the layer."""
        if any(_count(values) < 2 for values in (*given, *named.values())):
            raise InputError(
                f"a batch gives {self._name or 'the BatchNorm'} a single value of each channel, which has no variance: "
                "give larger batches, and leave out a last one of a single sample (drop_last=True)"
            )

    def add(self, _: nn.Module, __: object, normalized: Tensor) -> None:
        """Take in the statistics of the batch; a hook after the layer."""
        count = _count(normalized)
        self._count += count
        for total, value in zip(self._sums, self._running, strict=True):
            total.add_(value, alpha=count)

    def store(self) -> None:
        """Write the means; a layer that no batch has reached keeps what it had."""
        for value, total, before in zip(self._running, self._sums, self._before, strict=True):
            value.copy_(total / self._count if self._count else before)

    def hooks(self) -> list[RemovableHandle]:
        """Watch the layer."""
        return [
            self._norm.register_forward_pre_hook(self.check, with_kwargs=True),
            self._norm.register_forward_hook(self.add, prepend=True),
        ]


def _run(module: nn.Module, batches: Iterable[Sample], sums: Iterable[_Sums]) -> None:
    handles = [handle for total in sums for handle in total.hooks()]
    empty = True
    with torch.no_grad():
        for batch in batches:
            empty = False
            called(module, batch)
    if empty:
        raise InputError("there are no batches to estimate BatchNorm statistics from: give some of the training data")
    for handle in handles:
        handle.remove()


def _norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats and part.running_mean is not None:
            yield name, part


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [value for value in (norm.running_mean, norm.running_var) if value is not None]


def _count(values: Tensor) -> int:
    return values.numel() // max(values.shape[1], 1)

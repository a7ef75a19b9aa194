"""Which weights a module uses first and last: the order of execution, which need not be that of registration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from qfair_check.inputs.sample import Sample, called


def first_and_last(module: nn.Module, weights: Sequence[tuple[str, Tensor]], batch: Sample) -> tuple[str, str]:
    """Return the names of the weights that a forward pass uses first and last.

    Parameters
    ----------
    module : torch.nn.Module
    weights : sequence of (str, Tensor)
        Name and tensor of each weight in question, at least one.
    batch : tensor, tuple or dict of tensors

    Returns
    -------
    (str, str)
        In the order of `weights` if it uses none of them.

    Examples
    --------
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.head, self.stem = nn.Linear(3, 2), nn.Linear(2, 3)
    ...     def forward(self, x):
    ...         return self.head(self.stem(x))
    >>> net = Net()
    >>> weights = [("head.weight", net.head.weight), ("stem.weight", net.stem.weight)]
    >>> first_and_last(net, weights, torch.zeros(1, 2))
    ('stem.weight', 'head.weight')
    """
    uses = _Uses(weights)
    with torch.inference_mode(), uses:
        called(module, batch)
    seen = uses.names or [name for name, _ in weights]
    return seen[0], seen[-1]


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each weight that an operator takes, in TorchScript too; torch.cond takes those of all its branches."""

    supports_higher_order_operators = True

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self._name_of = {id(weight): name for name, weight in weights}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = map(id, pytree.tree_leaves((args, kwargs)))
        self.names += [self._name_of[key] for key in given if key in self._name_of]
        return func(*args, **(kwargs or {}))

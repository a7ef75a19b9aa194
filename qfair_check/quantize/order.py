"""Which weights a module uses first and last: the order of execution, which need not be that of registration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

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
        In the order of `weights` where torch does not tell, as in TorchScript.

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


class _Uses(TorchFunctionMode):
    """Notes each weight that is an argument of a torch function."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.names: list[str] = []
        self._name_of = {id(weight): name for name, weight in weights}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not getattr(func, "__name__", "").startswith("__"):  # reading an attribute of a weight is no use of it
            given = map(id, pytree.tree_leaves((args, kwargs)))
            self.names += [self._name_of[key] for key in given if key in self._name_of]
        return func(*args, **(kwargs or {}))

"""The loop that a user would write: round the weights, run all batches, count what is right. And how to time it."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from versions import versions

BATCH = 256

Batches = Iterable[tuple[Tensor, Tensor]]


def accuracy_loop(module: nn.Module, batches: Callable[[], Batches], bits: Iterable[int]) -> dict[int, int]:
    """Return how many predictions are right at each number of bits, in one pass over the data for each."""
    correct = dict.fromkeys(bits, 0)
    with torch.inference_mode():
        for wanted in correct:
            net = rounded(module, wanted)
            for x, y in batches():
                with RoundToHalf() if wanted == 16 else nullcontext():
                    logits = net(x)
                correct[wanted] += int((logits.argmax(1) == y).sum())
    return correct


def rounded(module: nn.Module, bits: int) -> nn.Module:
    """Return a copy with the weights of convolutions and linear layers on a grid, or everything in half precision."""
    net = copy.deepcopy(module).eval()
    if bits == 16:
        return net.half().float()
    for layer in net.modules():
        if bits < 16 and isinstance(layer, nn.Conv2d | nn.Linear):
            scale = layer.weight.abs().max() / (2 ** (bits - 1) - 1)
            layer.weight.data = torch.round(layer.weight / scale) * scale
    return net


class RoundToHalf(TorchFunctionMode):
    """Round the result of every torch operation to half precision and back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation and round what it gives."""
        return pytree.tree_map_only(Tensor, lambda value: value.half().float(), func(*args, **(kwargs or {})))


def side_by_side(rounds: int, **sides: Callable[[], Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the sides in turn, several times; return the least seconds of each, since noise only adds, and its result."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            results[name] = side()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(measured) for name, measured in seconds.items()}, results


def circumstances(*packages: str) -> Mapping[str, Any]:
    """Return what the numbers depend on besides the code."""
    return {"threads": torch.get_num_threads(), **versions(*packages)}

"""lambda_max of 5 groups at fp32, int8, int4 and int2 against PyHessian, gradient norms, and memory.

Both sides find the same 20 values on the same samples, in turn, value by value: PyHessian 0.1 at its defaults, with a
loader of batches of 64, and the Lanczos method of an audit. `speedup` is the seconds of PyHessian / those of Lanczos,
and `error` holds the median and the largest relative error of each against a reference in float64, iterated until the
residual is 1e-6. `gradient_ratio` is the gradient norms of all groups at fp32 / one plain backward pass in batches of
64, on made-up data four times over. `peak_mb` is what measuring all of it adds to the memory of a process of its own,
and `bound_mb` what it may.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from curvature_peak import BITS, Task, peak_bytes
from pyhessian import hessian
from sweep import add_given, given_data, given_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from user_loop import circumstances, side_by_side

from qfair_check.measure.chunks import CHUNK, chunks
from qfair_check.measure.curvature import measure_group
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.fast import SpeedUp, speed_up
from qfair_check.measure.footprint import plan
from qfair_check.measure.group_loss import GroupLoss, Point
from qfair_check.measure.lanczos import top_eigenvalue
from qfair_check.measure.spool import Spool, SpooledGroup
from qfair_check.quantize.model import quantize_model

METHODS = ("pyhessian", "lanczos")


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="of each group of given data, the first ones; all by default")
    parser.add_argument("--memory", default="2GiB", help="what --qfair-curvature-memory allows")
    parser.add_argument("--rounds", type=int, default=5, help="of the gradient norms")
    parser.add_argument("--sizes", type=_sizes, default=(180, 110, 80, 64, 40), help="of made-up groups")
    parser.add_argument("--steps", type=int, default=400, help="of training on made-up data")
    add_given(parser)
    options = parser.parse_args()

    module, x, y = given(options) if options.model else made_up(options.sizes, options.steps)
    task = Task(module, x, y, CurvatureOptions.of(memory=options.memory).memory)
    with torch.random.fork_rng():
        seconds, errors, products = eigenvalues(task)
        gradients, _ = gradient_norms(task if options.model else four_times(task), options.rounds)
    peak = peak_bytes(task)
    print(
        json.dumps(
            {
                "benchmark": "curvature",
                "speedup": round(seconds["pyhessian"] / seconds["lanczos"], 2),
                "gradient_ratio": round(gradients["norms"] / gradients["plain"], 3),
                "peak_mb": round(peak / 2**20),
                "bound_mb": round(task.memory / 2**20),
                "seconds": {name: round(value, 3) for name, value in {**seconds, **gradients}.items()},
                "error": errors,
                "hvps": products,
                "samples": [int(count) for count in np.bincount(y.numpy())],
                "input": list(x.shape[1:]),
                "parameters": sum(value.numel() for value in module.parameters()),
                "rounds": options.rounds,
                **circumstances("torch", "pyhessian", "qfair_check"),
            }
        )
    )


def given(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the model and the data of the files, at most so many samples of each class."""
    x, y = given_data(options)
    if options.samples:
        kept = torch.cat([torch.nonzero(y == group)[: options.samples, 0] for group in y.unique()]).sort().values
        x, y = x[kept], y[kept]
    return given_model(options), x, y


class Block(nn.Module):
    """Two convolutions beside a third, as in a residual network, at half the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.beside = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.beside(x))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def made_up(sizes: tuple[int, ...], steps: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return noisy images of 32×32 in classes of unlike size, and a residual net that was trained on others."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(len(sizes), 3, 32, 32, generator=generator)
    shares = torch.tensor(sizes, dtype=torch.float)

    def drawn(labels: Tensor) -> Tensor:
        return 0.1 * pictures[labels] + torch.randn(len(labels), 3, 32, 32, generator=generator)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            Block(16, 32),
            Block(32, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, len(sizes)),
        )
        seen = torch.multinomial(shares, 1500, replacement=True, generator=generator)
        images = drawn(seen)
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        for _ in range(steps):
            batch = torch.randint(len(seen), (64,), generator=generator)
            optimizer.zero_grad()
            cross_entropy(net(images[batch]), seen[batch]).backward()
            optimizer.step()
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    y = y[torch.randperm(len(y), generator=generator)]
    return net.eval(), drawn(y), y


def eigenvalues(task: Task) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    """Return seconds by method, median and largest error of each, and Hessian-vector products for each value."""
    seconds = dict.fromkeys(METHODS, 0.0)
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    products: dict[str, list[int]] = {name: [] for name in METHODS}
    base = quantize_model(task.module, 32).module
    faster = speed_up(base, task.x[:CHUNK])
    names = [name for name, _ in base.named_parameters()]
    warm_up(base, faster, task)
    groups, spool = spooled(task)
    for bits in BITS:
        net = quantize_model(task.module, bits).module
        started = time.perf_counter()
        point = Point(net, names, faster)
        allowed = plan([point], task.x[:CHUNK], task.memory, 0)
        seconds["lanczos"] += time.perf_counter() - started
        for index, group in enumerate(groups):
            x, y = task.x[task.y == index], task.y[task.y == index]
            started = time.perf_counter()
            value, count = by_pyhessian(net, list(zip(x.split(CHUNK), y.split(CHUNK), strict=True)))
            seconds["pyhessian"] += time.perf_counter() - started
            started = time.perf_counter()
            found = measure_group(point, group, allowed, method="lanczos", seed=0)[0]
            seconds["lanczos"] += time.perf_counter() - started
            true = reference(net, names, group)
            errors["pyhessian"].append(abs(value / true - 1))
            errors["lanczos"].append(abs((found.lambda_max or 0.0) / true - 1))
            products["pyhessian"].append(count)
            products["lanczos"].append(found.hvps)
    spool.close()
    told = {
        name: {"median": float(f"{statistics.median(found):.2e}"), "largest": float(f"{max(found):.2e}")}
        for name, found in errors.items()
    }
    return seconds, told, products


def four_times(task: Task) -> Task:
    """Return the samples four times, so that copying the model, once for each precision, weighs as in an audit."""
    return Task(task.module, task.x.repeat(4, 1, 1, 1), task.y.repeat(4), task.memory)


def spooled(task: Task) -> tuple[Sequence[SpooledGroup], Spool]:
    """Return the groups' samples as an audit keeps them."""
    spool = Spool(None, 0)
    roster = task.data.roster()
    for chunk in chunks(task.data, roster, batch_size=CHUNK, workers=0, seed=0):
        spool.add(chunk)
    return spool.groups(roster.finish()[1], len(task.data.group_names)), spool


def warm_up(module: nn.Module, faster: SpeedUp, task: Task) -> None:
    """Let both sides meet every operation once."""
    x, y = task.x[:CHUNK], task.y[:CHUNK]
    by_pyhessian(module, [(x, y)], most=1)
    point = Point(module, [name for name, _ in module.named_parameters()], faster)
    GroupLoss(point, lambda: [(0, x, y)], len(x), 1).product(torch.ones(point.dimension))


def by_pyhessian(module: nn.Module, loader: list[tuple[Tensor, Tensor]], most: int = 100) -> tuple[float, int]:
    """Return the value, and how often it went through the loader for a product."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = hessian(module, nn.CrossEntropyLoss(), dataloader=loader, cuda=False)
        products = 0
        original = analysis.dataloader_hv_product

        def counted(vector: list[Tensor]) -> Any:
            nonlocal products
            products += 1
            return original(vector)

        analysis.dataloader_hv_product = counted
        (value,), _ = analysis.eigenvalues(maxIter=most)
    module.zero_grad(set_to_none=True)
    return float(value), products


def reference(module: nn.Module, names: Sequence[str], group: SpooledGroup) -> float:
    """Return lambda_max in float64."""
    point = Point(quantize_model(module, 32).module.double(), names)
    loss = GroupLoss(point, lambda: group.batches(CHUNK), len(group), group.chunks(CHUNK))
    return top_eigenvalue(loss.product, loss.gradient, seed=1, tolerance=1e-6).value


def gradient_norms(task: Task, rounds: int) -> tuple[dict[str, float], Any]:
    """Return the seconds of the gradient norms of all groups, and of a plain backward pass."""
    net = quantize_model(task.module, 32).module
    names = [name for name, _ in net.named_parameters()]
    faster = speed_up(net, task.x[:CHUNK])
    groups, spool = spooled(task)

    def plain() -> list[Tensor]:
        for x, y in zip(task.x.split(CHUNK), task.y.split(CHUNK), strict=True):
            cross_entropy(net(x), y).backward()
        gradients = [value.grad for value in net.parameters() if value.grad is not None]
        net.zero_grad(set_to_none=True)
        return gradients

    def norms() -> list[float]:
        point = Point(net, names, faster)
        return [norm_of(point, group) for group in groups]

    def norm_of(point: Point, group: SpooledGroup) -> float:
        loss = GroupLoss(point, lambda: group.batches(CHUNK), len(group), twice=False)
        return float(loss.gradient.norm())

    found = side_by_side(rounds, plain=plain, norms=norms)
    spool.close()
    return found


if __name__ == "__main__":
    main()

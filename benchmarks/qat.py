"""One step of LSQ training at int4 against the same plain step in fp32, and against the QAT of other libraries.

All sides train ResNet-18 on one batch, in turn, by SGD with momentum. Ours is a step of `train_epoch` with all that
the default recipe does in it, dampening and the count of oscillations too. Every ratio is the median over the rounds of
one step's processor time over the other's of the same round: `ratio` is ours / plain, `others` has ours / that of
weight-only QAT in Brevitas and in torchao on the same layers, and `undampened` both for our step in the first quarter
of a training, which dampens nothing, as the others do. `layout` has our step with channels last, with bfloat16 and
with both / our step without. `copies` is the memory that a step needs at its peak beyond that of the plain step, in
copies of the weights: all that torch allocates, state included. Libraries that cannot be compared are named in
`missing`; an environment of their own suits them best:

    pip install brevitas torchao
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from statistics import median

import torch
from qat_memory import peak_bytes
from qat_others import OTHERS, Convert
from sweep import given_model
from torch import nn
from torch.nn.functional import cross_entropy
from user_loop import circumstances

from qfair_check.remedy.attach import attach_lsq, lsq_layers
from qfair_check.remedy.budget import Iterations
from qfair_check.remedy.epoch import train_epoch, trainee_of
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import Batch

Step = Callable[[], float]
Seconds = Mapping[str, list[float]]
RECIPE = Recipe.of("fair-qat", 4, learning_rate=1e-4)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="height and width of images")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(model=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net = given_model(options).train()
    labels = torch.randint(5, (options.batch,))
    batch = Batch(torch.randn(options.batch, 3, options.size, options.size), labels, labels)

    bits = {layer.name.removesuffix(".weight"): layer.lsq.bits for layer in lsq_layers(on_grid(net, batch))}
    found, missing = usable(net, bits)
    sides = {
        "plain": lambda: plain_step(copy.deepcopy(net), batch),
        "ours": lambda: our_step(net, batch),
        "undampened": lambda: our_step(net, batch, dampens=False),
        **{name: partial(other_step, convert, net, bits, batch) for name, convert in found.items()},
    }
    layouts = {
        "channels_last": our_step(net, batch, last=True),
        "bfloat16": our_step(net, batch, amp=True),
        "both": our_step(net, batch, last=True, amp=True),
    }
    seconds = in_turn(options.rounds, {name: make() for name, make in sides.items()} | layouts)
    peaks = {name: peak_bytes(make) for name, make in sides.items()}
    weights = sum(value.numel() * value.element_size() for value in net.parameters())
    print(
        json.dumps(
            {
                "benchmark": "qat",
                "ratio": ratio(seconds, "ours", "plain"),
                "others": {name: ratio(seconds, "ours", name) for name in found},
                "undampened": {name: ratio(seconds, "undampened", name) for name in ("plain", *found)},
                "missing": missing,
                "copies": {name: round((peak - peaks["plain"]) / weights, 2) for name, peak in peaks.items()},
                "layout": {name: ratio(seconds, name, "ours") for name in layouts},
                "seconds": {name: round(median(measured), 3) for name, measured in seconds.items()},
                "peak_mb": {name: round(peak / 2**20, 1) for name, peak in peaks.items()},
                "bits": RECIPE.bits.name,
                "input": list(batch.inputs.shape),
                "rounds": options.rounds,
                **circumstances("torch", "torchvision", "qfair_check", *found),
            }
        )
    )


def usable(net: nn.Module, bits: Mapping[str, int]) -> tuple[dict[str, Convert], dict[str, str]]:
    """Return the other libraries that work here, and by name why the rest do not."""
    found, missing = {}, {}
    for name, convert in OTHERS.items():
        try:
            convert(net, bits)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = convert
    return found, missing


def plain_step(module: nn.Module, batch: Batch) -> Step:
    """Return a step as one would write it, which tells its seconds."""
    optimizer = torch.optim.SGD(
        module.parameters(), RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay
    )

    def step() -> float:
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(module(batch.inputs), batch.labels).backward()
        optimizer.step()
        return time.process_time() - started

    return step


def other_step(convert: Convert, net: nn.Module, bits: Mapping[str, int], batch: Batch) -> Step:
    """Return the plain step of what another library makes of the model."""
    return plain_step(convert(net, bits), batch)


def our_step(net: nn.Module, batch: Batch, *, dampens: bool = True, last: bool = False, amp: bool = False) -> Step:
    """Return one step of `train_epoch`, without the check of all weights that ends an epoch."""
    recipe = replace(RECIPE, amp=amp)
    layout = torch.channels_last if last else torch.contiguous_format
    trainee = trainee_of(on_grid(net, batch).to(memory_format=layout), recipe)
    given = replace(batch, inputs=batch.inputs.contiguous(memory_format=layout))
    epoch = 1 if dampens else 0
    marks: list[float] = []

    def timed() -> Iterator[Batch]:
        marks[:] = [time.process_time()]
        yield given
        marks.append(time.process_time())

    def step() -> float:
        train_epoch(trainee, timed(), recipe, None, epoch=epoch, per_epoch=1, budget=Iterations(2))
        started, ended = marks
        return ended - started

    return step


def on_grid(net: nn.Module, batch: Batch) -> nn.Module:
    """Return a copy whose weights learn their grid, as the recipe has it."""
    return attach_lsq(net, RECIPE.bits, RECIPE.scheme, allocation=RECIPE.allocation, batch=batch.inputs[:1])


def in_turn(rounds: int, steps: Mapping[str, Step]) -> Seconds:
    """Run all steps in each round, in an order that is drawn, after a first round; return their seconds by round.

    What one step leaves in caches and in the allocator is felt by the next.
    """
    random, order = Random(0), list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            seconds[name].append(steps[name]())
    return {name: measured[1:] for name, measured in seconds.items()}


def ratio(seconds: Seconds, one: str, other: str) -> float:
    """Return the median over the rounds of one step over another."""
    return round(median(a / b for a, b in zip(seconds[one], seconds[other], strict=True)), 3)


if __name__ == "__main__":
    main()

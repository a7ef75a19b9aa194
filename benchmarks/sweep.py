"""An audit at fp32, int8, int4 and int2 against the loop that a user would write for accuracy alone.

Both see the same arrays in memory. The loop passes over them once for each precision, in batches of 256. The audit
measures all that a forward pass tells, and its seconds hold quantizing and the record of the weights.
`ratio` is audit / loop; fp16, which both emulate by rounding every result, stands apart.
"""

import argparse
import json
import time

import torch
import torchvision
from torch import Tensor, nn
from user_loop import BATCH, accuracy_loop, circumstances, side_by_side

import qfair_check
from qfair_check.measure.fast import speed_up
from qfair_check.measure.weights import weight_reach, weights_record
from qfair_check.quantize.model import quantize_model

BITS = (32, 8, 4, 2)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=768, help="of made-up data")
    parser.add_argument("--size", type=int, default=64, help="height and width of made-up images")
    parser.add_argument("--half-samples", type=int, default=128, help="samples at fp16; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    add_given(parser)
    options = parser.parse_args()

    module = given_model(options)
    x, y = given_data(options)
    seconds, found = compared(module, x, y, BITS, options.rounds)
    parts = [parts_of_audit(module, x) for _ in range(options.rounds)]
    print(
        json.dumps(
            {
                "benchmark": "sweep",
                "ratio": round(seconds["audit"] / seconds["loop"], 3),
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
                "seconds_within_audit": {name: round(min(part[name] for part in parts), 3) for name in parts[0]},
                "correct": found,
                "fp16": half(module, x[: options.half_samples], y[: options.half_samples], options.rounds),
                "samples": len(x),
                "input": list(x.shape[1:]),
                "rounds": options.rounds,
                **circumstances("torch", "torchvision", "qfair_check"),
            }
        )
    )


def add_given(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a real model and real data."""
    parser.add_argument("--model", help="a file that qfair_check.load_model reads; a random ResNet-18 by default")
    parser.add_argument("--data", help="a file that qfair_check.load_data reads; made up by default")
    for name in ("arch", "label", "split"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--classes", type=lambda text: tuple(text.split(",")), default=())
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", type=lambda text: tuple(map(float, text.split(","))), default=())


def given_model(options: argparse.Namespace) -> nn.Module:
    """Return the model of the file, or a random ResNet-18 with five classes."""
    if options.model:
        return qfair_check.load_model(options.model, arch=options.arch).module
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5).eval()


def given_data(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return all samples of the file in memory, or made-up ones."""
    if not options.data:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(options.samples, 3, options.size, options.size, generator=generator)
        return x, torch.randint(5, (options.samples,), generator=generator)
    data = qfair_check.load_data(
        options.data,
        label=options.label,
        split=options.split,
        classes=options.classes,
        mean=options.mean,
        std=options.std,
    )
    return torch.stack([data.inputs[index] for index in range(data.size)]), torch.from_numpy(data.labels)


def compared(
    module: nn.Module, x: Tensor, y: Tensor, bits: tuple[int, ...], rounds: int
) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Return seconds of both sides, and by precision how many predictions are right: of the audit, and of the loop."""
    seconds, results = side_by_side(
        rounds,
        loop=lambda: accuracy_loop(module, lambda: zip(x.split(BATCH), y.split(BATCH), strict=True), bits),
        audit=lambda: qfair_check.audit(module, (x.numpy(), y.numpy()), bits=bits),
    )
    loop, audit = results["loop"], results["audit"]
    return seconds, {str(wanted): [audit.at(wanted).overall.correct, loop[wanted]] for wanted in bits}


def half(module: nn.Module, x: Tensor, y: Tensor, rounds: int) -> dict[str, object] | None:
    """Return the comparison at fp32 and fp16."""
    if not len(x):
        return None
    seconds, found = compared(module, x, y, (32, 16), rounds)
    ratio = round(seconds["audit"] / seconds["loop"], 3)
    return {"ratio": ratio, "seconds": {name: round(value, 3) for name, value in seconds.items()}, "correct": found}


def parts_of_audit(module: nn.Module, x: Tensor) -> dict[str, float]:
    """Return the seconds of what an audit does before its pass over the data."""
    marks = [time.perf_counter()]
    quantized = [quantize_model(module, bits) for bits in BITS]
    marks.append(time.perf_counter())
    for copy in quantized:
        weights_record(copy, weight_reach(quantized[0]))
    marks.append(time.perf_counter())
    faster = speed_up(quantized[0].module, x)
    for copy in quantized:
        faster(copy.module)
    marks.append(time.perf_counter())
    names = ("quantize", "record_of_weights", "make_faster")
    return {name: end - start for name, start, end in zip(names, marks, marks[1:], strict=False)}


if __name__ == "__main__":
    main()

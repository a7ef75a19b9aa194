"""Every metric by group, from a stream of logits, against fairlearn's MetricFrame for accuracy by group alone.

The logits come in blocks and are counted by the tally that an audit uses; fairlearn needs all predictions at once.
`speedup` is fairlearn / tally, making the data left out on both sides, taking the argmax not; `tally_of_two` also
compares with the logits of a second model, as an audit does at each precision. `peak_mb` is the memory that counting
needs beyond what the process held before, at a tenth of the samples and at all of them, each in a process of its own;
`audit_peak_mb` is that of a whole audit of an iterable data set, which keeps class and group of every sample, at a
hundredth and a tenth.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset
from user_loop import circumstances

import qfair_check
from qfair_check.measure.tally import Tally

CLASSES, GROUPS = 10, 20
ROWS = 1536
STATUS = Path("/proc/self/status")

Block = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", choices=("tally", "audit"), help="only print the peak memory of one stream, in MB")
    options = parser.parse_args()
    if options.peak:
        print(PEAKS[options.peak](options.samples))
        return
    few = options.samples // 10
    print(
        json.dumps(
            {
                "benchmark": "group_metrics",
                **compared(options.samples, options.rounds),
                "peak_mb": {samples: peak_of_stream("tally", samples) for samples in (few, options.samples)},
                "audit_peak_mb": {samples: peak_of_stream("audit", samples) for samples in (few // 10, few)},
                "samples": options.samples,
                "classes": CLASSES,
                "groups": GROUPS,
                "rounds": options.rounds,
                **circumstances("numpy", "fairlearn", "scikit-learn", "qfair_check"),
            }
        )
    )


def blocks(samples: int) -> Iterator[Block]:
    """Yield logits, classes and groups."""
    random = np.random.default_rng(0)
    for start in range(0, samples, ROWS):
        size = min(ROWS, samples - start)
        labels, groups = random.integers(CLASSES, size=size), random.integers(GROUPS, size=size)
        yield random.normal(size=(size, CLASSES)) + 2 * np.eye(CLASSES)[labels], labels, groups


def compared(samples: int, rounds: int) -> dict[str, object]:
    """Return the least seconds of each side, which must agree."""
    from fairlearn.metrics import MetricFrame  # here, to stay out of the peaks
    from sklearn.metrics import accuracy_score

    seconds: dict[str, list[float]] = {name: [] for name in ("fairlearn", "tally", "tally_of_two")}
    for _ in range(rounds):
        made = list(blocks(samples))
        changed = [logits + 0.1 for logits, _, _ in made]
        started = time.perf_counter()
        predicted = np.concatenate([logits.argmax(axis=1) for logits, _, _ in made])
        labels, groups = (np.concatenate([block[part] for block in made]) for part in (1, 2))
        frame = MetricFrame(metrics=accuracy_score, y_true=labels, y_pred=predicted, sensitive_features=groups)
        by_group = frame.by_group
        marks = [started, time.perf_counter()]
        tally = Tally.empty(GROUPS, CLASSES)
        for logits, labels, groups in made:
            tally += Tally.of(logits, logits, labels, groups, GROUPS)[0]
        marks.append(time.perf_counter())
        for (logits, labels, groups), other in zip(made, changed, strict=True):
            Tally.of(other, logits, labels, groups, GROUPS)
        marks.append(time.perf_counter())
        for name, start, end in zip(seconds, marks, marks[1:], strict=False):
            seconds[name].append(end - start)
        measured = [measures.accuracy for measures in tally.measures(tally)]
        assert np.allclose(measured, by_group.to_numpy(dtype=float), rtol=1e-12, atol=0)
    least = {name: min(each) for name, each in seconds.items()}
    return {
        "speedup": round(least["fairlearn"] / least["tally"], 1),
        "seconds": {name: round(value, 3) for name, value in least.items()},
    }


def peak_of_stream(name: str, samples: int) -> float:
    """Run one stream in a fresh process."""
    command = [sys.executable, __file__, "--peak", name, "--samples", str(samples)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_of_tally(samples: int) -> float:
    """Return the memory in MB that the process needs to count a stream, beyond what it held before."""
    before = peak()
    tally = Tally.empty(GROUPS, CLASSES)
    for logits, labels, groups in blocks(samples):
        tally += Tally.of(logits, logits, labels, groups, GROUPS)[0]
    return round(peak() - before, 1)


def peak_of_audit(samples: int) -> float:
    """Return the same for an audit of a data set that yields sample after sample."""

    class Stream(IterableDataset[tuple[NDArray[np.float64], int, str]]):
        def __iter__(self) -> Iterator[tuple[NDArray[np.float64], int, str]]:
            for logits, labels, groups in blocks(samples):
                yield from zip(logits, labels, map(str, groups), strict=True)

    before = peak()
    qfair_check.audit(lambda logits: logits, Stream(), bits=32)
    return round(peak() - before, 1)


def peak() -> float:
    """Return the largest resident size of this process so far, in MB.

    On Linux, getrusage also counts the process that started this one.
    """
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


PEAKS = {"tally": peak_of_tally, "audit": peak_of_audit}

if __name__ == "__main__":
    main()

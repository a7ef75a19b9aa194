"""How much measuring curvature adds to the memory of a process of its own."""

import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qfair_check.inputs.data import GroupedData, as_samples
from qfair_check.measure.backward_pass import BackwardPass
from qfair_check.measure.chunks import CHUNK, chunks
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.fast import speed_up
from qfair_check.quantize.model import quantize_model

BITS = (32, 8, 4, 2)


@dataclass(frozen=True)
class Task:
    """A model, samples whose class is their group, and the memory that an audit may take."""

    module: nn.Module
    x: Tensor
    y: Tensor
    memory: int

    @property
    def data(self) -> GroupedData:
        """The samples as an audit takes them."""
        return as_samples((self.x.numpy(), self.y.numpy()))


def peak_bytes(task: Task) -> int:
    """Return what measuring curvature adds to the largest resident memory of a process that holds model and data."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(task, torch.get_num_threads(), sender))
    child.start()
    child.join()
    return int(receiver.recv())


def _measure_peak(task: Task, threads: int, sender: Any) -> None:
    torch.set_num_threads(threads)
    subjects = []
    for bits in BITS:
        quantized = quantize_model(task.module, bits)
        subjects.append((quantized.module, tuple(layer.name for layer in quantized.layers)))
    base = subjects[0][0]
    faster = speed_up(base, task.x[:CHUNK])
    cross_entropy(base(task.x[:2]), task.y[:2]).backward()
    base.zero_grad(set_to_none=True)
    before = _resident("VmRSS")
    options = CurvatureOptions(memory=task.memory)
    with BackwardPass(subjects, task.x[:CHUNK], options, faster=faster, device=torch.device("cpu"), seed=0) as backward:
        roster = task.data.roster()
        for chunk in chunks(task.data, roster, batch_size=CHUNK, workers=0, seed=0):
            backward.keep(chunk)
        backward.measure(roster.finish()[1], len(task.data.group_names))
    sender.send(_resident("VmHWM") - before)


def _resident(kind: str) -> int:
    """Return the bytes of this process now or at most; ru_maxrss would start at what the parent had."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024

"""The only composer of a remedy: a model, training data and a recipe in, a fairer quantized model out."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.data import as_samples, load_data
from qfair_check.inputs.model import Model, as_model, load_model
from qfair_check.inputs.wording import listed
from qfair_check.measure.run import check_precisions
from qfair_check.quantize.model import copy_of
from qfair_check.remedy.attach import LearnedGrid
from qfair_check.remedy.checkpoint import EpochRecord, Progressed, frozen_model
from qfair_check.remedy.evaluate import Bench, count_correct, count_outputs
from qfair_check.remedy.holdout import (
    check_groups,
    check_outputs,
    check_same_classes,
    overlap_notice,
    repeated_notice,
    split_by_group,
)
from qfair_check.remedy.recipe import Recipe
from qfair_check.remedy.samples import TrainingSamples, digests_of, read_samples
from qfair_check.remedy.selection import Candidate, GroupCounts, is_better, reason, select
from qfair_check.remedy.settle import settled
from qfair_check.remedy.training import Report, Training, all_candidates, kept_states


@dataclass(frozen=True, slots=True, eq=False)
class Remedy:
    """A quantized model that was chosen on held-out training samples, and how it came about.

    Parameters
    ----------
    module : torch.nn.Module
        Plain, in eval mode, on the CPU, with dequantized weights.
    grids : mapping of str to LearnedGrid
        Codes and grid of each quantized weight.
    recipe : Recipe
        With what was settled when the data were known.
    group_names : tuple of str
        In the order of all counts.
    origin : GroupCounts
        Of the model as it was given, on the held-out samples.
    rounded : tuple of Candidate
        The model rounded without training (PTQ), at the bits asked for alone and with the recipe's allocation.
    epochs : tuple of EpochRecord
    chosen : Candidate
    reason : str
        Why it was chosen, in a sentence.
    better_than_ptq : bool
        Whether it was trained, and has a smaller FVO on the held-out samples than each of `rounded`, or the same at a
        higher overall accuracy. Those samples may have trained the model as it was given, which favours PTQ.
    data_bytes : int
        Memory that the training data took.
    notices : tuple of str
        What the user must see: an overlap with audited data, an early end.
    """

    module: nn.Module
    grids: Mapping[str, LearnedGrid]
    recipe: Recipe
    group_names: tuple[str, ...]
    origin: GroupCounts
    rounded: tuple[Candidate, ...]
    epochs: tuple[EpochRecord, ...]
    chosen: Candidate
    reason: str
    better_than_ptq: bool
    data_bytes: int
    notices: tuple[str, ...] = ()


def remediate(
    model: object,
    train: object,
    recipe: Recipe,
    *,
    audited: object = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Report | None = None,
) -> Remedy:
    """Train and quantize a copy of a model by a recipe, and choose among its epochs on held-out samples.

    Parameters
    ----------
    model : Model, torch.nn.Module or path
        Left as it is.
    train : GroupedData, (x, y) or (x, y, group) of arrays, Dataset, TrainingSamples, or path
        A part of it is held out to choose by. It is kept in memory; give `read_samples` of it to several runs.
    recipe : Recipe
    audited : like `train`, optional
        What the remedy will be audited on: only its group names and the hashes of its inputs are looked at.
    checkpoint : path-like, optional
        Written after each epoch, and gone on from if it is there: the result is that of an uninterrupted run, bit for
        bit on the same machine and number of threads.
    progress : callable, optional
        Called with a `Step` after each batch and an `EpochRecord` after each epoch.

    Raises
    ------
    InputError
        If the model has nothing to quantize or to train, the classes are not its outputs, a group is absent from the
        training data or too small, more than 1% of the audited samples are in it, or the checkpoint is another run's or
        cannot be written.
    OptionError
        If the weights of groups, the allocation or the device make no sense, or the model lies on a grid already.
    MeasureError
        If the model gives no logits.

    Examples
    --------
    >>> x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    >>> remedy = remediate(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (x, y), Recipe.of(epochs=2))
    >>> [record.epoch for record in remedy.epochs], sorted(remedy.grids)
    ([1, 2], ['0.weight', '2.weight'])
    """
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise InputError(f"the folder of the checkpoint {checkpoint} is not there: make it, before anything is trained")
    subject = load_model(model) if isinstance(model, str | os.PathLike) else as_model(model)
    check_precisions(subject, [recipe.bits])
    module = _trainable(subject, recipe)
    device = _device(recipe.device)
    with _own_random_state(device):
        samples = train if isinstance(train, TrainingSamples) else read_samples(_data(train, subject), seed=recipe.seed)
        notices = [*samples.notices, *_audited_notices(audited, subject, samples, recipe.seed)]
        if recipe.is_fair and len(samples.group_names) == 1:
            notices.append(
                f"the training data has one group, {samples.group_names[0]}: there is no gap to close, and epochs are "
                "chosen by accuracy alone"
            )
        split = split_by_group(
            samples.labels, samples.groups, samples.group_names, share=recipe.held_out, seed=recipe.seed
        )
        if told := repeated_notice(samples.digests, split):
            notices.append(told)
        bench = Bench(samples, split, device, recipe.batch_size, recipe.seed)
        given = copy_of(module).float().eval().to(device)
        check_outputs(samples.labels, samples.classes, count_outputs(given, bench))
        origin = count_correct(given, bench, split.held_out)
        recipe = settled(recipe, given, bench, origin)
        training = Training(subject, module, recipe, bench)
        rounded = training.rounded()
        plain = tuple(made.candidate for made in rounded)
        if recipe.strategy == "ptq":
            progressed = Progressed((), kept_states(rounded, {}, plain))
        else:
            path = None if checkpoint is None else Path(checkpoint)
            progressed = training.run(rounded, path, progress)
    every = all_candidates(plain, progressed.records)
    chosen = select(every)
    taken = frozen_model(module, progressed.kept[chosen])
    if progressed.stopped:
        notices.append(progressed.stopped)
    better = chosen.is_trained and all(is_better(chosen, candidate) for candidate in plain)
    if chosen.is_trained and not better:
        notices.append(
            "the held-out samples do not show that training is better than rounding: it comes to "
            f"{_told(chosen)}, and rounding to {_told(select(plain))}; the model knew "
            f"{float(origin.overall_accuracy):.1%} of them before; the audit tells"
        )
    return Remedy(
        module=taken.module,
        grids=taken.grids,
        recipe=recipe,
        group_names=samples.group_names,
        origin=origin,
        rounded=plain,
        epochs=progressed.records,
        chosen=chosen,
        reason=reason(chosen, every),
        better_than_ptq=better,
        data_bytes=samples.nbytes,
        notices=tuple(notices),
    )


def _told(candidate: Candidate) -> str:
    counts = candidate.counts
    return f"{float(counts.fvo):.3f} FVO at an overall accuracy of {float(counts.overall_accuracy):.3f}"


def _data(given: object, subject: Model) -> Any:
    return load_data(given, model=subject) if isinstance(given, str | os.PathLike) else as_samples(given)


def _audited_notices(audited: object, subject: Model, samples: TrainingSamples, seed: int) -> Iterator[str]:
    if audited is None:
        return
    digests, known = digests_of(_data(audited, subject), seed=seed)
    check_same_classes(samples.classes, known.classes)
    check_groups(samples.group_names, known.group_names)
    if extra := [name for name in samples.group_names if name not in known.group_names]:
        yield f"the gap that epochs are chosen by has groups that the audited data lacks: {listed(extra)}"
    if told := overlap_notice(samples.digests, digests):
        yield told


def _trainable(subject: Model, recipe: Recipe) -> nn.Module:
    if subject.module is None:
        raise InputError("the model is a plain callable and has no weights to train: give a torch.nn.Module")
    if recipe.strategy != "ptq" and not any(value.requires_grad for value in subject.module.parameters()):
        raise InputError(
            f"no parameter of {type(subject.module).__name__} takes a gradient, so that nothing can be trained: call "
            "requires_grad_(True) on what should be"
        )
    return subject.module


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"the device {name!r} cannot be used ({str(error).splitlines()[0]}): give cpu") from error
    return device


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers as they are, and keep a GPU's arithmetic exact and repeatable."""
    is_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_gpu else []):
        if not is_gpu:
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield

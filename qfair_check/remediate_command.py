"""The command ``qfair remediate``: train a fairer quantized model, and say honestly whether it is one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfair_check.console import columns, say
from qfair_check.errors import OptionError
from qfair_check.inputs.options import DataOptions, ModelOptions, Preprocessing
from qfair_check.judge.limits import Limit, Limits
from qfair_check.judge.pareto import Candidate, candidates_of, standings
from qfair_check.judge.text import describe, printable
from qfair_check.judge.verdicts import Outcome, Verdict, judge_audit
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.option_table import DEMO, as_command_line
from qfair_check.options import (
    JudgeOptions,
    Lookup,
    data_options,
    integer,
    judge_options,
    measure_options,
    model_options,
)
from qfair_check.precision import Precision, parse_precisions
from qfair_check.record import Audit
from qfair_check.report.compare import render_comparison

if TYPE_CHECKING:
    from qfair_check.inputs.data import GroupedData, LabelledData
    from qfair_check.inputs.model import Model
    from qfair_check.remedy.checkpoint import EpochRecord
    from qfair_check.remedy.epoch import Step
    from qfair_check.remedy.fair_qat import Remedy
    from qfair_check.remedy.recipe import Recipe

INTERRUPTED = 2

_AS_IS = "asis"
_NAMES = ("rounded", "rounded, mixed", "remediated")


@dataclass(frozen=True, slots=True)
class RemediateOptions:
    """What the command is asked for.

    Parameters
    ----------
    model : ModelOptions
    data : DataOptions
        What is audited.
    train : str or None
        The training data, prepared as the audited data is; None for the demo's own.
    train_split : str or None
    out : str
        Where the model goes.
    resume : bool
        Whether to go on from the checkpoint beside it.
    curvature : CurvatureOptions or None
        What is measured of the curvature of the new model, where a limit needs it.
    """

    model: ModelOptions
    data: DataOptions
    train: str | None
    train_split: str | None
    out: str
    resume: bool
    curvature: CurvatureOptions | None = None


def remediate_options(get: Lookup, out: str) -> RemediateOptions:
    """Return what is said about the model, its data and where the new model goes.

    Raises
    ------
    OptionError
        If a value makes no sense, or a model or data is missing.
    """
    model, data = model_options(get), data_options(get)
    if model is None or data is None:
        raise OptionError("no grouped data is given: pass --data FILE")
    curvature = measure_options(get).curvature
    return RemediateOptions(model, data, get("train"), get("train_split"), out, bool(get("resume")), curvature)


def remediate_from(get: Lookup, out: str) -> int:
    """Read the options and run the command; progress goes to stderr, what came of it to stdout."""
    from qfair_check.remedy.recipe import Recipe

    options = remediate_options(get, out)
    bits = parse_precisions(get("bits") or "4")
    if len(bits) != 1:
        raise OptionError(f"bits is {get('bits')!r}: a model is trained for one precision, such as 4")
    recipe = Recipe.of(
        get("strategy") or "fair-qat",  # type: ignore[arg-type]  # one of the choices
        bits[0],
        epochs=integer("epochs", get("epochs") or "12", least=1),
        seed=integer("seed", get("seed") or "0", least=0),
        device=get("device") or "cpu",
    )
    return remediate_command(options, recipe, judge_options(get), width=columns())


def remediate_command(options: RemediateOptions, recipe: "Recipe", judging: JudgeOptions, *, width: int) -> int:
    """Train, choose, save, audit and judge; 0 if the model passes every limit and is fairer than rounding, else 1.

    Interrupted, it says how to go on, and returns 2.

    Raises
    ------
    OptionError
        If there is no training data, or an option makes no sense.
    InputError
        If something cannot be read or written.
    """
    from qfair_check.inputs.data import read_data
    from qfair_check.inputs.model import read_model
    from qfair_check.measure.run import audit
    from qfair_check.progress import progress_bar
    from qfair_check.remedy.fair_qat import remediate

    files = _files(options.out)
    limits = _at_asis(judging.limits, recipe.bits)
    subject = read_model(options.model)
    if subject.architecture is None:
        raise OptionError("the model's architecture is not known, and the new file must name it: pass --arch")
    audited = read_data(options.data, model_classes=subject.classes, model_preprocessing=subject.preprocessing)
    train = training_data(options, subject)
    if not options.resume:
        files.checkpoint.unlink(missing_ok=True)

    def audited_at(subject: object, bits: Precision | str, **how: Any) -> Audit:
        with progress_bar() as progress:
            return audit(subject, audited, bits, device=recipe.device, seed=recipe.seed, progress=progress, **how)

    say(f"audit   {printable(subject.source)} rounded to {recipe.bits}, without training")
    rounded = audited_at(subject, recipe.bits)
    mixed = audited_at(subject, recipe.bits, allocation=recipe.allocation)
    say(f"train   {recipe.strategy} at {recipe.bits}, at most {recipe.epochs} epochs, on {printable(train.source)}")
    try:
        remedy = remediate(subject, train, recipe, audited=audited, checkpoint=files.checkpoint, progress=_tell)
    except KeyboardInterrupt:
        again = "; the same command with --resume goes on after the last epoch" if files.checkpoint.exists() else ""
        print(f"qfair: interrupted; no model was written{again}", file=sys.stderr)
        return INTERRUPTED
    for notice in remedy.notices:
        say(f"note    {printable(notice)}")
    say(f"chosen  {remedy.reason}")
    _save(remedy, files.model, subject, audited, rounded)
    made = audited_at(files.model, _AS_IS, reference=subject, curvature=options.curvature)
    every = (rounded, mixed, made)
    for one, path in zip(every, (files.rounded, files.mixed, files.audit), strict=True):
        one.save(path)
    files.checkpoint.unlink(missing_ok=True)
    candidates = candidates_of(every, _NAMES, min_group_size=judging.min_group_size)
    say("\n" + render_comparison(every, _NAMES, standings(candidates), width=width))
    verdicts = judge_audit(made, limits, min_group_size=judging.min_group_size)
    for verdict in verdicts:
        say(f"{verdict.outcome.upper()}  {as_command_line(describe(verdict, made))}")
    *without, trained = candidates
    return _concluded(files, holds=all_hold(verdicts, judging), better=all(is_fairer(trained, one) for one in without))


@dataclass(frozen=True, slots=True)
class _Files:
    """What the command writes, and how far it has come.

    Parameters
    ----------
    model : Path
    audit : Path
        Of that model.
    rounded, mixed : Path
        Of the given model rounded, all layers at the bits asked for, or with those of its first and last layer.
    checkpoint : Path
    """

    model: Path
    audit: Path
    rounded: Path
    mixed: Path
    checkpoint: Path


def _files(out: str) -> _Files:
    target = Path(out)
    if target.suffix != ".safetensors":
        raise OptionError(f"--out {out}: the name of the model ends in .safetensors")
    if not target.absolute().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {target.absolute().parent}")
    if target.is_dir():
        raise OptionError(f"--out {out} is a folder: name a file in it")
    return _Files(
        target,
        target.with_suffix(".json"),
        target.with_suffix(".rounded.json"),
        target.with_suffix(".mixed.json"),
        target.with_suffix(".checkpoint"),
    )


def training_data(options: RemediateOptions, subject: "Model") -> "GroupedData | LabelledData":
    """Read the training data as the audited data is read.

    Raises
    ------
    OptionError
        If there is none, or it is what is audited.
    InputError
        If it cannot be read.
    """
    from qfair_check.inputs.data import read_data

    if options.train is None:
        if options.data.path != DEMO:
            raise OptionError("no training data is given: pass --train FILE, of samples that are not audited")
        from qfair_check.demo.train import training_data as of_demo

        return of_demo()
    if options.train == options.data.path and options.train_split == options.data.split:
        raise OptionError("the training data is what is audited: name another file, or another --qfair-train-split")
    named = replace(options.data, path=options.train, split=options.train_split)
    return read_data(named, model_classes=subject.classes, model_preprocessing=subject.preprocessing)


def _at_asis(limits: Limits, bits: Precision) -> Limits:
    """Return the limits that bind at the bits asked for as limits of the model as it is."""
    return {name: Limit(limit.bound(bits.name)) for name, limit in limits.items() if limit.bound(bits.name) is not None}


def _tell(made: "Step | EpochRecord") -> None:
    """Print a line for each epoch."""
    from qfair_check.remedy.checkpoint import EpochRecord

    if isinstance(made, EpochRecord):
        counts = min((one.counts for one in made.candidates), key=lambda held: (held.fvo, -held.overall_accuracy))
        accuracy, gap = float(counts.overall_accuracy), float(counts.fvo)
        flips = "" if made.oscillating is None else f"  {made.oscillating:.1%} of weights oscillate"
        loss = made.loss.cross_entropy
        say(f"epoch {made.epoch:>3}  loss {loss:.4f}  held-out OA {accuracy:.3f}  FVO {gap:.3f}{flips}")


def _save(remedy: "Remedy", path: Path, subject: "Model", audited: "GroupedData | LabelledData", origin: Audit) -> None:
    from qfair_check.quantize.saved import save_quantized

    prepared = getattr(audited, "preprocessing", None) or subject.preprocessing or Preprocessing()
    save_quantized(
        remedy,
        path,
        arch=subject.architecture or "",
        classes=audited.classes or subject.classes,
        image_size=prepared.image_size,
        mean=prepared.mean,
        std=prepared.std,
        transforms=prepared.transforms,
        origin=origin,
    )


def all_hold(verdicts: Sequence[Verdict], judging: JudgeOptions) -> bool:
    """Return whether no verdict fails, or counts as a failure where it cannot be judged."""
    refused = {Outcome.FAIL} | ({Outcome.INSUFFICIENT} if judging.insufficient == "fail" else set())
    return not any(verdict.outcome in refused for verdict in verdicts)


def is_fairer(one: Candidate, other: Candidate) -> bool:
    """Return whether its FVO is known to be smaller, or its accuracy higher at the same."""
    known = not one.reasons and not other.reasons
    return known and (one.fvo, -one.accuracy) < (other.fvo, -other.accuracy)


def _concluded(files: _Files, *, holds: bool, better: bool) -> int:
    """Say what came of it, and return the exit code."""
    audits = ", ".join(str(path) for path in (files.audit, files.rounded, files.mixed))
    say(f"\nmodel   {printable(str(files.model))}; audits {printable(audits)}")
    say("it passes every limit" if holds else "it does not pass: a limit is broken, or cannot be judged")
    say(
        "its FVO on the audited samples is smaller than that of rounding without training"
        if better
        else "it is no fairer on the audited samples than rounding without training"
    )
    return 0 if holds and better else 1

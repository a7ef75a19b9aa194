"""The command ``qfair remediate``: train a fairer quantized model, and say honestly whether it is one."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfair_check.console import columns, say
from qfair_check.errors import OptionError
from qfair_check.inputs.options import Preprocessing
from qfair_check.judge.limits import Limit, Limits
from qfair_check.judge.pareto import Candidate, candidates_of, standings
from qfair_check.judge.text import describe, printable
from qfair_check.judge.verdicts import Outcome, Verdict, judge_audit
from qfair_check.option_table import as_command_line
from qfair_check.options import JudgeOptions, Lookup, judge_options
from qfair_check.precision import AS_IS, Precision
from qfair_check.progress import progress_bar, training_bar
from qfair_check.record import Audit
from qfair_check.remediate_options import (
    RemediateOptions,
    RemedyFiles,
    recipes_of,
    refuse_over_inputs,
    remediate_options,
    remedy_files,
    training_data,
)
from qfair_check.report.compare import render_comparison

if TYPE_CHECKING:
    from qfair_check.inputs.data import GroupedData, LabelledData
    from qfair_check.inputs.model import Model
    from qfair_check.remedy.checkpoint import EpochRecord
    from qfair_check.remedy.epoch import Step
    from qfair_check.remedy.fair_qat import Remedy
    from qfair_check.remedy.recipe import Recipe
    from qfair_check.remedy.samples import TrainingSamples

INTERRUPTED = 2
_FAIRER = {
    True: "its FVO on the audited samples is smaller than that of rounding without training",
    False: "it is no fairer on the audited samples than rounding without training",
    None: "whether it is fairer than rounding without training is unknown: an FVO cannot be judged",
}


@dataclass(frozen=True, slots=True)
class Remediation:
    """What came of the command.

    Parameters
    ----------
    files : RemedyFiles
        Where the model and the audits are.
    audits : tuple of (str, Path, Audit)
        All that were made, by name: ``rounded``, ``mixed``, then each strategy, that of the model last.
    remedy : Remedy
        The model, and how it came about.
    verdicts : tuple of Verdict
        Of the model.
    passes : bool
        Whether it passes every limit.
    is_better : bool or None
        Whether its FVO on the audited samples is smaller than that of rounding in either way; None if that is unknown.
    """

    files: RemedyFiles
    audits: tuple[tuple[str, Path, Audit], ...]
    remedy: "Remedy"
    verdicts: tuple[Verdict, ...]
    passes: bool
    is_better: bool | None

    @property
    def audit(self) -> Audit:
        """The audit of the model, which is the last."""
        return self.audits[-1][2]


def remediate_from(get: Lookup, out: str) -> int:
    """Read the options and run the command; progress goes to stderr, what came of it to stdout."""
    return remediate_command(remediate_options(get, out), recipes_of(get), judge_options(get), width=columns())


def remediate_command(
    options: RemediateOptions, recipes: Sequence["Recipe"], judging: JudgeOptions, *, width: int
) -> int:
    """Train, choose, save, audit and judge; 0 if the model passes every limit and is fairer than rounding, else 1.

    Interrupted, it says how to go on, and returns 2.

    Raises
    ------
    OptionError
        If there is no training data, or an option makes no sense.
    InputError
        If something cannot be read or written.
    """
    try:
        made = remediation(options, recipes, judging)
    except KeyboardInterrupt:
        files = remedy_files(options.out)
        kept = any(path.exists() for path in _checkpoints(files, recipes))
        told = "audited; the same command with --resume goes on after the last epoch" if kept else "written"
        print(f"qfair: interrupted; no model was {told}", file=sys.stderr)
        return INTERRUPTED
    say_comparison(made, judging, width=width)
    for verdict in made.verdicts:
        say(f"{verdict.outcome.upper()}  {as_command_line(describe(verdict, made.audit))}")
    _say_conclusion(made)
    return 0 if made.passes and made.is_better else 1


def remediation(options: RemediateOptions, recipes: Sequence["Recipe"], judging: JudgeOptions) -> Remediation:
    """Train by each recipe, save what is chosen, audit it and judge it; a line is said for each step.

    Raises
    ------
    KeyboardInterrupt
        If it is interrupted: checkpoints stay.
    OptionError, InputError
        As `remediate_command`.
    """
    from qfair_check.inputs.data import read_data
    from qfair_check.inputs.model import read_model
    from qfair_check.measure.run import audit
    from qfair_check.remedy.record import training_record
    from qfair_check.remedy.samples import read_samples
    from qfair_check.remedy.selection import select

    files, first = remedy_files(options.out), recipes[0]
    refuse_over_inputs(options, [recipe.strategy for recipe in recipes])
    subject = read_model(options.model)
    if subject.architecture is None:
        raise OptionError("the model's architecture is not known, and the new file must name it: pass --arch")
    audited = read_data(options.data, model_classes=subject.classes, model_preprocessing=subject.preprocessing)
    train = training_data(options, subject)
    if not options.resume:
        for path in _checkpoints(files, recipes):
            path.unlink(missing_ok=True)

    def audited_at(model: object, bits: Precision, **how: Any) -> Audit:
        with progress_bar() as progress:
            return audit(model, audited, bits, device=first.device, seed=first.seed, progress=progress, **how)

    say(f"audit   {printable(subject.source)} rounded to {first.bits}, without training")
    rounded = audited_at(subject, first.bits, scheme=options.scheme, allocation=options.allocation)
    mixed = audited_at(subject, first.bits, scheme=options.scheme, allocation=first.allocation)
    audits = [("rounded", files.rounded, rounded), ("mixed", files.mixed, mixed)]
    with progress_bar() as progress:
        samples = read_samples(train, seed=first.seed, progress=progress)
    remedies = [
        _trained(subject, samples, recipe, path, audited if recipe is first else None)
        for recipe, path in zip(recipes, _checkpoints(files, recipes), strict=True)
    ]
    taken = remedies[0]
    if len(remedies) > 1:
        best = select([remedy.chosen for remedy in remedies])
        taken = next(remedy for remedy in remedies if remedy.chosen is best)
        say(f"chosen  {taken.recipe.strategy}, by the same rule among what each strategy chose")
        for other in remedies:
            if other is not taken:
                place = files.of_strategy(other.recipe.strategy)
                _save(other, place.model, subject, audited, rounded)
                made = audited_at(place.model, AS_IS, reference=subject)
                audits.append((other.recipe.strategy, place.audit, replace(made, training=training_record(other))))
    _save(taken, files.model, subject, audited, rounded)
    made = audited_at(files.model, AS_IS, reference=subject, curvature=options.curvature)
    made = replace(made, training=training_record(taken))
    audits.append((taken.recipe.strategy, files.audit, made))
    for _, path, one in audits:
        one.save(path)
    for path in _checkpoints(files, recipes):
        path.unlink(missing_ok=True)
    verdicts = judge_audit(
        made,
        _at_asis(judging.limits, first.bits),
        min_group_size=judging.min_group_size,
        confidence=judging.confidence,
    )
    return Remediation(files, tuple(audits), taken, verdicts, all_hold(verdicts, judging), _is_better(audits, judging))


def all_hold(verdicts: Sequence[Verdict], judging: JudgeOptions) -> bool:
    """Return whether no verdict fails, or counts as a failure where it cannot be judged."""
    refused = {Outcome.FAIL} | ({Outcome.INSUFFICIENT} if judging.insufficient == "fail" else set())
    return not any(verdict.outcome in refused for verdict in verdicts)


def is_fairer(one: Candidate, others: Sequence[Candidate]) -> bool | None:
    """Return whether its FVO is smaller than any other, or its accuracy higher at the same; None if that is unknown."""
    if any(candidate.reasons for candidate in (one, *others)):
        return None
    return all((one.fvo, -one.accuracy) < (other.fvo, -other.accuracy) for other in others)


def say_comparison(made: Remediation, judging: JudgeOptions, *, width: int) -> None:
    """Print the table of all audits."""
    names = tuple(name for name, _, _ in made.audits)
    audits = tuple(audit for _, _, audit in made.audits)
    candidates = candidates_of(audits, names, min_group_size=judging.min_group_size)
    say("\n" + render_comparison(audits, names, standings(candidates), width=width))


def _trained(
    subject: "Model",
    samples: "TrainingSamples",
    recipe: "Recipe",
    checkpoint: Path,
    audited: "GroupedData | LabelledData | None",
) -> "Remedy":
    from qfair_check.remedy.checkpoint import EpochRecord
    from qfair_check.remedy.fair_qat import remediate

    epochs = f"at most {recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
    budget = epochs if recipe.minutes is None else f"{recipe.minutes:g} minutes (no two runs are the same bit for bit)"
    say(f"train   {recipe.strategy} at {recipe.bits}, {budget}, on {printable(samples.source)}")
    with training_bar() as bar:

        def tell(told: "Step | EpochRecord") -> None:
            if isinstance(told, EpochRecord):
                bar.close()
                _tell(told, samples.group_names)
            else:
                bar.step(told)

        remedy = remediate(subject, samples, recipe, audited=audited, checkpoint=checkpoint, progress=tell)
    for notice in remedy.notices:
        say(f"note    {printable(notice)}")
    say(f"chosen  {remedy.reason}")
    return remedy


def _tell(record: "EpochRecord", groups: Sequence[str]) -> None:
    """Print what an epoch gave: of its candidates the one that would be chosen."""
    from qfair_check.remedy.selection import select

    counts = select(record.candidates).counts
    worst = f"worst {printable(groups[counts.worst])} {float(counts.accuracies[counts.worst]):.3f}"
    flips = "" if record.oscillating is None else f"  {record.oscillating:.1%} of weights oscillate"
    say(
        f"epoch {record.epoch:>3}  loss {record.loss.cross_entropy:.4f}  held-out OA "
        f"{float(counts.overall_accuracy):.3f}  FVO {float(counts.fvo):.3f}  {worst}{flips}"
    )


def _checkpoints(files: RemedyFiles, recipes: Sequence["Recipe"]) -> list[Path]:
    if len(recipes) == 1:
        return [files.checkpoint]
    return [files.of_strategy(recipe.strategy).checkpoint for recipe in recipes]


def _at_asis(limits: Limits, bits: Precision) -> Limits:
    """Return the limits that bind at the bits asked for as limits of the model as it is."""
    return {name: Limit(limit.bound(bits.name)) for name, limit in limits.items() if limit.bound(bits.name) is not None}


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


def _is_better(audits: Sequence[tuple[str, Path, Audit]], judging: JudgeOptions) -> bool | None:
    """Whether the last is fairer than the first two, which are rounded without training."""
    names, _, made = zip(*audits, strict=True)
    plain, mixed, *_, last = candidates_of(made, names, min_group_size=judging.min_group_size)
    return is_fairer(last, (plain, mixed))


def _say_conclusion(made: Remediation) -> None:
    from qfair_check.inputs.quantized_file import model_file_size

    say(f"\nmodel   {printable(str(made.files.model))}")
    say(f"size    {model_file_size(made.files.model)}")
    paths = [str(path) for _, path, _ in made.audits]
    say(f"audits  {printable(', '.join(paths))}")
    say(f"report  {printable(shlex.join(['qfair', 'report', *paths, '--out', str(made.files.report)]))}")
    say("it passes every limit" if made.passes else "it does not pass: a limit is broken, or cannot be judged")
    say(_FAIRER[made.is_better])

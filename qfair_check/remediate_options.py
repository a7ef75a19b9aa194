"""What ``qfair remediate`` is asked for, and the files that it writes."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfair_check.errors import OptionError
from qfair_check.inputs.options import DataOptions, ModelOptions
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.option_table import DEMO, REMEDY_STRATEGIES
from qfair_check.options import Lookup, data_options, integer, measure_options, model_options
from qfair_check.overwriting import is_same_file
from qfair_check.precision import parse_precisions
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.spec import Scheme

if TYPE_CHECKING:
    from qfair_check.inputs.data import GroupedData, LabelledData
    from qfair_check.inputs.model import Model
    from qfair_check.remedy.recipe import Recipe

_NO_LAYER = Allocation()
_TRAINED = tuple(strategy for strategy in REMEDY_STRATEGIES if strategy not in ("ptq", "all"))


@dataclass(frozen=True, slots=True)
class RemediateOptions:
    """What the command is asked for, but for the recipe.

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
    scheme : str
        Of the given model rounded without training.
    allocation : Allocation
        Likewise.
    curvature : CurvatureOptions or None
        What is measured of the curvature of the new model, where a limit needs it.
    """

    model: ModelOptions
    data: DataOptions
    train: str | None
    train_split: str | None
    out: str
    resume: bool = False
    scheme: str = "absmax"
    allocation: Allocation = _NO_LAYER
    curvature: CurvatureOptions | None = None


def remediate_options(get: Lookup, out: str) -> RemediateOptions:
    """Read what is not part of a recipe.

    Raises
    ------
    OptionError
        If there is no data, or a value makes no sense.
    """
    model, data = model_options(get), data_options(get)
    if model is None or data is None:
        raise OptionError("no grouped data is given: pass --qfair-data FILE")
    train, split, measuring = get("train"), get("train_split"), measure_options(get)
    if split and train is None and data.path == DEMO:
        raise OptionError(
            f"--qfair-train-split {split} is of the data in --qfair-train-data, and the demo's own have no column split"
        )
    return RemediateOptions(
        model,
        data,
        train,
        split,
        out,
        bool(get("resume")),
        measuring.scheme,
        measuring.allocation,
        measuring.curvature,
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
    if is_same_file(options.train, options.data.path) and options.train_split == options.data.split:
        raise OptionError("the training data is what is audited: name another file, or another --qfair-train-split")
    named = replace(options.data, path=options.train, split=options.train_split)
    return read_data(named, model_classes=subject.classes, model_preprocessing=subject.preprocessing)


def recipes_of(get: Lookup) -> tuple["Recipe", ...]:
    """Read the recipe, or one for each strategy that trains if all are asked for.

    Steps are learned on the grid of the scheme that is given. Bits of layers are those that are given, and if none are,
    8 for the first and the last layer.

    Raises
    ------
    OptionError
        If an option makes no sense.
    """
    from qfair_check.remedy.recipe import Recipe

    bits = parse_precisions(get("bits") or "4")
    if len(bits) != 1:
        raise OptionError(f"bits is {get('bits')!r}: a model is trained for one precision, such as 4")
    strategy = get("strategy") or "fair-qat"
    minutes, epochs = get("minutes"), get("epochs")
    if minutes and epochs:
        raise OptionError("both --minutes and --epochs are given: a budget is one of them")
    budget: dict[str, Any] = {"epochs": integer("epochs", epochs, least=1)} if epochs else {}
    if minutes:
        budget["minutes"] = _above_zero("minutes", minutes)
    rate, allocation = get("learning_rate"), measure_options(get).allocation
    if allocation != _NO_LAYER:
        budget["allocation"] = allocation
    given = Scheme.parse(get("scheme") or "absmax")
    return tuple(
        Recipe.of(
            each,  # type: ignore[arg-type]  # one of the choices
            bits[0],
            scheme=Scheme("mse", given.grid, given.granularity),
            optimizer=get("optimizer") or "sgd",  # type: ignore[arg-type]  # one of the choices
            learning_rate=_above_zero("learning-rate", rate) if rate else None,
            seed=integer("seed", get("seed") or "0", least=0),
            device=get("device") or "cpu",
            amp=bool(get("amp")),
            **budget,
        )
        for each in (_TRAINED if strategy == "all" else (strategy,))
    )


@dataclass(frozen=True, slots=True)
class RemedyFiles:
    """Names of what the command writes, from that of the model.

    Parameters
    ----------
    model : Path
        Ends in ``.safetensors``.
    """

    model: Path

    @property
    def audit(self) -> Path:
        """The audit of the model."""
        return self.model.with_suffix(".json")

    @property
    def rounded(self) -> Path:
        """The audit of the given model, rounded to the bits asked for."""
        return self.model.with_suffix(".rounded.json")

    @property
    def mixed(self) -> Path:
        """The audit of the given model, rounded to the bits that training has in each layer."""
        return self.model.with_suffix(".mixed.json")

    @property
    def report(self) -> Path:
        """Where a report would go."""
        return self.model.with_suffix(".html")

    @property
    def checkpoint(self) -> Path:
        """How far training has come."""
        return self.model.with_suffix(".checkpoint")

    def written(self, strategies: Sequence[str]) -> tuple[Path, ...]:
        """Return what may be written when these strategies are tried: models, audits and checkpoints."""
        own = (self.model, self.audit, self.model.with_suffix(".origin.json"), self.checkpoint)
        others = [self.of_strategy(name).written(()) for name in strategies if len(strategies) > 1]
        return (*own, self.rounded, self.mixed, *(path for paths in others for path in paths))

    def of_strategy(self, strategy: str) -> "RemedyFiles":
        """Return the names for one of several strategies."""
        return RemedyFiles(self.model.with_suffix(f".{strategy}.safetensors"))


def remedy_files(out: str) -> RemedyFiles:
    """Check where the model goes.

    Raises
    ------
    OptionError
        If no model can be there.
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        raise OptionError(f"--out {out}: the name of the model ends in .safetensors")
    if not target.absolute().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {target.absolute().parent}")
    if not os.access(target.absolute().parent, os.W_OK | os.X_OK):
        raise OptionError(f"--out {out}: cannot write into {target.absolute().parent}, name another folder")
    if target.is_dir():
        raise OptionError(f"--out {out} is a folder: name a file in it")
    return RemedyFiles(target)


def refuse_over_inputs(options: RemediateOptions, strategies: Sequence[str]) -> None:
    """Refuse to write over what is read.

    Raises
    ------
    OptionError
        Naming the file, if the model, the data or the training data is one of the files that would be written.
    """
    read = [given for given in (options.model.path, options.data.path, options.train) if given not in (None, DEMO)]
    for written in remedy_files(options.out).written(strategies):
        for given in read:
            if is_same_file(str(written), str(given)):
                raise OptionError(f"{given} is read, and {written} would be written over it: put the model elsewhere")


def _above_zero(name: str, given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name} is {given!r}: it is a number above 0")
    return value

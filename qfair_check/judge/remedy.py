"""The command that may mend a model whose groups a precision hurts."""

import csv
import io
import shlex
from collections.abc import Iterable
from pathlib import PurePath

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.precision import Precision
from qfair_check.record import Audit

_OF_GROUPS = ("fvo", "fvo-increase", "group-drop", "worst-group-accuracy")
_DEMO, _PYTHON = "demo", "python"
_DEFAULT_GROUPS = ("group",)
_DEFAULT_SCHEME = "absmax/symmetric/per-tensor"


def remedy_command(verdict: Verdict, audit: Audit) -> str | None:
    """Return the command that trains a fairer model at the precision of a broken limit on groups, else None.

    What only the user knows stands in capitals. A model from Python, which no command can load, has none.
    """
    inputs = audit.inputs
    can_be_loaded = inputs.model == _DEMO or inputs.architecture is not None
    is_hurt = verdict.outcome is Outcome.FAIL and verdict.check in _OF_GROUPS
    if not (is_hurt and can_be_loaded and Precision(verdict.precision).is_integer):
        return None
    parts = ["qfair", "remediate", inputs.model]
    if inputs.model != _DEMO:
        named = {"arch": inputs.architecture, **_reading(audit), "train": "TRAIN"}
        parts += [part for name, value in named.items() if value for part in _option(name, value)]
    limit = CHECKS[verdict.check]
    parts += ["--bits", str(Precision(verdict.precision).bits)]
    scheme = audit.settings.scheme
    if scheme != _DEFAULT_SCHEME and scheme.endswith("per-tensor"):  # training learns one step per tensor
        parts += ["--scheme", scheme]
    if limit.in_gate and str(verdict.limit) != limit.default:
        parts += [f"--{limit.keyword.replace('_', '-')}", str(verdict.limit)]
    stem = PurePath(inputs.model.replace("\\", "/")).stem
    return shlex.join([*parts, "--out", f"{stem}.{verdict.precision}.safetensors"])


def _reading(audit: Audit) -> dict[str, str | None]:
    """Return the options that read the data as it was read; None or empty where the default does."""
    inputs = audit.inputs
    if inputs.data == _PYTHON:
        return {"data": "DATA"}
    return {
        "data": inputs.data,
        "label": inputs.label,
        "split": inputs.split,
        "group-by": _listed(inputs.group_by) if inputs.group_by != _DEFAULT_GROUPS else None,
        "bin": inputs.bins,
        "classes": _listed(audit.data.classes) if inputs.class_order == "given" else None,
        "features": _listed(inputs.features),
        "image-size": "x".join(map(str, inputs.image_size)) if inputs.image_size else None,
        "mean": _listed(map(str, inputs.mean)),
        "std": _listed(map(str, inputs.std)),
        "transforms": inputs.transforms,
    }


def _option(name: str, value: str) -> tuple[str, ...]:
    """Return an option as a command takes it: a value that begins as an option does is joined to it."""
    return (f"--{name}={value}",) if value.startswith("-") else (f"--{name}", value)


def _listed(names: Iterable[str]) -> str:
    """Return names as options take them: a name with a comma stands in double quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()

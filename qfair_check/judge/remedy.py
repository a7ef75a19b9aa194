"""The command that may mend a model whose groups a precision hurts."""

import shlex
from pathlib import PurePath

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.verdicts import Outcome, Verdict
from qfair_check.precision import Precision
from qfair_check.record import Audit

_OF_GROUPS = ("fvo", "fvo-increase", "group-drop", "worst-group-accuracy")
_DEMO = "demo"
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
        named = {"arch": inputs.architecture, "data": inputs.data, "label": inputs.label, "split": inputs.split}
        parts += [part for name, value in named.items() if value for part in (f"--{name}", value)]
        if inputs.group_by:
            parts += ["--group-by", ",".join(inputs.group_by)]
        parts += ["--train", "TRAIN"]
    limit = CHECKS[verdict.check]
    parts += ["--bits", str(Precision(verdict.precision).bits)]
    scheme = audit.settings.scheme
    if scheme != _DEFAULT_SCHEME and scheme.endswith("per-tensor"):  # training learns one step per tensor
        parts += ["--scheme", scheme]
    if limit.in_gate and str(verdict.limit) != limit.default:
        parts += [f"--{limit.keyword.replace('_', '-')}", str(verdict.limit)]
    stem = PurePath(inputs.model.replace("\\", "/")).stem
    return shlex.join([*parts, "--out", f"{stem}.{verdict.precision}.safetensors"])

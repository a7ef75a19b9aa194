"""The model that one which is audited as it is was made from: where its fp32 values come from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.model import Model, as_model, read_reference
from qfair_check.inputs.options import ModelOptions
from qfair_check.inputs.quantized_file import origin_beside
from qfair_check.record import Audit
from qfair_check.reference_record import ReferenceRecord

_AUDITS = ".json"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Where fp32 values come from: a model, measured in the same pass, or a saved audit."""

    record: ReferenceRecord
    model: Model | None = None
    audit: Audit | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user must see."""
        return () if self.model is None else self.model.notices


def read_reference_file(options: ModelOptions, model: Model) -> Model | Audit:
    """Load what ``--qfair-reference`` names: an audit (``.json``), or a model.

    Parameters
    ----------
    options : ModelOptions
        The path, and the architecture of the model that is audited.
    model : Model
        That model.

    Raises
    ------
    UntrustedPickleError, InputError
        As `load_model` and `Audit.load`.
    """
    if Path(options.path).suffix.lower() == _AUDITS and not options.path.endswith(".index.json"):
        return Audit.load(options.path)
    return read_reference(options, model)


def reference_of(model: Model, given: object = None) -> Reference | None:
    """Return the reference of a model; without one given, the audit that was saved beside its file, if it is there.

    Parameters
    ----------
    model : Model
    given : Model, torch.nn.Module, callable, Audit or path, optional

    Raises
    ------
    OptionError
        If it is the model itself, lies on a grid of its own, or is an audit without fp32 values.
    InputError
        If it cannot be read, or has other classes or preprocessing than the model.
    """
    if given is None:
        return _beside(model)
    told = read_reference_file(ModelOptions(os.fspath(given)), model) if isinstance(given, str | os.PathLike) else given
    source = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if isinstance(told, Audit):
        return _of_audit(model, told, source or told.inputs.model, "audit")
    other = as_model(told)
    if other.grids:
        raise OptionError(
            f"the reference {other.source} lies on a grid itself: name the fp32 model that this one was made from"
        )
    sha256 = other.sha256
    _refuse_itself(model, sha256, other.source)
    _check_alike(model, other)
    return Reference(ReferenceRecord(sha256, other.source, "model"), model=other)


def notices_of(model: Model, reference: Reference | None) -> tuple[str, ...]:
    """Say what a reader must know of a model that is audited as it is, and of its reference."""
    told = [] if reference is None else list(reference.notices)
    if model.module is not None and not model.grids:
        told.append(
            f"{model.source} names no grid: its weights are audited as they are, and count 32 bits each; "
            "qfair_check.save_quantized keeps the grid"
        )
    origin = model.origin.sha256 if model.origin else None
    if reference is not None and origin is not None and reference.record.sha256 not in (None, origin):
        told.append(
            f"the reference {reference.record.source} is not the model that {model.source} says it was made from"
        )
    return tuple(told)


def _beside(model: Model) -> Reference | None:
    origin = model.origin
    if origin is None or origin.audit is None:
        return None
    path = origin_beside(model.source, origin.audit)
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises on a name that is too long)
        return None
    audit = Audit.load(path)
    if audit.origin_sha256 != origin.sha256:
        raise InputError(
            f"{path} is the audit of another model than {model.source} says it was made from: name the right one in "
            "--qfair-reference, or take the file away"
        )
    return _of_audit(model, audit, str(path), "beside")


def _of_audit(model: Model, audit: Audit, source: str, kind: Literal["audit", "beside"]) -> Reference:
    sha256 = audit.origin_sha256
    if sha256 is None:
        raise OptionError(
            f"the reference {source} holds no fp32 values of a model: name the model that this one was made from, or "
            "an audit of it"
        )
    _refuse_itself(model, sha256, source)
    return Reference(ReferenceRecord(sha256, source, kind), audit=audit)


def _refuse_itself(model: Model, sha256: str | None, source: str) -> None:
    if sha256 is not None and sha256 == model.sha256:
        raise OptionError(
            f"the reference {source} has the same weights as the model, and a model is never its own reference: name "
            "the one that it was made from"
        )


def _check_alike(model: Model, other: Model) -> None:
    if model.classes and other.classes and model.classes != other.classes:
        raise InputError(
            f"the reference {other.source} has other classes than {model.source}, or in another order: "
            f"{', '.join(other.classes[:8])}, not {', '.join(model.classes[:8])}"
        )
    if model.preprocessing and other.preprocessing and model.preprocessing != other.preprocessing:
        raise InputError(
            f"the reference {other.source} wants its images prepared otherwise than {model.source}: name the model "
            "that this one was made from, or its audit"
        )

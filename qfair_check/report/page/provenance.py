"""Where the numbers of an audit come from, and how to get them again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from qfair_check.curvature_record import CurvatureSettings
from qfair_check.judge.checks import CHECKS
from qfair_check.record import Audit
from qfair_check.report.page.words import as_command_line, counted
from qfair_check.report.reported import Reported

_UNKNOWN_COMMAND = "not known: the audit was made in Python or by pytest"


@dataclass(frozen=True, slots=True)
class Fact:
    """A term and what is to be said of it; `is_code` where it is typed or compared letter by letter."""

    term: str
    values: tuple[str, ...]
    is_code: bool = False


def facts_of(reported: Reported, rerun: Sequence[str]) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    """Return the facts under their headings; those that the audit does not hold are left out."""
    audit = reported.audit
    sections = (
        ("Run it again", _commands(reported, rerun)),
        ("Model", _model(audit)),
        ("Data", _data(audit)),
        ("Measurement", _measurement(audit)),
        ("Limits", _limits(reported)),
        ("Environment", _environment(audit)),
    )
    return tuple((title, facts) for title, facts in sections if facts)


def _commands(reported: Reported, rerun: Sequence[str]) -> tuple[Fact, ...]:
    command = reported.audit.run.command
    measured = Fact("measure", (shlex.join(command),), True) if command else Fact("measure", (_UNKNOWN_COMMAND,))
    judged = (Fact("judge", (shlex.join(rerun),), True),) if rerun else ()
    return (measured, *judged)


def _model(audit: Audit) -> tuple[Fact, ...]:
    model, inputs = audit.model, audit.inputs
    return _held(
        Fact("file", (inputs.model,), True),
        Fact("architecture", _some(inputs.architecture), True),
        Fact("sha256 of the weights", (model.sha256 or "unknown: the model is a plain callable",), True),
        Fact("parameters", (f"{model.parameters:,}",)),
        Fact("quantized", (f"{model.quantized_parameters:,} parameters ({model.quantized_share:.1%})",)),
        Fact("left at fp32 on request", model.excluded, True),
    )


def _data(audit: Audit) -> tuple[Fact, ...]:
    data, inputs = audit.data, audit.inputs
    size = () if inputs.image_size is None else (f"{inputs.image_size[0]} × {inputs.image_size[1]} pixels",)
    return _held(
        Fact("file", (inputs.data,), True),
        Fact("sha256 of inputs, labels and groups", (data.sha256,), True),
        Fact("samples", (f"{data.samples:,} in {counted(len(audit.groups), 'group')}",)),
        Fact("split", _some(inputs.split)),
        Fact("label", _some(inputs.label)),
        Fact("groups by", (" × ".join(inputs.group_by) or "class",)),
        Fact("bins", _some(inputs.bins)),
        Fact("features", (", ".join(inputs.features),) if inputs.features else ()),
        Fact("classes", (", ".join(data.classes),) if data.classes else ()),
        Fact("class order", (inputs.class_order,)),
        Fact("image size", size),
        Fact("mean", (", ".join(map(repr, inputs.mean)),) if inputs.mean else ()),
        Fact("standard deviation", (", ".join(map(repr, inputs.std)),) if inputs.std else ()),
        Fact("transforms", _some(inputs.transforms)),
        Fact("notices", tuple(map(as_command_line, inputs.notices))),
    )


def _measurement(audit: Audit) -> tuple[Fact, ...]:
    settings = audit.settings
    return _held(
        Fact(
            "precisions", tuple(f"{result.precision}: computed in {result.computation}" for result in audit.precisions)
        ),
        Fact("fp32 values of", (audit.reference.source,) if audit.reference else (), True),
        Fact("sha256 of the model that has them", _some(audit.reference.sha256 if audit.reference else None), True),
        Fact("scheme", (settings.scheme,), True),
        Fact("bits of single layers", _some(settings.allocation), True),
        Fact("sha256 of scheme and bits", (settings.scheme_sha256,), True),
        Fact("seed", (str(settings.seed),)),
        Fact("chunk", (f"{settings.chunk:,} samples",)),
        Fact("device", (settings.device,)),
        Fact("curvature", _curvature(settings.curvature)),
    )


def _curvature(settings: CurvatureSettings | None) -> tuple[str, ...]:
    if settings is None:
        return ("not measured",)
    drawn = "all samples" if settings.samples is None else f"at most {settings.samples:,} samples"
    return (
        f"{settings.method}, {drawn} of each group, residual at most {settings.tolerance:g}, "
        f"{settings.parameters:,} trained parameters, chunks of {settings.chunk:,} samples",
    )


def _limits(reported: Reported) -> tuple[Fact, ...]:
    bounds: dict[str, dict[str, list[str]]] = {}
    for verdict in reported.verdicts:
        bounds.setdefault(verdict.check, {}).setdefault(f"{verdict.limit:f}", []).append(verdict.precision)
    facts = [
        Fact(
            CHECKS[check].phrase,
            tuple(
                f"{'at most' if CHECKS[check].is_ceiling else 'at least'} {limit} at {', '.join(precisions)}"
                for limit, precisions in limits.items()
            ),
        )
        for check, limits in bounds.items()
    ]
    return (*facts, Fact("limits that cannot be judged", (reported.insufficient,))) if facts else ()


def _environment(audit: Audit) -> tuple[Fact, ...]:
    run = audit.run
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return _held(
        Fact("created", (run.created,)),
        Fact("took", (f"{run.seconds:,.1f} s, {counted(run.threads, 'thread')}",)),
        Fact("platform", (run.platform,)),
        Fact("versions", (versions,) if versions else ()),
        Fact("schema version of the audit", (str(audit.schema_version),)),
    )


def _held(*facts: Fact) -> tuple[Fact, ...]:
    return tuple(fact for fact in facts if any(fact.values))


def _some(value: str | None) -> tuple[str, ...]:
    return (value,) if value else ()

"""Tallies become what an audit holds at each precision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qfair_check.curvature_record import CurvatureSettings, GroupCurvature
from qfair_check.gaps import fvo, fvo_increase
from qfair_check.inputs.grouped import GroupedData
from qfair_check.measure.backward_pass import Curved
from qfair_check.measure.curvature import undefined_group
from qfair_check.measure.subjects import NO_WEIGHTS, Subject
from qfair_check.measure.tally import MEANS, PAIRED, Tally
from qfair_check.outcome_rows import unpack_bits
from qfair_check.precision import FP32
from qfair_check.record import UNREAD, Audit, Measures, PrecisionResult
from qfair_check.reference_record import NO_LOGITS, NO_OUTCOMES, NO_REFERENCE, OTHER_DATA, UNMEASURED

_OF_LOGITS = ("cosine_distance", "l1_distance", "l2_distance", "flips", "flip_rate")
_PAIRS = ("both_right", "right_to_wrong", "wrong_to_right", "both_wrong")

Results = tuple[PrecisionResult, ...]
Flags = NDArray[np.bool_]


def results(
    subjects: Sequence[Subject],
    tallies: Sequence[Tally],
    data: GroupedData,
    curved: Sequence[Curved],
    most_curved: int | None = None,
) -> Results:
    """Return what was measured at each precision, the first of which is the baseline of all.

    Curvature of a group with samples that could not be read is not defined; `most_curved` bounds the samples of a
    group that curvature is of.
    """
    base = tallies[0]
    fp32_groups = base.measures(base)
    found = []
    for subject, tally, curvature in zip(subjects, tallies, curved, strict=True):
        groups = tally.measures(base)
        found.append(
            PrecisionResult(
                precision=subject.forward.precision.name,
                computation=subject.forward.computation,
                overall=tally.pooled().measures(base.pooled())[0],
                groups=groups,
                **_gaps(groups, fp32_groups, data.group_names),
                recalls=tally.recalls(data.classes) if data.group_by else (),
                weights=subject.weights,
                curvature=_of_read(curvature.groups, groups, most_curved),
                moved=curvature.moved,
            )
        )
    return tuple(found)


def _of_read(
    curved: Sequence[GroupCurvature], groups: Sequence[Measures], most: int | None
) -> tuple[GroupCurvature, ...]:
    """Return curvature, undefined where a group has samples that could not be read."""
    if not curved:
        return ()
    whys = [group.undefined.get("accuracy", "") for group in groups]
    return tuple(
        undefined_group(min(most or group.samples, group.samples), why) if why.endswith(UNREAD) else one
        for one, group, why in zip(curved, groups, whys, strict=True)
    )


def without_reference(alone: PrecisionResult, names: Sequence[str], why: str = NO_REFERENCE) -> Results:
    """Return a baseline without values, and a model that was measured as it is without what compares it with fp32.

    Parameters
    ----------
    alone : PrecisionResult
        The model, compared with itself.
    names : sequence of str
        Of the groups.
    why : str
        Why there are no values.
    """
    groups = tuple(_unpaired(group, why) for group in alone.groups)
    lost = tuple(_unmeasured(group, why) for group in alone.groups)
    fp32 = PrecisionResult(
        precision=FP32.name,
        computation=UNMEASURED,
        overall=_unmeasured(alone.overall, why),
        groups=lost,
        undefined={"fvo": why, "fvo_increase": why},
        recalls=(),
        weights=NO_WEIGHTS,
        curvature=tuple(undefined_group(group.samples, why) for group in alone.curvature),
    )
    undefined = {"fvo": reason} if (reason := _why_no_gap(groups, names)) else {}
    undefined["fvo_increase"] = reason or why
    as_is = replace(
        alone,
        overall=_unpaired(alone.overall, why),
        groups=groups,
        fvo_increase=None,
        undefined=undefined,
        curvature=tuple(replace(one, undefined=one.undefined | {"account": why}) for one in alone.curvature),
    )
    return fp32, as_is


def with_audit(
    alone: PrecisionResult,
    right: bytes,
    reference: Audit,
    data: GroupedData,
    data_sha256: str,
    curvature: CurvatureSettings | None,
) -> Results:
    """Return the baseline that a saved audit holds, and the model compared with it sample by sample.

    What only logits tell is not defined; nor is anything if the audit is of other data.

    Parameters
    ----------
    alone : PrecisionResult
        The model, compared with itself.
    right : bytes
        Its outcomes.
    reference : Audit
    data : GroupedData
    data_sha256 : str
        As in `DataRecord`.
    curvature : CurvatureSettings or None
        How that of the model was measured.
    """
    if not _is_of(reference, alone, data, data_sha256):
        return without_reference(alone, data.group_names, OTHER_DATA)
    fp32 = reference.fp32
    told = reference.outcomes.get(fp32.precision)
    after, before = (None if bits is None else unpack_bits(bits, data.size) for bits in (right, told))
    everywhere = np.ones(data.size, np.bool_)
    groups = tuple(
        _compared(group, base, after, before, data.groups == index)
        for index, (group, base) in enumerate(zip(alone.groups, fp32.groups, strict=True))
    )
    is_same = curvature is not None and curvature == reference.settings.curvature
    unlike = "the reference was measured without curvature, or otherwise than this model"
    origin = replace(
        fp32,
        curvature=fp32.curvature
        if is_same
        else tuple(undefined_group(group.samples, unlike) for group in alone.curvature),
    )
    as_is = replace(
        alone,
        overall=_compared(alone.overall, fp32.overall, after, before, everywhere),
        groups=groups,
        **_gaps(groups, fp32.groups, data.group_names),
        curvature=tuple(replace(one, undefined=one.undefined | {"account": NO_LOGITS}) for one in alone.curvature),
    )
    return origin, as_is


def _is_of(reference: Audit, alone: PrecisionResult, data: GroupedData, sha256: str) -> bool:
    """Say whether an audit is of these samples, in the same classes and groups; one that was edited is not."""
    sizes, wanted = ([group.samples for group in result.groups] for result in (reference.fp32, alone))
    held = reference.data
    return sizes == wanted and (held.sha256, held.samples, held.classes, reference.groups) == (
        sha256,
        data.size,
        data.classes,
        data.group_names,
    )


def _gaps(groups: tuple[Measures, ...], before: tuple[Measures, ...], names: Sequence[str]) -> Mapping[str, Any]:
    reason, base_reason = _why_no_gap(groups, names), _why_no_gap(before, names)
    undefined = {"fvo": reason} if reason else {}
    if reason or base_reason:
        undefined["fvo_increase"] = reason or f"{base_reason} at fp32"
    increase = None if reason or base_reason else fvo_increase(groups, before)
    return {"fvo": fvo(groups), "fvo_increase": increase, "undefined": undefined}


def _why_no_gap(groups: Sequence[Measures], names: Sequence[str]) -> str | None:
    if len(groups) < 2:
        return "there is only one group"
    return next(
        (
            f"group {name}: {group.undefined['accuracy']}"
            for name, group in zip(names, groups, strict=True)
            if group.accuracy is None
        ),
        None,
    )


def _unpaired(measures: Measures, why: str, names: Sequence[str] = PAIRED) -> Measures:
    """Return the measures without what compares with fp32, keeping what made them undefined before."""
    nothing: dict[str, Any] = dict.fromkeys(names)
    return replace(measures, **nothing, undefined=dict.fromkeys(names, why) | measures.undefined)


def _unmeasured(measures: Measures, why: str) -> Measures:
    names = ("correct", "accuracy", *MEANS, *PAIRED)
    return Measures(measures.samples, 0, 0, undefined=dict.fromkeys(names, why))


def _compared(own: Measures, base: Measures, after: Flags | None, before: Flags | None, here: Flags) -> Measures:
    """Return the measures of the samples `here` compared with the baseline's outcomes, as far as these tell."""
    if not own.samples or own.accuracy is None:
        return own
    if base.accuracy is None:
        return _unpaired(own, f"{base.undefined.get('accuracy', 'the reference holds no accuracy')} at fp32")
    compared = _unpaired(own, NO_LOGITS, _OF_LOGITS)
    drop = (base.correct or 0) - (own.correct or 0)
    compared = replace(compared, accuracy_drop=drop / own.samples)
    if after is None or before is None:
        return _unpaired(compared, NO_OUTCOMES, _PAIRS)
    a, b = after[here], before[here]
    pairs: dict[str, Any] = {
        "both_right": int(np.count_nonzero(a & b)),
        "right_to_wrong": int(np.count_nonzero(~a & b)),
        "wrong_to_right": int(np.count_nonzero(a & ~b)),
        "both_wrong": int(np.count_nonzero(~a & ~b)),
    }
    return replace(compared, **pairs)

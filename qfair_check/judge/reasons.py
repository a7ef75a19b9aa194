"""Why something cannot be judged, and what the user can do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, auto

from qfair_check.record import UNREAD
from qfair_check.reference_record import is_for_want_of_reference


class Fault(IntEnum):
    """What kind of reason it is; the first of several is the one to cure."""

    UNREAD = auto()
    NO_CURVATURE = auto()
    NAN = auto()
    NOT_HELD = auto()
    NO_REFERENCE = auto()
    NO_QUANTIZED_WEIGHTS = auto()
    NOT_CONVERGED_BY_PYHESSIAN = auto()
    NO_VALUE = auto()
    SMALL_SUBSAMPLE = auto()
    SMALL_GROUP = auto()
    FEW_GROUPS = auto()
    SUBSAMPLE = auto()
    FEW_SAMPLES = auto()
    AT_LIMIT = auto()
    NO_BASELINE = auto()
    OTHER_GROUPS = auto()
    NO_ENTRY = auto()
    UNPAIRED = auto()


OF_CERTAINTY = (Fault.UNPAIRED, Fault.SUBSAMPLE, Fault.FEW_SAMPLES, Fault.AT_LIMIT)
"""What is known of all groups, and is not certain enough."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something cannot be judged: what kind of reason it is, and how it reads."""

    fault: Fault
    told: str


_NO_SAMPLES = "no samples"
_GO_ON = "--qfair-insufficient=warn goes on all the same"
_CURES = {
    Fault.NO_CURVATURE: "audit the model again with --qfair-curvature",
    Fault.UNREAD: "mend these samples, or leave them out of the data; the notices of the audit name them",
    Fault.NAN: "find out why the model gives such logits, and to whom",
    Fault.NOT_HELD: "audit the model again with this version of qfair_check",
    Fault.NO_REFERENCE: "audit the model again with --qfair-reference MODEL, the one that this was made from",
    Fault.NO_QUANTIZED_WEIGHTS: "leave this limit out",
    Fault.NOT_CONVERGED_BY_PYHESSIAN: (
        "audit the model again with --qfair-hessian=lanczos, which gives a value for more groups"
    ),
    Fault.NO_VALUE: f"leave this limit out; {_GO_ON}",
    Fault.SMALL_SUBSAMPLE: f"a larger --qfair-curvature-samples, or a lower --qfair-min-group-size; {_GO_ON}",
    Fault.SMALL_GROUP: f"more samples of such groups, or a lower --qfair-min-group-size; {_GO_ON}",
    Fault.NO_BASELINE: "look at the baseline that was written, commit it, and run again",
    Fault.OTHER_GROUPS: "--qfair-update-baseline, if other groups are meant",
    Fault.NO_ENTRY: "--qfair-update-baseline=new-only adds it",
    Fault.UNPAIRED: f"audit the model again with --qfair-reference MODEL, or leave out --qfair-confidence; {_GO_ON}",
    Fault.SUBSAMPLE: f"leave out --qfair-curvature-samples, or --qfair-confidence; {_GO_ON}",
    Fault.FEW_SAMPLES: f"that many samples, or no --qfair-confidence; {_GO_ON}",
    Fault.AT_LIMIT: f"another limit, set by what the model is for and not by what was measured; {_GO_ON}",
    Fault.FEW_GROUPS: "data with two groups at least; --qfair-group-by names the columns that make them",
}


def cure(fault: Fault) -> str:
    """Return what the user can do about it."""
    return _CURES[fault]


def first_fault(reasons: Iterable[Reason]) -> Fault | None:
    """Return the one to cure; None without any.

    Examples
    --------
    >>> first_fault([Reason(Fault.FEW_GROUPS, "only one"), Reason(Fault.SMALL_GROUP, "9 samples")]).name
    'SMALL_GROUP'
    """
    return min((reason.fault for reason in reasons), default=None)


def fault_of_undefined(why: str) -> Fault:
    """Return what kind of reason an audit gives for a value that is not defined; it names no group.

    Examples
    --------
    >>> fault_of_undefined("3 of 40 samples have NaN or infinite logits").name
    'NAN'
    """
    if "NaN" in why:
        return Fault.NAN
    if why.endswith(UNREAD):
        return Fault.UNREAD
    if is_for_want_of_reference(why):
        return Fault.NO_REFERENCE
    return Fault.SMALL_GROUP if why.startswith(_NO_SAMPLES) else Fault.NO_VALUE

"""Which model a model that is audited as it is was made from, and what an audit says where that is not known."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

NO_REFERENCE = "there is no reference: --qfair-reference names the model that this one was made from"
OTHER_DATA = "the reference was measured on other samples, classes or groups than this model"
NO_LOGITS = "the reference is an audit, which holds no logits: --qfair-reference with the model itself tells"
NO_OUTCOMES = "the reference is an audit whose outcomes of each sample are not beside it"

UNMEASURED = "not measured"  # in place of the arithmetic of a baseline without values

_REASONS = (NO_REFERENCE, OTHER_DATA, NO_LOGITS, NO_OUTCOMES)


@dataclass(frozen=True, slots=True)
class ReferenceRecord:
    """The model whose fp32 values are the baseline of a model that is audited as it is.

    Parameters
    ----------
    sha256 : str or None
        Hash of its state dict, as that of `ModelRecord`; None for a plain callable.
    source : str
        The file that told of it, or "python".
    kind : str
        ``model``: it was measured in the same pass; ``audit``: a saved audit told its values; ``beside``: the audit
        that was saved beside the model file did.
    """

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None
    source: str
    kind: Literal["model", "audit", "beside"]


def is_for_want_of_reference(why: str) -> bool:
    """Return whether a value is undefined because the reference does not tell it.

    Examples
    --------
    >>> is_for_want_of_reference(NO_REFERENCE), is_for_want_of_reference("no samples")
    (True, False)
    """
    return why.startswith(_REASONS)

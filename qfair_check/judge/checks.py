"""What can be judged."""

from typing import Literal, NamedTuple

DEFAULT_MIN_GROUP_SIZE = 30

Insufficient = Literal["fail", "warn", "pass"]


class Check(NamedTuple):
    """One quantity that a limit can bind; a tuple, since every pytest run makes these, and a dataclass takes long.

    Parameters
    ----------
    name : str
        As in a test id, such as ``fvo-increase``.
    keyword : str
        As in an option, a marker or a Python call, such as ``max_fvo_increase``.
    phrase : str
        What the limit says, such as ``FVO increase``.
    default : str or None
        The limit of the built-in gate when the user sets none; None binds only when set.
    highest : int
        The largest limit that makes sense.
    in_gate : bool
        Whether the built-in gate has an option for it.
    """

    name: str
    keyword: str
    phrase: str
    default: str | None = None
    highest: int = 1
    in_gate: bool = True

    @property
    def is_ceiling(self) -> bool:
        """Whether values above the limit fail, rather than values below."""
        return self.keyword.startswith("max_")


CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("fvo", "max_fvo", "FVO"),
        Check("fvo-increase", "max_fvo_increase", "FVO increase", "0.05"),
        Check("group-drop", "max_group_drop", "worst group's accuracy drop", "0.05"),
        Check("accuracy", "min_accuracy", "overall accuracy"),
        Check("accuracy-drop", "max_accuracy_drop", "overall accuracy drop", "0.02"),
        Check("worst-group-accuracy", "min_worst_group_accuracy", "worst group's accuracy", in_gate=False),
        Check("flip-rate", "max_flip_rate", "worst group's flip rate", in_gate=False),
        Check("cosine-distance", "max_cosine_distance", "worst group's cosine distance", None, 2, False),
        Check("sparsity", "max_sparsity", "sparsity", in_gate=False),
    )
}
GATE_CHECKS: tuple[Check, ...] = tuple(check for check in CHECKS.values() if check.in_gate)

"""What can be judged."""

from typing import Literal, NamedTuple

DEFAULT_MIN_GROUP_SIZE = 30
MOST_TIMES = 10**6

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
    lowest : int
        The smallest limit that makes sense.
    ratio_of : str
        The value of `GroupCurvature` that it is a ratio of, such as ``lambda_max``; empty for what is no ratio.
    """

    name: str
    keyword: str
    phrase: str
    default: str | None = None
    highest: int = 1
    in_gate: bool = True
    lowest: int = 0
    ratio_of: str = ""

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
        Check("regression", "max_regression", "regression from the baseline", "0.01", in_gate=False),
        Check("sparsity", "max_sparsity", "sparsity", in_gate=False),
        Check(
            "lambda-max",
            "max_lambda_ratio",
            "λmax ratio between groups",
            highest=MOST_TIMES,
            lowest=1,
            ratio_of="lambda_max",
        ),
        Check(
            "gradient-norm",
            "max_gradient_ratio",
            "gradient norm ratio between groups",
            highest=MOST_TIMES,
            lowest=1,
            ratio_of="gradient_norm",
        ),
        Check(
            "lambda-max-to-fp32",
            "max_lambda_ratio_to_fp32",
            "worst group's λmax ratio to fp32",
            highest=MOST_TIMES,
            in_gate=False,
            ratio_of="lambda_max",
        ),
        Check(
            "gradient-norm-to-fp32",
            "max_gradient_ratio_to_fp32",
            "worst group's gradient norm ratio to fp32",
            highest=MOST_TIMES,
            in_gate=False,
            ratio_of="gradient_norm",
        ),
    )
}
GATE_CHECKS: tuple[Check, ...] = tuple(check for check in CHECKS.values() if check.in_gate)

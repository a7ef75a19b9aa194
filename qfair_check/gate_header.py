"""What the header of a run says of its gate."""

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.limits import Limits
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.options import JudgeOptions


def limits_text(judging: JudgeOptions, against: Limits) -> str:
    """Say which limits bind; `against` are those on what is compared with a baseline."""
    told = ", ".join(
        f"{CHECKS[name].phrase} {'<=' if CHECKS[name].is_ceiling else '>='} {limit}"
        for name, limit in (*judging.limits.items(), *against.items())
    )
    return told if judging.confidence is None else f"{told}; rates at {judging.confidence:%} confidence"


def curvature_text(options: CurvatureOptions) -> str:
    """Say that curvature is measured, and on how much."""
    return ", with curvature" + (f" on at most {options.samples} samples a group" if options.samples else "")

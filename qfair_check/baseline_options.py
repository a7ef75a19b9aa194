"""What a gate is told of a baseline, and what it does with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qfair_check.baseline_file import read_baseline, write_baseline
from qfair_check.baseline_record import Baseline, changes
from qfair_check.errors import InputError, OptionError
from qfair_check.judge.checks import CHECKS
from qfair_check.judge.limits import Limit
from qfair_check.judge.regression import REGRESSION, check_same_data
from qfair_check.options import Lookup
from qfair_check.record import Audit


@dataclass(frozen=True, slots=True)
class BaselineOptions:
    """A baseline to compare with.

    Parameters
    ----------
    path : Path
    limit : Limit
        On regression.
    update : str or None
        ``all`` or ``new-only``.
    """

    path: Path
    limit: Limit
    update: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The baseline to judge by, None where there was none; what is to be written to its file, and what to say of it."""

    baseline: Baseline | None
    told: tuple[str, ...] = ()
    due: Baseline | None = None


def baseline_options(get: Lookup) -> BaselineOptions | None:
    """Read what is said of a baseline; None if nothing is.

    Raises
    ------
    OptionError
        If the limit makes no sense, or there is no file to compare with.
    """
    path, given, update = get("baseline"), get("max_regression"), get("update_baseline")
    if path is None:
        idle = [name for name, value in (("max-regression", given), ("update-baseline", update)) if value is not None]
        if idle:
            names = " and ".join(f"--qfair-{name}" for name in idle)
            raise OptionError(f"{names} would do nothing: add --qfair-baseline FILE")
        return None
    check, target = CHECKS[REGRESSION], Path(path)
    limit = Limit.parse(check.default if given is None else given, check)
    if limit.everywhere is None:
        limit = Limit(Limit.parse(check.default, check).everywhere, limit.at)
    if target.is_dir():
        raise OptionError(f"--qfair-baseline {path} is a folder: name a file in it")
    if not target.absolute().parent.is_dir():
        raise OptionError(f"--qfair-baseline {path}: there is no folder {target.absolute().parent}")
    return BaselineOptions(target, limit, update)


def settle_baseline(options: BaselineOptions, audit: Audit, precisions: Sequence[str]) -> Settled:
    """Read the baseline, and say what is to be written where there is none or where that is asked for.

    Raises
    ------
    InputError
        If it cannot be read.
    OptionError
        If it is of other data, and is not to be written anew.
    """
    made = Baseline.of(audit, precisions)
    if options.update == "all":
        try:
            before = read_baseline(options.path)
        except InputError:  # it is written anew, whatever it was
            before = None
        after = before.updated(made) if before and before.data == made.data else made
        return _updated(options, before, after)
    before = read_baseline(options.path)
    if before is None:
        told = f"there was no baseline {options.path}: it is written now; look at it, and commit it"
        return Settled(None, (told,), made)
    check_same_data(before, audit)
    if options.update == "new-only" and before.data == made.data:
        after = before.updated(made, new_only=True)
        return _updated(options, before, after)
    absent = [entry.precision for entry in before.entries if entry.precision not in precisions]
    told = f"the baseline {options.path} also holds {', '.join(dict.fromkeys(absent))}, not compared in this run"
    return Settled(before, (told,) if absent else ())


def write_due(options: BaselineOptions, settled: Settled) -> None:
    """Write what is to be written.

    Raises
    ------
    InputError
        If it cannot be.
    """
    if settled.due is not None:
        write_baseline(settled.due, options.path)


def _updated(options: BaselineOptions, before: Baseline | None, after: Baseline) -> Settled:
    if before == after:
        return Settled(after, (f"the baseline {options.path} is up to date",))
    told = changes(before, after) or ["outcomes of samples alone"]
    return Settled(after, (f"the baseline {options.path} is updated:", *(f"  {line}" for line in told)), after)

"""The baseline of a gate in pytest: read and written in the controlling process, judged by in every one."""

from collections.abc import Sequence

import pytest

from qfair_check.baseline_file import read_baseline, write_baseline
from qfair_check.baseline_options import BaselineOptions, Settled, baseline_options, settle_baseline, write_due
from qfair_check.errors import MeasureError, OptionError
from qfair_check.judge.limits import Limits, check_limits_bind
from qfair_check.judge.regression import REGRESSION, judge_regression
from qfair_check.judge.verdicts import Verdict
from qfair_check.plugin_options import lookup
from qfair_check.precision import Precision
from qfair_check.record import Audit
from qfair_check.sources import shared_folder

_FILE = "baseline.json"


class GateBaseline:
    """What a run is compared with, where ``--qfair-baseline`` asks for it."""

    def __init__(self, config: pytest.Config, options: BaselineOptions | None) -> None:
        self._config = config
        self._options = options
        self._settled: Settled | None = None
        self._is_written = False

    @classmethod
    def from_config(cls, config: pytest.Config, precisions: Sequence[Precision]) -> "GateBaseline":
        """Read the options.

        Raises
        ------
        OptionError
            If they make no sense, or a limit is for a precision that is not gated.
        """
        if config.getini("qfair_update_baseline"):
            raise OptionError(
                "qfair_update_baseline in the ini file would let every run pass against itself: give "
                "--qfair-update-baseline on the command line, where an update is meant"
            )
        options = baseline_options(lookup(config))
        if options:
            check_limits_bind({REGRESSION: options.limit}, [precision.name for precision in precisions])
        return cls(config, options)

    @property
    def limits(self) -> Limits:
        """The limit on regression, by name of its check; empty where nothing is compared."""
        return {REGRESSION: self._options.limit} if self._options else {}

    @property
    def told(self) -> tuple[str, ...]:
        """What was done to the file, or how it compares."""
        if self._settled is None or (self._settled.due and not self._is_written):
            return ()
        return self._settled.told

    def settle(self, audit: Audit, precisions: Sequence[Precision]) -> None:
        """Read the baseline, and put the one to judge by where workers find it.

        Raises
        ------
        InputError
            If it cannot be read.
        OptionError
            If it is of other data.
        """
        if self._options is None:
            return
        self._settled = settle_baseline(self._options, audit, [precision.name for precision in precisions])
        folder = shared_folder(self._config)
        if folder is not None and self._settled.baseline is not None:
            write_baseline(self._settled.baseline, folder / _FILE)

    def write(self) -> None:
        """Write the baseline where that is due.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        if self._options and self._settled:
            write_due(self._options, self._settled)
            self._is_written = True

    def verdict(self, audit: Audit, precision: str, min_group_size: int) -> Verdict:
        """Judge the regression at one precision."""
        limit = self._options.limit.bound(precision) if self._options else None
        if limit is None:
            raise OptionError(f"no limit binds {REGRESSION} at {precision}")
        if self._settled is None:
            folder = shared_folder(self._config)
            if folder is None:
                raise MeasureError("the baseline has not been read, since the run did not get to that")
            self._settled = Settled(read_baseline(folder / _FILE))
        return judge_regression(audit, self._settled.baseline, limit, precision, min_group_size=min_group_size)

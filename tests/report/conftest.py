from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from qfair_check.curvature_record import CurvatureSettings, GroupCurvature
from qfair_check.record import Audit


@pytest.fixture(scope="session")
def with_curvature() -> Callable[..., Audit]:
    def make(
        audit: Audit, samples: int | None = 200, moved: Sequence[str] = (), **groups: Sequence[GroupCurvature]
    ) -> Audit:
        """Return the audit with this curvature by precision: `make(audit, fp32=[...], int4=[...])`."""

        def at(result):
            named = tuple(moved) if result.precision != "fp32" else ()
            return replace(result, curvature=tuple(groups[result.precision]), moved=named)

        settings = replace(audit.settings, curvature=CurvatureSettings(samples, "lanczos", 0.05, 1100, 64))
        return replace(audit, settings=settings, precisions=tuple(map(at, audit.precisions)))

    return make

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from qfair_check.judge.statistics import wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_equals_statsmodels_and_scipy(counts, confidence):
    successes, n = counts
    ours = wilson_interval(successes, n, confidence)
    assert ours == pytest.approx(proportion_confint(successes, n, 1 - confidence, "wilson"), abs=1e-12)
    theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)

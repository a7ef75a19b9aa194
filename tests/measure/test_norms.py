import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.measure.norms import BLOCK, inner_products, norm


@given(arrays.arrays(np.float32, st.integers(0, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_it_is_the_length_whatever_the_size(values):
    assert norm(torch.from_numpy(values)) == pytest.approx(float(np.linalg.norm(values.astype(np.float64))), rel=1e-6)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_float32_loses_nothing_in_long_vectors(size):
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0)) + 3
    assert norm(vector) == pytest.approx(float(vector.double().norm()), rel=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_makes_it_so(bad):
    vector = torch.ones(2 * BLOCK)
    vector[-1] = bad
    assert not math.isfinite(norm(vector))


@pytest.mark.parametrize("size", [3, BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("rows", [1, 4])
def test_inner_products_are_those_in_float64(rows, size):
    drawn = torch.randn(rows + 1, size, generator=torch.Generator().manual_seed(1)) + 1
    found = inner_products(drawn[:-1], drawn[-1])
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx((drawn[:-1].double() @ drawn[-1].double()).tolist(), rel=1e-12)

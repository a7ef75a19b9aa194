import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh

from qfair_check.measure.lanczos import FLOOR, LEAST_STEPS, MOST_STEPS, TOLERANCE, top_eigenvalue

SPECTRA = {
    "indefinite": lambda draw, n: np.r_[draw.uniform(-1, 1, n - 1), -8.0],
    "negative definite": lambda draw, n: -draw.uniform(0.5, 2, n),
    "positive definite": lambda draw, n: draw.uniform(0.5, 2, n),
    "cluster at the top": lambda draw, n: np.where(np.arange(n) < n // 2 + 1, 3 + 1e-6 * draw.random(n), 0),
    "one value": lambda draw, n: np.full(n, 2.5),
    "rank one": lambda draw, n: np.where(np.arange(n) == 0, 4.0, 0.0),
    "half of them zero": lambda draw, n: np.where(np.arange(n) < n // 2, draw.normal(size=n), 0.0),
    "geometric": lambda draw, n: 2.0 ** -np.arange(n),
    "zero": lambda draw, n: np.zeros(n),
}
STARTS = ("random", "zero", "without the top", "eigenvector")


class Operator:
    """A symmetric matrix with known eigenvalues, which counts its products."""

    def __init__(self, values, seed=0, dtype=torch.float64):
        draw = np.random.default_rng(seed)
        self.basis = np.linalg.qr(draw.normal(size=(len(values), len(values))))[0]
        self.top = self.basis[:, np.argmax(values)]
        whole = self.basis * values @ self.basis.T
        self.matrix = torch.from_numpy((whole + whole.T) / 2).to(dtype)
        self.values = np.linalg.eigvalsh(self.matrix.double().numpy())
        self.calls = 0

    def __call__(self, vector):
        self.calls += 1
        return self.matrix @ vector

    def start(self, kind, seed=0):
        drawn = np.random.default_rng(seed + 1).normal(size=len(self.values))
        made = {
            "random": drawn,
            "zero": np.zeros(len(drawn)),
            "without the top": drawn - (drawn @ self.top) * self.top,
            "eigenvector": self.basis[:, -1],
        }
        return torch.tensor(made[kind], dtype=self.matrix.dtype)


@st.composite
def operators(draw, least=-6):
    """An operator with eigenvalues of the size 10^least to 10^6, and a first vector."""
    n, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**20))
    make = SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))]
    scale = 10.0 ** draw(st.integers(least, 6))
    operator = Operator(scale * make(np.random.default_rng(seed), n), seed)
    return operator, operator.start(draw(st.sampled_from(STARTS)), seed)


def true_residual(operator, found):
    image = operator.matrix.double() @ found.vector.double()
    return float(torch.linalg.vector_norm(image - found.value * found.vector.double()))


def assert_certified(operator, found, eps=1e-12):
    """Everything that a result claims, whatever the operator."""
    values = operator.values
    rounding = eps * max(np.abs(values).max(), 1e-300)
    assert values[0] - rounding <= found.lowest <= found.value <= values[-1] + rounding
    assert np.abs(values - found.value).min() <= found.residual + rounding
    assert found.residual == pytest.approx(true_residual(operator, found), rel=1e-6, abs=rounding)
    assert float(torch.linalg.vector_norm(found.vector.double())) == pytest.approx(1, abs=eps)
    assert found.products == operator.calls


@given(operators(), st.sampled_from([TOLERANCE, 1e-3]))
def test_every_result_is_certified(made, tolerance):
    operator, start = made
    before = start.clone()
    found = top_eigenvalue(operator, start, seed=3, tolerance=tolerance)
    assert_certified(operator, found)
    assert torch.equal(start, before)
    assert found.converged
    assert found.products == len(start) or found.products >= LEAST_STEPS
    assert found.residual <= max(tolerance * abs(found.value), FLOOR)


@given(operators())
def test_a_narrow_basis_forgets_but_is_certified(made):
    operator, start = made
    narrow = top_eigenvalue(operator, start, seed=3, width=4)
    assert_certified(operator, narrow)
    assert narrow.products <= MOST_STEPS
    if narrow.converged and narrow.products < len(start):
        assert narrow.products >= LEAST_STEPS
        assert narrow.residual <= max(TOLERANCE * abs(narrow.value), FLOOR)


@given(operators(least=0))  # below that, the floor of the residual lets close eigenvalues pass for one
def test_a_small_tolerance_reaches_the_largest_eigenvalue(made):
    operator, start = made
    found = top_eigenvalue(operator, start, seed=3, tolerance=1e-10)
    width_of_a_cluster = 1e-6 * np.abs(operator.values).max()
    assert found.value == pytest.approx(operator.values[-1], abs=width_of_a_cluster)


def separated(n, top=5.0, seed=0, dtype=torch.float64):
    """An operator with one eigenvalue at the top, and all others within [-1, 1]."""
    return Operator(np.r_[np.linspace(-1, 1, n - 1), top], seed, dtype)


@pytest.mark.parametrize("start", STARTS)
def test_the_top_is_found_wherever_the_first_vector_points(start):
    operator = separated(60)
    found = top_eigenvalue(operator, operator.start(start), seed=0)
    assert_certified(operator, found)
    assert found.converged
    assert found.value == pytest.approx(5, rel=1e-2)
    assert abs(found.vector.numpy() @ operator.top) == pytest.approx(1, rel=1e-2)


def test_the_random_part_finds_what_an_invariant_start_hides():
    operator = Operator(np.r_[5.0, np.zeros(58), 1.0])
    found = top_eigenvalue(operator, operator.start("eigenvector"), seed=0)
    assert found.value == pytest.approx(5, rel=1e-2)


@pytest.mark.parametrize("width", [8, 12, MOST_STEPS])
def test_arpack_finds_the_same(width):
    values = np.sort(np.random.default_rng(5).standard_gamma(0.4, 300) - 0.4)
    values[0] = -2 * values[-1]
    operator = Operator(values)
    linear = LinearOperator(operator.matrix.shape, matvec=operator.matrix.numpy().__matmul__, dtype=np.float64)
    (expected,) = eigsh(linear, k=1, which="LA", return_eigenvectors=False)
    found = top_eigenvalue(operator, operator.start("random"), seed=0, tolerance=1e-6, width=width)
    assert_certified(operator, found)
    assert found.converged
    assert found.value == pytest.approx(float(expected), rel=1e-9)


def test_a_narrow_basis_finds_the_same_with_a_few_steps_more():
    operator = separated(300, top=1.1)
    start = operator.start("random")
    wide = top_eigenvalue(operator, start, seed=0, tolerance=1e-4)
    operator.calls = 0
    narrow = top_eigenvalue(operator, start, seed=0, tolerance=1e-4, width=8)
    assert_certified(operator, narrow)
    assert narrow.converged
    assert narrow.value == pytest.approx(wide.value, rel=1e-6)
    assert 8 < wide.products < narrow.products


@pytest.mark.parametrize("n", [1, 5, 20])
def test_a_zero_operator_has_the_eigenvalue_zero(n):
    found = top_eigenvalue(torch.zeros_like, torch.zeros(n), seed=0)
    assert (found.value, found.lowest, found.residual, found.converged) == (0, 0, 0, True)
    assert found.products == min(n, LEAST_STEPS)


def test_a_product_may_return_what_it_was_given():
    found = top_eigenvalue(lambda vector: vector, torch.ones(20, dtype=torch.float64), seed=0)
    assert (found.value, found.lowest) == pytest.approx((1, 1), rel=1e-12)


def test_too_few_steps_do_not_converge():
    operator = Operator(np.linspace(-1, 1, 200))
    found = top_eigenvalue(operator, operator.start("random"), seed=0, tolerance=1e-8, most=9)
    assert_certified(operator, found)
    assert (found.products, found.converged) == (9, False)
    assert found.residual > 1e-8


def test_a_value_that_still_moves_has_not_converged():
    """Two clusters: the residual is small at the lower one before the upper one shows."""
    operator = Operator(np.r_[np.full(400, 1.0), 1.2])
    found = top_eigenvalue(operator, torch.from_numpy(operator.basis[:, 0].copy()), seed=0, least=1)
    assert found.converged
    assert found.value == pytest.approx(1.2, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_float32_is_as_good_as_its_digits(scale):
    operator = Operator(scale * np.r_[np.linspace(-1, 1, 299), 2.0], dtype=torch.float32)
    found = top_eigenvalue(operator, operator.start("random"), seed=0, tolerance=1e-3)
    assert_certified(operator, found, eps=1e-5)
    assert found.converged
    assert found.vector.dtype == torch.float32
    assert found.value == pytest.approx(2 * scale, rel=1e-3)


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-20, 1e20])
def test_the_length_of_the_first_vector_does_not_matter(size):
    operator = separated(60, dtype=torch.float32)
    found = top_eigenvalue(operator, torch.full((60,), size), seed=0)
    assert found.converged
    assert found.value == pytest.approx(5, rel=1e-2)


def test_only_the_seed_is_random():
    operator = separated(60)
    start = operator.start("random")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = top_eigenvalue(operator, start, seed=7)
        state = torch.get_rng_state()
        torch.manual_seed(2)
        again = top_eigenvalue(operator, start, seed=7)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)
    other = top_eigenvalue(operator, start, seed=8)
    assert (one.value, one.lowest, one.residual) == (again.value, again.lowest, again.residual)
    assert torch.equal(one.vector, again.vector)
    assert not torch.equal(one.vector, other.vector)

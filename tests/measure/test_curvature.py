import copy

import numpy as np
import pytest
import torch
from small_nets import N, Y, mlp
from torch import nn
from torch.autograd.function import once_differentiable

from qfair_check.curvature_record import GroupCurvature
from qfair_check.inputs.sample import mapped
from qfair_check.measure.chunks import Chunk
from qfair_check.measure.curvature import LANCZOS, PYHESSIAN, measure_group
from qfair_check.measure.footprint import Plan
from qfair_check.measure.group_loss import Point
from qfair_check.measure.lanczos import TOLERANCE
from qfair_check.measure.spool import Spool

X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1))
PLAN = Plan(12, 32, 0)
KEPT = Plan(12, 32, 4)
CURE = "): write it with others that can be, for the audit at least"
TWICE = "the Hessian needs operations that torch can differentiate twice, and one cannot be ("


@pytest.fixture
def measured():
    """Measure the samples of group 0; those of which `others` is true are of another group."""
    spools = []

    def measure(net, x=X, y=Y, *, plan=PLAN, method=LANCZOS, others=None):
        spool = Spool(None, 0)
        spools.append(spool)
        groups = np.zeros(len(y), np.int64) if others is None else others.numpy().astype(np.int64)
        spool.add(Chunk(0, len(y), x, y.numpy(), groups, b""))
        group = spool.groups(np.arange(2), 2)[0]
        point = Point(net, [name for name, _ in net.named_parameters()])
        with torch.random.fork_rng():
            return measure_group(point, group, plan, method=method, seed=0)[0]

    yield measure
    for spool in spools:
        spool.close()


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return build().eval()


class Then(nn.Module):
    """Logits, and what `last` makes of them and of the input."""

    def __init__(self, last, net=mlp):
        super().__init__()
        self.net, self.last = net(), last

    def forward(self, x):
        return self.last(self.net(x), x)


class Saddle(nn.Module):
    """One logit, whose loss at label 0 has the Hessian diag(3, 1, -8) where the weights are zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (self.weight**2 * torch.tensor([3.0, 1.0, -8.0])).sum().expand(len(x))


def trained(net, x, y):
    step = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        step.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        step.step()
    return net


@pytest.mark.parametrize("plan", [PLAN, KEPT, Plan(64, 8, 0)], ids=["streamed", "kept", "narrow"])
def test_lambda_max_is_that_of_the_dense_hessian(exact, measured, plan):
    values = torch.linalg.eigvalsh(exact.hessian)
    found = measured(exact.net, exact.x, exact.y, plan=plan)
    assert found.samples == N
    assert found.loss == pytest.approx(float(exact.value), rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(exact.gradient.norm()), rel=1e-10)
    assert found.converged
    assert found.residual <= TOLERANCE
    assert 6 <= found.hvps <= 20
    assert found.lambda_max == pytest.approx(float(values[-1]), rel=1e-2)
    assert float(values[0]) - 1e-12 <= found.lambda_min <= found.lambda_max <= float(values[-1]) + 1e-12
    assert float((values - found.lambda_max).abs().min()) <= found.residual * found.lambda_max + 1e-12
    assert (found.account, found.undefined) == (None, {})


def test_kept_graphs_change_no_bit(exact, measured):
    net = copy.deepcopy(exact.net).float()
    x = mapped(lambda part: part.float() if part.is_floating_point() else part, exact.x)
    assert measured(net, x, exact.y, plan=KEPT) == measured(net, x, exact.y, plan=PLAN)


def test_what_has_no_samples(measured):
    reasons = {"gradient_norm": "no samples", "lambda_max": "no samples"}
    assert measured(mlp(), others=torch.ones(N)) == GroupCurvature(0, undefined=reasons)


def test_one_sample_is_a_group(dense, measured):
    net = seeded(mlp).double()
    found = measured(net, X.double(), Y, others=torch.arange(N) != 20)
    value, gradient, hessian = dense(net, X[20:21].double(), Y[20:21])
    assert (found.samples, found.converged, found.undefined) == (1, True, {})
    assert found.loss == pytest.approx(float(value), rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-10)
    assert found.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-2)


@pytest.mark.parametrize("method", [LANCZOS, PYHESSIAN])
def test_a_constant_loss_has_no_curvature(measured, method):
    found = measured(seeded(lambda: Then(lambda logits, _: 0 * logits)), method=method)
    assert (found.gradient_norm, found.lambda_max, found.residual) == (0, 0, None)
    assert (found.converged, found.undefined) == (True, {})
    assert found.loss == pytest.approx(np.log(3))


def test_a_sample_that_is_fitted_perfectly_has_next_to_no_curvature(measured):
    """Its gradient is so small that 1 / norm does not fit into a float32."""
    net = nn.Linear(4, 2)
    nn.init.zeros_(net.weight)
    net.bias.data = torch.tensor([95.0, 0.0])
    found = measured(net, X[:1], torch.tensor([0]))
    assert 0 < found.gradient_norm < 1e-38
    assert 0 <= found.lambda_max < 1e-30
    assert (found.converged, found.undefined) == (True, {})


def test_an_indefinite_hessian(measured):
    found = measured(Saddle(), y=Y * 0)
    assert (found.lambda_max, found.lambda_min) == (pytest.approx(3, rel=1e-5), pytest.approx(-8, rel=1e-5))
    assert (found.gradient_norm, found.hvps, found.converged) == (0, 3, True)


def test_pyhessian_says_when_what_it_found_is_not_lambda_max(measured):
    found = measured(Saddle(), y=Y * 0, method=PYHESSIAN)
    assert (found.lambda_max, found.converged) == (None, False)
    assert found.lambda_min == pytest.approx(-8, rel=1e-2)
    reason = f"PyHessian found the eigenvalue of largest magnitude, {found.lambda_min:.4g}, which is not λmax"
    assert found.undefined == {"lambda_max": reason}


def test_pyhessian_agrees_with_lanczos_on_a_trained_net(dense, measured):
    net = trained(seeded(mlp).double(), X.double(), Y)
    expected = float(torch.linalg.eigvalsh(dense(net, X.double(), Y)[2])[-1])
    one, other = (measured(net, X.double(), Y, method=method) for method in (LANCZOS, PYHESSIAN))
    assert one.lambda_max == pytest.approx(expected, rel=1e-2)
    assert other.lambda_max == pytest.approx(expected, rel=1e-2)
    assert one.lambda_max == pytest.approx(other.lambda_max, rel=1e-2)
    assert (one.loss, one.gradient_norm) == (other.loss, other.gradient_norm)
    assert one.converged
    assert other.hvps <= 101


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Bag(nn.Module):
    """An EmbeddingBag that takes the maximum, whose backward pass torch cannot differentiate."""

    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(3, 4, mode="max"), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.bag((x > 0).long()))


@pytest.mark.parametrize("plan", [PLAN, KEPT], ids=["streamed", "kept"])
@pytest.mark.parametrize("method", [LANCZOS, PYHESSIAN])
@pytest.mark.parametrize(
    ("build", "operation"),
    [(lambda: Then(lambda logits, _: Once.apply(logits)), "Once"), (Bag, "_embedding_bag_backward")],
    ids=["once", "never"],
)
def test_an_operation_without_a_second_derivative_is_named_with_the_cure(measured, build, operation, method, plan):
    net = seeded(build)
    found = measured(net, plan=plan, method=method)
    loss = nn.functional.cross_entropy(net(X), Y)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))])
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert (found.lambda_max, found.converged, list(found.undefined)) == (None, False, ["lambda_max"])
    reason = found.undefined["lambda_max"]
    assert reason.startswith(TWICE)
    assert operation in reason
    assert reason.endswith(CURE)


def test_the_reason_of_an_operation_that_is_marked_as_differentiable_once(measured):
    found = measured(seeded(lambda: Then(lambda logits, _: Once.apply(logits))))
    marked = "the backward pass of an operation, among Once, is marked as once_differentiable"
    assert found.undefined == {"lambda_max": f"{TWICE}{marked}{CURE}"}


def without_gradients(logits, x):
    with torch.no_grad():
        return logits * 2


def fails(logits, x):
    raise KeyError("own\nerror")


def exits(logits, x):
    raise SystemExit(3)


def runs_out(logits, x):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory\nmore")


NOT_FOLLOWED = "the loss does not depend on the model's parameters in a way that torch can follow"


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (lambda logits, _: logits.detach(), NOT_FOLLOWED),
        (without_gradients, NOT_FOLLOWED),
        (fails, r"KeyError: 'own\nerror'"),
        (exits, "SystemExit: 3"),
        (lambda logits, _: logits[:, :, None], "its output has shape (12, 3, 1), not (12, number of classes)"),
        (
            runs_out,
            "RuntimeError: [enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory; a smaller "
            "--qfair-curvature-memory or --qfair-curvature-samples takes less",
        ),
    ],
    ids=["detached", "no_grad", "raises", "exits", "shape", "memory"],
)
@pytest.mark.parametrize("plan", [PLAN, KEPT], ids=["streamed", "kept"])
def test_why_there_is_no_gradient(measured, last, reason, plan):
    expected = GroupCurvature(N, undefined={"gradient_norm": reason, "lambda_max": reason})
    assert measured(seeded(lambda: Then(last)), plan=plan) == expected


def test_nan_in_one_group_leaves_the_other_as_it_is(measured):
    others = torch.arange(N) % 2 == 0
    x = torch.where(others[:, None], float("nan"), X)
    net = seeded(mlp)
    assert measured(net, x, others=others) == measured(net, others=others)
    reason = "the loss or its gradient is NaN or infinite"
    expected = GroupCurvature(19, undefined={"gradient_norm": reason, "lambda_max": reason})
    assert measured(net, x, others=~others) == expected


@pytest.mark.parametrize("method", [LANCZOS, PYHESSIAN])
def test_a_hessian_that_is_not_finite_leaves_the_gradient(measured, method):
    net = seeded(lambda: Then(lambda logits, _: (logits - logits.detach()).abs().pow(1.5)))
    found = measured(net, method=method)
    assert (found.gradient_norm, found.lambda_max, found.converged) == (0, None, False)
    assert list(found.undefined) == ["lambda_max"]
    assert "NaN or infinite values" in found.undefined["lambda_max"]

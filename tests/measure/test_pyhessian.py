import copy
import gc
import warnings
import weakref

import pyhessian
import pytest
import torch
from small_nets import N, Tied, Unused, X, Y, mlp, seeded
from torch import nn
from torch.nn.functional import cross_entropy

from qfair_check.errors import MeasureError
from qfair_check.measure.pyhessian import pyhessian_eigenvalue, why_not_lambda_max


def conv(norm):
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, padding=1), norm, nn.SiLU(), nn.Flatten(), nn.Linear(36, 3)
    )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x.unsqueeze(2) * torch.ones(4, dtype=x.dtype).cumsum(0)).mean(1))


class Saddle(nn.Module):
    """One logit, whose loss at label 0 has the Hessian diag(3, 1, -8) where the weights are zero."""

    def __init__(self, *diagonal):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.diagonal = torch.tensor(diagonal)

    def forward(self, x):
        return (self.weight**2 * self.diagonal).sum().expand(len(x))


def names_of(net):
    return [name for name, _ in net.named_parameters()]


def in_batches(*sizes, x=X, y=Y):
    return lambda: zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)


def assert_is_extreme(found, matrix, rel=1e-2):
    values = torch.linalg.eigvalsh(matrix)
    extreme = float(values[values.abs().argmax()])
    assert found.value == pytest.approx(extreme, rel=rel)
    assert float(found.vector.norm()) == pytest.approx(1, abs=1e-12)
    assert float((matrix @ found.vector - extreme * found.vector).norm()) < 0.15 * abs(extreme)
    assert 2 <= found.hvps <= 100


@pytest.mark.parametrize(
    "build",
    [
        mlp,
        lambda: mlp(nn.ReLU),
        lambda: conv(nn.BatchNorm2d(4)),
        lambda: conv(nn.GroupNorm(2, 4)),
        lambda: nn.Sequential(nn.LayerNorm(4), mlp()),
        Attention,
        Tied,
        Unused,
    ],
    ids=["GELU", "ReLU", "BatchNorm", "GroupNorm", "LayerNorm", "attention", "tied", "unused"],
)
def test_the_value_is_that_of_the_dense_hessian(dense, build):
    net = seeded(build)
    found = pyhessian_eigenvalue(net, names_of(net), in_batches(N), 0)
    assert_is_extreme(found, dense(net, X, Y)[2])


def test_batches_are_weighted_by_their_samples(dense):
    net = seeded(mlp)
    x = X * torch.where(torch.arange(N) >= 36, 6.0, 1.0).unsqueeze(1)
    whole = pyhessian_eigenvalue(net, names_of(net), in_batches(N, x=x), 0)
    ragged = pyhessian_eigenvalue(net, names_of(net), in_batches(12, 12, 12, 1, x=x), 0)
    assert_is_extreme(ragged, dense(net, x, Y)[2])
    assert ragged.value == pytest.approx(whole.value, rel=1e-9)
    assert ragged.hvps == whole.hvps
    torch.testing.assert_close(ragged.vector, whole.vector)


def test_one_feature_and_one_logit_in_closed_form():
    net, x = seeded(lambda: nn.Linear(1, 1, bias=False)), X[:, :1]
    share = (x * net.weight.detach()).sigmoid()
    found = pyhessian_eigenvalue(net, ["weight"], in_batches(30, 7, x=x, y=Y % 2), 0)
    assert found.value == pytest.approx(float((share * (1 - share) * x**2).mean()), rel=1e-5)
    assert found.hvps == 2
    assert found.vector.abs().tolist() == [1.0]


def test_the_eigenvalue_of_largest_magnitude_is_reported_as_it_is():
    found = pyhessian_eigenvalue(Saddle(3.0, 1.0, -8.0), ["weight"], in_batches(30, 7, y=Y * 0), 0)
    assert found.value == pytest.approx(-8, rel=1e-2)
    assert found.vector.abs().tolist() == pytest.approx([0, 0, 1], abs=0.03)


def test_why_a_value_is_not_lambda_max():
    reason = "PyHessian found the eigenvalue of largest magnitude, -8.123, which is not λmax"
    assert why_not_lambda_max(-8.12345) == reason
    assert why_not_lambda_max(8.0) is None
    assert why_not_lambda_max(0.0) is None


def test_a_hessian_of_zeros_has_no_vector():
    found = pyhessian_eigenvalue(Saddle(0.0, 0.0, 0.0), ["weight"], in_batches(N, y=Y * 0), 0)
    assert (found.value, found.hvps, found.vector.tolist()) == (0.0, 2, [0.0, 0.0, 0.0])


def test_only_the_named_parameters_count_in_the_order_of_their_names(dense):
    net = seeded(mlp)
    names = ["2.weight", "0.bias"]
    found = pyhessian_eigenvalue(net, names, in_batches(20, 17), 0)
    matrix = dense(net, X, Y, names)[2]
    assert len(found.vector) == 20
    assert_is_extreme(found, matrix)


def test_a_parameter_that_the_loss_does_not_touch_has_zeros_in_the_vector():
    net = seeded(Unused)
    found = pyhessian_eigenvalue(net, names_of(net), in_batches(20, 17), 0)
    sizes = [weight.numel() for weight in net.parameters()]
    still = [name for name, part in zip(names_of(net), found.vector.split(sizes), strict=True) if not part.any()]
    assert still == ["scalar", "aside.weight", "aside.bias"]


class TwoExperts(nn.Module):
    """Each batch goes to one of them."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([mlp(), mlp()])

    def forward(self, x):
        return self.experts[len(x) % 2](x)


def test_a_parameter_that_some_batches_do_not_touch(dense):
    net = seeded(TwoExperts)
    found = pyhessian_eigenvalue(net, names_of(net), in_batches(20, 17), 0)
    even, odd = names_of(net)[:4], names_of(net)[4:]
    blocks = dense(net, X[:20], Y[:20], even)[2] * 20 / N, dense(net, X[20:], Y[20:], odd)[2] * 17 / N
    assert_is_extreme(found, torch.block_diag(*blocks))
    assert_is_extreme(pyhessian_eigenvalue(net, even, in_batches(20, 17), 0), blocks[0])


@pytest.mark.parametrize("names", [[], ["aside.weight", "scalar"]])
def test_nothing_to_differentiate_by(names):
    with pytest.raises(MeasureError, match=r"^no logit depends on a parameter that the model trains$"):
        pyhessian_eigenvalue(seeded(Unused), names, in_batches(N), 0)


def test_the_start_of_seed_is_that_of_pyhessian_itself():
    net = seeded(mlp)
    found = pyhessian_eigenvalue(net, names_of(net), in_batches(20, 17), 5)
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(5)
        own = pyhessian.hessian(net, nn.CrossEntropyLoss(), dataloader=[*in_batches(20, 17)()], cuda=False)
        values, _ = own.eigenvalues()
    assert [found.value] == values


def test_the_value_depends_on_the_seed_and_not_on_the_callers_random_state():
    net = seeded(mlp)
    results = []
    with torch.random.fork_rng():
        for caller, seed in ((1, 0), (2, 0), (2, 9)):
            torch.manual_seed(caller)
            before = torch.get_rng_state()
            results.append(pyhessian_eigenvalue(net, names_of(net), in_batches(20, 17), seed))
            assert torch.equal(torch.get_rng_state(), before)
    one, same, other = results
    assert (one.value, one.hvps) == (same.value, same.hvps)
    assert torch.equal(one.vector, same.vector)
    assert one.value != other.value
    assert one.value == pytest.approx(other.value, rel=1e-2)


def test_the_callers_module_is_left_as_it_was():
    net = conv(nn.BatchNorm2d(4)).double().train()
    net[5].bias.requires_grad_(False)
    cross_entropy(net(X), Y).backward()
    seen = []
    net.register_forward_hook(lambda *_: seen.append("hook"))
    net[1].weight.register_hook(lambda _: seen.append("gradient"))
    state = copy.deepcopy(net.state_dict())
    gradients = [(weight.grad, None if weight.grad is None else weight.grad.clone()) for weight in net.parameters()]
    hooks = len(net._forward_hooks), len(net[1].weight._backward_hooks)
    pyhessian_eigenvalue(net, ["1.weight"], in_batches(20, 17), 0)
    assert all(layer.training for layer in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [name for name, weight in net.named_parameters() if not weight.requires_grad] == ["5.bias"]
    for weight, (gradient, values) in zip(net.parameters(), gradients, strict=True):
        assert weight.grad is gradient
        assert gradient is None or torch.equal(gradient, values)
    assert (len(net._forward_hooks), len(net[1].weight._backward_hooks)) == hooks
    assert "gradient" not in seen


@pytest.fixture
def warn_always():
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("warn_always")
def test_only_the_warning_of_create_graph_is_silenced():
    class Warns(Unused):
        def forward(self, x):
            warnings.warn("of the model", UserWarning, stacklevel=1)
            return self.net(x)

    net = seeded(mlp)
    with pytest.raises(UserWarning, match="create_graph=True"):
        cross_entropy(net(X), Y).backward(create_graph=True)
    pyhessian_eigenvalue(net, names_of(net), in_batches(N), 0)
    with pytest.raises(UserWarning, match=r"^of the model$"):
        pyhessian_eigenvalue(seeded(Warns), ["net.0.weight"], in_batches(N), 0)


class Parts(nn.Module):
    """Takes two tensors, and answers with a tuple."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1)), "features"


@pytest.mark.parametrize("kind", [tuple, lambda parts: dict(zip(("right", "left"), parts[::-1], strict=True))])
def test_samples_of_several_tensors(kind):
    net = seeded(Parts)
    plain = pyhessian_eigenvalue(net.net, names_of(net.net), in_batches(20, 17), 0)
    found = pyhessian_eigenvalue(
        net, names_of(net), lambda: ((kind(x.split(2, 1)), y) for x, y in in_batches(20, 17)()), 0
    )
    assert (found.value, found.hvps) == (plain.value, plain.hvps)


def test_float32(dense):
    net = seeded(mlp)
    matrix = dense(net, X, Y)[2]
    found = pyhessian_eigenvalue(net.float(), names_of(net), in_batches(20, 17, x=X.float()), 0)
    assert found.vector.dtype == torch.float32
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-2)


def test_a_model_that_changes_its_input(dense):
    class Changes(Unused):
        def forward(self, x):
            return self.net(x.mul_(0.5))

    net, before = seeded(Changes), X.clone()
    found = pyhessian_eigenvalue(net, names_of(net)[3:], in_batches(20, 17), 0)
    assert torch.equal(X, before)
    assert_is_extreme(found, dense(net.net, X / 2, Y)[2])


def test_each_product_reads_the_batches_anew_and_holds_two_at_most():
    net, calls, held, most = seeded(mlp), [], [], []

    def batches():
        calls.append(None)
        for x, y in in_batches(10, 10, 10, 7)():
            most.append(sum(ref() is not None for ref in held))
            batch = x.clone()
            held.append(weakref.ref(batch))
            yield batch, y
            del batch

    found = pyhessian_eigenvalue(net, names_of(net), batches, 0)
    assert len(calls) == found.hvps + 1
    assert max(most) == 1


def test_it_gives_up_after_100_products():
    class Draws(Saddle):
        def forward(self, x):
            return super().forward(x) * torch.rand(())

    found = pyhessian_eigenvalue(Draws(3.0, 1.0, -8.0), ["weight"], in_batches(N, y=Y * 0), 0)
    assert found.hvps == 100


class OnceOnly(torch.autograd.Function):
    """Doubles; some custom operations of others are marked like it."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2


SEEN = []


class Recorded(nn.Module):
    """Keeps weak references to the weights that it ran with."""

    def __init__(self, last):
        super().__init__()
        self.net, self.last = mlp(), last

    def forward(self, x):
        SEEN.append(weakref.ref(self.net[0].weight))
        return self.last(self.net(x))


def pooled(logits):
    return nn.functional.embedding_bag(torch.arange(N).unsqueeze(1), logits, mode="max")


def fails(logits):
    raise KeyError("own error")


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (OnceOnly.apply, RuntimeError, "once_differentiable"),
        (pooled, RuntimeError, "'_embedding_bag_backward' is not implemented"),
        (fails, KeyError, "^'own error'$"),
        (lambda logits: logits[:, :, None], MeasureError, r"^its output has shape \(37, 3, 1\), not"),
        (
            lambda logits: logits * float("inf"),
            MeasureError,
            "^a product of its Hessian with a vector holds NaN or infinite values$",
        ),
    ],
    ids=["once", "never", "own", "shape", "infinite"],
)
def test_errors_come_through_and_leave_nothing_behind(last, error, message):
    net = seeded(lambda: Recorded(last))
    SEEN.clear()
    with pytest.raises(error, match=message):
        pyhessian_eigenvalue(net, names_of(net), in_batches(N), 0)
    torch.ones(1, requires_grad=True).sum().backward()  # torch holds a pass that failed until the next one
    gc.collect()
    assert {ref() for ref in SEEN} == {None}


def test_no_graph_outlives_the_call():
    net = seeded(lambda: Recorded(nn.Identity()))
    SEEN.clear()
    pyhessian_eigenvalue(net, names_of(net), in_batches(N), 0)
    gc.collect()
    assert {ref() for ref in SEEN} == {None}

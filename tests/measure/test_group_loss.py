import copy
import itertools

import pytest
import torch
from small_nets import N, Tied, Unused, X, Y, drawn, mlp, seeded
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qfair_check.errors import MeasureError
from qfair_check.inputs.sample import mapped
from qfair_check.measure.group_loss import GroupLoss, Point


def batches_of(x, y, *sizes):
    """Return what gives batches of these sizes anew; the rest is the last batch."""
    ends = torch.tensor([0, *sizes, len(y) - sum(sizes)]).cumsum(0).tolist()

    def again():
        for start, stop in itertools.pairwise(ends):
            yield start, mapped(lambda part: part[start:stop].clone(), x), y[start:stop]  # noqa: B023 (used at once)

    return again


def names_of(net):
    return [name for name, _ in net.named_parameters()]


def loss_of(net, x=X, y=Y, *sizes, names=None, kept=0):
    return GroupLoss(Point(net, names or names_of(net)), batches_of(x, y, *sizes), len(y), kept)


def close(found, expected, digits=10):
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=10.0**-digits * max(scale, 1))


def test_value_gradient_and_products_are_those_of_the_dense_hessian(exact):
    loss = loss_of(exact.net, exact.x, exact.y, 12, 12, 12)
    vector = drawn(len(exact.gradient), seed=5)
    assert loss.loss == pytest.approx(float(exact.value), rel=1e-12)
    close(loss.gradient, exact.gradient)
    close(loss.product(vector), exact.hessian @ vector)
    close(loss.product(exact.gradient), exact.hessian @ exact.gradient)
    assert loss.products == 2


def test_float32_is_as_good_as_its_digits(exact):
    net = copy.deepcopy(exact.net).float()
    loss = loss_of(net, exact.x, exact.y, 20)
    vector = drawn(len(exact.gradient), seed=5).float()
    assert loss.gradient.dtype == loss.product(vector).dtype == torch.float32
    close(loss.gradient, exact.gradient, digits=5)
    close(loss.product(vector), exact.hessian @ vector.double(), digits=4)


def test_a_product_is_symmetric_and_linear(exact):
    loss = loss_of(exact.net, exact.x, exact.y, 12, 12, 12)
    one, other = drawn(2, len(exact.gradient), seed=6)
    image = loss.product(one)
    assert float(other @ image) == pytest.approx(float(one @ loss.product(other)), rel=1e-9, abs=1e-12)
    close(loss.product(2 * one - 3 * other), 2 * image - 3 * loss.product(other))
    assert not loss.product(torch.zeros_like(one)).any()


@pytest.mark.parametrize("kept", [1, 3, 4])
def test_kept_graphs_give_the_same_products_to_the_bit(exact, kept):
    net = copy.deepcopy(exact.net).float()
    fresh = loss_of(net, exact.x, exact.y, 12, 12, 12)
    held = loss_of(net, exact.x, exact.y, 12, 12, 12, kept=kept)
    vector = drawn(len(exact.gradient), seed=5).float()
    assert held.loss == fresh.loss
    assert torch.equal(held.gradient, fresh.gradient)
    for _ in range(2):
        assert torch.equal(held.product(vector), fresh.product(vector))


def test_samples_count_alike_in_any_batches_and_order(exact):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(7))
    vector = drawn(len(exact.gradient), seed=5)
    turned = mapped(lambda part: part[order], exact.x), exact.y[order]
    for loss in (loss_of(exact.net, exact.x, exact.y), loss_of(exact.net, *turned, 1, 30)):
        close(loss.gradient, exact.gradient)
        close(loss.product(vector), exact.hessian @ vector)


def test_softmax_regression_in_closed_form():
    net = seeded(lambda: nn.Linear(4, 3, bias=False))
    p = (X @ net.weight.detach().T).softmax(1)
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("nab,ni,nj->aibj", spread, X, X).reshape(12, 12) / N
    gradient = torch.einsum("na,ni->ai", p - nn.functional.one_hot(Y, 3), X).flatten() / N
    loss = loss_of(net, X, Y, 12, 12, 12)
    close(loss.gradient, gradient, digits=14)
    close(torch.stack([loss.product(column) for column in torch.eye(12, dtype=torch.float64)]), hessian, digits=14)


def test_curvlinops_finds_the_same(curvlinops_product):
    net = seeded(mlp)
    vector = drawn(sum(weight.numel() for weight in net.parameters()), seed=5)
    expected = curvlinops_product(net, zip(X.split(12), Y.split(12), strict=True), N, vector)
    close(loss_of(net, X, Y, 12, 12, 12).product(vector), expected, digits=12)


@pytest.mark.parametrize(
    "exact", ["GELU", "BatchNorm", "GroupNorm", "attention", "LSTM", "tied", "dict"], indirect=True
)
def test_torch_func_finds_the_same(exact, torch_hessian):
    hessian = torch_hessian(exact.net, exact.x, exact.y)
    vector = drawn(len(hessian), seed=5)
    close(loss_of(exact.net, exact.x, exact.y, 12).product(vector), hessian @ vector)


@pytest.mark.parametrize("names", [["2.weight", "0.bias"], ["0.weight"], ["2.bias"]])
def test_only_the_named_parameters_count_in_the_order_of_the_module(dense, names):
    net = seeded(mlp)
    point = Point(net, names)
    ordered = [name for name in names_of(net) if name in names]
    assert list(point.values) == ordered
    loss = GroupLoss(point, batches_of(X, Y, 12), N)
    _, gradient, hessian = dense(net, X, Y, ordered)
    vector = drawn(len(gradient), seed=5)
    close(loss.gradient, gradient)
    close(loss.product(vector), hessian @ vector)


def test_a_parameter_that_the_loss_does_not_touch_has_zeros():
    net = seeded(Unused)
    point = Point(net, names_of(net))
    loss = GroupLoss(point, batches_of(X, Y, 12), N)
    product = point.apart(loss.product(torch.ones(point.dimension, dtype=torch.float64)))
    still = [name for name, part in product.items() if not part.any()]
    assert still == ["scalar", "aside.weight", "aside.bias"]


def test_flat_and_apart_are_inverse():
    point = Point(seeded(Tied), names_of(seeded(Tied)))
    vector = drawn(point.dimension)
    assert torch.equal(point.flat(point.apart(vector)), vector)
    assert list(point.apart(vector)) == ["first.weight", "first.bias", "second.bias", "head.weight", "head.bias"]
    alone = point.flat({"head.bias": torch.ones(3)})
    assert alone.tolist() == [0.0] * (point.dimension - 3) + [1.0] * 3


def test_the_module_is_left_as_it_was():
    net = mlp().train()
    net[0].weight.requires_grad_(False)
    net[2].bias.grad = torch.ones(3)
    seen = []
    handle = net.register_forward_hook(lambda *_: seen.append(1))
    before = copy.deepcopy(net.state_dict())
    loss = loss_of(net, X.float(), Y, 12, names=["0.bias", "2.weight", "2.bias"], kept=1)
    loss.product(loss.gradient)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert [weight.requires_grad for weight in net.parameters()] == [False, True, True, True]
    assert [weight.grad is None for weight in net.parameters()] == [True, True, True, False]
    assert net[2].bias.grad.tolist() == [1, 1, 1]
    assert list(net._forward_hooks) == [handle.id]
    assert all(weight.grad_fn is None for weight in net.parameters())


class Dropped(nn.Module):
    """Draws random numbers in eval mode too."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(nn.functional.dropout(x, training=True))


def test_what_a_model_draws_is_the_same_in_every_pass():
    net = seeded(Dropped)
    vector = drawn(sum(weight.numel() for weight in net.parameters()), seed=5)
    with torch.random.fork_rng():
        fresh, held = loss_of(net, X, Y, 12, 12), loss_of(net, X, Y, 12, 12, kept=3)
        products = [fresh.product(vector), fresh.product(vector), held.product(vector)]
    assert torch.equal(products[0], products[1])
    assert torch.equal(products[0], products[2])


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OnceFrom(nn.Module):
    """An operation that can be differentiated once only, taken where a batch starts with a positive number."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(Once.apply(x @ self.net[0].weight.T @ self.net[0].weight) if x[0, 0] > 0 else x)


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_what_is_marked_as_differentiable_once_is_not_left_out_of_any_batch(first):
    x = X.clone()
    x[:12, 0], x[12:, 0] = first, 1.0
    net = seeded(OnceFrom)
    marked = "the backward pass of an operation, among Once, is marked as once_differentiable"
    with pytest.raises(MeasureError, match=f"^{marked}$"):
        loss_of(net, x, Y, 12, 12)
    loss = GroupLoss(Point(net, names_of(net)), batches_of(x, Y, 12, 12), N, kept=3, twice=False)
    with pytest.raises(MeasureError, match=f"^{marked}$"):
        loss.product(loss.gradient)


class Split(nn.Module):
    """Gives logits that are NaN, or know nothing of the parameters."""

    def __init__(self, spoil):
        super().__init__()
        self.net, self.spoil = mlp(), spoil

    def forward(self, x):
        return self.spoil(self.net(x))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda logits: logits * float("nan"), "the loss or its gradient is NaN or infinite"),
        (lambda logits: logits + float("inf"), "the loss or its gradient is NaN or infinite"),
        (Tensor.detach, "the loss does not depend on the model's parameters in a way that torch can follow"),
    ],
    ids=["NaN", "infinite", "detached"],
)
def test_a_loss_that_has_no_gradient(spoil, reason):
    with pytest.raises(MeasureError) as raised:
        loss_of(seeded(lambda: Split(spoil)), X, Y, 12)
    assert str(raised.value) == reason


def test_a_hessian_that_is_not_finite():
    net = seeded(lambda: Split(lambda logits: (logits - logits.detach()).abs().pow(1.5)))
    loss = loss_of(net, X, Y)
    assert not loss.gradient.any()
    with pytest.raises(MeasureError) as raised:
        loss.product(torch.ones_like(loss.gradient))
    assert str(raised.value) == "the Hessian holds NaN or infinite values"

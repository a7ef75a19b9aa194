import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
import torch
from small_nets import N, Tied, Unused, X, Y, drawn, mlp, seeded
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from qfair_check.inputs.sample import Sample
from qfair_check.inputs.sample import size as size_of
from qfair_check.measure.outputs import logits_of


def mean_loss(net: nn.Module, x: Sample, y: Tensor, names: Sequence[str] | None) -> tuple[Callable, Tensor]:
    """Return the mean cross-entropy as a function of a flat vector of parameters, and that vector."""
    every = dict(net.named_parameters())
    weights = {name: every[name].detach() for name in names or every}
    args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([weight.numel() for weight in weights.values()])
        own = {name: part.view_as(weight) for part, (name, weight) in zip(parts, weights.items(), strict=True)}
        return cross_entropy(logits_of(functional_call(net, own, args, kwargs), size_of(x)), y)

    return loss, torch.cat([weight.flatten() for weight in weights.values()])


@pytest.fixture(scope="session")
def dense() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def derivatives(
        net: nn.Module, x: Sample, y: Tensor, names: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean cross-entropy, its gradient and its Hessian over `names`, in their order, row by row.

        torch.func.hessian, and jacrev of jacrev, are wrong for a LayerNorm of what depends on parameters (torch 2.14).
        """
        loss, point = mean_loss(net, x, y, names)
        point.requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            value = loss(point)
            (gradient,) = torch.autograd.grad(value, point, create_graph=True)
            rows = [torch.autograd.grad(part, point, retain_graph=True)[0] for part in gradient]
        return value.detach(), gradient.detach(), torch.stack(rows)

    return derivatives


@pytest.fixture(scope="session")
def torch_hessian() -> Callable[..., Tensor]:
    def of(net: nn.Module, x: Sample, y: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), without_warning_of_jit():
            loss, point = mean_loss(net, x, y, None)
            return hessian(loss)(point).detach()

    return of


@pytest.fixture(scope="session")
def curvlinops_product() -> Callable[..., Tensor]:
    def of(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], samples: int, vector: Tensor) -> Tensor:
        with without_warning_of_jit():
            from curvlinops import HessianLinearOperator

            loss, weights = nn.CrossEntropyLoss(), list(net.parameters())
            return HessianLinearOperator(net, loss, weights, list(batches), num_data=samples) @ vector

    return of


class without_warning_of_jit(warnings.catch_warnings):  # noqa: N801 (a context manager)
    """Let torch use torch.jit.script, which it deprecates."""

    def __enter__(self):
        super().__enter__()
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")


IMAGES = drawn(N, 2, 3, 3)
TOKENS = torch.randint(5, (N, 3), generator=torch.Generator().manual_seed(3))


def conv(norm):
    return nn.Sequential(nn.Conv2d(2, 4, 2), norm, nn.SiLU(), nn.Flatten(), nn.Linear(16, 3))


class Over(nn.Module):
    """A sequence of three tokens through a layer, and a head on what `read` makes of its answer."""

    def __init__(self, layer, width, read=lambda out: out.mean(1)):
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(5, 4), layer, nn.Linear(width, 3)
        self.read = read

    def forward(self, tokens):
        return self.head(self.read(self.layer(self.embed(tokens))))


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Answers(nn.Module):
    """Logits, wrapped by `wrap`."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = mlp(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.other = mlp(), nn.Linear(4, 4)

    def forward(self, x, other):
        return self.net(x * self.other(other))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.net = nn.Embedding(5, 4), mlp()

    def forward(self, values, *, tokens=None):
        return self.net(values + self.embed(tokens).mean(1))


NETS = {
    "GELU": (mlp, X),
    "ReLU": (lambda: mlp(nn.ReLU), X),
    "SiLU": (lambda: mlp(nn.SiLU), X),
    "BatchNorm": (lambda: conv(nn.BatchNorm2d(4)), IMAGES),
    "GroupNorm": (lambda: conv(nn.GroupNorm(2, 4)), IMAGES),
    "LayerNorm": (lambda: nn.Sequential(nn.LayerNorm(4), mlp()), X),
    "encoder": (lambda: Over(nn.TransformerEncoderLayer(4, 2, 5, batch_first=True), 4), TOKENS),
    "attention": (lambda: Over(SelfAttention(4, 2, batch_first=True), 4), TOKENS),
    "LSTM": (lambda: Over(nn.LSTM(4, 3, batch_first=True), 3, lambda out: out[0][:, -1]), TOKENS),
    "GRU": (lambda: Over(nn.GRU(4, 3, batch_first=True), 3, lambda out: out[0][:, -1]), TOKENS),
    "embedding": (lambda: Over(nn.Identity(), 4), TOKENS),
    "tied": (Tied, X),
    "unused": (Unused, X),
    "one logit": (lambda: mlp(classes=1), X),
    "tuple": (lambda: Answers(lambda logits: (logits, "more")), X),
    "object": (lambda: Answers(lambda logits: types.SimpleNamespace(logits=logits)), X),
    "dict": (Named, {"values": X, "tokens": TOKENS}),
    "two inputs": (Pairs, (X, X.flip(0))),
}


@dataclass(frozen=True)
class Exact:
    """A net in float64, its samples and their labels, and the dense derivatives of its mean loss."""

    name: str
    net: nn.Module
    x: Sample
    y: Tensor
    value: Tensor
    gradient: Tensor
    hessian: Tensor


@pytest.fixture(params=NETS, scope="session")
def exact(request, dense) -> Exact:
    build, x = NETS[request.param]
    net = seeded(build)
    y = Y % 2 if request.param == "one logit" else Y
    return Exact(request.param, net, x, y, *dense(net, x, y))

import warnings
from inspect import signature

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import fx, nn
from torch._dynamo.exc import UserError
from torch.export import ExportedProgram, export
from torch.nn.utils import parametrizations, prune

from qfair_check.errors import InputError
from qfair_check.inputs.model import as_model
from qfair_check.quantize.graph import graph_weights
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model


def weights(module):
    return [(name, axis) for name, _, axis in quantizable_weights(module)]


class Words(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.layer = layer
        self.head = nn.Linear(8, 9)
        self.head.weight = self.words.weight

    def forward(self, ids):
        x = self.words(ids)
        return self.head(self.layer(x)[0] if isinstance(self.layer, nn.RNNBase) else self.layer(x))


class Attend(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 8, mode="mean")
        self.fc = nn.Linear(8, 3)

    def forward(self, ids):
        return self.fc(self.bag(ids))


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(8, 8), nn.RNNCell(8, 8), nn.LSTMCell(8, 8)])

    def forward(self, x):
        return self.cells[2](self.cells[1](self.cells[0](x)))[0]


def ids():
    return torch.randint(0, 9, (4, 5))


KINDS = {
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4), nn.ConvTranspose2d(8, 6, 2, groups=2),
            nn.PReLU(), nn.GroupNorm(2, 6), nn.Conv2d(6, 5, 1, padding="same"), nn.Flatten(), nn.Linear(5 * 25, 3),
        ),
        torch.randn(2, 3, 8, 8),
    ),
    "one dimension": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 5, 3)), torch.randn(2, 3, 9)),
    "three dimensions": (nn.Sequential(nn.Conv3d(1, 4, 2), nn.ConvTranspose3d(4, 5, 2)), torch.randn(2, 1, 4, 4, 4)),
    "bilinear and linear": (nn.Sequential(nn.Linear(8, 6, bias=False), nn.LayerNorm(6)), torch.randn(2, 5, 8)),
    "attention": (Attend(), torch.randn(2, 5, 8)),
    "attention with bias": (Attend(add_bias_kv=True, kdim=8, vdim=8), torch.randn(2, 5, 8)),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16), torch.randn(5, 2, 8)),
    "lstm": (Words(nn.LSTM(8, 8, num_layers=2, batch_first=True)), ids()),
    "lstm with projection": (Words(nn.LSTM(8, 16, proj_size=4, bidirectional=True, batch_first=True)), ids()),
    "gru": (Words(nn.GRU(8, 4, bidirectional=True, batch_first=True)), ids()),
    "rnn": (Words(nn.RNN(8, 8, nonlinearity="relu", batch_first=True)), ids()),
    "encoder": (Words(nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)), ids()),
    "bags": (Bags(), ids()),
    "cells": (Cells(), torch.randn(2, 8)),
}  # fmt: skip


HAS_GUARDS = "check_guards" in signature(ExportedProgram.module).parameters  # of a torch after 2.6


def exported(module, given):
    try:
        return export(module, (given,))
    except (AssertionError, UserError):
        if HAS_GUARDS:
            raise
        pytest.skip("this torch cannot export it")


def module_of(program):
    return program.module(check_guards=False) if HAS_GUARDS else program.module()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decomposed", [False, True])
def test_names_and_axes_are_those_of_the_eager_model(kind, decomposed):
    module, given = KINDS[kind]
    with warnings.catch_warnings(action="ignore"):
        program = exported(module.eval(), given)
        program = program.run_decompositions() if decomposed else program
    expected = weights(module)
    assert len(expected) >= 1
    if not HAS_GUARDS:  # torch 2.6 calls a tied weight by its other name
        tied = {"words.weight": "head.weight"} if isinstance(module, Words) else {}
        expected = [(tied.get(name, name), axis) for name, axis in expected]
    for found in (weights(as_model(program).module), weights(module_of(program))):
        assert (found if HAS_GUARDS else sorted(found)) == (expected if HAS_GUARDS else sorted(expected))


@pytest.mark.parametrize("kind", ["convolutions", "transformer", "attention"])
def test_layers_of_a_traced_module_come_once(kind):
    module, _ = KINDS[kind]
    traced = fx.symbolic_trace(nn.Sequential(module))
    assert weights(traced) == weights(nn.Sequential(module))


class Own(nn.Module):
    """Each parameter is used in another way; `forward` is given."""

    def __init__(self, forward):
        super().__init__()
        self.a = nn.Parameter(torch.randn(6, 4))
        self.square = nn.Parameter(torch.randn(4, 4))
        self.thin = nn.Parameter(torch.randn(6, 1))
        self.image = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.bias = nn.Parameter(torch.randn(6))
        self.register_buffer("mask", torch.randn(4, 4))
        self._given = forward

    def forward(self, x):
        return self._given(self, x)


USES = {
    "functional linear": (lambda s, x: F.linear(x, s.a, s.bias), [("a", 0)]),
    "linear by name": (lambda s, x: F.linear(input=x, weight=s.a), [("a", 0)]),
    "matmul with a transpose": (lambda s, x: x @ s.a.t(), [("a", 0)]),
    "matmul with T": (lambda s, x: torch.matmul(x, s.a.T), [("a", 0)]),
    "matmul": (lambda s, x: x @ s.square, [("square", 1)]),
    "matmul from the left": (lambda s, x: s.a @ x.t(), [("a", 0)]),
    "a method": (lambda s, x: x.matmul(s.a.transpose(0, 1)), [("a", 0)]),
    "mm": (lambda s, x: torch.mm(x, s.square), [("square", 1)]),
    "addmm": (lambda s, x: torch.addmm(s.bias, x, s.a.permute(1, 0)), [("a", 0)]),
    "addmm with a weight as it is": (lambda s, x: torch.addmm(x.sum(), x, s.square), [("square", 1)]),
    "addmm from the left": (lambda s, x: torch.addmm(x.sum(), s.a, x.t()), [("a", 0)]),
    "baddbmm": (
        lambda s, x: torch.baddbmm(x.sum().reshape(1, 1, 1), x.unsqueeze(0), s.square.unsqueeze(0)),
        [("square", 1)],
    ),
    "bmm": (lambda s, x: torch.bmm(x.unsqueeze(0), s.square.unsqueeze(0)), [("square", 1)]),
    "bmm of an expanded weight": (
        lambda s, x: torch.bmm(x.unsqueeze(0).expand(2, -1, -1), s.a.t().unsqueeze(0).expand(2, 4, 6)),
        [("a", 0)],
    ),
    "a cast and a copy": (lambda s, x: F.linear(x, s.a.to(torch.float32).detach().contiguous().clone()), [("a", 0)]),
    "parts": (lambda s, x: F.linear(x, s.a.chunk(3)[1]) + F.linear(x, s.a[2:4]), [("a", 0)]),
    "parts by split": (lambda s, x: x @ torch.split(s.square, 2, dim=1)[0], [("square", 1)]),
    "a reshaped kernel": (lambda s, x: F.linear(x, s.image.view(4, 4)), [("image", 0)]),
    "a flattened kernel": (lambda s, x: x @ s.image.flatten(1).t(), [("image", 0)]),
    "a kernel": (lambda s, x: F.conv2d(x.reshape(1, 4, 2, 1), s.image), [("image", 0)]),
    "a transposed kernel": (lambda s, x: F.conv_transpose2d(x.reshape(1, 4, 2, 1), s.image), [("image", 1)]),
    "a matrix of one column": (lambda s, x: F.linear(x[:, :1], s.thin), [("thin", 0)]),
    "an embedding": (lambda s, x: F.embedding(x.argmax(1), s.a), [("a", 0)]),
    "twice": (lambda s, x: F.linear(F.linear(x, s.square), s.square), [("square", 0)]),
    "two weights": (lambda s, x: x @ (s.square @ s.a.t()), [("a", 0), ("square", 0)]),
    "activations alone": (lambda s, x: torch.bmm(x.unsqueeze(0), x.t().unsqueeze(0)), []),
    "a buffer": (lambda s, x: F.linear(x @ s.mask, s.mask), []),
    "a vector and a scale": (lambda s, x: x @ s.a[0] + s.bias.sum() * s.square.sum(), []),
    "added": (lambda s, x: x @ x.t() + s.square[:2, :2], []),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["traced", "exported", "decomposed"])
def test_each_use_of_a_parameter(use, kind):
    forward, expected = USES[use]
    module, x = Own(forward), torch.randn(2, 4)
    if kind == "traced":
        found = fx.symbolic_trace(module)
    else:
        program = export(module, (x,))
        found = module_of(program.run_decompositions() if kind == "decomposed" else program)
    names = {id(parameter): name for name, parameter in found.named_parameters()}
    assert sorted(weights(found)) == expected
    assert all(names[id(parameter)] == name for name, parameter, _ in graph_weights(found))


class Separate(nn.Module):
    """Attention with keys and values of other widths, and its weights by place or by name."""

    def __init__(self, by_name):
        super().__init__()
        inner = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, bias=False)
        self.q, self.k, self.v = inner.q_proj_weight, inner.k_proj_weight, inner.v_proj_weight
        self.out = inner.out_proj.weight
        self._by_name = by_name

    def forward(self, q, k, v):
        first = (q, k, v, 4, 2, None, None, None, None, False, 0.0, self.out, None, False, None, False, None, True)
        if self._by_name:
            weights = {"q_proj_weight": self.q, "k_proj_weight": self.k, "v_proj_weight": self.v}
            return F.multi_head_attention_forward(*first, **weights)[0]
        return F.multi_head_attention_forward(*first, self.q, self.k, self.v)[0]


@pytest.mark.parametrize("by_name", [False, True])
def test_attention_with_separate_projections(by_name):
    module = Separate(by_name)
    assert module(torch.randn(2, 1, 4), torch.randn(3, 1, 3), torch.randn(3, 1, 5)).shape == (2, 1, 4)
    found = sorted(weights(fx.symbolic_trace(module)))
    assert found == [("k", 0), ("out", 0), ("q", 0), ("v", 0)]


def test_names_are_those_of_the_module_that_holds_the_graph():
    module = nn.Sequential(nn.Linear(4, 4), fx.symbolic_trace(Own(USES["matmul"][0])))
    assert weights(module) == [("0.weight", 0), ("1.square", 1)]


def test_per_channel_scales_follow_the_axis():
    traced = fx.symbolic_trace(Own(lambda s, x: x @ s.square))
    quantized = quantize_model(traced, 4, "absmax/per-channel")
    assert quantized.layers[0].scale == tuple((traced.square.abs().amax(0) / 7).tolist())
    x = torch.randn(3, 4)
    assert not torch.equal(quantized.module(x), traced(x))


@pytest.mark.parametrize("kind", ["traced", "exported"])
@pytest.mark.parametrize("make", [lambda layer: prune.random_unstructured(layer, "weight", 0.5),
                                  parametrizations.weight_norm])  # fmt: skip
def test_a_computed_weight_is_refused(kind, make):
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.g = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 1))

        def forward(self, x):
            return F.linear(x, self.v * self.g)

    module = fx.symbolic_trace(Computed()) if kind == "traced" else None
    if module is None:
        with warnings.catch_warnings(action="ignore"):
            module = module_of(exported(make(nn.Linear(4, 3)).eval(), torch.randn(2, 4)))
    with pytest.raises(InputError, match=r"^a weight of linear is computed from [\w.]+ and others \(pruning"):
        weights(module)


def test_a_weight_in_a_graph_inside_a_graph():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.first(x)
            return torch.cond(x.sum() > 0, lambda x: self.fc(x), lambda x: self.fc(-x), (x,))

    module = Inside().eval()
    assert weights(as_model(export(module, (torch.randn(2, 4),))).module) == weights(module)


def test_integers_are_refused():
    module = Own(USES["functional linear"][0])
    module.a = nn.Parameter(torch.zeros(6, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"^a holds int8, not floating-point weights"):
        weights(fx.symbolic_trace(module))


class Every(nn.Module):
    """Uses some columns of a parameter."""

    def __init__(self, step):
        super().__init__()
        self.mix, self.step = nn.Parameter(torch.ones(6, 4 * step)), step

    def forward(self, x):
        return x @ self.mix[:, :: self.step]


@pytest.mark.parametrize("step", [2, 3, 6])
def test_the_axis_of_a_slice_with_steps(step):
    assert weights(fx.symbolic_trace(Every(step))) == [("mix", 1)]
    assert weights(as_model(export(Every(step), (torch.ones(2, 6),))).module) == [("mix", 1)]

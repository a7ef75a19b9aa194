import inspect

import pytest
import torch
import torchvision
from torch import nn
from torch.fx import symbolic_trace
from torch.nn.functional import linear

from qfair_check.inputs.model import as_model
from qfair_check.quantize.layers import quantizable_weights
from qfair_check.quantize.model import quantize_model
from qfair_check.quantize.order import first_and_last


def ends(module, *inputs):
    weights = [(name, weight) for name, weight, _ in quantizable_weights(module)]
    return first_and_last(module.eval(), weights, inputs[0] if len(inputs) == 1 else inputs)


class Functional(nn.Module):
    """Uses the weight of its last layer without calling the layer, as attention does."""

    def __init__(self):
        super().__init__()
        self.out, self.inner = nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x):
        return linear(self.inner(x), self.out.weight)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.middle, self.embed, self.head = nn.Linear(4, 4), nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.middle(self.embed(x)).mean(1))


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (Functional(), [torch.randn(2, 3)], ("inner.weight", "out.weight")),
        (Tied(), [torch.tensor([[1, 2]])], ("embed.weight", "embed.weight")),
        (nn.LSTM(4, 5, 2), [torch.randn(2, 3, 4)], ("weight_ih_l0", "weight_hh_l1")),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
            [torch.randn(2, 3, 8)],
            ("layers.0.self_attn.in_proj_weight", "layers.1.linear2.weight"),
        ),
        (nn.Linear(3, 2), [torch.randn(2, 3)], ("weight", "weight")),
        (torchvision.models.resnet18(num_classes=3), [torch.randn(1, 3, 32, 32)], ("conv1.weight", "fc.weight")),
    ],
    ids=["functional", "tied", "lstm", "transformer", "one layer", "resnet18"],
)
def test_the_weights_that_are_used_first_and_last(module, inputs, expected):
    assert ends(module, *inputs) == expected


def by_name(module, x):
    weights = [(name, weight) for name, weight in module.named_parameters() if name.endswith("weight")]
    return first_and_last(module, weights, x)


def test_a_traced_and_an_exported_module():
    net, x = Functional().eval(), torch.randn(2, 3)
    assert by_name(symbolic_trace(net), x) == ("inner.weight", "out.weight")
    assert by_name(torch.export.export(net, (x,)).module(), x) == ("inner.weight", "out.weight")


def test_operators_keep_their_options():
    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2).double()

        def forward(self, x):
            return self.inner(torch.full(x.shape, 1.5, dtype=torch.float64))

    assert by_name(Double(), torch.ones(2, 3)) == ("inner.weight", "inner.weight")


def test_a_condition_takes_the_weights_of_its_branches():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.branch = nn.Linear(3, 2), nn.Linear(3, 3)

        def forward(self, x):
            return self.head(torch.cond(x.sum() > 0, self.branch, lambda x: x + 1, (x,)))

    if "check_guards" not in inspect.signature(torch.export.ExportedProgram.module).parameters:
        pytest.skip("torch 2.6 follows no operators into a branch")
    program = as_model(torch.export.export(Branches(), (torch.ones(2, 3),))).module
    assert by_name(program, torch.ones(2, 3)) == ("branch.weight", "head.weight")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("made", [torch.jit.script, lambda net: torch.jit.trace(net, torch.randn(2, 3))])
def test_torchscript(made):
    net = quantize_model(as_model(made(Functional().eval())).module, "fp32").module
    assert by_name(net, torch.randn(2, 3)) == ("inner.weight", "out.weight")


def test_a_compiled_module():
    net = torch.compile(Functional().eval(), backend="eager")
    assert by_name(net, torch.randn(2, 3)) == ("_orig_mod.inner.weight", "_orig_mod.out.weight")


def test_where_no_weight_is_used_the_order_is_that_of_registration():
    class Unused(Functional):
        def forward(self, x):
            return x

    assert by_name(Unused(), torch.randn(2, 3)) == ("out.weight", "inner.weight")


def test_nothing_is_changed_and_no_gradient_is_kept():
    net = Functional()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ends(net, torch.randn(2, 3, requires_grad=True))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())

import copy

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, parametrize
from torchvision.models import resnet18

import qfair_check
from qfair_check.errors import InputError, OptionError
from qfair_check.precision import Precision
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.model import quantize_model
from qfair_check.remedy.attach import attach_lsq, freeze_lsq, lsq_layers, step_parameters

EVERY = Allocation()


class Crossed(nn.Module):
    """Its layers run in another order than they were registered in."""

    def __init__(self):
        super().__init__()
        self.head, self.middle, self.stem = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(torch.relu(self.middle(torch.relu(self.stem(x)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(self.embedding(tokens).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def bits_of(module):
    return {layer.name: layer.lsq.bits for layer in lsq_layers(module)}


def train(module, batch, steps=3):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        module(batch).square().sum().backward()
        optimizer.step()


CASES = {
    "linear layers": (Crossed, lambda: torch.randn(5, 3)),
    "tied": (Tied, lambda: torch.tensor([[0, 1, 2], [3, 4, 5]])),
    "lstm": (Recurrent, lambda: torch.randn(2, 5, 3)),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        lambda: torch.randn(2, 5, 8),
    ),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Flatten()), lambda: torch.randn(2, 2, 3, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_layer_trains_and_freezes_to_the_same_predictions(case):
    torch.manual_seed(0)
    module, batch = (make() for make in CASES[case])
    attached = attach_lsq(module, 3, allocation=EVERY)
    first = {layer.name: (layer.weight.clone(), layer.lsq.step.clone()) for layer in lsq_layers(attached)}
    train(attached, batch)
    for layer in lsq_layers(attached):
        weight, step = first[layer.name]
        assert not torch.equal(layer.weight, weight), layer.name
        assert layer.lsq.step != step, layer.name
    frozen = freeze_lsq(attached)
    attached.eval()
    with torch.no_grad():
        assert torch.equal(frozen.module(batch), attached(batch))
    assert type(frozen.module) is type(module)
    assert frozen.module.state_dict().keys() == module.state_dict().keys()
    assert not any(parametrize.is_parametrized(part) for part in frozen.module.modules())
    for name, learned in frozen.grids.items():
        assert torch.equal(frozen.module.get_parameter(name), learned.tensor.dequantize())
        assert learned.tensor.codes.abs().max() <= 3
    train(attached.train(), batch)  # and the attached model still works


def test_at_first_it_predicts_what_quantize_model_gives():
    module, batch = Crossed().eval(), torch.randn(5, 3)
    for scheme in ("absmax", "mse/full", "aciq/asymmetric"):
        quantized = quantize_model(module, 3, scheme)
        assert torch.equal(attach_lsq(module, 3, scheme, allocation=EVERY)(batch), quantized.module(batch))


def test_the_first_and_the_last_layer_that_run_have_eight_bits():
    attached = attach_lsq(Crossed(), 2, batch=torch.zeros(1, 3))
    assert bits_of(attached) == {"head.weight": 8, "middle.weight": 2, "stem.weight": 8}


def test_layers_have_the_bits_that_they_are_given():
    allocation = Allocation.of("middle=3,stem=32", exclude="", first_last=6)
    attached = attach_lsq(Crossed(), 4, allocation=allocation, batch=torch.zeros(1, 3))
    assert bits_of(attached) == {"head.weight": 6, "middle.weight": 3}
    assert not parametrize.is_parametrized(attached.stem)
    assert set(freeze_lsq(attached).grids) == {"head.weight", "middle.weight"}


def test_the_module_stays_as_it_is():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).train()
    module[3].weight.grad = torch.ones_like(module[3].weight)
    before = copy.deepcopy(module.state_dict())
    attached = attach_lsq(module, 2, batch=torch.randn(4, 1, 4, 4))
    train(attached, torch.randn(4, 1, 4, 4))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert attached[1].num_batches_tracked == 3  # the example did not count
    assert module.training
    assert attached.training
    assert all(part.training for part in attached.modules())
    assert [type(part) for part in module] == [nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert module[3].weight.grad.eq(1).all()


def test_tied_weights_stay_tied():
    attached = attach_lsq(Tied(), 2, allocation=EVERY)
    assert [name for name, _ in attached.named_parameters()] == [
        "embedding.parametrizations.weight.original",
        "embedding.parametrizations.weight.0.step",
    ]
    assert torch.equal(attached.out.weight, attached.embedding.weight)
    frozen = freeze_lsq(attached)
    assert frozen.module.out.weight is frozen.module.embedding.weight
    assert list(frozen.grids) == ["embedding.weight"]


def test_one_layer_under_two_names_has_one_grid():
    layer = nn.Linear(3, 3)
    attached = attach_lsq(nn.Sequential(layer, nn.ReLU(), layer), 2, allocation=EVERY)
    assert bits_of(attached) == {"0.weight": 2}
    assert len(attached[0].parametrizations.weight) == 1
    batch = torch.randn(2, 3)
    assert torch.equal(freeze_lsq(attached).module(batch), attached(batch))


def test_a_parametrized_bias_of_the_caller_survives():
    class Doubled(nn.Module):
        def forward(self, value):
            return 2 * value

    module = nn.Sequential(nn.Linear(3, 3))
    parametrize.register_parametrization(module[0], "bias", Doubled())
    batch = torch.randn(2, 3)
    before = module(batch)
    attached = attach_lsq(module, 2, allocation=EVERY)
    frozen = freeze_lsq(attached)
    assert torch.equal(module(batch), before)
    assert torch.equal(frozen.module(batch), attached(batch))
    assert parametrize.is_parametrized(attached[0], "weight")
    assert parametrize.is_parametrized(frozen.module[0], "bias")
    assert not parametrize.is_parametrized(frozen.module[0], "weight")


def test_a_copy_freezes_without_harm_to_the_first():
    attached = attach_lsq(Crossed(), 2, allocation=EVERY)
    batch = torch.randn(2, 3)
    before = attached(batch)
    freeze_lsq(copy.deepcopy(attached))
    assert torch.equal(attached(batch), before)


def test_training_goes_on_from_a_state_dict():
    module, batch = Crossed(), torch.randn(5, 3)
    attached = attach_lsq(module, 4, "mse/asymmetric", allocation=EVERY, learn_offset=True)
    train(attached, batch)
    again = attach_lsq(module, 4, "mse/asymmetric", allocation=EVERY, learn_offset=True)
    again.load_state_dict(attached.state_dict())
    assert torch.equal(again(batch), attached(batch))


def test_steps_are_a_group_of_parameters():
    attached = attach_lsq(Tied(), 2, "mse/asymmetric", allocation=EVERY, learn_offset=True)
    lsq = attached.embedding.parametrizations.weight[0]
    assert [id(value) for value in step_parameters(attached)] == [id(lsq.step), id(lsq.offset)]


def test_what_is_frozen_in_the_model_stays_frozen():
    module = Crossed()
    module.stem.requires_grad_(False)
    attached = attach_lsq(module, 2, allocation=EVERY)
    stem = attached.stem.parametrizations.weight
    assert (stem.original.requires_grad, stem[0].step.requires_grad) == (False, False)
    train(attached, torch.randn(5, 3))
    assert torch.equal(stem.original, module.stem.weight)


def test_a_residual_network_trained_for_a_step_freezes_to_a_file_that_loads(tmp_path):
    torch.manual_seed(0)
    batch = torch.randn(4, 3, 32, 32)
    attached = attach_lsq(resnet18(num_classes=3), 2, batch=batch)
    bits = bits_of(attached)
    assert (bits.pop("conv1.weight"), bits.pop("fc.weight")) == (8, 8)
    assert set(bits.values()) == {2}
    assert len(bits) == 19
    train(attached, batch, steps=1)
    frozen = freeze_lsq(attached)
    assert not frozen.module.training
    attached.eval()
    with torch.no_grad():
        assert torch.equal(frozen.module(batch), attached(batch))
    qfair_check.save_model(frozen.module, tmp_path / "fair.safetensors", arch="resnet18")
    loaded = qfair_check.load_model(tmp_path / "fair.safetensors").module
    with torch.no_grad():
        assert torch.equal(loaded(batch), frozen.module(batch))


def test_half_precision_weights_become_float32():
    attached = attach_lsq(Crossed().half(), 4, allocation=EVERY)
    assert {value.dtype for value in attached.parameters()} == {torch.float32}


def broken():
    module = Crossed()
    module.stem.weight.data[0, 0] = torch.nan
    return module


def uncopyable():
    module = Crossed()
    module.generator = iter(())
    module.lock = (line for line in ())
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "ReLU has no weights to quantize to int4, so that no grid can be learned"),
        (parametrizations.weight_norm(nn.Linear(2, 2)), "weight is not a parameter but computed from others"),
        (attach_lsq(nn.Linear(2, 2), 4, allocation=EVERY), "weight is not a parameter but computed from others"),
        (broken(), "the model holds NaN or infinite values"),
        (uncopyable(), "Crossed cannot be copied"),
        (fx.symbolic_trace(Crossed()), "runs TorchScript or a graph of operators, whose weights cannot learn a grid"),
        (torch.export.export(Crossed(), (torch.zeros(2, 3),)).module(), "runs TorchScript or a graph of operators"),
    ],
)
def test_modules_that_cannot_be_trained(module, message):
    with pytest.raises(InputError, match=message):
        attach_lsq(module, 4, allocation=EVERY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "fp16"}, "LSQ learns integer grids of 2 to 8 bits, not fp16"),
        ({"bits": 9}, "'9' is not a bit width"),
        ({"scheme": "mse/per-channel"}, "LSQ learns one step for a tensor"),
        ({"allocation": Allocation.of("stem=16")}, "stem.weight is to have fp16, and LSQ learns integer grids"),
        ({"allocation": Allocation.of("stm=4")}, "no layer has this name: close are stem"),
        ({"allocation": Allocation(first_last=Precision("int8"))}, "give an example batch"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        attach_lsq(Crossed(), **{"bits": 4, "allocation": EVERY, **options})


def test_a_plain_module_cannot_be_frozen():
    with pytest.raises(InputError, match="Crossed has no weight on a learned grid: give what attach_lsq returned"):
        freeze_lsq(Crossed())

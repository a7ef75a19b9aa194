import pytest
import torch
from torch import nn

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.model import Model, load_model
from qfair_check.measure.run import audit
from qfair_check.quantize.allocation import Allocation
from qfair_check.quantize.layers import tied_names
from qfair_check.quantize.model import quantize_model
from qfair_check.quantize.saved import save_quantized
from qfair_check.record import Audit
from qfair_check.remedy.attach import attach_lsq, freeze_lsq

NETS = """
import torch
from torch import nn

def mixed():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.Flatten(),
                        nn.Linear(75, 5))
    return net

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x).mean(1))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = build()
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean)
        return net.eval()


def mixed(nets):
    return seeded(getattr(__import__(nets), "mixed"))  # noqa: B009 (as the user's module is found)


def images():
    return torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def same(one, other):
    before, after = one.state_dict(), other.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["absmax", "mse/full", "asymmetric", "per-channel", "asymmetric/per-channel"])
def test_a_quantized_model_comes_back_bit_for_bit(nets, tmp_path, bits, scheme):
    quantized = quantize_model(mixed(nets), bits, scheme)
    save_quantized(quantized, tmp_path / "net.safetensors", arch=f"{nets}:mixed")
    loaded = load_model(tmp_path / "net.safetensors")
    assert same(loaded.module, quantized.module)
    assert torch.equal(loaded.module(images()), quantized.module(images()))
    for name, grid in loaded.grids.items():
        assert grid.bits == bits
        assert torch.equal(grid.dequantize(), quantized.module.get_parameter(name).detach())


def test_bits_by_layer_and_layers_left_out_are_kept(nets, tmp_path):
    allocation = Allocation.of("0=8", exclude="3")
    save_quantized(
        quantize_model(mixed(nets), 4, allocation=allocation), tmp_path / "net.safetensors", arch=f"{nets}:mixed"
    )
    grids = load_model(tmp_path / "net.safetensors").grids
    assert {name: grid.bits for name, grid in grids.items()} == {"0.weight": 8, "5.weight": 4}


@pytest.mark.parametrize("scheme", ["mse", "asymmetric"])
def test_a_model_that_learned_its_grid_comes_back_bit_for_bit(nets, tmp_path, scheme):
    net = attach_lsq(mixed(nets), 3, scheme, allocation=Allocation())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        net(images()).square().mean().backward()
        optimizer.step()
    frozen = freeze_lsq(net)
    save_quantized(frozen, tmp_path / "net.safetensors", arch=f"{nets}:mixed")
    loaded = load_model(tmp_path / "net.safetensors")
    assert torch.equal(loaded.module(images()), net.eval()(images()))
    assert {grid.bits for grid in loaded.grids.values()} == {3}


def test_a_tied_weight_is_saved_once_and_stays_tied(nets, tmp_path):
    quantized = quantize_model(seeded(getattr(__import__(nets), "Tied")), 4)  # noqa: B009
    save_quantized(quantized, tmp_path / "net.safetensors", arch=f"{nets}:Tied")
    loaded = load_model(tmp_path / "net.safetensors")
    assert list(loaded.grids) == ["embed.weight"]
    assert tied_names(loaded.module) == {"head.weight": "embed.weight"}
    x = torch.arange(14).reshape(2, 7) % 7
    assert torch.equal(loaded.module(x), quantized.module(x))
    made = audit(loaded, (x, [0, 1]), "asis").at("asis")
    assert [(layer.name, layer.bits) for layer in made.weights.layers] == [("embed.weight", 4)]


def test_weights_that_left_their_grid_are_not_saved(nets, tmp_path):
    quantized = quantize_model(mixed(nets), 4)
    with torch.no_grad():
        quantized.module[5].weight[0, 0] += 0.01
    with pytest.raises(InputError, match=r"5\.weight has other values than its codes"):
        save_quantized(quantized, tmp_path / "net.safetensors", arch=f"{nets}:mixed")
    assert not (tmp_path / "net.safetensors").exists()


def test_a_model_without_a_grid_is_not_saved(nets, tmp_path):
    with pytest.raises(OptionError, match="no weight of the model lies on an integer grid"):
        save_quantized(quantize_model(mixed(nets), "fp16"), tmp_path / "net.safetensors", arch=f"{nets}:mixed")


def test_a_model_of_another_architecture_is_not_saved(nets, tmp_path):
    with pytest.raises(InputError, match="does not fit the architecture"):
        save_quantized(quantize_model(mixed(nets), 4), tmp_path / "net.safetensors", arch=f"{nets}:Tied")


def test_an_origin_that_is_no_hash_is_refused(nets, tmp_path):
    with pytest.raises(OptionError, match="64 hexadecimal digits"):
        save_quantized(
            quantize_model(mixed(nets), 4), tmp_path / "net.safetensors", arch=f"{nets}:mixed", origin="resnet"
        )


def test_the_audit_of_the_origin_is_saved_beside_it_at_fp32_alone(nets, tmp_path):
    data = (images(), [0, 1, 2, 3, 4] * 8)
    origin = audit(Model(mixed(nets)), data, [8, 4])
    quantized = quantize_model(mixed(nets), 4)
    save_quantized(quantized, tmp_path / "net.safetensors", arch=f"{nets}:mixed", origin=origin)
    beside = Audit.load(tmp_path / "net.origin.json")
    assert beside.precisions == (origin.fp32,)
    assert (beside.right("fp32") == origin.right("fp32")).all()
    assert load_model(tmp_path / "net.safetensors").origin.sha256 == origin.model.sha256

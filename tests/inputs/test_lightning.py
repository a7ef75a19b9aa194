import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import qfair_check
from qfair_check.errors import InputError, UntrustedPickleError
from qfair_check.inputs.model import load_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]

NETS = """
import pytorch_lightning
import torch
from torch import nn

def net(hidden=4):
    return nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 2))

def wide():
    return net(6)

class Classifier(pytorch_lightning.LightningModule):
    def __init__(self, hidden=4, lr=0.1):
        super().__init__()
        self.save_hyperparameters(ignore=["teacher"])
        self.net = net(hidden)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)

class Weighted(Classifier):
    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))

class Settings:
    hidden = 4

class Given(Classifier):
    def __init__(self, settings):
        super().__init__(settings.hidden)

class Taught(Classifier):
    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher

def taught():
    return Taught(net())
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Give a working directory that holds the module qfair_lightning_nets, forgotten afterwards."""
    (tmp_path / "qfair_lightning_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place] + [str(tmp_path)])
    import qfair_lightning_nets

    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield qfair_lightning_nets
    del sys.modules["qfair_lightning_nets"]


X = torch.linspace(-1, 1, 60).reshape(20, 3)


def trained(module: pytorch_lightning.LightningModule, x: torch.Tensor = X) -> pytorch_lightning.LightningModule:
    """Train for one step, and save net.ckpt in the working directory."""
    trainer = pytorch_lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, torch.arange(len(x)) % 2), batch_size=10))
    trainer.save_checkpoint("net.ckpt")
    return module.eval()


def predictions(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor = X) -> torch.Tensor:
    with torch.inference_mode():
        return module(x)


ARCH = "qfair_lightning_nets"


@pytest.mark.parametrize("factory", ["Classifier", "net"])
def test_the_whole_module_or_the_network_in_it(nets: object, factory: str) -> None:
    module = trained(nets.Classifier())
    model = load_model("net.ckpt", arch=f"{ARCH}:{factory}")
    assert torch.equal(predictions(model.forward), predictions(module))
    assert (model.notices, model.classes, model.source) == ((), (), "net.ckpt")
    assert not model.module.training


def test_tensors_beside_the_network_are_left_out_and_named(nets: object) -> None:
    module = trained(nets.Weighted())
    model = load_model("net.ckpt", arch=f"{ARCH}:net")
    assert torch.equal(predictions(model.forward), predictions(module))
    assert model.notices == (
        "1 tensor of net.ckpt lies outside net., under which the model's weights are, and is left out: "
        "criterion.weight",
    )
    assert load_model("net.ckpt", arch=f"{ARCH}:Weighted").notices == ()


def test_the_audit_tells_what_was_left_out(nets: object) -> None:
    trained(nets.Weighted())
    model = load_model("net.ckpt", arch=f"{ARCH}:net")
    audit = qfair_check.audit(model, (X.numpy(), torch.arange(20) % 2), bits=8)
    assert audit.inputs.notices[: len(model.notices)] == model.notices


def test_a_compiled_network(nets: object) -> None:
    module = nets.Classifier()
    module.net = torch.compile(module.net, backend="eager")
    trained(module)
    assert "net._orig_mod.0.weight" in torch.load("net.ckpt", weights_only=True)["state_dict"]
    for factory in ("net", "Classifier"):
        model = load_model("net.ckpt", arch=f"{ARCH}:{factory}")
        assert torch.equal(predictions(model.forward), predictions(module))
        assert model.notices == ()


def test_a_network_of_torchvision_with_another_class_count(nets: object) -> None:
    module = nets.Classifier()
    module.net = torchvision.models.squeezenet1_1(num_classes=3)
    images = torch.rand(4, 3, 32, 32)
    trained(module, images)
    model = load_model("net.ckpt", arch="squeezenet1_1")
    assert torch.equal(predictions(model.forward, images), predictions(module, images))


def test_two_networks_of_the_same_architecture(nets: object) -> None:
    module = trained(nets.Taught(nets.net()))
    with pytest.raises(InputError) as caught:
        load_model("net.ckpt", arch=f"{ARCH}:net")
    assert str(caught.value) == (
        f"net.ckpt holds the weights of {ARCH}:net 2 times, under net., teacher.: give --qfair-arch the whole model, "
        "or save the state dict of the one to be audited"
    )
    assert torch.equal(predictions(load_model("net.ckpt", arch=f"{ARCH}:taught").forward), predictions(module))


@pytest.mark.parametrize("classes", [2, 5])
def test_two_networks_of_torchvision(nets: object, classes: int) -> None:
    module = nets.Taught(torchvision.models.squeezenet1_1(num_classes=classes))
    module.net = torchvision.models.squeezenet1_1(num_classes=2)
    trained(module, torch.rand(4, 3, 32, 32))
    with pytest.raises(InputError, match=r"^net\.ckpt holds the weights of squeezenet1_1 2 times, under net\., teach"):
        load_model("net.ckpt", arch="squeezenet1_1")


def test_of_two_networks_that_of_the_given_width(nets: object) -> None:
    module = trained(nets.Taught(nets.wide()))
    model = load_model("net.ckpt", arch=f"{ARCH}:net")
    assert torch.equal(predictions(model.forward), predictions(module))
    assert model.notices[0].startswith("9 tensors of net.ckpt lie outside net.")
    assert torch.equal(
        predictions(load_model("net.ckpt", arch=f"{ARCH}:wide").forward), predictions(module.teacher.eval())
    )


def test_an_averaged_copy_is_another_network(nets: object) -> None:
    module = nets.Classifier()
    module.average = AveragedModel(module.net)
    trained(module)
    with pytest.raises(InputError, match=r"2 times, under net\., average\.module\.:"):
        load_model("net.ckpt", arch=f"{ARCH}:net")


def test_an_architecture_that_does_not_fit(nets: object) -> None:
    trained(nets.Classifier())
    with pytest.raises(InputError) as caught:
        load_model("net.ckpt", arch=f"{ARCH}:wide")
    assert str(caught.value) == (
        f"net.ckpt under net. does not fit the architecture {ARCH}:wide: 7 of another shape: 0.weight (4, 3), not "
        "(6, 3), 0.bias (4,), not (6,), 1.weight (4,), not (6,), 1.bias (4,), not (6,), 1.running_mean (4,), not (6,), "
        "1.running_var (4,), not (6,), 3.weight (2, 4), not (2, 6); name the one it was trained with"
    )


def test_a_head_that_is_not_there(nets: object) -> None:
    trained(nets.Classifier())
    content = torch.load("net.ckpt", weights_only=True)
    del content["state_dict"]["net.3.bias"]
    torch.save(content, "net.ckpt")
    with pytest.raises(InputError, match=r"^net\.ckpt under net\. does not fit .*: 1 missing: 3\.bias; name"):
        load_model("net.ckpt", arch=f"{ARCH}:net")


def test_hyperparameters_that_are_objects_need_trust(nets: object) -> None:
    module = trained(nets.Given(nets.Settings()))
    with pytest.raises(UntrustedPickleError) as caught:
        load_model("net.ckpt", arch=f"{ARCH}:net")
    assert str(caught.value).endswith(
        "Either save the weights alone (torch.save(model.state_dict(), ...) or qfair_check.save_model(model, ..., "
        "arch=...)) and name the architecture, or, if you made the file yourself, pass --qfair-trust-pickle; "
        "self.save_hyperparameters(ignore=[...]) keeps objects out of a later checkpoint of Lightning"
    )
    model = load_model("net.ckpt", arch=f"{ARCH}:net", trust_pickle=True)
    assert torch.equal(predictions(model.forward), predictions(module))


def test_without_an_architecture(nets: object) -> None:
    trained(nets.Classifier())
    with pytest.raises(InputError, match=r"^net\.ckpt holds weights alone and does not name its architecture: pass"):
        load_model("net.ckpt")


def test_half_a_checkpoint(nets: object) -> None:
    trained(nets.Classifier())
    whole = Path("net.ckpt").read_bytes()
    Path("net.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"^cannot read net\.ckpt \(truncated or damaged\?\): "):
        load_model("net.ckpt", arch=f"{ARCH}:net")


def test_weights_beside_the_state_dict_are_named(nets: object) -> None:
    module = trained(nets.Classifier())
    content = torch.load("net.ckpt", weights_only=True)
    torch.save(content | {"current_model_state": nets.Classifier().state_dict()}, "net.ckpt")
    model = load_model("net.ckpt", arch=f"{ARCH}:net")
    assert torch.equal(predictions(model.forward), predictions(module))
    assert model.notices == (
        "net.ckpt also holds weights under current_model_state, left out: those under state_dict are audited",
    )


def test_a_linear_layer_alone(nets: object) -> None:
    """Names as short as these end many others."""
    module = nets.Classifier()
    module.net = nn.Linear(3, 2)
    trained(module)
    Path("qfair_lightning_linear.py").write_text("from torch import nn\n\ndef net():\n    return nn.Linear(3, 2)\n")
    model = load_model("net.ckpt", arch="qfair_lightning_linear:net")
    assert torch.equal(predictions(model.forward), predictions(module))

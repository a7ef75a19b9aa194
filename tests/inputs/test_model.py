import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qfair_check.errors import InputError, OptionError, UntrustedPickleError
from qfair_check.files import replace_file
from qfair_check.inputs.model import Model, as_model, load_model, save_model, state_sha256
from qfair_check.inputs.options import Preprocessing

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.fc = nn.Linear(3, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, 2)
        self.register_buffer("offset", torch.zeros(3))

    def forward(self, x):
        return self.head(self.norm(self.fc(x + self.offset)).relu())

def net():
    return Net()

def wide():
    return Net(6)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.encoder(x))

class Untied(Tied):
    def __init__(self):
        super().__init__()
        self.decoder.weight = nn.Parameter(torch.zeros(3, 3))

class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Linear(3, 2)

    def forward(self, x):
        return self.module(x)

class Extra(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        self.calls = state["calls"]

def fails():
    raise RuntimeError("no such width")
"""
ARCH = "qfair_model_nets:net"


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Give a working directory that holds the module qfair_model_nets, forgotten afterwards."""
    (tmp_path / "qfair_model_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place] + [str(tmp_path)])
    import qfair_model_nets

    yield qfair_model_nets
    del sys.modules["qfair_model_nets"]


def trained(module: nn.Module, seed: int = 3) -> nn.Module:
    """Give every parameter and buffer a value that no fresh module has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            else:
                value.fill_(17)
    return module


def same(found: nn.Module, expected: nn.Module) -> bool:
    states = found.state_dict(), expected.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[1]
    )


def message(path: Path | str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, **options)
    return str(caught.value).replace(str(path), "net")


def write(path: Path, state: dict[str, Tensor]) -> Path:
    path.write_bytes(save(state)) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_state_dict_with_a_factory(tmp_path: Path, nets: object, suffix: str) -> None:
    module = trained(nets.net())
    path = write(tmp_path / f"net{suffix}", module.state_dict())
    model = load_model(path, arch=ARCH)
    assert type(model.module) is nets.Net
    assert same(model.module, module)
    assert not model.module.training
    assert (model.source, model.architecture, model.classes, model.preprocessing) == (str(path), ARCH, (), None)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_state_dict_of_torchvision_with_another_class_count(tmp_path: Path, suffix: str) -> None:
    module = trained(torchvision.models.squeezenet1_1(num_classes=3))
    model = load_model(write(tmp_path / f"net{suffix}", module.state_dict()), arch="squeezenet1_1")
    assert same(model.module, module)
    with torch.inference_mode():
        assert model.forward(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_relative_path_and_its_name(tmp_path: Path, nets: object) -> None:
    write(tmp_path / "net.pt", trained(nets.net()).state_dict())
    assert load_model("net.pt", arch=ARCH).source == "net.pt"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrappers", [(), ("state_dict",), ("model_state_dict",), ("model",), ("model", "state_dict")])
def test_wrapped_checkpoints(tmp_path: Path, nets: object, prefix: str, wrappers: tuple[str, ...]) -> None:
    module = trained(nets.net())
    content: object = {prefix + name: value for name, value in module.state_dict().items()}
    for key in wrappers:
        content = {"epoch": 3, key: content}
    torch.save(content, tmp_path / "net.pt")
    assert same(load_model(tmp_path / "net.pt", arch=ARCH).module, module)


def test_what_data_parallel_saves(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    path = write(tmp_path / "net.pt", nn.DataParallel(module).state_dict())
    assert same(load_model(path, arch=ARCH).module, module)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_of_another_width_becomes_float32(
    tmp_path: Path, nets: object, suffix: str, dtype: torch.dtype
) -> None:
    module = trained(nets.net())
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in module.state_dict().items()
    }
    loaded = load_model(write(tmp_path / f"net{suffix}", state), arch=ARCH).module.state_dict()
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.values())
    assert all(torch.equal(loaded[name], state[name].to(loaded[name].dtype)) for name in state)


def test_extras_that_are_no_tensors_are_left_out(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    torch.save({**module.state_dict(), "version": 3, "history": [1.0, 2.0]}, tmp_path / "net.pt")
    assert same(load_model(tmp_path / "net.pt", arch=ARCH).module, module)


def test_buffers_are_loaded(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    loaded = load_model(write(tmp_path / "net.pt", module.state_dict()), arch=ARCH).module
    assert torch.equal(loaded.offset, module.offset)
    assert torch.equal(loaded.norm.running_var, module.norm.running_var)
    assert loaded.norm.num_batches_tracked == 17


def test_without_an_architecture(tmp_path: Path, nets: object) -> None:
    assert message(write(tmp_path / "net.safetensors", nets.net().state_dict())) == (
        "net holds weights alone and does not name its architecture: pass --qfair-arch with torchvision's name (such "
        "as resnet18) or package.module:factory"
    )


def test_a_mismatch_lists_missing_unexpected_and_differing_keys(tmp_path: Path, nets: object) -> None:
    state = nets.net().state_dict()
    del state["head.bias"], state["offset"]
    state |= {"tail.weight": torch.zeros(2), "fc.weight": torch.zeros(5, 3), "norm.running_mean": torch.zeros(4, 1)}
    assert message(write(tmp_path / "net.pt", state), arch=ARCH) == (
        "net does not fit the architecture qfair_model_nets:net: 2 missing: offset, head.bias; 1 unexpected: "
        "tail.weight; 2 of another shape: fc.weight (5, 3), not (4, 3), norm.running_mean (4, 1), not (4,); name the "
        "one it was trained with"
    )


@pytest.mark.parametrize(
    ("remove", "add", "expected"),
    [
        (["fc.weight"], {}, "1 missing: fc.weight"),
        ([], {"x": torch.zeros(1)}, "1 unexpected: x"),
        ([], {"head.bias": torch.zeros(3)}, "1 of another shape: head.bias (3,), not (2,)"),
        ([], {"norm.num_batches_tracked": torch.zeros(1)}, "1 of another shape: norm.num_batches_tracked (1,), not ()"),
        (
            [],
            {f"x{index}": torch.zeros(1) for index in range(10)},
            "10 unexpected: x0, x1, x2, x3, x4, x5, x6, x7 and 2 more",
        ),
    ],
)
def test_a_mismatch_lists_only_what_there_is(
    tmp_path: Path, nets: object, remove: list[str], add: dict[str, Tensor], expected: str
) -> None:
    state = {name: value for name, value in nets.net().state_dict().items() if name not in remove} | add
    assert message(write(tmp_path / "net.pt", state), arch=ARCH) == (
        f"net does not fit the architecture {ARCH}: {expected}; name the one it was trained with"
    )


def test_another_torchvision_architecture(tmp_path: Path) -> None:
    module = torchvision.models.squeezenet1_1(num_classes=3)
    told = message(write(tmp_path / "net.pt", module.state_dict()), arch="squeezenet1_0")
    assert told.startswith("net does not fit the architecture squeezenet1_0: ")
    assert "of another shape: features.0.weight (64, 3, 3, 3), not (96, 3, 7, 7)" in told


@pytest.mark.parametrize("name", ["gone.pt", "folder.pt", "net.onnx", "empty.pt", "empty.safetensors", "text.pt"])
def test_a_file_that_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    for empty in ("net.onnx", "empty.pt", "empty.safetensors"):
        (tmp_path / empty).touch()
    (tmp_path / "text.pt").write_text("no model at all")
    assert "net" in message(tmp_path / name, arch="resnet18")


def test_a_whole_module_needs_trust(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net()).train()
    path = tmp_path / "net.pt"
    torch.save(module, path)
    with pytest.raises(UntrustedPickleError, match=r"save_model\(model, ..., arch=...\)\).*or, .*--qfair-trust-pickle"):
        load_model(path)
    with pytest.raises(UntrustedPickleError, match="is not a plain state dict"):
        load_model(path, arch=ARCH)
    model = load_model(path, trust_pickle=True)
    assert same(model.module, module)
    assert not model.module.training
    assert model.architecture is None


def test_a_trusted_module_is_imported_from_the_working_directory(
    tmp_path: Path, nets: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(trained(nets.net()), tmp_path / "net.pt")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "qfair_model_nets")
    assert type(load_model("net.pt", trust_pickle=True).module).__name__ == "Net"


def test_a_plain_state_dict_may_be_trusted_too(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    path = write(tmp_path / "net.pt", module.state_dict())
    assert same(load_model(path, arch=ARCH, trust_pickle=True).module, module)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_loading_leaves_the_random_state_as_it_is(tmp_path: Path, nets: object, suffix: str) -> None:
    path = write(tmp_path / f"net{suffix}", nets.net().state_dict())
    before = torch.random.get_rng_state()
    load_model(path, arch=ARCH)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loading_a_torchvision_model_leaves_the_random_state_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt", torchvision.models.squeezenet1_1(num_classes=3).state_dict())
    before = torch.random.get_rng_state()
    load_model(path, arch="squeezenet1_1")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_saving_and_loading_a_self_describing_file(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    path = tmp_path / "net.safetensors"
    save_model(
        module, path, arch=ARCH, classes=["ja", "né"], image_size=(8, 16), mean=[0.1, 0.2, 0.3], std=[1, 0.5, 0.25]
    )
    model = load_model(path)
    assert same(model.module, module)
    assert type(model.module) is nets.Net
    assert (model.source, model.architecture, model.classes) == (str(path), ARCH, ("ja", "né"))
    assert model.preprocessing == Preprocessing((8, 16), (0.1, 0.2, 0.3), (1.0, 0.5, 0.25))
    assert [file.name for file in tmp_path.glob("*net.safetensors*")] == ["net.safetensors"]


def test_a_self_describing_torchvision_model(tmp_path: Path) -> None:
    module = trained(torchvision.models.squeezenet1_1(num_classes=2))
    save_model(module, tmp_path / "net.safetensors", arch="squeezenet1_1", classes=("cat", "dog"))
    model = load_model(tmp_path / "net.safetensors")
    assert same(model.module, module)
    assert (model.classes, model.preprocessing) == (("cat", "dog"), None)


def test_without_preprocessing_none_is_described(tmp_path: Path, nets: object) -> None:
    save_model(nets.net(), tmp_path / "net.safetensors", arch=ARCH)
    model = load_model(tmp_path / "net.safetensors")
    assert (model.classes, model.preprocessing) == ((), None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"image_size": (4, 5)}, Preprocessing((4, 5))),
        ({"mean": (0.5,), "std": (0.25,)}, Preprocessing(None, (0.5,), (0.25,))),
        ({"mean": np.array([0.5]), "std": iter([2])}, Preprocessing(None, (0.5,), (2.0,))),
    ],
)
def test_a_part_of_the_preprocessing(
    tmp_path: Path, nets: object, given: dict[str, object], expected: Preprocessing
) -> None:
    save_model(nets.net(), tmp_path / "net.safetensors", arch=ARCH, **given)
    assert load_model(tmp_path / "net.safetensors").preprocessing == expected


def test_an_architecture_that_is_given_goes_before_that_of_the_file(tmp_path: Path, nets: object) -> None:
    save_model(nets.net(), tmp_path / "net.safetensors", arch=ARCH)
    assert load_model(tmp_path / "net.safetensors", arch="qfair_model_nets:Net").architecture == "qfair_model_nets:Net"
    assert message(tmp_path / "net.safetensors", arch="qfair_model_nets:wide") == (
        "net does not fit the architecture qfair_model_nets:wide: 7 of another shape: fc.weight (4, 3), not (6, 3), "
        "fc.bias (4,), not (6,), norm.weight (4,), not (6,), norm.bias (4,), not (6,), "
        "norm.running_mean (4,), not (6,), norm.running_var (4,), not (6,), "
        "head.weight (2, 4), not (2, 6); name the one it was trained with"
    )


def test_any_safetensors_reader_can_read_what_is_saved(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    save_model(module, tmp_path / "net.safetensors", arch=ARCH)
    state = load_file(tmp_path / "net.safetensors")
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


def test_an_older_file_is_replaced(tmp_path: Path, nets: object) -> None:
    path = tmp_path / "net.safetensors"
    for seed in (1, 2):
        save_model(trained(nets.net(), seed), path, arch=ARCH)
    assert same(load_model(path).module, trained(nets.net(), 2))


def test_tied_weights_are_saved_once_and_loaded_tied(tmp_path: Path, nets: object) -> None:
    module = trained(nets.Tied())
    path = tmp_path / "net.safetensors"
    save_model(module, path, arch="qfair_model_nets:Tied")
    assert sorted(load_file(path)) == ["decoder.bias", "encoder.bias", "encoder.weight"]
    loaded = load_model(path).module
    assert same(loaded, module)
    assert loaded.decoder.weight is loaded.encoder.weight


def test_tied_weights_of_a_torch_file(tmp_path: Path, nets: object) -> None:
    module = trained(nets.Tied())
    loaded = load_model(write(tmp_path / "net.pt", module.state_dict()), arch="qfair_model_nets:Tied").module
    assert same(loaded, module)
    assert loaded.decoder.weight is loaded.encoder.weight


def test_tied_weights_do_not_fit_an_architecture_that_has_them_apart(tmp_path: Path, nets: object) -> None:
    save_model(nets.Tied(), tmp_path / "net.safetensors", arch="qfair_model_nets:Tied")
    assert message(tmp_path / "net.safetensors", arch="qfair_model_nets:Untied") == (
        "net does not fit the architecture qfair_model_nets:Untied: 1 missing: decoder.weight; name the one it was "
        "trained with"
    )


def test_weights_that_are_not_contiguous(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    module.fc.weight = nn.Parameter(module.fc.weight.detach().t().contiguous().t())
    assert not module.fc.weight.is_contiguous()
    save_model(module, tmp_path / "net.safetensors", arch=ARCH)
    assert same(load_model(tmp_path / "net.safetensors").module, module)


def test_saving_leaves_the_module_as_it_is(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net()).train()
    module(torch.rand(5, 3)).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = {name: value.grad.clone() for name, value in module.named_parameters()}
    places = {name: value.data_ptr() for name, value in module.state_dict().items()}
    random = torch.random.get_rng_state()
    save_model(module, tmp_path / "net.safetensors", arch=ARCH)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value.grad, gradients[name]) for name, value in module.named_parameters())
    assert all(value.requires_grad for value in module.parameters())
    assert places == {name: value.data_ptr() for name, value in module.state_dict().items()}
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("name", ["net.pt", "net", "net.safetensors.bin", "net.SAFETENSORS"])
def test_another_suffix_is_refused(tmp_path: Path, nets: object, name: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OptionError) as caught:
        save_model(nets.net(), tmp_path / name, arch=ARCH)
    assert str(caught.value) == f"{tmp_path / name} must end in .safetensors"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        (
            "qfair_model_nets:wide",
            "the model to be saved as net does not fit the architecture qfair_model_nets:wide: 7 of another shape: ",
        ),
        ("squeezenet1_1", "the model to be saved as net does not fit the architecture squeezenet1_1: 52 missing: "),
        ("qfair_model_nets:gone", "qfair_model_nets has no 'gone'"),
        ("qfair_model_nets:fails", "architecture qfair_model_nets:fails failed: RuntimeError: no such width"),
        ("resnet", "there is no torchvision classification model 'resnet'; close: "),
    ],
)
def test_a_wrong_architecture_is_refused_and_leaves_no_file(
    tmp_path: Path, nets: object, arch: str, expected: str
) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError) as caught:
        save_model(nets.net(), path, arch=arch)
    assert str(caught.value).replace(str(path), "net").startswith(expected)
    assert not list(tmp_path.glob("*safetensors*"))


def test_a_folder_that_is_not_there(tmp_path: Path, nets: object) -> None:
    path = tmp_path / "gone" / "net.safetensors"
    with pytest.raises(InputError) as caught:
        save_model(nets.net(), path, arch=ARCH)
    assert str(caught.value) == f"cannot write {path}: No such file or directory"


def test_a_file_in_place_of_a_folder(tmp_path: Path, nets: object) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "net.safetensors"
    with pytest.raises(InputError) as caught:
        save_model(nets.net(), path, arch=ARCH)
    assert str(caught.value) == f"cannot write {path}: Not a directory"


def test_a_folder_in_place_of_the_file(tmp_path: Path, nets: object) -> None:
    path = tmp_path / "net.safetensors"
    path.mkdir()
    with pytest.raises(InputError) as caught:
        save_model(nets.net(), path, arch=ARCH)
    assert str(caught.value) == f"cannot write {path}: Is a directory"
    assert list(tmp_path.glob("*safetensors*")) == [path]


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, nets: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "net.safetensors"
    save_model(trained(nets.net()), path, arch=ARCH)
    monkeypatch.setattr("qfair_check.files.os.fsync", full)
    with pytest.raises(InputError) as caught:
        save_model(trained(nets.net(), 8), path, arch=ARCH)
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert same(load_model(path).module, trained(nets.net()))
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["net.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_module_whose_only_part_is_named_module(tmp_path: Path, nets: object, suffix: str) -> None:
    module = trained(nets.Held())
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(module.state_dict(), path)
    else:
        save_model(module, path, arch="qfair_model_nets:Held")
    assert same(load_model(path, arch="qfair_model_nets:Held").module, module)


def test_a_module_with_extra_state_is_not_saved_without_it(tmp_path: Path, nets: object) -> None:
    with pytest.raises(InputError, match=r"^_extra_state of the model is a dict, and a model file holds tensors only$"):
        save_model(trained(nets.Extra()), tmp_path / "net.safetensors", arch="qfair_model_nets:Extra")
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_weights_that_cannot_be_copied(tmp_path: Path, nets: object, kind: str) -> None:
    weight = torch.ones(4, 3)
    state = nets.net().state_dict() | {"fc.weight": weight.to_sparse() if kind == "sparse" else weight.to("meta")}
    assert "fc.weight" in message(write(tmp_path / "net.pt", state), arch=ARCH)


def test_a_regnet(tmp_path: Path) -> None:
    module = trained(torchvision.models.regnet_x_400mf(num_classes=3))
    path = write(tmp_path / "net.pt", module.state_dict())
    assert same(load_model(path, arch="regnet_x_400mf").module, module)


def test_an_architecture_whose_builder_warns(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt", {"fc.weight": torch.zeros(3, 1024)})
    assert "does not fit the architecture googlenet" in message(path, arch="googlenet")


@pytest.mark.parametrize("mean", [np.float32([0.5, 0.5, 0.5]), torch.full((3,), 0.5)])
def test_a_mean_that_is_an_array(tmp_path: Path, nets: object, mean: object) -> None:
    save_model(nets.net(), tmp_path / "net.safetensors", arch=ARCH, mean=mean, std=[1, 1, 1])
    assert load_model(tmp_path / "net.safetensors").preprocessing == Preprocessing(None, (0.5,) * 3, (1.0,) * 3)


def test_the_demo() -> None:
    model = load_model("demo")
    assert isinstance(model.module, nn.Module)
    assert (model.source, model.architecture) == ("demo", "qfair_check.demo.network:digits_cnn")
    assert model.classes == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert model.preprocessing is None
    with torch.inference_mode():
        assert model.forward(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_demo_goes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").write_text("no model")
    monkeypatch.chdir(tmp_path)
    assert load_model("demo").source == "demo"


def test_a_model_of_python() -> None:
    module = nn.Linear(3, 2)
    model = as_model(module)
    assert (model.module, model.forward, model.source, model.architecture) == (module, module, "python", None)
    assert as_model(model) is model


def test_a_plain_callable_has_no_module() -> None:
    model = as_model(len)
    assert (model.module, model.forward) == (None, len)
    assert model.sha256 is None


@pytest.mark.parametrize("given", [3, "model", None, [nn.Linear(3, 2)]])
def test_what_is_no_model(given: object) -> None:
    with pytest.raises(InputError) as caught:
        as_model(given)
    assert str(caught.value) == (
        f"a model is a torch.nn.Module, or a callable from a batch to logits, not a {type(given).__name__}"
    )


def test_the_hash_does_not_depend_on_where_the_model_comes_from(tmp_path: Path, nets: object) -> None:
    module = trained(nets.net())
    save_model(module, tmp_path / "net.safetensors", arch=ARCH)
    write(tmp_path / "net.pt", module.state_dict())
    hashes = {
        load_model(tmp_path / "net.safetensors").sha256,
        load_model(tmp_path / "net.pt", arch=ARCH).sha256,
        Model(module).sha256,
    }
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


def test_the_hash_knows_names_types_shapes_and_values() -> None:
    states = [
        {"a": torch.zeros(2, 3), "b": torch.zeros(1)},
        {"a": torch.zeros(3, 2), "b": torch.zeros(1)},
        {"a": torch.zeros(2, 3), "c": torch.zeros(1)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.int32)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": -torch.zeros(1)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(())},
        {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
        {"a": torch.zeros(2, 3), "b": {"extra": 1}},
        {"a": torch.zeros(2, 3)},
        {},
    ]
    assert len({state_sha256(state) for state in states}) == len(states)


def test_the_hash_knows_no_order_and_no_layout() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "b": torch.tensor([True, False]), "c": torch.ones(2, dtype=torch.bfloat16)}
    other = {"c": state["c"], "b": state["b"], "a": weight.t().contiguous().t()}
    assert state_sha256(state) == state_sha256(other)


def test_replacing_a_file_leaves_no_temporary_file(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"old")
    replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_torchscript_inside_a_module_is_refused() -> None:
    with pytest.raises(InputError, match="1 of the model is TorchScript inside a module of Python: give the module"):
        as_model(nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Linear(2, 2))))


def test_tensors_without_values_are_refused() -> None:
    with pytest.raises(InputError, match=r"^weight of the model has no values \(device meta\): load its weights first"):
        as_model(nn.Linear(2, 2, device="meta"))


def test_the_hash_of_a_sparse_buffer_is_that_of_its_values() -> None:
    assert state_sha256({"mask": torch.eye(3).to_sparse()}) == state_sha256({"mask": torch.eye(3)})


def test_an_architecture_beside_a_whole_module_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("torch.export.pt2_archive", reason="torch 2.7 and older write .pt2 files of an older layout")
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),)), path)
    loaded = load_model(path, arch="resnet50")
    assert loaded.architecture is None
    assert loaded.notices == (f"{path} holds a whole module: --qfair-arch resnet50 is left out",)
    assert load_model(path).notices == ()

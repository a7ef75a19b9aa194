import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from qfair_check.errors import InputError
from qfair_check.inputs.architecture import build_architecture, check_named_by_file, import_object

MODULE = """
import torch
from torch import nn

class Parts:
    scale = 3

    @staticmethod
    def net():
        return nn.Linear(3, 2)

def linear():
    return nn.Linear(3, 2)

def draws():
    torch.manual_seed(99)
    return nn.Linear(3, 2)

def fails():
    raise KeyError("hidden")

def no_module():
    return [1, 2]

def needs(width):
    return nn.Linear(width, 2)

WIDTH = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a working directory that holds the module qfair_nets, forgotten afterwards."""
    (tmp_path / "qfair_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    known = set(sys.modules)
    yield tmp_path
    for name in [name for name in sys.modules if name not in known and name.startswith("qfair_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def message(name: str, state: dict[str, torch.Tensor] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        build_architecture(name, state or {})
    return str(caught.value)


NAME_ONE = "name a function or class that it has"


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "fc.weight", (7, 512)),
        ("squeezenet1_1", "classifier.1.weight", (7, 512, 1, 1)),
        ("mobilenet_v3_small", "classifier.3.weight", (7, 1024)),
        ("shufflenet_v2_x0_5", "fc.weight", (7, 1024)),
    ],
)
def test_the_class_count_is_read_off_the_last_layer(name: str, layer: str, shape: tuple[int, ...]) -> None:
    built = build_architecture(name, {layer: torch.zeros(shape), layer.replace("weight", "bias"): torch.zeros(7)})
    assert tuple(built.state_dict()[layer].shape) == shape


@pytest.mark.parametrize("state", [{}, {"fc.weight": torch.zeros(1000, 512)}, {"other": torch.zeros(7, 512)}])
def test_without_another_width_the_architecture_keeps_its_class_count(state: dict[str, torch.Tensor]) -> None:
    assert build_architecture("resnet18", state).fc.out_features == 1000


@pytest.mark.parametrize("shape", [(7, 511), (7, 512, 1), (7,), ()])
def test_a_layer_of_another_kind_gives_no_class_count(shape: tuple[int, ...]) -> None:
    assert build_architecture("resnet18", {"fc.weight": torch.zeros(shape)}).fc.out_features == 1000


def test_an_unknown_name_is_told_with_those_close_to_it() -> None:
    assert message("resnet19") == (
        "there is no torchvision classification model 'resnet19'; close: resnet18, resnet152, resnet101; give one of "
        "torchvision's names, or package.module:factory for your own"
    )


@pytest.mark.parametrize("name", ["", "zzzz", "fasterrcnn_resnet50_fpn_v9 "])
def test_a_name_that_nothing_is_close_to(name: str) -> None:
    assert message(name).startswith(f"there is no torchvision classification model {name!r}")


def test_a_detection_model_is_no_classification_model() -> None:
    assert message("fasterrcnn_resnet50_fpn").startswith("there is no torchvision classification model 'faster")


def test_a_factory_is_found_in_the_working_directory(folder: Path) -> None:
    built = build_architecture("qfair_nets:linear", {})
    assert isinstance(built, nn.Linear)
    assert sys.path[-1] == str(folder)


def test_a_factory_in_a_package_and_an_attribute_of_a_class(folder: Path) -> None:
    (folder / "qfair_package" / "inner").mkdir(parents=True)
    (folder / "qfair_package" / "inner" / "nets.py").write_text(MODULE)
    assert isinstance(build_architecture("qfair_package.inner.nets:Parts.net", {}), nn.Linear)


def test_an_installed_module_goes_before_one_of_the_working_directory(folder: Path) -> None:
    (folder / "json.py").write_text("dumps = 3")
    assert callable(import_object("json:dumps"))


def test_the_working_directory_is_added_once(folder: Path) -> None:
    before = len(sys.path)
    for _ in range(3):
        import_object("qfair_nets:linear")
    assert len(sys.path) == before + 1


def test_a_class_of_modules_is_a_factory(folder: Path) -> None:
    (folder / "qfair_classes.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 2)\n"
    )
    assert type(build_architecture("qfair_classes:Net", {})).__name__ == "Net"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qfair_nets:fails", "architecture qfair_nets:fails failed: KeyError: 'hidden'"),
        ("qfair_nets:no_module", "architecture qfair_nets:no_module returned a list, not a torch.nn.Module"),
        ("qfair_nets:WIDTH", "architecture qfair_nets:WIDTH is a int, not a function that builds a model"),
        ("qfair_nets:torch", "architecture qfair_nets:torch is a module, not a function that builds a model"),
        ("qfair_nets:nope", f"qfair_nets has no 'nope': {NAME_ONE}"),
        ("qfair_nets:Parts.nope", f"qfair_nets has no 'Parts.nope': {NAME_ONE}"),
        ("qfair_nets:", f"qfair_nets has no '': {NAME_ONE}"),
        (
            "qfair_nets:needs",
            "architecture qfair_nets:needs failed: TypeError: needs() missing 1 required positional argument: 'width'",
        ),
        (
            "qfair_absent:net",
            "cannot import 'qfair_absent' of 'qfair_absent:net': ModuleNotFoundError: No module named 'qfair_absent'; "
            "run from the folder that holds it, or install it",
        ),
        (
            ":net",
            "cannot import '' of ':net': ValueError: Empty module name; run from the folder that holds it, or install "
            "it",
        ),
    ],
)
def test_a_factory_that_cannot_be_used(folder: Path, name: str, expected: str) -> None:
    assert message(name) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("def (:", "SyntaxError: invalid syntax")],
)
def test_a_module_that_fails_on_import(folder: Path, code: str, expected: str) -> None:
    (folder / "qfair_broken.py").write_text(code)
    assert message("qfair_broken:net").startswith(f"cannot import 'qfair_broken' of 'qfair_broken:net': {expected}")


@pytest.mark.parametrize("name", ["squeezenet1_1", "qfair_nets:linear", "qfair_nets:draws"])
def test_building_leaves_the_random_state_as_it_is(folder: Path, name: str) -> None:
    before = torch.random.get_rng_state()
    build_architecture(name, {"classifier.1.weight": torch.zeros(2, 512, 1, 1)})
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["os:abort", "sys:exit", "shutil:rmtree", "importlib.metadata:files"])
def test_a_file_cannot_have_pythons_own_functions_called(name: str) -> None:
    with pytest.raises(InputError, match=r"^net\.safetensors names the architecture .* do not trust this file"):
        check_named_by_file(name, "net.safetensors")


@pytest.mark.parametrize("name", ["resnet18", "qfair_check.demo.network:digits_cnn", "mine.nets:build"])
def test_a_file_may_name_what_builds_a_network(name: str) -> None:
    check_named_by_file(name, "net.safetensors")


@pytest.mark.parametrize("how", ["factory", "import"])
def test_code_that_leaves_the_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    body = "raise SystemExit(0)\n" if how == "import" else "def build(): raise SystemExit(0)\n"
    (tmp_path / f"qfair_leaves_{how}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="SystemExit"):
        build_architecture(f"qfair_leaves_{how}:build", {})

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.data import GroupedData, load_data
from qfair_check.inputs.model import Model, load_model, save_model
from qfair_check.inputs.options import Preprocessing
from qfair_check.measure.chunks import chunks
from qfair_check.measure.run import audit

NAME = "ResNet18_Weights.IMAGENET1K_V1"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (300, 260), "b.png": (40, 64)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    Image.new("L", (230, 240), 90).save(tmp_path / "c.png")
    (tmp_path / "faces.csv").write_text("path,label\na.jpg,0\nb.png,1\nc.png,1\n")
    return tmp_path / "faces.csv"


def message(data: GroupedData) -> str:
    with pytest.raises(InputError) as caught:
        list(chunks(data, data.roster(), batch_size=64, workers=0, seed=0))
    return str(caught.value)


@pytest.mark.parametrize("name", [NAME, "EfficientNet_V2_S_Weights.IMAGENET1K_V1", "ViT_B_16_Weights.IMAGENET1K_V1"])
def test_inputs_are_those_of_the_weights(faces: Path, name: str) -> None:
    data = load_data(faces, transforms=name)
    transform = models.get_weight(name).transforms()
    for index, image in enumerate(("a.jpg", "b.png", "c.png")):
        assert torch.equal(data.inputs[index], transform(Image.open(faces.parent / image).convert("RGB")))
    assert (data.preprocessing, data.notices) == (Preprocessing(transforms=name), ())


def test_the_name_is_recorded_in_full(faces: Path) -> None:
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    made = audit(net, load_data(faces, transforms="ResNet18_Weights.DEFAULT"), "8", workers=2)
    assert (made.inputs.transforms, made.inputs.image_size, made.inputs.mean) == (NAME, None, ())


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet18_weights", "; close: ResNet18_Weights.IMAGENET1K_V1"),
        ("ResNet18_Weights.IMAGENET1K_V9", "; close: ResNet18_Weights.IMAGENET1K_V1, "),
        ("nn.Module", ": give --qfair-transforms a name such as ResNet18_Weights.IMAGENET1K_V1"),
        ("a.b.c", ": give --qfair-transforms a name"),
    ],
)
def test_unknown_weights(faces: Path, name: str, close: str) -> None:
    with pytest.raises(OptionError) as caught:
        load_data(faces, transforms=name)
    assert str(caught.value).startswith(f"torchvision has no weights {name!r}{close}")


@pytest.mark.parametrize("option", [{"image_size": (4, 4)}, {"mean": (0.5,), "std": (0.5,)}])
def test_transforms_beside_values(faces: Path, option: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        load_data(faces, transforms=NAME, **option)
    assert str(caught.value) == (
        f"the transforms {NAME} bring a size, mean and std of their own: leave out --qfair-image-size, --qfair-mean "
        "and --qfair-std, or --qfair-transforms"
    )


def test_given_transforms_go_before_the_model_file(faces: Path) -> None:
    model = Model(len, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    data = load_data(faces, transforms=NAME, model=model)
    assert data.preprocessing == Preprocessing(transforms=NAME)
    assert data.notices == (f"images are prepared by the transforms {NAME}, not as the model file says",)


def test_given_values_go_before_transforms_of_the_model_file(faces: Path) -> None:
    model = Model(len, preprocessing=Preprocessing(transforms=NAME))
    assert load_data(faces, model=model).preprocessing == Preprocessing(transforms=NAME)
    assert load_data(faces, model=model, transforms=NAME).notices == ()
    data = load_data(faces, model=model, image_size=(8, 8), mean=(0.5,), std=(0.5,))
    assert data.preprocessing == Preprocessing((8, 8), (0.5,), (0.5,))
    assert data.notices == (f"images are prepared as given, without the transforms {NAME} of the model file",)


def test_a_model_file_may_name_transforms(faces: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net = models.squeezenet1_1(num_classes=2)
    save_model(net, path, arch="squeezenet1_1", transforms="ResNet18_Weights.DEFAULT")
    assert load_data(faces, model=load_model(path)).preprocessing == Preprocessing(transforms=NAME)
    with pytest.raises(OptionError, match="bring a size, mean and std of their own"):
        save_model(net, path, arch="squeezenet1_1", transforms=NAME, image_size=(4, 4))
    with pytest.raises(OptionError, match="torchvision has no weights 'resnet'"):
        save_model(net, path, arch="squeezenet1_1", transforms="resnet")


def test_transforms_are_for_image_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 3)), y=[0, 1])
    with pytest.raises(OptionError, match="--qfair-transforms is for image files: normalize the arrays of"):
        load_data(tmp_path / "a.npz", transforms=NAME)
    (tmp_path / "a.csv").write_text("a,label\n1,0\n")
    with pytest.raises(OptionError, match=r"--qfair-transforms is for images, and .* is read as feature columns"):
        load_data(tmp_path / "a.csv", transforms=NAME)


@pytest.mark.parametrize(("kind", "start"), [("u1", "holds bytes (uint8): scaled"), ("f4", "holds floats and is used")])
def test_arrays_go_without_transforms_of_the_model_file(tmp_path: Path, kind: str, start: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones((2, 3), kind), y=[0, 1])
    (notice,) = load_data(path, model=Model(len, preprocessing=Preprocessing(transforms=NAME))).notices
    assert notice.startswith(f"x of {path} {start}")
    assert f", without the transforms {NAME} of the model file, which are for image files" in notice


def test_transforms_that_keep_several_sizes_name_the_sample(faces: Path) -> None:
    name = "FCOS_ResNet50_FPN_Weights.COCO_V1"
    assert message(load_data(faces, transforms=name)) == (
        "row 3 (b.png) cannot be used: its shape is (3, 40, 64) (torch.float32), and that of the samples before is "
        f"(3, 300, 260) (torch.float32); the transforms {name} keep images of several sizes: name others with "
        "--qfair-transforms"
    )


@pytest.mark.parametrize("name", ["Raft_Large_Weights.C_T_V1", "R3D_18_Weights.KINETICS400_V1"])
def test_transforms_of_something_else_name_the_sample(faces: Path, name: str) -> None:
    text = message(load_data(faces, transforms=name))
    assert text.startswith(f"the transforms {name} fail on the image of row 2 (a.jpg): ")


def test_nothing_is_downloaded(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*arguments: object) -> None:
        raise AssertionError(f"the network was used: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    assert load_data(faces, transforms=NAME).inputs[0].shape == (3, 224, 224)

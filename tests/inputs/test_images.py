import pickle
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2 import functional

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.images import ImageFiles, check_preprocessing
from qfair_check.inputs.options import Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def files(folder: Path, *names: str, **preprocessing: object) -> ImageFiles:
    return ImageFiles(folder, names, Preprocessing(**preprocessing), "row {}".format)


def save(path: Path, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    Image.fromarray(pixels).save(path, **options)
    return path.read_bytes()


def reason(folder: Path, name: str) -> str:
    with pytest.raises(InputError) as caught:
        files(folder, name)[0]
    prefix = "the image of row 0 cannot be decoded: "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


def test_pixels_are_rgb_in_zero_to_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    image = files(tmp_path, "a.png")[0]
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    np.testing.assert_array_equal(image.numpy(), PIXELS.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_jpeg_is_decoded(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", np.full((8, 8, 3), (250, 5, 100), np.uint8), quality=95)
    image = files(tmp_path, "a.jpg")[0] * 255
    assert image.shape == (3, 8, 8)
    assert (image.mean(dim=(1, 2)) - torch.tensor([250.0, 5.0, 100.0])).abs().max() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (2, 3), "white").convert(mode).save(tmp_path / "a.png")
    assert torch.equal(files(tmp_path, "a.png")[0], torch.ones(3, 3, 2))


def test_exif_orientation_is_left_alone_as_in_torchvisions_folders(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    save(tmp_path / "a.png", exif=exif)
    loaded = functional.pil_to_tensor(default_loader(str(tmp_path / "a.png"))) / 255
    torch.testing.assert_close(files(tmp_path, "a.png")[0], loaded, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(3, 2), (9, 11), (6, 4), (6, 8)])
def test_resizing_is_antialiased_bilinear(tmp_path: Path, size: tuple[int, int]) -> None:
    save(tmp_path / "a.png")
    plain = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
    expected = functional.resize(plain, list(size), antialias=True)
    torch.testing.assert_close(files(tmp_path, "a.png", image_size=size)[0], expected)


def test_normalization_by_channel_follows_resizing(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((4, 4, 3), (51, 102, 204), np.uint8))
    image = files(tmp_path, "a.png", image_size=(2, 2), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))[0]
    expected = torch.tensor([(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (0.8 - 0.3) / 2.0])
    torch.testing.assert_close(image, expected.reshape(3, 1, 1).expand(3, 2, 2))


def test_one_mean_serves_all_channels(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((1, 1, 3), (51, 102, 204), np.uint8))
    image = files(tmp_path, "a.png", mean=(0.5,), std=(0.5,))[0]
    torch.testing.assert_close(image.flatten(), torch.tensor([-0.6, -0.2, 0.6]))


def test_length_and_end(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    images = files(tmp_path, "a.png", "a.png")
    assert len(images) == 2
    with pytest.raises(IndexError):
        images[2]


def test_truncated_jpeg(tmp_path: Path) -> None:
    content = save(tmp_path / "a.jpg", np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    assert "truncated" in reason(tmp_path, "a.jpg")


def test_truncated_png(tmp_path: Path) -> None:
    content = save(tmp_path / "a.png", np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    assert "truncated" in reason(tmp_path, "a.png")


def test_png_with_damaged_pixels(tmp_path: Path) -> None:
    """A wrong checksum in the pixel data crashes some decoders outright."""
    content = bytearray(
        save(tmp_path / "a.png", np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    )
    start = content.index(b"IDAT") + 20
    content[start : start + 4] = b"xxxx"
    (tmp_path / "a.png").write_bytes(content)
    assert reason(tmp_path, "a.png")


def test_png_that_says_it_is_huge(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    assert "exceeds limit" in reason(tmp_path, "a.png")


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff"])
def test_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(tmp_path, "a.jpg") == "it is no image of a known kind"


def test_file_that_went_away(tmp_path: Path) -> None:
    assert reason(tmp_path, "a.jpg") == "No such file or directory"


def test_deep_gray_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((2, 2), 40000, np.uint16))
    told = reason(tmp_path, "a.png")
    assert re.fullmatch(r"it has more than 8 bits a channel \(mode I(;16)?\); save it with 8", told)


def test_odd_metadata_warns_nobody(tmp_path: Path) -> None:
    Image.new("P", (2, 2)).save(tmp_path / "a.png", transparency=b"\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files(tmp_path, "a.png")[0].shape == (3, 2, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_error_names_the_row_from_a_worker(tmp_path: Path, workers: int) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    loader = DataLoader(files(tmp_path, "a.png", "b.png"), batch_size=1, num_workers=workers)
    with pytest.raises(InputError, match="the image of row 1 cannot be decoded: it is no image of a known kind"):
        list(loader)


def test_files_travel_to_workers_that_start_afresh(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    images = files(tmp_path, "a.png")
    assert torch.equal(pickle.loads(pickle.dumps(images))[0], images[0])


@pytest.mark.parametrize(
    ("preprocessing", "text"),
    [
        (Preprocessing(mean=(0.5,)), "a mean is given without std: give both or neither"),
        (Preprocessing(std=(0.5,)), "a std is given without mean: give both or neither"),
        (
            Preprocessing(mean=(0.5, 0.5), std=(0.5,)),
            "mean has 2 values: give one, or one for each of the 3 channels",
        ),
        (
            Preprocessing(mean=(0.5,), std=(0.5,) * 4),
            "std has 4 values: give one, or one for each of the 3 channels",
        ),
        (Preprocessing(mean=(0.5,), std=(0.0,)), "std is 0.0: every value must be above 0"),
        (Preprocessing(mean=(0.5,), std=(-1.0,)), "std is -1.0: every value must be above 0"),
        (Preprocessing(mean=(float("nan"),), std=(1.0,)), "mean is nan: give finite numbers"),
        (
            Preprocessing(image_size=(0, 4)),
            "an image size of 0x4 pixels makes no sense: give height x width",
        ),
    ],
)
def test_preprocessing_that_makes_no_sense(preprocessing: Preprocessing, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_preprocessing(preprocessing, channels=3)
    assert str(caught.value) == text

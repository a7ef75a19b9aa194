"""What a stranger may put into a file of data or a model, and what comes of it."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from qfair_check import load_data, load_model
from qfair_check.errors import InputError
from qfair_check.inputs.images import decode
from qfair_check.inputs.paths import Inside


@pytest.fixture
def folder(tmp_path):
    """A folder with one image in it, and one beside it."""
    inside = tmp_path / "faces"
    inside.mkdir()
    for place in (inside, tmp_path):
        Image.new("RGB", (4, 4)).save(place / "face.png")
    return inside


def manifest(folder, name):
    path = folder / "faces.csv"
    path.write_text(f"path,label\nface.png,a\n{name},b\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("way", ["up", "absolute", "file link", "folder link", "up in the middle"])
def test_images_outside_the_folder_are_refused_unless_allowed(folder, way):
    outside = folder.parent / "face.png"
    names = {
        "up": "../face.png",
        "absolute": str(outside),
        "file link": "link.png",
        "folder link": "link/face.png",
        "up in the middle": "sub/../../face.png",
    }
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(outside)
    (folder / "link").symlink_to(folder.parent)
    path = manifest(folder, names[way])
    with pytest.raises(InputError, match=r"outside the folder .*: row 3.*pass --qfair-allow-outside"):
        load_data(path)
    assert len(load_data(path, allow_outside=True).labels) == 2


@pytest.mark.parametrize("way", ["absolute", "link", "folder link", "dots"])
def test_other_ways_to_what_lies_inside_are_fine(folder, way):
    (folder / "link.png").symlink_to(folder / "face.png")
    (folder / "sub").mkdir()
    (folder / "other").symlink_to(folder)
    names = {
        "absolute": str(folder / "face.png"),
        "link": "link.png",
        "folder link": "other/face.png",
        "dots": "sub/../face.png",
    }
    assert len(load_data(manifest(folder, names[way])).labels) == 2


def test_a_manifest_behind_a_link_names_what_lies_beside_the_link(folder, tmp_path):
    (tmp_path / "elsewhere").symlink_to(folder)
    manifest(folder, "face.png")
    assert len(load_data(tmp_path / "elsewhere" / "faces.csv").labels) == 2


def test_a_name_that_is_no_path_lies_nowhere(tmp_path):
    inside = Inside(tmp_path)
    assert not any(map(inside.holds, ("a\0b/c", "..", "/", "a/../../b")))


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"it has 10,000 x 10,000 pixels, more than 89,478,485"):
        decode(path)
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(Image.DecompressionBombError):
        decode(path)


def test_a_program_that_is_an_image_is_not_run(tmp_path):
    """Pillow hands EPS to Ghostscript."""
    (tmp_path / "face.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(pwned) (w) file closefile\nshowpage\n%%EOF\n"
    )
    (tmp_path / "faces.csv").write_text("path,label\nface.png,a\n")
    with pytest.raises(InputError, match="cannot be decoded: it is no image of a known kind"):
        load_data(tmp_path / "faces.csv").inputs[0]


@pytest.mark.parametrize("kind", ["data.npz", "net.pt", "net.pth"])
def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("qfair_check.inputs.archives._MOST_BYTES", 2**20)
    path = tmp_path / kind
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy" if kind.endswith("npz") else "net/data/0", bytes(2**21))
    with pytest.raises(InputError, match=r"unpacks to 2,097,152, as an archive does that is made to fill the memory"):
        load_data(path) if kind.endswith("npz") else load_model(path, arch="resnet18")


def test_archives_of_everyday_compression_are_read(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((500, 1000), np.float32), y=np.arange(500) % 2)
    assert len(load_data(path).labels) == 500


class Harm:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["npz with objects", "pt", "npy in npz"])
def test_nothing_that_is_pickled_is_run(tmp_path, kind):
    mark = tmp_path / "harmed"
    if kind == "pt":
        torch.save({"0.weight": Harm(str(mark))}, tmp_path / "net.pt")
        attempt = lambda: load_model(tmp_path / "net.pt", arch="resnet18")  # noqa: E731
    else:
        harm = np.array([Harm(str(mark))], dtype=object)
        np.savez(tmp_path / "data.npz", x=harm if kind == "npz with objects" else np.zeros(1), y=harm)
        attempt = lambda: load_data(tmp_path / "data.npz")  # noqa: E731
    with pytest.raises(InputError):
        attempt()
    assert not mark.exists()


def test_headers_that_promise_the_moon_are_one_error(tmp_path):
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", file.getvalue())
        archive.writestr("y.npy", file.getvalue())
    with pytest.raises(InputError, match=r"cannot read .* as \.npz"):
        load_data(tmp_path / "data.npz")

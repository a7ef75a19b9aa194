"""An audit from JPEG files against the loop that a user would write, which decodes in each pass.

Both use as many worker processes. The loop makes four passes (fp32, int8, int4, int2) for accuracy alone, through
Pillow, torchvision's transforms and a DataLoader; the audit decodes each file once. `ratio` is audit / loop. It depends
on how much work decoding is: `--pixels` sets the width of the made-up photographs, which are resized to `--size`.
"""

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sweep import BITS, add_given, given_model
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from user_loop import BATCH, accuracy_loop, circumstances, side_by_side

import qfair_check

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=192, help="of made-up data")
    parser.add_argument("--pixels", type=int, default=1024, help="width of made-up photographs, 4:3")
    parser.add_argument("--size", type=int, default=64, help="height and width that images are resized to")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    add_given(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            options.data, options.mean, options.std = made_up(Path(folder), options.samples, options.pixels), MEAN, STD
        print(json.dumps(compared(options)))


def compared(options: argparse.Namespace) -> dict[str, object]:
    """Return the comparison on the images of a manifest."""
    module = given_model(options)
    data = qfair_check.load_data(
        options.data,
        label=options.label,
        split=options.split,
        classes=options.classes,
        image_size=(options.size, options.size),
        mean=options.mean,
        std=options.std,
    )
    photos = Photos(options, data.classes)
    seconds, results = side_by_side(
        options.rounds,
        loop=lambda: accuracy_loop(
            module, lambda: DataLoader(photos, batch_size=BATCH, num_workers=options.workers), BITS
        ),
        audit=lambda: qfair_check.audit(module, data, bits=BITS, workers=options.workers),
    )
    loop, audit = results["loop"], results["audit"]
    with Image.open(photos.paths[0]) as image:
        pixels = list(image.size)
    return {
        "benchmark": "images",
        "ratio": round(seconds["audit"] / seconds["loop"], 3),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "correct": {str(bits): [audit.at(bits).overall.correct, loop[bits]] for bits in BITS},
        "samples": data.size,
        "pixels": pixels,
        "size": options.size,
        "workers": options.workers,
        "rounds": options.rounds,
        **circumstances("torch", "torchvision", "pillow", "qfair_check"),
    }


class Photos(Dataset[tuple[Tensor, int]]):
    """The images of a manifest, as most users would read them."""

    def __init__(self, options: argparse.Namespace, classes: Sequence[str]) -> None:
        path = Path(options.data)
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if options.split in (None, row.get("split"))]
        self.paths = [path.parent / row["path"] for row in rows]
        self.labels = [classes.index(row[options.label or "label"]) for row in rows]
        steps = [transforms.Resize((options.size, options.size)), transforms.ToTensor()]
        self.transform = transforms.Compose(
            [*steps, transforms.Normalize(options.mean, options.std)] if options.mean else steps
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def made_up(folder: Path, samples: int, width: int) -> str:
    """Write photographs of blurred noise, as hard to decode as real ones, and return the path of their manifest."""
    random = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for index in range(samples):
            coarse = random.integers(256, size=(width * 3 // 16, width // 4, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
            image.save(folder / f"{index}.jpg", quality=90)
            rows.writerow((f"{index}.jpg", f"class {random.integers(5)}"))
    return str(folder / "manifest.csv")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

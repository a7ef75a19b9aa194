"""How the demo was made: ``python -m qfair_check.demo.train FOLDER`` writes its three files.

Half of scikit-learn's handwritten digits train the network, half are held out, stratified by class. Two
classes are starved: of three and eight only twelve training images are kept each, against about ninety of
every other class, as a minority group is in a real data set. Nothing else is done to them, and no weight
is touched after training. The network is small so that 4 bits are felt: with seeds 0 and 3 int4 breaks the
default limit on a starved class, with seeds 1 and 2 it does not, and int8 holds with all four. Training is in
float64, so that it comes out alike on every machine.
"""

import json
import sys
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from qfair_check.demo.network import digits_cnn
from qfair_check.files import replace_file

if TYPE_CHECKING:
    from qfair_check.inputs.grouped import GroupedData

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STARVED = (3, 8)
KEPT = 12
SEED = 0
EPOCHS = 20
BATCH = 32


def split() -> tuple[Tensor, Tensor, NDArray[np.float32], NDArray[np.int64]]:
    """Return training images and labels with classes starved, then held-out images and labels, of scikit-learn."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise SystemExit("the digits come with scikit-learn: pip install scikit-learn") from None
    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    train, held_out = train_test_split(np.arange(len(y)), test_size=0.5, stratify=y, random_state=SEED)
    rank = np.empty(len(train), np.int64)
    for label in range(len(NAMES)):
        mine = y[train] == label
        rank[mine] = np.arange(mine.sum())
    train = train[~np.isin(y[train], STARVED) | (rank < KEPT)]
    return torch.from_numpy(x[train]), torch.from_numpy(y[train]), x[held_out], y[held_out]


def training_data() -> "GroupedData":
    """Return the digits that the network was trained on, none of which is audited; the class is the group."""
    from qfair_check.inputs.data import grouped_data

    with as_file(files("qfair_check") / "demo" / "training.npz") as path, np.load(path, allow_pickle=False) as held:
        digits = grouped_data(torch.from_numpy(held["x"]), held["y"], classes=NAMES)
    return replace(digits, source="the demo's training digits")


def train_network(x: Tensor, y: Tensor) -> nn.Module:
    """Train with Adam on shuffled batches; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = digits_cnn().double()
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(EPOCHS):
            order = torch.randperm(len(y))
            for start in range(0, len(y), BATCH):
                batch = order[start : start + BATCH]
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(network(x[batch].double()), y[batch]))
                optimizer.step()
    return network.float().eval()


def main(folder: Path) -> None:
    """Train, write the three files, and print accuracy by class and precision."""
    from qfair_check.inputs.data import grouped_data
    from qfair_check.measure.run import audit
    from qfair_check.report.terminal import render

    x, y, held_out_x, held_out_y = split()
    network = train_network(x, y)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    metadata = {
        "qfair_check": "1",
        "architecture": "qfair_check.demo.network:digits_cnn",
        "classes": json.dumps(NAMES),
        "preprocessing": "null",
    }
    replace_file(folder / "digits.safetensors", save(state, metadata))
    np.savez_compressed(folder / "digits.npz", x=held_out_x, y=held_out_y)
    np.savez_compressed(folder / "training.npz", x=x.numpy(), y=y)
    print(render(audit(network, grouped_data(held_out_x, held_out_y, classes=NAMES), "8,4,3,2"), (), width=120))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

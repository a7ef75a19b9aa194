import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from qfair_check.errors import InputError
from qfair_check.inputs.data import as_samples, grouped_data
from qfair_check.measure.run import audit
from qfair_check.remedy.samples import digests_of, read_samples

CPU = torch.device("cpu")


class Named(Dataset):
    def __len__(self):
        return 130

    def __getitem__(self, index):
        x = torch.full((2,), float(index))
        return {"a": x, "b": torch.tensor(index), "label": index % 3, "group": "even" if index % 2 == 0 else "odd"}


class Unsized:
    """An iterable that does not tell its length."""

    def __iter__(self):
        return ((torch.tensor([float(index)]), index % 2) for index in range(70))


def test_samples_are_drawn_in_any_order_with_their_class_and_group():
    held = read_samples(as_samples(Named()))
    batch = held.take(np.array([129, 0, 64, 0]), CPU)
    assert batch.inputs["b"].tolist() == [129, 0, 64, 0]
    assert batch.inputs["a"][:, 1].tolist() == [129, 0, 64, 0]
    assert batch.labels.tolist() == [0, 0, 1, 0]
    assert [held.group_names[group] for group in batch.groups] == ["odd", "even", "even", "even"]
    assert held.nbytes == 130 * (8 + 8)


def test_a_data_set_of_unknown_length_is_read_whole():
    data = torch.utils.data.IterableDataset.__new__(type("Stream", (Unsized, torch.utils.data.IterableDataset), {}))
    held = read_samples(as_samples(data))
    assert (len(held), held.inputs[:, 0].tolist()) == (70, [float(index) for index in range(70)])


def test_the_hash_is_that_of_an_audit():
    x, y = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32), np.arange(100) % 2
    made = audit(torch.nn.Linear(3, 2), (x, y), 32)
    assert read_samples(grouped_data(x, y)).sha256 == made.data.sha256


def test_digests_tell_samples_apart_wherever_they_stand():
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    once, _ = digests_of(grouped_data(x, np.zeros(100, np.int64)))
    reversed_, known = digests_of(grouped_data(x[::-1].copy(), np.zeros(100, np.int64)))
    assert len(set(once)) == 100
    assert once == reversed_[::-1]
    assert known.group_names == ("0",)
    assert read_samples(grouped_data(x, np.zeros(100, np.int64))).digests == once


def test_no_samples_are_refused():
    with pytest.raises(InputError, match="no samples"):
        read_samples(grouped_data(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), classes=["a", "b"]))

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, get_worker_info

from qfair_check.errors import InputError
from qfair_check.inputs.data import Blocks, grouped_data
from qfair_check.measure.chunks import CHUNK, chunks, data_sha256

SIZE = 150
X = np.random.default_rng(3).normal(size=(SIZE, 2, 3)).astype(np.float32)
Y = [index % 3 for index in range(SIZE)]


class Samples(Dataset):
    """A data set made of a function of the index."""

    def __init__(self, function, size=10):
        self.function, self.size = function, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.function(index)


def dataset(function, size=10):
    return grouped_data(Samples(function, size), [0, 1] * (size // 2))


def cut(data, batch_size=64, workers=0):
    return list(chunks(data, data.roster(), batch_size=batch_size, workers=workers, seed=0))


def sha(x=X, y=Y, group=None, **changes):
    data = replace(grouped_data(x, y, group), **changes)
    return data_sha256(data, [chunk.digest for chunk in cut(data)])


def message(data, batch_size=64, workers=0):
    with pytest.raises(InputError) as caught:
        cut(data, batch_size, workers)
    return str(caught.value)


def refuse(index, bad=5):
    if index == bad:
        raise KeyError("eyes")
    return torch.zeros(2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 100])
def test_chunks_have_one_size_however_samples_are_loaded(batch_size, workers):
    found = cut(grouped_data(X, Y), batch_size, workers)
    assert [(chunk.start, chunk.size) for chunk in found] == [(0, 64), (64, 64), (128, 22)]
    assert all(chunk.batch.shape == (CHUNK, 2, 3) for chunk in found)
    assert all(chunk.batch.is_contiguous() for chunk in found)
    whole = torch.cat([chunk.batch for chunk in found])
    assert torch.equal(whole[:SIZE], torch.from_numpy(X))
    assert torch.equal(whole[SIZE:], torch.from_numpy(X[128]).expand(192 - SIZE, 2, 3))  # a valid row, repeated
    assert [chunk.digest for chunk in found] == [chunk.digest for chunk in cut(grouped_data(X, Y))]


@pytest.mark.parametrize(("size", "sizes"), [(1, [1]), (63, [63]), (64, [64]), (65, [64, 1]), (128, [64, 64])])
def test_the_last_chunk_is_as_long_as_what_is_left(size, sizes):
    found = cut(grouped_data(X[:size], Y[:size]), batch_size=10)
    assert [chunk.size for chunk in found] == sizes
    assert [len(chunk.batch) for chunk in found] == [CHUNK] * len(sizes)
    assert torch.equal(found[-1].batch[: sizes[-1]], torch.from_numpy(X[size - sizes[-1] : size]))


def test_each_chunk_comes_as_soon_as_it_is_full():
    asked = []
    data = dataset(lambda index: asked.append(index) or torch.zeros(2), SIZE)
    asked.clear()
    stream = chunks(data, data.roster(), batch_size=1, workers=0, seed=0)
    next(stream)
    assert asked == list(range(64))
    stream.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float64, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.int64),
        (torch.uint8, torch.uint8),
        (torch.bool, torch.bool),
    ],
)
def test_floats_become_float32_and_other_types_stay(given, expected):
    (chunk,) = cut(dataset(lambda _: torch.ones(2, dtype=given)))
    assert chunk.batch.dtype == expected
    assert chunk.batch.double().tolist() == [[1, 1]] * CHUNK


def test_a_dataset_of_arrays_and_of_single_numbers():
    assert cut(dataset(lambda index: np.array([index, 0.5])))[0].batch[9].tolist() == [9, 0.5]
    (chunk,) = cut(dataset(lambda index: torch.tensor(index)))
    assert chunk.batch.shape == (CHUNK,)
    assert chunk.batch[:10].tolist() == list(range(10))


def test_the_digest_covers_type_shape_and_values_but_no_padding():
    values = torch.arange(20, dtype=torch.float32).reshape(10, 2)
    base = cut(dataset(lambda index: values[index]))[0].digest
    assert base == cut(dataset(lambda index: values[index].double()))[0].digest
    others = [
        cut(dataset(lambda index: values[index].reshape(1, 2)))[0].digest,
        cut(dataset(lambda index: values[index].view(torch.int32)))[0].digest,
        cut(dataset(lambda index: values[index] + (index == 9)))[0].digest,
        cut(dataset(lambda index: values[index] if index < 10 else torch.zeros(2), 12))[0].digest,
    ]
    assert len({base, *others}) == 5
    header = b"torch.float32(10, 2)"
    assert base == hashlib.sha256(header + values.numpy().tobytes()).digest()


def test_the_data_hash_covers_inputs_labels_groups_and_names():
    other_x = X.copy()
    other_x[-1, -1, -1] += 1
    other_y = [*Y[:-1], (Y[-1] + 1) % 3]
    halves = ["a", "b"] * (SIZE // 2)
    hashes = [
        sha(),
        sha(other_x),
        sha(X[::-1]),
        sha(X.reshape(SIZE, 3, 2)),
        sha(y=other_y),
        sha(group=halves),
        sha(y=other_y, group=halves),
        sha(group=halves[::-1]),
        sha(group=["a", "c"] * (SIZE // 2)),
        sha(group=halves, group_names=("b", "a")),
        sha(X[:-1], Y[:-1]),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_data_hash_does_not_depend_on_how_samples_are_stored_or_loaded():
    expected = sha()
    assert sha(X.astype(np.float64), torch.tensor(Y)) == expected
    assert sha(torch.from_numpy(X), Y, Y) == expected
    data = grouped_data(Samples(lambda index: torch.from_numpy(X[index]), SIZE), Y)
    found = {data_sha256(data, [chunk.digest for chunk in cut(data, size)]) for size in (1, 7, 100)}
    assert found == {expected}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_sample_that_cannot_be_loaded_is_named(batch_size, workers):
    assert message(dataset(refuse), batch_size, workers) == "sample 5 cannot be used: KeyError: 'eyes'"


def test_a_sample_is_named_as_the_data_names_it():
    data = replace(dataset(refuse), where=lambda index: f"row {index + 2} (a.jpg)")
    assert message(data) == "row 7 (a.jpg) cannot be used: KeyError: 'eyes'"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_names_its_sample_is_passed_on(workers):
    def function(index):
        if index == 5:
            raise InputError("row 7 (a.jpg) is no image")
        return torch.zeros(2)

    assert message(dataset(function), workers=workers) == "row 7 (a.jpg) is no image"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_block_is_passed_on(workers):
    class Damaged(Blocks):
        def __len__(self):
            return 10

        def rows(self, start, stop):
            raise InputError(f"rows {start} to {stop} are damaged")

    data = replace(dataset(lambda index: torch.zeros(2)), inputs=Damaged())
    assert message(data, batch_size=4, workers=workers) == "rows 0 to 4 are damaged"


def test_a_sample_that_is_no_tensor_is_named():
    data = dataset(lambda index: {"pixels": 1} if index == 5 else torch.zeros(2))
    assert message(data).startswith("sample 5 cannot be used: ")


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_a_sample_of_another_shape_is_named(batch_size):
    data = dataset(lambda index: torch.zeros(3 if index == 5 else 2))
    assert message(data, batch_size) == (
        "sample 5 cannot be used: its shape is (3,) (torch.float32), and that of the samples before is (2,) "
        "(torch.float32); for images of several sizes pass --qfair-image-size, and pad texts to one length"
    )


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_sample_of_another_type_is_named(batch_size):
    data = dataset(lambda index: torch.zeros(2, dtype=torch.int64 if index == 5 else torch.float32))
    assert message(data, batch_size).startswith(
        "sample 5 cannot be used: its shape is (2,) (torch.int64), and that of the samples before is (2,) "
        "(torch.float32)"
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_data_set_may_fill_one_buffer_for_every_sample(batch_size, workers):
    buffer = torch.empty(2)
    (chunk,) = cut(dataset(lambda index: buffer.fill_(index)), batch_size, workers)
    assert chunk.batch[:10].tolist() == [[index, index] for index in range(10)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [StopIteration, SystemExit])
def test_no_error_ends_the_data_early_or_the_process(error, workers):
    def function(index):
        if index == 5:
            raise error(0)
        return torch.zeros(2)

    assert message(dataset(function), workers=workers) == f"sample 5 cannot be used: {error.__name__}: 0"


def test_a_later_batch_of_another_shape_is_named():
    data = dataset(lambda index: torch.zeros(2 if index < 6 else 3))
    assert message(data, batch_size=2).startswith("sample 6 cannot be used: its shape is (3,)")


def test_a_worker_that_dies_is_told():
    def function(index):
        if get_worker_info() is not None:
            os._exit(3)
        return torch.zeros(2)

    data = replace(dataset(function), source="faces.csv")
    assert len(cut(data)) == 1
    found = message(data, workers=1)
    assert found.startswith("loading faces.csv failed: DataLoader worker (pid")
    assert found.endswith("; try --qfair-workers 0")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_not_drawn_from(workers):
    before = torch.random.get_rng_state()
    cut(grouped_data(X, Y), workers=workers)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_sample_with_a_gradient_is_used_without_it():
    data = dataset(lambda index: torch.full((2,), float(index), requires_grad=True))
    assert [chunk.batch.requires_grad for chunk in chunks(data, data.roster(), batch_size=4, workers=0, seed=0)] == [
        False
    ]


def test_a_sparse_sample_is_named_with_the_cure():
    assert message(dataset(lambda index: torch.eye(2).to_sparse())) == (
        "sample 0 cannot be used: its input is a tensor of layout torch.sparse_coo, which is not dense: give "
        "value.to_dense()"
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_data_set_that_draws_random_numbers_gives_the_same_samples_however_it_is_loaded(batch_size, workers):
    data = dataset(lambda index: torch.rand(2))
    drawn = [chunk.batch for chunk in chunks(data, data.roster(), batch_size=batch_size, workers=workers, seed=3)]
    expected = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(3 + index)) for index in range(10)])
    torch.testing.assert_close(drawn[0][:10], expected, rtol=0, atol=0)

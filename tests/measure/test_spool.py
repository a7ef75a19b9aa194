import errno
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from qfair_check.errors import InputError
from qfair_check.inputs.data import grouped_data
from qfair_check.inputs.sample import parts
from qfair_check.measure.chunks import CHUNK, Chunk, chunks
from qfair_check.measure.spool import Spool

SIZE = 150
RNG = np.random.default_rng(2)
X = torch.from_numpy(RNG.normal(size=(SIZE, 2, 3)).astype(np.float32))
Y = RNG.integers(4, size=SIZE)
GROUPS = RNG.integers(3, size=SIZE)
SAMPLES = {
    "floats": X,
    "bytes": (X.abs() * 50).to(torch.uint8),
    "flags": X > 0,
    "single numbers": X[:, 0, 0],
    "several": (X, torch.arange(SIZE), X[:, 0] > 0, X[:, :0], (X[:, :1] * 99).to(torch.int16)),
    "nothing first": (X[:, :, :0], torch.arange(SIZE) + 2**40),
    "by name": {"ids": (X * 1000).long(), "mask": X[:, 0] > 0, "empty": X[:, :0].bool()},
    "laid out otherwise": X.transpose(1, 2),
    "no numbers at all": X[:, :0],
}


def rows_of(samples, rows):
    if isinstance(samples, dict):
        return {name: part[rows] for name, part in samples.items()}
    return tuple(part[rows] for part in samples) if isinstance(samples, tuple) else samples[rows]


def padded(samples, rows):
    """Return these rows as the batch of a chunk, whose last rows repeat the first."""
    return rows_of(samples, rows + rows[:1] * (CHUNK - len(rows)))


def chunked(samples, groups=GROUPS, labels=Y):
    for start in range(0, len(groups), CHUNK):
        rows = list(range(start, min(start + CHUNK, len(groups))))
        yield Chunk(start, len(rows), padded(samples, rows), labels[rows], groups[rows], b"")


def spooled(samples, most=None, seed=0, groups=GROUPS, labels=Y):
    spool = Spool(most, seed)
    try:
        for chunk in chunked(samples, groups, labels):
            spool.add(chunk)
        return spool, spool.groups(np.arange(groups.max() + 1), groups.max() + 1)
    except InputError:
        spool.close()
        raise


def drawn(most, seed, groups=GROUPS):
    """Return the positions that are drawn of each group, and the rows of the file."""
    spool, found = spooled(torch.arange(len(groups)), most, seed, groups)
    with_positions = [[int(index) for _, batch, _ in group.batches(7) for index in batch] for group in found]
    rows = {sample.row for group in found for sample in group.samples}
    spool.close()
    return with_positions, rows


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_what_goes_in_comes_out_by_group_in_dataset_order(kind, chunk):
    spool, found = spooled(SAMPLES[kind])
    for number, group in enumerate(found):
        expected = np.flatnonzero(number == GROUPS)
        assert len(group) == len(expected)
        start = 0
        for first, batch, labels in group.batches(chunk):
            rows = expected[start : start + len(labels)]
            assert first == rows[0]
            assert labels.tolist() == Y[rows].tolist()
            assert type(batch) is type(SAMPLES[kind])
            wanted = dict(parts(rows_of(SAMPLES[kind], rows)))
            got = dict(parts(batch))
            assert got.keys() == wanted.keys()
            for name, part in got.items():
                assert part.dtype == wanted[name].dtype
                assert part.shape == wanted[name].shape
                assert torch.equal(part, wanted[name])
            start += len(labels)
        assert start == len(expected)
    spool.close()


@pytest.mark.parametrize(
    ("size", "chunk", "expected"),
    [(63, 64, [63]), (95, 64, [95]), (96, 64, [64, 32]), (180, 64, [64, 64, 52]), (3, 1, [1, 1, 1]), (1, 64, [1])],
)
def test_a_short_end_joins_the_chunk_before_it(size, chunk, expected):
    spool, (group,) = spooled(torch.arange(size), groups=np.zeros(size, np.int64), labels=np.zeros(size, np.int64))
    assert [len(labels) for _, _, labels in group.batches(chunk)] == expected
    assert group.chunks(chunk) == len(expected)
    spool.close()


def test_groups_stand_at_their_final_positions_and_may_be_empty():
    spool = Spool(None, 0)
    for chunk in chunked(torch.arange(SIZE)):
        spool.add(chunk)
    found = spool.groups(np.array([3, 0, 2]), 4)
    assert [len(group) for group in found] == [sum(GROUPS == 1), 0, sum(GROUPS == 2), sum(GROUPS == 0)]
    assert list(found[1].batches(64)) == []
    assert [int(row) for _, batch, _ in found[3].batches(64) for row in batch] == np.flatnonzero(GROUPS == 0).tolist()
    spool.close()


@pytest.mark.parametrize("most", [1, 20, 49, 1000])
def test_at_most_so_many_of_each_group_are_drawn_in_dataset_order(most):
    sizes = np.bincount(GROUPS)
    assert sizes.min() < 49 < sizes.max()
    found, rows = drawn(most, 0)
    assert [len(positions) for positions in found] == [min(most, size) for size in sizes]
    assert all(positions == sorted(set(positions)) for positions in found)
    assert all(set(GROUPS[positions]) == {group} for group, positions in enumerate(found))
    assert rows == set(range(sum(min(most, size) for size in sizes)))


def test_who_is_drawn_depends_on_seed_and_position_alone():
    found, _ = drawn(20, 5)
    assert drawn(20, 5)[0] == found
    assert drawn(20, 6)[0] != found
    renumbered, _ = drawn(20, 5, np.array([2, 0, 1])[GROUPS])
    assert renumbered == [found[1], found[2], found[0]]
    others_joined, _ = drawn(20, 5, np.minimum(GROUPS, 1))
    assert others_joined[0] == found[0]
    fewer, _ = drawn(5, 5)
    assert all(set(few) <= set(many) for few, many in zip(fewer, found, strict=True))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (7, 2), (200, 0)])
def test_who_is_drawn_does_not_depend_on_how_samples_are_loaded(batch_size, workers):
    data = grouped_data(np.arange(SIZE, dtype=np.float32)[:, None], Y, GROUPS)
    spool, roster = Spool(20, 5), data.roster()
    for chunk in chunks(data, roster, batch_size=batch_size, workers=workers, seed=0):
        spool.add(chunk)
    found = spool.groups(np.arange(3), 3)
    assert [[int(x) for _, batch, _ in group.batches(64) for x in batch] for group in found] == drawn(20, 5)[0]
    spool.close()


def test_every_sample_is_drawn_as_often_as_the_others():
    """Chi-square over 400 seeds: 20 of 100 samples each time, so each about 80 times."""
    times = np.zeros(100)
    for seed in range(400):
        ((positions,), _) = drawn(20, seed, np.zeros(100, np.int64))
        times[positions] += 1
    assert times.sum() == 400 * 20
    statistic = ((times - 80) ** 2 / (80 * 0.8)).sum()  # each draw is without replacement: variance n p (1 - p)
    assert 60 < statistic < 149  # the 0.1% ends of chi-square with 99 degrees of freedom are 60 and 149


def test_rows_of_samples_that_are_drawn_no_more_are_used_again():
    spool, _ = spooled(X, 5)
    assert spool._file.seek(0, 2) == 3 * 5 * X[0].nbytes
    spool.close()


def test_the_file_has_no_name_and_is_gone_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool, _ = spooled(X)
    assert list(tmp_path.iterdir()) == []
    spool.close()
    assert spool._file.closed


def full_disk(written):
    """Return a file that takes what fits into its buffer, and then no more."""
    assert written
    return Path("/dev/full").open("r+b")


@pytest.mark.parametrize("samples", [X, X.repeat(1, 100, 100)], ids=["at the end", "at once"])
def test_a_full_disk_is_told_with_both_cures(samples, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/some/where")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full_disk(prefix))
    with pytest.raises(InputError) as caught:
        spooled(samples, groups=GROUPS[:40])
    assert str(caught.value) == (
        "cannot keep the samples in /some/where while curvature is measured: No space left on device; "
        "--qfair-curvature-samples keeps fewer, and TMPDIR names another folder"
    )


def test_no_folder_for_temporary_files_is_told(monkeypatch):
    def refuse(prefix):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']", prefix)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(InputError, match=r"in a temporary folder while .*: No usable temporary directory found in"):
        Spool(None, 0)


def test_a_tie_in_the_draw_does_no_harm(monkeypatch):
    monkeypatch.setattr("qfair_check.measure.spool._key", lambda seed, index: 0)
    assert [len(positions) for positions in drawn(3, 0)[0]] == [3, 3, 3]


def test_labels_travel_with_their_samples():
    spool = Spool(3, 1)
    for chunk in chunked(torch.arange(SIZE), labels=np.arange(SIZE)):
        spool.add(chunk)
    for group in spool.groups(np.arange(3), 3):
        assert all(torch.equal(batch, labels) for _, batch, labels in group.batches(2))
    spool.close()

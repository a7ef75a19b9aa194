import hashlib
import io
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.baseline_file import read_baseline, write_baseline
from qfair_check.baseline_record import Baseline, Entry, Tally
from qfair_check.errors import InputError, QFairError

names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4, unique=True)


def _array(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@st.composite
def baselines(draw):
    groups = tuple(draw(names))
    sizes = [draw(st.integers(0, 60)) for _ in groups]
    entries = []
    for precision in draw(st.lists(st.sampled_from(["int2", "int4", "fp16", "asis"]), min_size=1, unique=True)):
        tallies = tuple(Tally(size, draw(st.none() | st.integers(0, size))) for size in sizes)
        right = np.packbits(np.zeros(sum(sizes), np.bool_)).tobytes()
        entries.append(Entry(precision, "absmax", "", draw(st.none() | st.just("a" * 64)), tallies, right))
    return Baseline("d" * 64, groups, tuple(sorted(entries, key=lambda entry: entry.key)))


@given(baselines())
def test_what_is_written_is_read(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("baseline") / "base.json"
    write_baseline(made, path)
    assert read_baseline(path) == made
    first = path.read_bytes()
    write_baseline(read_baseline(path), path)
    assert path.read_bytes() == first


@pytest.fixture
def made():
    entry = Entry("int4", "absmax/symmetric/per-tensor", "", "a" * 64, (Tally(90, 80), Tally(6, None)), b"\x01" * 12)
    return Baseline("d" * 64, ("A", 'B "é"'), (entry,))


def test_it_is_a_line_for_each_group_and_valid_json(tmp_path, made):
    write_baseline(made, tmp_path / "base.json")
    text = (tmp_path / "base.json").read_text(encoding="utf-8")
    assert '    "A": {"accuracy": 0.8889, "correct": 80, "samples": 90},\n' in text
    assert json.loads(text)["entries"][0]["groups"]['B "é"'] == {"accuracy": None, "correct": None, "samples": 6}
    assert json.loads(text)["entries"][0]["accuracy"] is None


def test_there_is_none(tmp_path):
    assert read_baseline(tmp_path / "base.json") is None


def test_the_side_file_may_be_gone_and_not_damaged(tmp_path, made):
    path = tmp_path / "base.json"
    write_baseline(made, path)
    (side,) = tmp_path.glob("*.npy")
    side.write_bytes(side.read_bytes()[:-1])
    with pytest.raises(InputError, match="is damaged: its hash is not the one that"):
        read_baseline(path)
    side.unlink()
    assert read_baseline(path).entries[0].right == b""


def test_old_side_files_go(tmp_path, made):
    path = tmp_path / "base.json"
    write_baseline(made, path)
    (first,) = tmp_path.glob("*.npy")
    write_baseline(replace(made, entries=(replace(made.entries[0], right=b"\x02" * 12),)), path)
    (second,) = tmp_path.glob("*.npy")
    assert first != second


def test_a_folder_that_cannot_be_written_is_one_error_and_leaves_the_old(tmp_path, made, monkeypatch):
    path = tmp_path / "base.json"
    write_baseline(made, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qfair_check.baseline_file.replace_file", fail)
    with pytest.raises(InputError, match=r"cannot write the baseline .*: No space left on device"):
        write_baseline(replace(made, data="e" * 64), path)
    assert path.read_bytes() == before


@given(st.data())
def test_a_damaged_file_is_one_error_or_is_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "base.json"
    write_baseline(Baseline("d" * 64, ("A",), (Entry("int4", "absmax", "", None, (Tally(9, 5),)),)), path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    with suppress(QFairError):
        read_baseline(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01\x00v\x00" + b"{" * 118 + b"\x01" * 12,
        _array(np.ones((1, 11), np.uint8)),
        _array(np.ones((2, 12), np.uint8)),
        _array(np.ones((1, 12), np.int8)),
        _array(np.ones((12, 1), np.uint8)),
        _array(np.ones((1, 12), np.uint8)) + b"more",
    ],
)
def test_a_made_up_side_file_of_the_right_hash_is_refused(tmp_path, made, content):
    path = tmp_path / "base.json"
    write_baseline(made, path)
    (side,) = tmp_path.glob("*.npy")
    digest = hashlib.sha256(content).hexdigest()
    path.write_text(path.read_text().replace(hashlib.sha256(side.read_bytes()).hexdigest(), digest))
    (tmp_path / f"base.{digest[:16]}.outcomes.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"outcomes\.npy (does not hold a bit|is damaged)"):
        read_baseline(path)


@pytest.mark.parametrize(
    ("line", "other"), [('"fvo": 0.0556', '"fvo": 0.0123'), ('"accuracy": 0.8854,', '"accuracy": 1,')]
)
def test_a_line_that_reviewers_read_must_follow_from_the_counts(tmp_path, line, other):
    entry = Entry("int4", "absmax", "", None, (Tally(90, 80), Tally(6, 5)))
    path = tmp_path / "base.json"
    write_baseline(Baseline("d" * 64, ("A", "B"), (entry,)), path)
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, other))
    with pytest.raises(InputError, match="accuracy or fvo at int4 is not that of the groups"):
        read_baseline(path)


@pytest.mark.parametrize("sizes", [(), (5,), (0, 3)])
def test_few_and_empty_groups_are_written_and_read(tmp_path, sizes):
    tallies = tuple(Tally(size, size or None) for size in sizes)
    made = Baseline("d" * 64, tuple("AB"[: len(sizes)]), (Entry("int4", "absmax", "", None, tallies),))
    write_baseline(made, tmp_path / "base.json")
    assert read_baseline(tmp_path / "base.json") == made

import os
import stat
from pathlib import Path

import pytest

from qfair_check.files import replace_file


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "a.json"
    for content in (b"old", b"", b"new"):
        replace_file(target, content)
        assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a.json", b"x")
        assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_content(tmp_path, monkeypatch, step):
    target = tmp_path / "a.json"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(OSError, match="No space left"):
        replace_file(target, b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    target.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    target = tmp_path / f"{'n' * 250}.json"
    replace_file(target, b"x")
    assert target.read_bytes() == b"x"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "inner").mkdir()
    target, link = tmp_path / "inner" / "a.json", tmp_path / "link.json"
    target.write_bytes(b"old")
    link.symlink_to(target)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_file(pipe, b"new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_folder_is_not_written(tmp_path):
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path, b"new")

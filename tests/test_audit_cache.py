import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from qfair_check.audit_cache import AuditCache
from qfair_check.audit_key import audit_key
from qfair_check.inputs.options import DataOptions, ModelOptions
from qfair_check.options import measure_options

KEY = "a" * 64


@pytest.fixture
def made(make_audit):
    return make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int4={"A": 44, "B": 30})


def test_what_is_stored_is_found_and_nothing_else(tmp_path, made):
    cache = AuditCache(tmp_path / "cache")
    assert cache.load(KEY) is None
    assert cache.store(KEY, made)
    assert cache.load(KEY) == made
    assert cache.load("b" * 64) is None


@pytest.mark.parametrize("name", ["audit.json", "seal", "*.npy"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_entry_is_none_and_taken_away(tmp_path, made, name, damage):
    cache = AuditCache(tmp_path)
    cache.store(KEY, made)
    (file,) = (tmp_path / KEY).glob(name)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-3] if damage == "cut" else content.replace(content[-2:], b"??"))
    assert cache.load(KEY) is None
    cache.store(KEY, made)
    assert cache.load(KEY) == made


def test_the_least_recently_used_go_first(tmp_path, made, monkeypatch):
    monkeypatch.setattr("qfair_check.audit_cache._MOST_ENTRIES", 3)
    cache = AuditCache(tmp_path)
    for index in range(3):
        cache.store(f"{index}" * 64, made)
        os.utime(tmp_path / (f"{index}" * 64), (index, index))
    assert cache.load("0" * 64) == made
    cache.store("3" * 64, made)
    assert {entry.name[0] for entry in tmp_path.iterdir()} == {"0", "2", "3"}
    monkeypatch.setattr("qfair_check.audit_cache._MOST_BYTES", 10)
    cache.store("4" * 64, made)
    assert [entry.name[0] for entry in tmp_path.iterdir()] == ["4"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path, made, monkeypatch):
    (tmp_path / "file").write_text("")
    assert not AuditCache(tmp_path / "file" / "cache").store(KEY, made)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qfair_check.audit_file.replace_file", fail)
    assert not AuditCache(tmp_path / "cache").store(KEY, made)
    assert list((tmp_path / "cache").iterdir()) == []


def write_again_and_again(folder, made, times):
    for _ in range(times):
        shutil.rmtree(folder / KEY, ignore_errors=True)
        AuditCache(folder).store(KEY, made)


def test_two_that_write_and_one_that_reads_see_a_whole_entry_or_none(tmp_path, made):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_again_and_again, args=(tmp_path, made, 60)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        found = AuditCache(tmp_path).load(KEY)
        assert found in (None, made)
        seen.add(found is None)
    assert [writer.exitcode for writer in writers] == [0, 0]
    AuditCache(tmp_path).store(KEY, made)
    assert AuditCache(tmp_path).load(KEY) == made


KILLED = """
import sys, time
from pathlib import Path
from qfair_check.audit_cache import AuditCache
import qfair_check.audit_cache as module
from qfair_check.record import Audit

made = Audit.load(sys.argv[1])
sealed = module._sealed

def slow(path):
    print("writing", flush=True)
    time.sleep(60)

module._sealed = slow
AuditCache(Path(sys.argv[2])).store("a" * 64, made)
"""


def test_a_writer_that_is_killed_leaves_no_entry_and_what_it_leaves_goes(tmp_path, made):
    made.save(tmp_path / "audit.json")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "audit.json"), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    cache = AuditCache(tmp_path / "cache")
    assert cache.load(KEY) is None
    (left,) = (tmp_path / "cache").iterdir()
    os.utime(left, (time.time() - 7200,) * 2)
    cache.store(KEY, made)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [KEY]


MODEL, DATA = ModelOptions("net.pt", "resnet18"), DataOptions("faces.csv")


def measuring(**given):
    return measure_options(given.get)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").write_bytes(b"weights")
    (tmp_path / "1.png").write_bytes(b"one")
    (tmp_path / "2.png").write_bytes(b"two")
    (tmp_path / "faces.csv").write_text("path,label\n1.png,a\n2.png,b\n")
    return tmp_path


def test_a_key_is_the_same_while_nothing_changes(files):
    first = audit_key(MODEL, DATA, measuring())
    assert first is not None
    assert audit_key(MODEL, DATA, measuring()) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda files, patch: (files / "net.pt").write_bytes(b"weightz"),
        lambda files, patch: (files / "faces.csv").write_text("path,label\n1.png,b\n2.png,b\n"),
        lambda files, patch: (files / "2.png").write_bytes(b"more"),
        lambda files, patch: os.utime(files / "2.png", (1, 1)),
        lambda files, patch: (files / "2.png").unlink(),
        lambda files, patch: patch.setenv("OMP_NUM_THREADS", "7"),
        lambda files, patch: patch.setattr("qfair_check.audit_key.version", lambda name: "99"),
        lambda files, patch: patch.setattr("qfair_check.__version__", "99"),
    ],
    ids=["model", "data", "image size", "image time", "image gone", "threads", "versions", "own version"],
)
def test_a_key_is_another_where_anything_changed(files, monkeypatch, change):
    first = audit_key(MODEL, DATA, measuring())
    change(files, monkeypatch)
    assert audit_key(MODEL, DATA, measuring()) not in (None, first)


@pytest.mark.parametrize(
    "options",
    [
        {"bits": "4"},
        {"scheme": "mse"},
        {"seed": "1"},
        {"exclude": "fc"},
        {"curvature": "yes"},
        {"bad_sample": "insufficient"},
    ],
    ids=str,
)
def test_a_key_is_another_for_other_options(files, options):
    assert audit_key(MODEL, DATA, measuring(**options)) not in (None, audit_key(MODEL, DATA, measuring()))
    others = {
        audit_key(ModelOptions("net.pt", "resnet34"), DATA, measuring()),
        audit_key(MODEL, DataOptions("faces.csv", image_size=(8, 8)), measuring()),
        audit_key(MODEL, DataOptions("faces.csv", split="test"), measuring()),
    }
    assert len(others | {audit_key(MODEL, DATA, measuring())}) == 4


def test_images_count_by_content_if_asked(files):
    by_content = audit_key(MODEL, DATA, measuring(), by_content=True)
    os.utime(files / "2.png", (1, 1))
    assert audit_key(MODEL, DATA, measuring(), by_content=True) == by_content
    (files / "2.png").write_bytes(b"owt")
    assert audit_key(MODEL, DATA, measuring(), by_content=True) != by_content


def test_folders_count_by_all_that_is_in_them(files):
    folder = files / "faces" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"one")
    first = audit_key(MODEL, DataOptions("faces"), measuring())
    (folder / "2.png").write_bytes(b"two")
    assert audit_key(MODEL, DataOptions("faces"), measuring()) not in (None, first)


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        (ModelOptions("net.pt", "package.module:factory"), DATA, {}),
        (ModelOptions("net.pt", "no-name.module:factory"), DATA, {}),
        (ModelOptions("net.pt", None), DATA, {}),
        (ModelOptions("net.pt", "resnet18", trust_pickle=True), DATA, {}),
        (ModelOptions("net.pt2"), DATA, {}),
        (ModelOptions("."), DATA, {}),
        (ModelOptions("gone.pt", "resnet18"), DATA, {}),
        (MODEL, DataOptions("package.module:function"), {}),
        (MODEL, DataOptions("gone.csv"), {}),
        (MODEL, DATA, {"device": "cuda"}),
        (MODEL, DATA, {"bits": "asis"}),
    ],
)
def test_where_code_of_the_user_takes_part_there_is_no_key(files, model, data, options):
    assert audit_key(model, data, measuring(**options)) is None


@pytest.mark.parametrize("content", [b'a,"path\n', b"\xff\xfe", b""])
def test_a_table_that_cannot_be_read_has_no_key_or_one(files, content):
    (files / "faces.csv").write_bytes(content)
    audit_key(MODEL, DATA, measuring())

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import qfair_check

FOLDER = Path(__file__).parents[1] / "benchmarks"
BITS = ("32", "8", "4", "2")
CLASSES = ("cat", "dog", "fox")


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """Runs a benchmark in this process, in a folder of its own, and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)

    def run(name, *arguments):
        path = FOLDER / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        with torch.random.fork_rng():
            runpy.run_path(str(path), run_name="__main__")
        (line,) = capsys.readouterr().out.splitlines()
        found = json.loads(line)
        assert found["benchmark"] == name
        return found

    yield run
    for name in (
        "curvature_peak",
        "images",
        "made_up_audit",
        "qat_memory",
        "qat_others",
        "sweep",
        "user_loop",
        "versions",
    ):
        sys.modules.pop(name, None)


@pytest.fixture
def given(tmp_path):
    """A model file and a manifest of photographs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=len(CLASSES))
    qfair_check.save_model(net, tmp_path / "net.safetensors", arch="resnet18", classes=CLASSES)
    rows = ["path,kind,split"]
    for index in range(12):
        noise = np.random.default_rng(index).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.jpg")
        rows.append(f"{index}.jpg,{CLASSES[index % 3]},{'test' if index < 9 else 'train'}")
    (tmp_path / "animals.csv").write_text("\n".join(rows))
    classes = ",".join(CLASSES)
    return f"--model net.safetensors --data animals.csv --label kind --split test --classes {classes}".split()


def assert_shares(found):
    assert found["ratio"] == pytest.approx(found["seconds"]["audit"] / found["seconds"]["loop"], rel=0.2)
    assert found["threads"] == torch.get_num_threads()
    assert tuple(found["correct"]) == BITS
    assert all(ours == theirs for ours, theirs in found["correct"].values())


def test_sweep(ran):
    found = ran("sweep", "--samples", 40, "--size", 32, "--half-samples", 4, "--rounds", 1)
    assert_shares(found)
    assert sorted(found["seconds_within_audit"]) == ["make_faster", "quantize", "record_of_weights"]
    assert sorted(found["fp16"]) == ["correct", "ratio", "seconds"]
    assert (found["samples"], found["input"], found["rounds"]) == (40, [3, 32, 32], 1)


def test_sweep_of_a_model_and_a_folder(ran, given):
    found = ran("sweep", *given, "--half-samples", 0, "--rounds", 1)
    assert_shares(found)
    assert found["fp16"] is None
    assert (found["samples"], found["input"]) == (9, [3, 40, 40])


def test_images(ran):
    arguments = ("--samples", 8, "--pixels", 64, "--size", 32, "--workers", 1, "--rounds", 1)
    found = ran("images", *arguments)
    assert found["ratio"] == pytest.approx(found["seconds"]["audit"] / found["seconds"]["loop"], rel=0.2)
    assert tuple(found["correct"]) == BITS
    assert (found["samples"], found["pixels"], found["size"], found["workers"]) == (8, [64, 48], 32, 1)


def test_images_of_a_model_and_a_folder(ran, given):
    found = ran("images", *given, "--size", 40, "--workers", 0, "--rounds", 1)
    assert_shares(found)
    assert (found["samples"], found["pixels"], found["size"]) == (9, [40, 40], 40)


def test_group_metrics(ran):
    found = ran("group_metrics", "--samples", 4000, "--rounds", 1)
    assert found["speedup"] == pytest.approx(found["seconds"]["fairlearn"] / found["seconds"]["tally"], rel=0.5)
    assert (list(found["peak_mb"]), list(found["audit_peak_mb"])) == (["400", "4000"], ["40", "400"])
    assert min(*found["peak_mb"].values(), *found["audit_peak_mb"].values()) > 0
    assert (found["samples"], found["classes"], found["groups"]) == (4000, 10, 20)


def test_import_cost(ran):
    found = ran("import_cost", "--rounds", 1)
    assert found["added_ms"] == pytest.approx(found["ms"]["with"] - found["ms"]["without"], abs=0.2)
    assert "qfair_check" in found["added_modules"]
    assert found["heavy"] == []


def test_curvature(ran):
    found = ran("curvature", "--sizes", "9,7", "--steps", 3, "--rounds", 1)
    seconds = found["seconds"]
    assert found["speedup"] == pytest.approx(seconds["pyhessian"] / seconds["lanczos"], rel=0.2)
    assert found["gradient_ratio"] == pytest.approx(seconds["norms"] / seconds["plain"], rel=0.3)
    assert 0 < found["peak_mb"] < found["bound_mb"] == 2048
    assert found["error"]["lanczos"]["largest"] < 0.01
    assert [len(counts) for counts in found["hvps"].values()] == [8, 8]
    assert (found["samples"], found["input"]) == ([9, 7], [3, 32, 32])


def test_report(ran):
    found = ran("report", "--groups", 12, "--rounds", 1)
    assert found["seconds"] > 0
    assert found["session_end_ms"] > 0
    assert 0.1 < found["small_page_mb"] < found["page_mb"] < 3
    assert (found["groups"], found["precisions"], found["rounds"]) == (12, 6, 1)


def test_confidence(ran):
    found = ran("confidence", "--rounds", 1, "--groups", 6)
    seconds = found["seconds"]
    assert found["ratio"] == pytest.approx(seconds["FVO"] / seconds["loop"], rel=0.2, abs=0.001)
    assert (found["groups"], found["pairs"], found["precisions"]) == (6, 15, 6)


def test_baseline(ran):
    found = ran("baseline", "--rounds", 1, "--groups", 4, "--samples", 400)
    assert 0 < found["seconds"] < found["process_seconds"]
    assert (found["groups"], found["precisions"]) == (4, 6)


def test_cached_gate(ran):
    found = ran("cached_gate", "--rounds", 1)
    assert found["ratio"] == pytest.approx(found["seconds"]["cached"] / found["seconds"]["measured"], rel=0.1)


def test_how_often_verdicts_are_wrong(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    simulation = runpy.run_path(str(FOLDER / "confidence_errors.py"))
    for population in simulation["populations"](3):
        passed, failed = simulation["errors"](population, np.array([50, 40, 30]), 40)
        assert max(passed, failed) <= 0.05 + 5 * 0.0345, population


def test_qat(ran):
    threads = torch.get_num_threads()
    found = ran("qat", "--rounds", 1, "--batch", 4, "--size", 32, "--threads", threads)
    seconds = found["seconds"]
    assert found["ratio"] == pytest.approx(seconds["ours"] / seconds["plain"], rel=0.1)
    assert found["copies"]["plain"] == 0 < found["copies"]["ours"] <= 1
    assert found["copies"]["ours"] == pytest.approx(found["copies"]["undampened"], abs=0.05)
    assert found["others"].keys() | found["missing"].keys() == {"brevitas", "torchao"}
    assert set(found["layout"]) == {"channels_last", "bfloat16", "both"}
    assert (found["bits"], found["input"], found["threads"]) == ("int4", [4, 3, 32, 32], threads)

import json

import pytest
import torch
from safetensors.torch import save_file

WEIGHT = torch.tensor([[1.0, 0.0], [0.0, 0.3]])
DATA = ("--qfair-data=tiny.npz", "--bits=4")
LEFT_OUT = (
    "1 tensor of net.ckpt lies outside net., under which the model's weights are, and is left out: criterion.weight"
)


@pytest.fixture
def checkpoint(pytester, tiny):
    content = {"epoch": 1, "state_dict": {"net.weight": WEIGHT, "criterion.weight": torch.ones(2)}}
    torch.save(content, pytester.path / "net.ckpt")


@pytest.fixture
def folder(pytester, tiny):
    place = pytester.mkdir("checkpoint-5")
    save_file({"weight": WEIGHT}, place / "part.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": "part.safetensors"}}))
    (place / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))


def test_what_a_checkpoint_leaves_out_is_told_before_measuring_and_in_the_table(pytester, checkpoint):
    result = pytester.runpytest("--qfair-model=net.ckpt", "--qfair-arch=network:make", *DATA, "--qfair-json=a.json")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([f"qfair: {LEFT_OUT}", "*= qfair audit =*", "note    1 tensor of net.ckpt*"])
    assert json.loads((pytester.path / "a.json").read_text())["inputs"]["notices"][0] == LEFT_OUT


def test_a_checkpoint_without_an_architecture_is_a_clean_exit(pytester, checkpoint):
    result = pytester.runpytest("--qfair-model=net.ckpt", *DATA)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: net.ckpt holds weights alone and does not name its architecture: *"])


@pytest.mark.parametrize("model", [["--qfair-model=checkpoint-5"], ["--qfair-model", "checkpoint-5/"]])
def test_a_folder_is_gated(pytester, folder, model):
    result = pytester.runpytest(*model, "--qfair-arch=network:make", *DATA)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["model   checkpoint-5* (network:make), 4 parameters, 100.0% of them quantized,*"])


def test_a_folder_that_names_no_class_is_a_clean_exit(pytester, folder):
    result = pytester.runpytest("--qfair-model=checkpoint-5", *DATA)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: the configuration of checkpoint-5 names no class under architectures: pass *"])


def test_a_folder_of_tests_is_a_clean_exit(pytester, tiny):
    pytester.mkdir("tests")
    result = pytester.runpytest("--qfair-model=tests", *DATA)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: tests is a folder without weights: give a model file, or a folder as *"])

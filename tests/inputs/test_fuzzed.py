"""A bounded number of the inputs of benchmarks/fuzz.py, and hypothesis on what they have no seeds for."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfair_check import Audit, load_data, load_model
from qfair_check.baseline_file import read_baseline
from qfair_check.errors import QFairError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = (
    *("audit", "baseline", "checkpoint", "csv", "data safetensors", "image", "model safetensors", "npz", "parquet"),
    *("pt2", "state dict"),
)
INPUTS = 60


@pytest.fixture(scope="module")
def harness():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(BENCHMARKS)
        import fuzz
        import fuzz_seeds

        yield fuzz, fuzz_seeds


@pytest.mark.parametrize("name", NAMES)
def test_damaged_and_forged_files_are_read_or_refused(harness, tmp_path, name):
    if name == "pt2":
        pytest.importorskip(
            "torch.export.pt2_archive", reason="torch 2.7 and older write .pt2 files of an older layout"
        )
    fuzz, seeds = harness
    assert set(seeds.LOADERS) == set(NAMES)
    loader = seeds.LOADERS[name]
    made = seeds.seeds_of(loader, tmp_path)
    for content in fuzz.mutants(made, loader, random.Random(1), INPUTS):
        outcome = fuzz.tried(loader, content, tmp_path, 60)
        assert outcome in ("read", "refused"), outcome


def test_the_harness_tells_what_is_no_error_of_ours(harness, tmp_path):
    fuzz, seeds = harness
    loader = seeds.LOADERS["csv"]

    def fail(path):
        raise KeyError("x")

    crash = fuzz.tried(type(loader)("csv", "fuzzed.csv", fail, loader.make), b"", tmp_path, 5)
    assert crash.error == "KeyError: 'x'"
    assert crash.content == b""


@settings(max_examples=60)
@given(content=st.binary(max_size=400), suffix=st.sampled_from([".csv", ".npz", ".safetensors", ".parquet"]))
def test_bytes_of_any_kind_are_no_data(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"data{suffix}"
    path.write_bytes(content)
    with suppress(QFairError):
        load_data(path)


@settings(max_examples=60)
@given(content=st.binary(max_size=400), suffix=st.sampled_from([".safetensors", ".pt", ".pt2", ".ckpt", ".bin"]))
def test_bytes_of_any_kind_are_no_model(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(QFairError):
        load_model(path, arch="resnet18")


@settings(max_examples=60)
@given(content=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_bytes_of_any_kind_are_no_audit_and_no_baseline(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "audit.json"
    path.write_bytes(content)
    for read in (Audit.load, read_baseline):
        with pytest.raises(QFairError):
            read(path)


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"schema_version": 1e999}', b'{"schema_version": 3}', b"\xff\xfe"]
)
def test_json_that_means_harm_is_one_error(tmp_path, content):
    (tmp_path / "audit.json").write_bytes(content)
    for read in (Audit.load, read_baseline):
        with pytest.raises(QFairError):
            read(tmp_path / "audit.json")

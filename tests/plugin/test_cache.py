"""The gate's audit from an earlier run."""

import subprocess
import sys

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

import qfair_check

HIT = "qfair: measured on * and unchanged since; --qfair-no-cache measures anew"
DEMO = ("--qfair-model=demo", "--bits=4")


def is_hit(result):
    return any("unchanged since" in line for line in result.outlines)


def test_the_second_run_measures_nothing_and_judges_alike(pytester):
    first, second = pytester.runpytest(*DEMO), pytester.runpytest(*DEMO)
    assert [is_hit(run) for run in (first, second)] == [False, True]
    assert first.ret == second.ret == 1
    assert first.parseoutcomes() == second.parseoutcomes()
    second.stdout.fnmatch_lines([HIT, "overall  899  0.938    0.933 -0.004"])
    assert is_hit(pytester.runpytest(*DEMO, "--qfair-max-fvo=0.1", "--qfair-json=audit.json"))
    assert (pytester.path / "audit.json").exists()


def test_other_bits_measure_anew(pytester):
    pytester.runpytest(*DEMO)
    assert not is_hit(pytester.runpytest("--qfair-model=demo", "--bits=8"))


@pytest.mark.parametrize("option", ["--qfair-no-cache", "--cache-clear", "-pno:cacheprovider"])
def test_it_can_be_left_out(pytester, option):
    pytester.runpytest(*DEMO)
    assert not is_hit(pytester.runpytest(*DEMO, option))


def test_where_nothing_can_be_written_it_is_left_out(pytester):
    (pytester.path / "file").touch()
    result = pytester.runpytest_subprocess(*DEMO, "-o", "cache_dir=file/cache")
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=2)


def test_with_workers_it_is_read_once(pytester):
    pytester.runpytest(*DEMO)
    result = pytester.runpytest(*DEMO, "-n2")
    assert is_hit(result)
    result.assert_outcomes(passed=1, failed=2)


def test_where_a_test_needs_the_model_it_is_loaded(pytester):
    pytester.makepyfile("def test_own(qfair): qfair.assert_fvo_below(1)")
    pytester.runpytest(*DEMO)
    result = pytester.runpytest(*DEMO)
    assert not is_hit(result)
    result.assert_outcomes(passed=2, failed=2)


def test_a_damaged_entry_is_measured_anew(pytester):
    pytester.runpytest(*DEMO)
    (audit,) = pytester.path.glob(".pytest_cache/d/qfair/*/audit.json")
    audit.write_bytes(audit.read_bytes().replace(b"0.9332", b"0.9999"))
    result = pytester.runpytest(*DEMO)
    assert not is_hit(result)
    assert "0.999" not in result.stdout.str()
    assert is_hit(pytester.runpytest(*DEMO))


@pytest.fixture
def shufflenet(pytester):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.shufflenet_v2_x0_5(num_classes=2)
    qfair_check.save_model(net, pytester.path / "net.safetensors", arch="shufflenet_v2_x0_5", classes=("a", "b"))
    x = torch.rand(70, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    save_file({"x": x, "y": torch.arange(70) % 2}, pytester.path / "data.safetensors")
    return ("--qfair-model=net.safetensors", "--qfair-data=data.safetensors", "--bits=8")


def test_a_changed_model_or_changed_data_is_measured_anew(pytester, shufflenet):
    pytester.runpytest(*shufflenet)
    assert is_hit(pytester.runpytest(*shufflenet))
    tensors = load_file(pytester.path / "data.safetensors")
    save_file({**tensors, "y": 1 - tensors["y"]}, pytester.path / "data.safetensors")
    assert not is_hit(pytester.runpytest(*shufflenet))
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=2)
    qfair_check.save_model(net, pytester.path / "net.safetensors", arch="shufflenet_v2_x0_5", classes=("a", "b"))
    assert not is_hit(pytester.runpytest(*shufflenet))
    assert is_hit(pytester.runpytest(*shufflenet))


def test_an_overridden_fixture_is_never_cached(pytester):
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def qfair_model():
            import qfair_check
            return qfair_check.load_model("demo")
    """)
    for _ in range(2):
        result = pytester.runpytest("--qfair-data=demo", "--bits=8")
        result.assert_outcomes(passed=3)
        assert not is_hit(result)


def test_data_that_changes_while_it_is_measured_is_not_kept(pytester, shufflenet, monkeypatch):
    import qfair_check.gate_cache as module

    keys = iter(["a" * 64, "b" * 64])
    monkeypatch.setattr(module, "audit_key", lambda *_, **__: next(keys))
    pytester.runpytest_inprocess(*shufflenet)
    assert not list(pytester.path.glob(".pytest_cache/d/qfair/*"))


def test_a_hit_loads_no_torch(pytester):
    pytester.runpytest(*DEMO)
    code = (
        "import sys, pytest; "
        f"pytest.main(['-q', *{DEMO!r}]); "
        "assert not {'torch', 'torchvision', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=pytester.path, check=False)
    assert done.returncode == 0, done.stderr
    assert "unchanged since" in done.stdout or "failed" in done.stdout


def test_two_runs_at_once_agree(pytester):
    command = [sys.executable, "-m", "pytest", *DEMO]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=pytester.path) for _ in range(2)]
    told = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [1, 1]
    assert all("overall  899  0.938    0.933 -0.004" in one for one in told)
    assert is_hit(pytester.runpytest(*DEMO))

"""pytest --qfair-remediate, on a network of three layers whose middle one int2 ruins."""

import shlex
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qfair_check.cli import main
from qfair_check.record import Audit

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
"""
NOTHING = "qfair remediate: nothing was trained: no test failed by a limit at integer bits"


def write_samples(path, seed, times=1):
    """Most of group B is told by its second feature, which the middle layer makes small."""
    means = np.array([[1.0, 0.0]] * 40 + [[0.1, 1.0]] * 30 + [[-1.0, 1.0]] * 10).repeat(times, 0)
    x = np.random.default_rng(seed).normal(means, 0.005).astype(np.float32)
    np.savez(path, x=x, y=np.repeat([0, 1], 40 * times), group=np.repeat(["A", "B"], 40 * times))


@pytest.fixture
def trainable(pytester):
    pytester.makepyfile(network=NETWORK)
    middle, outer = torch.tensor([[1.0, 0.0], [0.0, 0.15]]), torch.eye(2)
    weights = {"0.weight": outer.clone(), "1.weight": middle, "2.weight": outer.clone()}
    metadata = {"qfair_check": "1", "architecture": "network:make", "classes": '["no", "yes"]', "preprocessing": "null"}
    save_file(weights, pytester.path / "tiny.safetensors", metadata)
    write_samples(pytester.path / "test.npz", 0)
    write_samples(pytester.path / "train.npz", 1, times=20)
    write_samples(pytester.path / "few.npz", 2)
    return pytester.path


@pytest.fixture
def run(pytester, trainable):
    def run(*arguments, train="train.npz", **how):
        given = ["--qfair-model=tiny.safetensors", "--qfair-data=test.npz", "--qfair-remediate=out"]
        return pytester.runpytest_inprocess(*given, f"--qfair-train-data={train}", *arguments, **how)

    return run


def section(result):
    """Return the lines of the section, without the rest of the summary."""
    lines = result.outlines
    start = next(index for index, line in enumerate(lines) if line.strip("= ") == "qfair remediate")
    end = next((index for index, line in enumerate(lines) if index > start and line.startswith("===")), len(lines))
    return lines[start + 1 : end]


def passed(precision):
    return [
        f"{precision}  out/fair_{precision}.safetensors passes every limit now",
        "      FVO 0.000; rounded without training 0.750, or 0.750 with the same bits in each layer; audit "
        f"out/fair_{precision}.json",
    ]


STAYS = (
    "this run judged tiny.safetensors and stays failed; to gate a new model name it by --qfair-model, with "
    "--qfair-bits asis"
)


def trainings(result):
    return [line for line in result.errlines if line.startswith("qfair remediate at")]


def test_a_broken_limit_is_remedied_and_the_run_stays_failed(run, pytester):
    result = run("--bits=8,2")
    assert result.ret == 1
    result.assert_outcomes(passed=3, failed=3)
    assert section(result) == [*passed("int2"), STAYS]
    assert trainings(result) == ["qfair remediate at int2 (1 of 1)"]
    result.stdout.fnmatch_lines(
        [
            "qfair remediate: into out, on train.npz, where a limit is broken",
            "*= qfair audit =*",
            "*= qfair remediate =*",
        ]
    )
    made = Audit.load(pytester.path / "out" / "fair_int2.json")
    assert {layer.bits for layer in made.at("asis").weights.layers} == {2, 8}
    gated = pytester.runpytest("--qfair-model=out/fair_int2.safetensors", "--qfair-data=test.npz", "--bits=asis")
    gated.assert_outcomes(passed=3)


@pytest.mark.parametrize("spread", [(), ("-n2",)], ids=["one process", "two workers"])
def test_each_precision_that_failed_is_trained_once(run, pytester, spread):
    result = run("--bits=2,8,3", *spread)
    assert result.ret == 1
    assert section(result) == [*passed("int3"), *passed("int2"), STAYS]
    assert trainings(result) == ["qfair remediate at int3 (1 of 2)", "qfair remediate at int2 (2 of 2)"]
    assert not (pytester.path / "out" / "fair_int8.json").exists()


def test_nothing_is_trained_where_all_limits_hold(run, pytester):
    result = run("--bits=8,4")
    assert result.ret == 0
    assert [line for line in result.outlines if "remediate" in line][1:] == [NOTHING]
    assert "remediate" not in run("--bits=8,4", "-q").stdout.str()
    assert not (pytester.path / "out").exists()


def test_nothing_is_trained_where_a_test_failed_for_another_reason(run, pytester):
    pytester.makepyfile("""
        import pytest

        def test_other(qfair):
            qfair.check()
            assert qfair.bits == 2

        @pytest.mark.xfail
        def test_expected(qfair):
            qfair.assert_cosine_distance_below(0)
    """)
    result = run("--bits=8")
    result.assert_outcomes(passed=3, failed=1, xfailed=1)
    result.stdout.fnmatch_lines([NOTHING])
    assert trainings(result) == []


def test_what_cannot_be_judged_is_no_broken_limit(run):
    result = run("--bits=8", "--qfair-min-group-size=100")
    assert result.ret == 1
    result.stdout.fnmatch_lines([NOTHING])


@pytest.mark.parametrize("spread", [(), ("-n2",)], ids=["one process", "two workers"])
@pytest.mark.parametrize(
    "test",
    [
        "def test_own(qfair): qfair.assert_worst_group_accuracy_above(0.9)",
        "from qfair_check import assert_worst_group_accuracy_above as above\n"
        "def test_own(qfair_audit): above(qfair_audit, 0.9, bits='8,2')",
    ],
    ids=["bound", "free"],
)
def test_assertions_count_as_the_gate_does(run, pytester, test, spread):
    pytester.makepyfile(test)
    result = run("--bits=8,2", "-k", "own", *spread)
    assert result.ret == 1
    assert section(result) == [*passed("int2"), STAYS]


def test_the_new_model_is_judged_by_the_limit_of_the_assertion_too(run, pytester):
    pytester.makepyfile("def test_own(qfair): qfair.assert_cosine_distance_below(0)")
    result = run("--bits=2", "-k", "own")
    head, _, broken = section(result)
    assert head == "int2  out/fair_int2.safetensors does not pass"
    assert "cosine distance" in broken
    assert "above the limit 0" in broken


def test_limits_that_another_model_broke_train_nothing(run, pytester, make_audit):
    make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int2={"A": 44, "B": 3}).save(pytester.path / "other.json")
    pytester.makepyfile("""
        from qfair_check import Audit, assert_fvo_below

        def test_other(qfair_audit):
            assert_fvo_below(Audit.load("other.json"), 0.1)
    """)
    result = run("--bits=8")
    assert section(result) == [
        "not for test_limits_that_another_model_broke_train_nothing.py::test_other: what broke a limit there is "
        "another model than tiny.safetensors, or other data"
    ]
    assert trainings(result) == []


def test_where_no_candidate_is_fairer_it_is_said(run):
    result = run("--bits=2", train="few.npz")
    assert result.ret == 1
    assert section(result) == [
        "int2  out/fair_int2.safetensors does not pass, and no candidate was fairer than rounding without training",
        "      FVO 0.750; rounded without training 0.750, or 0.750 with the same bits in each layer; audit "
        "out/fair_int2.json",
        "      FVO increase at asis is 0.750, above the limit 0.050 (fp32: 0.000, asis: 0.750)",
        "      accuracy drop of B at asis is 0.750, above the limit 0.050",
        "      overall accuracy drop at asis is 0.375, above the limit 0.020 (fp32: 1.000, asis: 0.625)",
    ]


def test_where_the_groups_are_too_small_nothing_is_said_of_which_is_fairer(run, pytester):
    pytester.makepyfile("""
        from qfair_check import assert_fvo_below

        def test_own(qfair_audit):
            assert_fvo_below(qfair_audit, 0.5, min_group_size=30)
    """)
    result = run("--bits=2", "-k", "own", "--qfair-min-group-size=100", "--qfair-insufficient=pass")
    assert section(result)[0] == (
        "int2  out/fair_int2.safetensors passes every limit now, and is not known to be fairer than rounding without "
        "training"
    )


def test_one_conclusion_is_told(run, pytester):
    pytester.makepyfile("def test_own(qfair): qfair.assert_cosine_distance_below(0)")
    result = run("--bits=2", "-k", "own")
    assert section(result)[0] == "int2  out/fair_int2.safetensors does not pass"
    assert "passes every limit" not in result.stderr.str()
    assert "remediated" not in result.stdout.str()


def test_the_scheme_of_the_gate_is_what_it_is_compared_with(run, pytester):
    result = run("--bits=2", "--qfair-scheme=absmax/asymmetric", "--qfair-layer-bits=1=2", "--qfair-exclude=0")
    assert result.ret == 1
    rounded, made = (Audit.load(pytester.path / "out" / f"fair_int2{end}.json") for end in (".rounded", ""))
    assert rounded.settings.scheme == "absmax/asymmetric/per-tensor"
    assert rounded.settings.allocation == "1=int2, exclude 0"
    assert {layer.name: layer.bits for layer in made.at("asis").weights.layers if layer.bits < 32} == {
        "1.weight": 2,
        "2.weight": 2,
    }


def test_a_regression_from_a_baseline_is_no_reason_to_train(run):
    result = run("--bits=8", "--qfair-baseline=base.json")
    assert result.ret == 1
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([NOTHING])
    assert trainings(result) == []


def test_limits_by_precision_go_with_the_precision(run):
    result = run("--bits=8,2", "--qfair-max-accuracy-drop=0.9,int2=0.3", "--qfair-max-group-drop=1")
    assert section(result) == [*passed("int2"), STAYS]


@pytest.mark.parametrize("spread", [(), ("-n2",)], ids=["one process", "two workers"])
def test_stopping_at_the_first_failure_does_not_stop_the_remedy(run, spread):
    result = run("--bits=3", "-x", *spread)
    assert section(result) == [*passed("int3"), STAYS]


def test_collecting_trains_nothing(run, pytester):
    result = run("--bits=2", "--collect-only")
    assert result.ret == 0
    assert NOTHING not in result.outlines
    assert not (pytester.path / "out").exists()


@pytest.mark.parametrize("without", ["terminal", "capture", "warnings"])
def test_it_does_without_a_plugin_of_pytest(run, pytester, without):
    assert run("--bits=2", "-p", f"no:{without}").ret == 1
    assert (pytester.path / "out" / "fair_int2.safetensors").exists()


def test_a_warning_while_it_trains_does_not_stop_it(run, monkeypatch):
    monkeypatch.setattr("qfair_check.remediate_command._tell", lambda *told: warnings.warn("slow", stacklevel=1))
    result = run("--bits=2", "-W", "error")
    assert result.ret == 1
    assert section(result) == [*passed("int2"), STAYS]


def interrupt_after_an_epoch(record, groups):
    raise KeyboardInterrupt


def test_an_interruption_keeps_the_verdict_and_names_the_command_that_goes_on(run, pytester, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("qfair_check.remediate_command._tell", interrupt_after_an_epoch)
        result = run("--bits=3,2", "--qfair-max-fvo=0.2")
    assert result.ret == 2
    result.assert_outcomes(failed=8)
    told = section(result)
    assert [told[0], told[2]] == ["int3  interrupted; no model was audited. To go on:", "int2  was not begun"]
    assert [path.name for path in (pytester.path / "out").iterdir()] == ["fair_int3.checkpoint"]
    program, *arguments = shlex.split(told[1])
    assert program == "qfair"
    assert main(arguments) == 0
    assert Audit.load(pytester.path / "out" / "fair_int3.json").at("asis").fvo == 0


def test_tests_that_the_user_ended_are_not_followed_by_training(run, pytester):
    pytester.makepyfile("""
        def test_broken(qfair): qfair.check()
        def test_ended(): raise KeyboardInterrupt
    """)
    result = run("--bits=2", no_reraise_ctrlc=True)
    assert result.ret == 2
    assert trainings(result) == []


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), OSError("gone")])
def test_what_goes_wrong_is_told_and_the_verdict_stands(run, monkeypatch, error):
    def fail(record, groups):
        raise error

    monkeypatch.setattr("qfair_check.remediate_command._tell", fail)
    result = run("--bits=2")
    assert result.ret == 1
    result.assert_outcomes(failed=3)
    assert section(result) == [f"int2  no model was made: {type(error).__name__}: {error}"]
    assert "Traceback" in result.stderr.str()


def test_audited_samples_under_another_name_are_not_trained_on(run, pytester):
    (pytester.path / "copy.npz").write_bytes((pytester.path / "test.npz").read_bytes())
    result = run("--bits=2", train="copy.npz")
    assert result.ret == 1
    (told,) = section(result)
    assert told.startswith("int2  no model was made: 80 of 80 audited samples are also in the training data")


def test_the_ini_file_may_name_the_training_data(pytester, trainable):
    pytester.makeini("[pytest]\nqfair_train_data = train.npz\nqfair_model = tiny.safetensors\nqfair_data = test.npz")
    pytester.runpytest("--bits=4").assert_outcomes(passed=3)
    result = pytester.runpytest("--bits=2", "--qfair-remediate", "out")
    assert result.ret == 1
    assert section(result)[0] == "int2  out/fair_int2.safetensors passes every limit now"
    again = pytester.runpytest("--bits=2", "--qfair-remediate", "out")
    assert section(again) == section(result)


MODEL, DATA = "--qfair-model=tiny.safetensors", "--qfair-data=test.npz"
OUT, TRAIN = "--qfair-remediate=out", "--qfair-train-data=train.npz"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            [MODEL, DATA, OUT],
            "--qfair-remediate has nothing to train on: pass --qfair-train-data FILE, of samples that are not audited",
        ),
        ([MODEL, DATA, TRAIN], "--qfair-train-data would do nothing: add --qfair-remediate FOLDER"),
        (
            [MODEL, DATA, TRAIN, "--qfair-train-split=a"],
            "--qfair-train-data and --qfair-train-split would do nothing: add --qfair-remediate FOLDER",
        ),
        ([MODEL, DATA, OUT, "--qfair-train-data=no.npz"], "--qfair-train-data no.npz: there is no such file"),
        ([MODEL, DATA, OUT, "--qfair-train-data=\x1b[2J"], r"--qfair-train-data \x1b[2J: there is no such file"),
        (
            [MODEL, DATA, OUT, "--qfair-train-data=test.npz"],
            "the training data is what is audited: name another file, or another --qfair-train-split",
        ),
        (
            [MODEL, DATA, TRAIN, "--qfair-remediate=network.py"],
            "--qfair-remediate network.py is a file: name a folder for the new models",
        ),
        (
            [MODEL, DATA, TRAIN, "--qfair-remediate=network.py/out"],
            "--qfair-remediate network.py/out: cannot write into *network.py, name another folder",
        ),
        (
            [MODEL, DATA, TRAIN, OUT, "--bits=asis"],
            "--qfair-remediate trains at integer bits, and asis is all that is gated: give --qfair-bits such as 4",
        ),
        (
            [MODEL, DATA, TRAIN, OUT, "--bits=fp16"],
            "--qfair-remediate trains at integer bits, and fp16 is all that is gated: give --qfair-bits such as 4",
        ),
        ([OUT, TRAIN], "--qfair-remediate needs the model that it is to train anew: pass --qfair-model FILE"),
        (
            [MODEL, DATA, OUT, "--qfair-train-data=./test.npz"],
            "the training data is what is audited: name another file, or another --qfair-train-split",
        ),
        (
            [MODEL, DATA, TRAIN, OUT, "--qfair-scheme=per-channel"],
            "the scheme mse/symmetric/per-channel has a step for each channel: training learns one per tensor",
        ),
        (
            ["--qfair-model=demo", "--qfair-train-split=train", OUT],
            "--qfair-train-split train is of the data in --qfair-train-data, and the demo's own have no column split",
        ),
    ],
)
def test_what_makes_no_sense_ends_the_run_at_once(pytester, trainable, arguments, told):
    bits = [] if any("--bits" in given for given in arguments) else ["--bits=2"]
    result = pytester.runpytest(*arguments, *bits)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert not (pytester.path / "out").exists()


@pytest.mark.parametrize("read", ["--qfair-model", "--qfair-data"])
def test_what_is_read_is_never_written_over(pytester, trainable, read):
    (trainable / "out").mkdir()
    (trainable / "out" / "fair_int2.safetensors").write_bytes((trainable / "tiny.safetensors").read_bytes())
    before = (trainable / "out" / "fair_int2.safetensors").read_bytes()
    result = pytester.runpytest(MODEL, DATA, TRAIN, OUT, "--bits=2", f"{read}=out/fair_int2.safetensors")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: out/fair_int2.safetensors is read, and out/fair_int2.safetensors would be written over it: *"]
    )
    assert (trainable / "out" / "fair_int2.safetensors").read_bytes() == before


def test_a_folder_that_cannot_be_written_ends_the_run_at_once(run, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    result = run("--bits=2")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-remediate out: cannot write into *, name another folder"])


def test_a_saved_audit_cannot_be_trained(pytester, make_audit):
    make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int4={"A": 44, "B": 3}).save(pytester.path / "audit.json")
    result = pytester.runpytest("--qfair-audit=audit.json", OUT)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-audit gates a saved audit, *: leave out --qfair-remediate"])
    pytester.makeini("[pytest]\nqfair_remediate = out")
    result = pytester.runpytest("--qfair-audit=audit.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-remediate needs the model, which a saved audit does not hold: *"])


def test_a_model_of_a_fixture_cannot_be_trained(pytester, trainable):
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def qfair_model():
            return "tiny.safetensors"
    """)
    result = pytester.runpytest(DATA, OUT, TRAIN)
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: --qfair-remediate trains a model of a file on data of a file, and qfair_model is a fixture in *"]
    )


def test_a_model_of_unknown_architecture_cannot_be_trained(pytester, trainable):
    pytester.syspathinsert()
    torch.save(torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(3))), "whole.pt")
    result = pytester.runpytest("--qfair-model=whole.pt", "--qfair-trust-pickle", DATA, OUT, TRAIN)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --qfair-remediate: the architecture of whole.pt is not known, *"])


def test_training_data_that_cannot_be_read_ends_the_run_before_it_measures(run, pytester):
    np.savez(pytester.path / "wrong.npz", z=[1])
    result = run("--bits=2", train="wrong.npz")
    assert result.ret == 4
    assert "wrong.npz" in result.stderr.str()
    result.assert_outcomes()


def test_the_demo_brings_its_training_data(pytester):
    result = pytester.runpytest("--qfair-model=demo", "--bits=8", OUT)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["qfair remediate: into out, on demo, where a limit is broken", NOTHING])
    assert pytester.runpytest("--qfair-model=demo", "--bits=8", OUT, "--qfair-train-data=demo").ret == 0

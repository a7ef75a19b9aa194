import shlex

import pytest

from qfair_check import load_model
from qfair_check.cli import main
from qfair_check.record import Audit

DEMO = ("remediate", "demo", "--bits", "2")


@pytest.fixture(scope="module")
def remedied(tmp_path_factory):
    """The demo's remedy at 2 bits, in two epochs."""
    folder = tmp_path_factory.mktemp("remedied")
    assert main([*DEMO, "--epochs", "2", "--out", str(folder / "fair.safetensors")]) == 0
    return folder


def test_the_demo_passes_the_gate_that_rounding_fails(remedied, pytester):
    fair, rounded = Audit.load(remedied / "fair.json"), Audit.load(remedied / "fair.rounded.json")
    assert fair.at("asis").fvo < 0.3 < 0.9 < rounded.at(2).fvo
    assert fair.at("asis").overall.accuracy > 0.9 > 0.2 > rounded.at(2).overall.accuracy
    options = ("--qfair-data", "demo", "--qfair-reference", "demo")
    gated = pytester.runpytest("--qfair-model", str(remedied / "fair.safetensors"), *options, "--bits", "asis")
    gated.assert_outcomes(passed=3)
    pytester.runpytest("--qfair-model", "demo", "--bits", "2").assert_outcomes(failed=3)


def test_the_saved_model_is_the_one_that_was_audited(remedied):
    model = load_model(remedied / "fair.safetensors")
    made = Audit.load(remedied / "fair.json")
    assert made.model.sha256 == model.sha256
    assert {layer.bits for layer in made.at("asis").weights.layers} == {2, 8}
    assert made.reference.sha256 == Audit.load(remedied / "fair.rounded.json").model.sha256
    assert not (remedied / "fair.checkpoint").exists()


def test_the_audit_tells_how_it_was_trained(remedied):
    training = Audit.load(remedied / "fair.json").training
    assert (training.strategy, training.precision, len(training.epochs)) == ("fair-qat", "int2", 2)
    assert set(training.groups) == set(Audit.load(remedied / "fair.json").groups)
    assert training.chosen in (1, 2)
    assert Audit.load(remedied / "fair.rounded.json").training is None


def test_what_is_no_fairer_than_rounding_is_said_to_be_so(tmp_path, capsys):
    assert main([*DEMO, "--strategy", "ptq", "--out", str(tmp_path / "rounded.safetensors")]) == 1
    told = capsys.readouterr().out
    assert "FAIL  " in told or "it is no fairer on the audited samples than rounding without training" in told
    assert (tmp_path / "rounded.safetensors").exists()


@pytest.mark.parametrize("alias", ["fair.safetensors", "./fair.safetensors", "link.safetensors"])
def test_what_is_read_is_never_written_over(remedied, tmp_path, capsys, monkeypatch, alias):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "fair.safetensors"
    own.write_bytes((remedied / "fair.safetensors").read_bytes())
    (tmp_path / "link.safetensors").symlink_to(own)
    command = ["remediate", alias, "--data", "demo", "--bits", "2", "--out", "fair.safetensors"]
    assert main(command) == 4
    assert "fair.safetensors would be written over it: put the model elsewhere" in capsys.readouterr().err
    assert own.read_bytes() == (remedied / "fair.safetensors").read_bytes()


def test_other_files_that_would_be_written_are_looked_at_too(tmp_path, capsys):
    data = tmp_path / "fair.mpqat.json"
    data.write_text("{}")
    given = ["--data", str(data), "--train", str(data), "--strategy", "all"]
    assert main(["remediate", "demo", *given, "--out", str(tmp_path / "fair.safetensors")]) == 4
    assert f"{data} is read, and {data} would be written over it" in capsys.readouterr().err


def test_where_a_group_is_too_small_it_is_not_said_to_be_no_fairer(tmp_path, capsys):
    out = str(tmp_path / "fair.safetensors")
    assert main([*DEMO, "--epochs", "1", "--min-group-size", "100000", "--insufficient", "pass", "--out", out]) == 1
    told = capsys.readouterr().out
    assert "whether it is fairer than rounding without training is unknown: an FVO cannot be judged" in told


def test_the_split_of_the_demos_own_training_data_is_refused(tmp_path, capsys):
    assert main([*DEMO, "--train-split", "train", "--out", str(tmp_path / "fair.safetensors")]) == 4
    assert "the demo's own have no column split" in capsys.readouterr().err


def test_scheme_and_bits_of_layers_are_those_that_are_given(tmp_path):
    out = tmp_path / "fair.safetensors"
    main([*DEMO, "--epochs", "1", "--scheme", "mse/full", "--first-last", "4", "--out", str(out)])
    rounded, made = Audit.load(out.with_suffix(".rounded.json")), Audit.load(out.with_suffix(".json"))
    assert (rounded.settings.scheme, rounded.settings.allocation) == ("mse/full/per-tensor", "first-last=int4")
    assert {layer.bits for layer in made.at("asis").weights.layers} == {2, 4}
    assert {grid.grid for grid in load_model(out).grids.values()} == {"full"}


def test_a_broken_limit_is_exit_1(remedied, tmp_path, capsys):
    out = str(tmp_path / "fair.safetensors")
    assert main([*DEMO, "--epochs", "1", "--max-fvo", "0.001", "--out", out]) == 1
    assert "it does not pass: a limit is broken, or cannot be judged" in capsys.readouterr().out


def test_a_limit_on_curvature_is_measured_and_judged(tmp_path, capsys):
    out = str(tmp_path / "fair.safetensors")
    assert main([*DEMO, "--epochs", "2", "--max-gradient-ratio", "1000", "--out", out]) == 0
    assert "PASS  gradient norm at asis is " in capsys.readouterr().out


def test_an_interrupted_run_goes_on_to_the_same_model(remedied, tmp_path, monkeypatch, capsys):
    out = tmp_path / "fair.safetensors"
    command = [*DEMO, "--epochs", "2", "--out", str(out)]

    def interrupt(record, groups):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("qfair_check.remediate_command._tell", interrupt)
        assert main(command) == 2
    assert "the same command with --resume goes on after the last epoch" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--resume"]) == 0
    assert "epoch   1" not in capsys.readouterr().out
    assert load_model(out).sha256 == load_model(remedied / "fair.safetensors").sha256


def test_all_strategies_are_compared_and_one_is_taken(tmp_path, capsys):
    out = tmp_path / "fair.safetensors"
    assert main([*DEMO, "--epochs", "2", "--strategy", "all", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "chosen  fair-" in told
    assert "by the same rule among what each strategy chose" in told
    audits = [tmp_path / f"fair.{name}.json" for name in ("rounded", "mixed")]
    others = [path for name in ("fair-qat", "mpqat", "fair-base") if (path := tmp_path / f"fair.{name}.json").exists()]
    assert len(others) == 2
    for path in (*audits, *others, tmp_path / "fair.json"):
        assert Audit.load(path).data.sha256 == Audit.load(audits[0]).data.sha256
    for path in others:
        model = load_model(path.with_suffix(".safetensors"))
        assert Audit.load(path).model.sha256 == model.sha256
    assert not list(tmp_path.glob("*.checkpoint"))
    line = next(line for line in told.splitlines() if line.startswith("report  qfair "))
    assert main(shlex.split(line.removeprefix("report  qfair "))) == 0
    assert (tmp_path / "fair.html").exists()


def test_an_interruption_between_strategies_loses_none_that_is_done(tmp_path, monkeypatch, capsys):
    out = tmp_path / "fair.safetensors"
    command = [*DEMO, "--epochs", "1", "--strategy", "all", "--out", str(out)]
    epochs = []

    def interrupt(record, groups):
        epochs.append(record)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("qfair_check.remediate_command._tell", interrupt)
        assert main(command) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fair.fair-qat.checkpoint", "fair.mpqat.checkpoint"]
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().out.count("epoch   1") == 1  # of fair-base


def test_a_budget_in_minutes_and_the_options_of_training(tmp_path, capsys):
    out = tmp_path / "fair.safetensors"
    options = ["--minutes", "0.05", "--amp", "--optimizer", "adam", "--learning-rate", "0.002"]
    assert main([*DEMO, *options, "--out", str(out)]) in (0, 1)
    assert (
        "train   fair-qat at int2, 0.05 minutes (no two runs are the same bit for bit), on" in capsys.readouterr().out
    )
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--minutes", "1", "--epochs", "2"], "both --minutes and --epochs are given: a budget is one of them"),
        (["demo", "--minutes", "soon"], "minutes is 'soon': it is a number above 0"),
        (["demo", "--learning-rate", "-1"], "learning-rate is '-1': it is a number above 0"),
        (
            ["loans.safetensors", "--data", "loans.csv", "--features", "income,debt,age"],
            "no training data is given: pass --train FILE",
        ),
        (["demo", "--bits", "4,2"], "bits is '4,2': a model is trained for one precision, such as 4"),
        (["demo", "--bits", "fp16"], "a model is trained for integers of 2 to 8 bits"),
        (["demo", "--epochs", "0"], "epochs is '0'"),
        (["demo", "--out", "fair.pt"], "the name of the model ends in .safetensors"),
        (["demo", "--out", "nowhere/fair.safetensors"], "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_exit_4(arguments, told, tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(request.config.rootpath / "fixtures")
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "fair.safetensors")]
    assert main(["remediate", *arguments, *out]) == 4
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    monkeypatch.chdir(tmp_path)
    for given in (["remediate", "gone.safetensors", "--data", "demo", "--train", "gone.npz"], ["audit", "gone.pt"]):
        assert main([*given, "--data", "demo", "--out", "a.safetensors"]) == 4
        assert f"--out a.safetensors: cannot write into {tmp_path}, name another folder" in capsys.readouterr().err


def test_what_is_audited_is_not_trained_on(tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(request.config.rootpath / "fixtures")
    given = ["remediate", "loans.safetensors", "--data", "loans.csv", "--features", "income,debt,age"]
    out = ["--group-by", "region", "--out", str(tmp_path / "fair.safetensors")]
    assert main([*given, "--train", "loans.csv", *out]) == 4
    assert "the training data is what is audited" in capsys.readouterr().err


def test_a_model_that_was_saved_and_not_audited_is_not_said_to_be_missing(tmp_path, monkeypatch, capsys):
    save = Audit.save

    def cut(self, path):
        if path.name == "fair.rounded.json":
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Audit, "save", cut)
    out = tmp_path / "fair.safetensors"
    assert main(["remediate", "demo", "--bits", "2", "--epochs", "1", "--out", str(out)]) == 2
    assert out.exists()
    told = "qfair: interrupted; no model was audited; the same command with --resume goes on after the last epoch\n"
    assert capsys.readouterr().err.endswith(told)

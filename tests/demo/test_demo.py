import sys

import numpy as np
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits

import qfair_check
from qfair_check.commands import demo_command
from qfair_check.demo import train
from qfair_check.judge.limits import gate_limits
from qfair_check.judge.verdicts import Outcome, judge_audit


def test_the_script_makes_the_shipped_weights_again(tmp_path, capsys):
    train.main(tmp_path)
    made, shipped = qfair_check.load_model(tmp_path / "digits.safetensors"), qfair_check.load_model("demo")
    assert made.classes == shipped.classes == train.NAMES
    for name, value in shipped.module.state_dict().items():
        torch.testing.assert_close(made.module.state_dict()[name], value, rtol=0, atol=1e-4)
    assert "eight" in capsys.readouterr().out


def test_the_held_out_digits_are_those_of_scikit_learn(tmp_path):
    digits = load_digits()
    pairs = zip(digits.images, digits.target, strict=True)
    known = {(image / 16).astype(np.float32).tobytes(): label for image, label in pairs}
    data = qfair_check.load_data("demo")
    assert len(data.labels) == 899
    assert all(known[data.inputs[index].numpy().tobytes()] == data.labels[index] for index in range(899))


def test_the_training_digits_are_shipped_and_need_no_scikit_learn(monkeypatch):
    x, y, *_ = train.split()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    data = train.training_data()
    assert torch.equal(torch.stack([data.inputs[index] for index in range(len(y))]), x)
    assert list(data.labels) == list(y)
    assert data.classes == train.NAMES
    assert data.source == "the demo's training digits"


def test_two_classes_are_starved_in_training_and_nothing_is_held_out_twice():
    x, y, held_out, _ = train.split()
    counts = np.bincount(y, minlength=10)
    assert [counts[label] for label in train.STARVED] == [train.KEPT] * 2
    assert min(counts[label] for label in range(10) if label not in train.STARVED) > 80
    assert not {image.tobytes() for image in x.numpy()} & {image.tobytes() for image in held_out}


def test_training_leaves_the_callers_random_state_alone():
    x, y, *_ = train.split()
    before = torch.random.get_rng_state()
    train.train_network(x[:64], y[:64])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_file_says_where_it_comes_from():
    with safe_open(f"{train.Path(train.__file__).parent}/digits.safetensors", framework="pt") as file:
        assert file.metadata()["architecture"] == "qfair_check.demo.network:digits_cnn"


def test_int8_passes_the_default_limits_and_a_starved_class_fails_at_int4():
    audit = qfair_check.audit("demo", "demo", "8,4,2")
    verdicts = judge_audit(audit, gate_limits({}))
    by_precision = {name: {v.outcome for v in verdicts if v.precision == name} for name in ("int8", "int4", "int2")}
    assert by_precision["int8"] == {Outcome.PASS}
    assert Outcome.FAIL in by_precision["int4"]
    assert by_precision["int2"] == {Outcome.FAIL}
    drops = [group.accuracy_drop for group in audit.at(4).groups]
    assert audit.groups[drops.index(max(drops))] in [train.NAMES[label] for label in train.STARVED]
    assert abs(audit.at(4).overall.accuracy_drop) < 0.02


def test_a_demo_that_does_not_behave_as_told_says_so(tmp_path, monkeypatch, capsys, make_audit):
    even = {"A": 45, "B": 45}
    audit = make_audit({"A": 50, "B": 50}, fp32=even, int8=even, int4=even)

    def run(command, **_):
        audit.save(command[command.index("--qfair-json") + 1])
        return type("Ran", (), {"returncode": 0})

    monkeypatch.setattr("subprocess.run", run)
    assert demo_command(str(tmp_path)) == 1
    assert "The demo did not behave as told" in capsys.readouterr().out


def test_a_demo_that_stops_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Ran", (), {"returncode": 4}))
    assert demo_command(str(tmp_path)) == 1
    assert "The demo did not run to its end: pytest left with exit code 4." in capsys.readouterr().out

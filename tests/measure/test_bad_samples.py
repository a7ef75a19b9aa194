"""Samples that cannot be read, in the middle of a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from qfair_check import CurvatureOptions, audit, gate_limits, judge_audit, load_data
from qfair_check.cli import main
from qfair_check.errors import InputError, OptionError
from qfair_check.judge.text import describe
from qfair_check.judge.verdicts import Outcome

ROWS = 150


class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.fc.bias.copy_(torch.tensor([0.5, -0.5]))

    def forward(self, x):
        return self.fc(x.mean((1, 2, 3))[:, None])


@pytest.fixture
def manifest(tmp_path):
    """150 pictures, dark and bright, in the groups a, b and c by turns."""
    rows = ["path,label,group"]
    for index in range(ROWS):
        Image.new("RGB", (4, 4), (200 if index % 2 else 20,) * 3).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{index % 2},{'abc'[index % 3]}")
    (tmp_path / "faces.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "faces.csv"


def spoil(manifest, *indices):
    for index in indices:
        (manifest.parent / f"{index}.png").write_bytes(b"no picture")


def measured(manifest, **options):
    return audit(Mean(), load_data(manifest), 8, **{"workers": 0, "bad_sample": "insufficient"} | options)


def test_by_default_it_ends_the_run(manifest):
    spoil(manifest, 70)
    with pytest.raises(InputError, match=r"the image of row 72 \(70\.png\) cannot be decoded: it is no image"):
        measured(manifest, bad_sample="fail")


@pytest.mark.parametrize("bad", [(3,), (0, 3, 147), tuple(range(0, 130, 3)), (149,)], ids=str)
@pytest.mark.parametrize("how", [{}, {"workers": 2}, {"batch_size": 7}, {"batch_size": 1}], ids=str)
def test_its_group_is_undefined_and_the_others_are_as_before(manifest, bad, how):
    expected = measured(manifest)
    spoil(manifest, *bad)
    found = measured(manifest, **how)
    groups = {index % 3 for index in bad}
    for position in range(3):
        now, was = found.at(8).groups[position], expected.at(8).groups[position]
        if position in groups:
            count = sum(index % 3 == position for index in bad)
            assert now.correct is None
            assert now.samples == 50
            assert now.undefined["accuracy"] == f"{count} of 50 samples could not be read"
        else:
            assert now == was
    assert found.at(8).fvo is None
    assert found.at(8).overall.accuracy is None
    (told,) = (notice for notice in found.inputs.notices if "could not be read" in notice)
    assert told.startswith(f"{len(bad)} sample")
    assert f"the image of row {bad[0] + 2} ({bad[0]}.png) cannot be decoded: it is no image of a known kind" in told
    assert found.data.sha256 != expected.data.sha256


def test_the_numbers_do_not_depend_on_how_they_are_loaded(manifest):
    spoil(manifest, *range(64), 100)
    found = [measured(manifest, **how) for how in ({}, {"batch_size": 3}, {"workers": 2, "batch_size": 16})]
    assert len({one.measured_json() for one in found}) == 1


def test_a_verdict_is_insufficient_and_says_what_to_do(manifest):
    spoil(manifest, 3)
    found = measured(manifest)
    verdicts = judge_audit(found, gate_limits({"max_fvo": "0.5"}))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.INSUFFICIENT}
    told = describe(verdicts[0], found)
    assert "because  group a: 1 of 50 samples could not be read" in told
    assert "cure     mend these samples, or leave them out of the data; the notices of the audit name them" in told


def test_an_audit_with_such_samples_is_saved_and_read(manifest, tmp_path):
    spoil(manifest, 3)
    found = measured(manifest)
    found.save(tmp_path / "audit.json")
    assert type(found).load(tmp_path / "audit.json").at(8) == found.at(8)


def test_where_none_can_be_read_it_ends(manifest):
    spoil(manifest, *range(ROWS))
    with pytest.raises(InputError, match=r"no sample of .*faces\.csv could be read: the image of row 2 \(0\.png\)"):
        measured(manifest)


@pytest.mark.parametrize("samples", [None, "40", "50"])
def test_curvature_of_their_group_is_undefined_too(manifest, tmp_path, samples):
    expected = measured(manifest, curvature=CurvatureOptions.of(samples))
    spoil(manifest, 3)
    found = measured(manifest, curvature=CurvatureOptions.of(samples))
    for precision in ("fp32", 8):
        spoiled, *others = found.at(precision).curvature
        assert spoiled.lambda_max is spoiled.gradient_norm is spoiled.account is None
        assert spoiled.undefined["lambda_max"] == "1 of 50 samples could not be read"
        assert others == list(expected.at(precision).curvature[1:])
    found.save(tmp_path / "audit.json")
    assert type(found).load(tmp_path / "audit.json").precisions == found.precisions
    verdicts = judge_audit(found, gate_limits({"max_lambda_ratio": "1000", "max_gradient_ratio": "1000"}))
    of_curvature = [verdict for verdict in verdicts if verdict.check in ("lambda-max", "gradient-norm")]
    assert [verdict.outcome for verdict in of_curvature] == [Outcome.INSUFFICIENT] * 2
    assert of_curvature[0].reasons == ("group a: 1 of 50 samples could not be read",)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, index):
        if index == 5:
            raise OSError("the disk is gone")
        return torch.full((3, 2, 2), float(index % 2))


def test_a_data_set_from_python_may_fail_too():
    labels = np.arange(80) % 2
    found = audit(Mean(), (Broken(), labels, np.array(["x", "y"])[labels]), 8, bad_sample="insufficient")
    assert found.at(8).groups[0].correct is not None
    assert found.at(8).groups[1].undefined["accuracy"] == "1 of 40 samples could not be read"
    assert any("sample 5: OSError: the disk is gone" in notice for notice in found.inputs.notices)


def test_another_word_is_an_error(manifest):
    with pytest.raises(OptionError, match="bad_sample is 'skip': it is fail or insufficient"):
        measured(manifest, bad_sample="skip")


def test_the_command_takes_it(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spoil(manifest, 3)
    (tmp_path / "meannet.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = torch.nn.Linear(1, 2)\n\n    def forward(self, x):\n"
        "        return self.fc(x.mean((1, 2, 3))[:, None])\n"
    )
    torch.save({"fc.weight": torch.ones(2, 1), "fc.bias": torch.zeros(2)}, "net.pt")
    command = ["audit", "net.pt", "--arch", "meannet:Net", "--data", "faces.csv", "--bits", "8", "--out", "a.json"]
    assert main(command) == 4
    assert main([*command, "--bad-sample", "insufficient"]) == 0
    assert "1 sample could not be read, and their groups cannot be judged" in capsys.readouterr().out
    assert main(["gate", "a.json"]) == 1

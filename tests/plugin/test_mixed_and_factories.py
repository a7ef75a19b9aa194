import json

import pytest

PEOPLE = """
import torch
from torch.utils.data import Dataset, IterableDataset

class People(Dataset):
    def __len__(self):
        return 80
    def __getitem__(self, index):
        x = torch.tensor([1.0, 0.0] if index < 40 else [0.1, 1.0] if index < 70 else [-1.0, 1.0])
        return {"x": x, "verdict": int(index >= 40), "team": "AB"[index >= 40]}

class Flow(IterableDataset):
    def __iter__(self):
        return (People()[index] for index in range(80))
"""
OPTIONS = ("--qfair-model=tiny.safetensors", "--qfair-label=verdict", "--qfair-group-by=team", "-p", "no:cacheprovider")


@pytest.mark.parametrize("name", ["People", "Flow"])
def test_a_data_set_of_a_factory_is_gated(pytester, tiny, name):
    pytester.makepyfile(people=PEOPLE)
    found = pytester.runpytest(*OPTIONS, f"--qfair-data=people:{name}", "--bits=4,2", "--qfair-json=a.json")
    assert found.ret == 1
    found.stdout.fnmatch_lines(["*qfair: model tiny.safetensors, data people:" + name + ", at int4, int2, absmax*"])
    found.stdout.fnmatch_lines(["accuracy drop of B at int2 is 0.750, above the limit 0.050"])
    assert json.loads((tiny / "a.json").read_text())["groups"] == ["A", "B"]


def test_a_factory_in_the_ini_file_and_workers_of_xdist(pytester, tiny):
    pytester.makepyfile(people=PEOPLE)
    pytester.makeini("[pytest]\nqfair_data = people:People\nqfair_bits = 4\nqfair_model = tiny.safetensors\n")
    pytester.makepyfile("def test_it(qfair):\n    assert qfair.audit.data.samples == 80\n    qfair.check()")
    found = pytester.runpytest(*OPTIONS[1:], "-n", "2")
    found.assert_outcomes(passed=4)


def test_a_wrong_sample_is_a_usage_error(pytester, tiny):
    pytester.makepyfile(people=PEOPLE.replace('"team": "AB"[index >= 40]', '"team": None'))
    found = pytester.runpytest(*OPTIONS, "--qfair-data=people:People")
    assert found.ret == 4
    found.stderr.fnmatch_lines(["ERROR: sample 0 cannot be used: its team is missing"])


def test_bits_by_layer_save_what_one_precision_loses(gate, tiny):
    assert gate("--bits=2").ret == 1
    mixed = gate("--bits=2", "--qfair-layer-bits=weight=8", "--qfair-json=a.json")
    assert mixed.ret == 0
    mixed.stdout.fnmatch_lines(["*at int2, absmax/symmetric/per-tensor (weight=int8)"])
    held = json.loads((tiny / "a.json").read_text())
    assert held["settings"]["allocation"] == "weight=int8"
    assert [layer["bits"] for layer in held["precisions"][1]["weights"]["layers"]] == [8]
    assert gate("--bits=2", "--qfair-first-last=8").ret == 0


def test_an_excluded_layer_stays_and_the_share_says_so(pytester, tiny):
    pytester.makepyfile(
        pair="""
        import torch
        from torch import nn

        def make():
            net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
            net.load_state_dict({"0.weight": torch.eye(2), "1.weight": torch.tensor([[1.0, 0.0], [0.0, 0.3]])})
            return net

        torch.save(make().state_dict(), "pair.pt")
        """
    )
    pytester.runpython("pair.py")
    options = ("--qfair-model=pair.pt", "--qfair-arch=pair:make", "--qfair-data=tiny.npz", "--bits=2")
    assert pytester.runpytest(*options).ret == 1
    found = pytester.runpytest(*options, "--qfair-exclude=1")
    assert found.ret == 0
    found.stdout.fnmatch_lines(["warning only 50.0% of the parameters lie in layers that are quantized"])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--qfair-layer-bits=conv1=8", "--qfair-layer-bits names 'conv1', and no layer has this name: there are *"),
        ("--qfair-layer-bits=conv1", "layer_bits is 'conv1': give layers and bits, such as conv1=8,fc=8"),
        ("--qfair-exclude=fc", "--qfair-exclude names 'fc', and no layer has this name: *"),
        ("--qfair-exclude=*", "every layer is left out, and nothing is quantized to int4: exclude fewer layers"),
        ("--qfair-first-last=1", "'1' is not a bit width: *"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(gate, option, told):
    found = gate("--bits=4", option)
    assert found.ret == 4
    found.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_a_quantized_module_has_the_bits_of_the_audit(pytester, tiny):
    pytester.makepyfile(
        """
        def test_it(qfair_quantized, qfair_model, qfair):
            weight = qfair_quantized.weight
            assert len(weight.unique()) == 3
            layer = qfair.result.weights.layers[0]
            assert layer.bits == 8
            assert float((weight - qfair_model.module.weight).detach().abs().sum()) < 0.01
        """
    )
    found = pytester.runpytest(*OPTIONS[:1], "--qfair-data=tiny.npz", "--bits=2", "--qfair-first-last=8")
    assert found.ret == 0

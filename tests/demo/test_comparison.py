"""The demo under two schemes: what `qfair compare` and `qfair layers` print is what was measured."""

import re

import numpy as np
import pytest

import qfair_check
from qfair_check.cli import main
from qfair_check.demo.network import digits_cnn
from qfair_check.quantize.model import quantize_model

SCHEMES = ("absmax", "mse")


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    model = qfair_check.load_model("demo")
    data = qfair_check.load_data("demo", model=model)
    made = {}
    for scheme in SCHEMES:
        made[scheme] = qfair_check.audit(model, data, bits="8,4,2", scheme=scheme)
        made[scheme].save(folder / f"{scheme}.json")
    return folder, model, data, made


def rows(text):
    return [re.split(r" {2,}", line) for line in text.splitlines() if ".json  " in line]


def test_compare_prints_what_the_outcomes_say(audits, monkeypatch, capsys):
    folder, _, data, made = audits
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["compare", "absmax.json", "mse.json"]) == 0
    held = rows(capsys.readouterr().out)
    points, marks = [], []
    for name, precision, _, _, accuracy, fvo, group, worst, n, mark in held:
        right = made[name.removesuffix(".json")].right(precision)
        by_group = [right[data.groups == index].mean() for index in range(len(data.group_names))]
        assert float(accuracy) == pytest.approx(right.mean(), abs=1e-3)
        assert float(fvo) == pytest.approx(np.ptp(by_group), abs=1e-3)
        assert float(worst) == pytest.approx(min(by_group), abs=1e-3)
        assert by_group[data.group_names.index(group)] == min(by_group)
        assert n == f"n={(data.groups == data.group_names.index(group)).sum()}"
        if precision == "fp32":
            assert mark == "-"
        else:
            points.append((right.mean(), -np.ptp(by_group)))
            marks.append(mark)
    values = np.array(points)
    as_good = (values[:, None] >= values).all(axis=2)
    beaten = (as_good & ~as_good.T).any(axis=0)
    assert marks == np.where(beaten, "no", "yes").tolist()
    assert [row[:2] for row in held] == [
        ["absmax.json", "fp32"],
        *[[f"{scheme}.json", precision] for scheme in SCHEMES for precision in ("int8", "int4", "int2")],
    ]


def test_sizes_are_those_of_the_parameters(audits, monkeypatch, capsys):
    folder, *_ = audits
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    main(["compare", "absmax.json"])
    parameters = list(digits_cnn().parameters())
    weights = sum(parameter.numel() for parameter in parameters if parameter.dim() > 1)
    others = sum(parameter.numel() for parameter in parameters) - weights
    assert [row[2] for row in rows(capsys.readouterr().out)] == [
        f"{bits * weights + 32 * others:,}" for bits in (32, 8, 4, 2)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_prints_what_became_of_the_weights(audits, scheme, monkeypatch, capsys):
    folder, model, _, made = audits
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["layers", f"{scheme}.json", "--bits", "4"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    quantized = quantize_model(model.module, 4, scheme).module.state_dict()
    original = model.module.state_dict()
    zeros = moved = elements = 0
    for name, weight in quantized.items():
        if weight.dim() < 2:
            continue
        after, before = weight.double().numpy(), original[name].double().numpy()
        row = next(line for line in lines if line and line[0] == name.removesuffix(".weight"))
        assert row[1:4] == ["x".join(map(str, after.shape)), "4", scheme]
        assert float(row[4]) == pytest.approx(np.diff(np.unique(after)).min(), rel=5e-3)
        assert row[5] == f"{(after == 0).mean():.1%}"
        assert int(row[7]) == len(np.unique(after))
        assert float(row[8]) == pytest.approx(np.abs(after - before).sum(), rel=1e-3)
        zeros, moved, elements = zeros + (after == 0).sum(), moved + np.abs(after - before).sum(), elements + after.size
    total = next(line for line in lines if line and line[0] == "total")
    held = made[scheme].at(4).weights
    assert (held.zeros, held.elements) == (zeros, elements)
    assert total[:3] == ["total", f"{elements:,}", f"{zeros / elements:.1%}"]
    assert float(total[-1]) == pytest.approx(moved, rel=1e-3) == pytest.approx(held.weight_difference, rel=1e-3)


def test_the_rule_mse_is_on_the_front_at_4_bits(audits):
    *_, made = audits
    qfair_check.assert_on_pareto_front(made["mse"], made["absmax"], bits=4)
    with pytest.raises(qfair_check.FairnessError, match=r"better  int4 of others\[0\]: overall accuracy 0\.9"):
        qfair_check.assert_on_pareto_front(made["absmax"], made["mse"], bits=4)

"""Every report on a model that was audited as it is: with its fp32 values, and without any."""

from dataclasses import replace

import pytest

from qfair_check.cli import main
from qfair_check.judge.pareto import candidates_of, standings
from qfair_check.reference_record import NO_REFERENCE, UNMEASURED, ReferenceRecord
from qfair_check.report.compare import render_comparison

GROUPS = {"A": 50, "B": 40}
KEPT = ("loss", "logit_variance", "softmax_variance", "prediction_probability")
PAIRED = (
    "accuracy_drop",
    "cosine_distance",
    "l1_distance",
    "l2_distance",
    "flips",
    "flip_rate",
    "both_right",
    "right_to_wrong",
    "wrong_to_right",
    "both_wrong",
)
EVERY = (*PAIRED, *KEPT, "correct", "accuracy")


def without(measures, names):
    told = dict.fromkeys(names, NO_REFERENCE)
    dtdb = () if "loss" in names else measures.dtdb
    return replace(measures, **dict.fromkeys(names), dtdb=dtdb, undefined=told)


def stripped(result, names, **changes):
    overall, groups = without(result.overall, names), tuple(without(group, names) for group in result.groups)
    return replace(result, overall=overall, groups=groups, fvo_increase=None, **changes)


@pytest.fixture
def compared(make_audit):
    made = make_audit(GROUPS, fp32={"A": 45, "B": 36}, asis={"A": 44, "B": 20})
    return replace(made, reference=ReferenceRecord("e" * 64, "origin.pt", "model"))


@pytest.fixture
def alone(compared):
    fp32, as_is = compared.precisions
    nothing = replace(fp32.weights, elements=0, zeros=0, sparsity=None, weight_difference=0.0, layers=())
    unknown = {"fvo": NO_REFERENCE, "fvo_increase": NO_REFERENCE}
    layers = tuple(replace(layer, weight_difference=None) for layer in as_is.weights.layers)
    weights = replace(as_is.weights, weight_difference=None, layers=layers)
    return replace(
        compared,
        precisions=(
            stripped(fp32, EVERY, fvo=None, undefined=unknown, computation=UNMEASURED, weights=nothing),
            stripped(as_is, PAIRED, undefined={"fvo_increase": NO_REFERENCE}, weights=weights),
        ),
        reference=None,
        outcomes={},
    )


@pytest.fixture
def folder(tmp_path, monkeypatch, alone, compared):
    monkeypatch.chdir(tmp_path)
    alone.save("alone.json")
    compared.save("compared.json")
    return tmp_path


@pytest.mark.parametrize("name", ["alone", "compared"])
def test_every_command_reads_it(folder, name, capsys):
    assert main(["gate", f"{name}.json", "--max-fvo", "0.9", "--insufficient", "pass"]) in (0, 1)
    assert main(["layers", f"{name}.json"]) == 0
    assert main(["compare", "alone.json", "compared.json"]) == 0
    assert main(["report", f"{name}.json", "--out", "a.html"]) == 0
    assert main(["report", f"{name}.json", "--format", "markdown"]) == 0
    assert main(["report", "alone.json", "compared.json", "--out", "both.html"]) == 0
    assert capsys.readouterr().err == ""


def test_the_terminal_shows_what_is_known(folder, capsys):
    assert main(["gate", "alone.json", "--max-fvo", "0.9"]) == 1
    told = capsys.readouterr().out
    assert "B        40  undefined  0.500 *" in told
    assert "PASS  FVO at asis is 0.380, within the limit 0.900" in told
    assert told.count("because  there is no reference: --reference names the model that this one was made from") == 3


def test_reports_name_the_reference(folder, capsys):
    main(["gate", "compared.json"])
    assert "fp32    of origin.pt, the reference" in capsys.readouterr().out
    main(["report", "compared.json", "--format", "markdown"])
    assert f'fp32 values: of <code dir="auto">origin.pt</code>, sha256 `{"e" * 64}`' in capsys.readouterr().out
    main(["report", "compared.json", "--out", "a.html"])
    page = (folder / "a.html").read_text(encoding="utf-8")
    assert "fp32 values of" in page
    assert "e" * 64 in page


def test_the_page_says_what_is_missing(folder, capsys):
    main(["report", "alone.json", "--out", "a.html"])
    page = (folder / "a.html").read_text(encoding="utf-8")
    assert "there is no reference: --reference names the model" in page
    assert ">None<" not in page
    assert ">nan<" not in page


def test_layers_show_no_difference_where_it_is_not_known(folder, capsys):
    main(["layers", "alone.json"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("fc "))
    assert row.endswith(" -")


def test_fp32_is_shown_once_for_the_model_that_has_it_and_not_without_values(alone, compared, make_audit):
    origin = make_audit(GROUPS, fp32={"A": 45, "B": 36}, int4={"A": 44, "B": 20})
    origin = replace(origin, model=replace(origin.model, sha256="e" * 64))
    audits, names = [alone, compared, origin], ["alone", "compared", "origin"]
    table = render_comparison(audits, names, standings(candidates_of(audits, names)), width=120)
    assert [line.split()[0] for line in table.splitlines() if line.split()[1:2] == ["fp32"]] == ["compared"]

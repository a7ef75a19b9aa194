"""A quantized model file, gated as it is against the model that it was made from."""

import pytest
import torch

from qfair_check.cli import main
from qfair_check.inputs.model import load_model
from qfair_check.measure.run import audit
from qfair_check.quantize.model import quantize_model
from qfair_check.quantize.saved import save_quantized
from qfair_check.record import Audit


def saved_at(bits, path, origin=None):
    demo = load_model("demo")
    save_quantized(quantize_model(demo.module, bits), path, arch=demo.architecture, classes=demo.classes, origin=origin)


@pytest.fixture
def int2(pytester):
    saved_at(2, pytester.path / "int2.safetensors")
    return pytester


def run(pytester, *arguments):
    return pytester.runpytest("--qfair-model=int2.safetensors", "--qfair-data=demo", *arguments)


def items(result):
    return sorted(
        line.replace("[int2]", "[asis]").replace("at int2", "at asis").replace("int2:", "asis:")
        for line in result.outlines
        if line.startswith(("FVO increase", "accuracy drop", "overall accuracy", "  worst", "  best", "  all"))
    )


def test_plain_ptq_fails_the_gate_of_its_origin_with_the_figures_of_its_origin(int2):
    as_is = run(int2, "--qfair-reference=demo", "--bits", "asis", "--qfair-json=asis.json")
    as_is.assert_outcomes(failed=3)
    assert as_is.ret == 1
    as_is.stdout.fnmatch_lines(
        [
            "qfair: model int2.safetensors, data demo, at asis, reference demo",
            "qfair: 97.9% of 3,866 parameters lie on a grid of its own",
            "fp32    of demo, the reference",
        ]
    )
    ptq = int2.runpytest("--qfair-model=demo", "--bits", "2", "--qfair-json=ptq.json")
    assert items(as_is) == items(ptq)
    assert len(items(as_is)) == 7
    made, expected = Audit.load("asis.json"), Audit.load("ptq.json")
    assert made.at("asis").groups == expected.at("int2").groups
    assert (made.right("asis") == expected.right("int2")).all()


def test_packed_integers_are_gated_with_the_same_figures(int2):
    saved_at(2, int2.path / "plain.safetensors", origin=audit("demo", "demo", "fp32"))
    assert main(["export", "plain.safetensors", "--out", "packed.safetensors"]) == 0
    told = {}
    for name in ("plain", "packed"):
        result = int2.runpytest(
            f"--qfair-model={name}.safetensors", "--qfair-data=demo", "--bits=asis", f"--qfair-json={name}.json"
        )
        result.assert_outcomes(failed=3)
        told[name] = items(result)
    assert told["packed"] == told["plain"]
    assert len(told["plain"]) == 7
    plain, packed = Audit.load("plain.json"), Audit.load("packed.json")
    assert packed.outcomes == plain.outcomes
    assert packed.precisions == plain.precisions
    assert main(["gate", "packed.json"]) == 1


def test_a_gentle_grid_passes(pytester):
    saved_at(8, pytester.path / "int2.safetensors")
    run(pytester, "--qfair-reference=demo", "--bits=asis").assert_outcomes(passed=3)


def test_without_a_reference_relative_limits_are_insufficient_and_absolute_ones_are_judged(int2):
    result = run(int2, "--bits=asis", "--qfair-max-fvo=0.99", "--qfair-min-accuracy=0.5")
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(
        [
            "FVO increase at asis cannot be judged against the limit 0.05",
            "  because  there is no reference: --qfair-reference names the model that this one was made from",
            "  cure     audit the model again with --qfair-reference MODEL, the one that this was made from",
            "overall accuracy at asis is 0.120, below the limit 0.500",
        ]
    )
    run(int2, "--bits=asis", "--qfair-insufficient=pass").assert_outcomes(passed=3)


def test_options_in_the_ini_file_count_from_its_folder(int2):
    audit("demo", "demo", 2).save(int2.path / "origin.json")
    int2.makeini("[pytest]\nqfair_model = int2.safetensors\nqfair_data = demo\nqfair_reference = origin.json\n")
    folder = int2.mkdir("sub")
    result = int2.runpytest("--qfair-bits=asis", f"--rootdir={int2.path}", f"-c={int2.path}/tox.ini", str(folder))
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["FVO increase at asis is 0.610, above the limit 0.050 *"])


def test_the_audit_beside_the_file_is_the_reference(pytester):
    saved_at(2, pytester.path / "int2.safetensors", origin=audit("demo", "demo", "fp32"))
    result = run(pytester, "--bits=asis")
    result.stdout.fnmatch_lines(["FVO increase at asis is 0.610, above the limit 0.050 *"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bits=2"], "int2.safetensors lies on a grid of its own already, of 2 bits*with --bits asis*"),
        ([], "int2.safetensors lies on a grid of its own already*"),
        (["--bits=asis,4"], "bits name asis and int4*"),
        (["--bits=4", "--qfair-reference=demo"], "--qfair-reference is for a model that is audited as it is*"),
        (
            ["--bits=asis", "--qfair-reference=int2.safetensors"],
            "the reference int2.safetensors lies on a grid*",
        ),
        (["--bits=asis", "--qfair-reference=plain.safetensors"], "*a model is never its own reference*"),
        (["--bits=asis", "--qfair-reference=none.json"], "there is no audit file none.json*"),
        (["--bits=asis", "--qfair-reference=none.pt"], "there is no model file none.pt*"),
        (["--bits=asis", "--qfair-first-last=8"], "at asis nothing is quantized*"),
    ],
)
def test_wrong_use_ends_the_run_with_exit_code_4(int2, arguments, told):
    from qfair_check.inputs.model import save_model

    demo = load_model("demo")
    save_model(quantize_model(demo.module, 2).module, "plain.safetensors", arch=demo.architecture)
    result = run(int2, *arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_a_reference_that_names_no_architecture_has_that_of_the_model(int2):
    torch.save(load_model("demo").module.state_dict(), int2.path / "origin.pt")
    result = run(int2, "--bits=asis", "--qfair-reference=origin.pt")
    result.stdout.fnmatch_lines(["FVO increase at asis is 0.610, above the limit 0.050 *"])


def test_tests_with_fixtures_see_it_as_it_is(int2):
    int2.makepyfile(
        """
        def test_audit(qfair_audit):
            assert qfair_audit.at("asis").overall.correct == 108
            assert qfair_audit.reference.source == "demo"

        def test_module(qfair_quantized, qfair_model):
            assert (qfair_quantized[0].weight == qfair_model.module[0].weight).all()

        def test_limits(qfair):
            qfair.assert_fvo_below(0.99)
        """
    )
    result = run(int2, "--bits=asis", "--qfair-reference=demo", "-k", "test_")
    result.assert_outcomes(passed=3, deselected=3)


def test_workers_share_one_measurement(int2):
    result = run(int2, "--bits=asis", "--qfair-reference=demo", "-n2")
    result.assert_outcomes(failed=3)


def test_the_command_line_tool_measures_and_judges_alike(int2, capsys):
    arguments = ["audit", "int2.safetensors", "--data", "demo", "--bits", "asis", "--out", "a.json"]
    assert main([*arguments, "--reference", "demo"]) == 0
    capsys.readouterr()
    assert main(["gate", "a.json"]) == 1
    told = capsys.readouterr().out
    result = run(int2, "--bits=asis", "--qfair-reference=demo")
    for line in items(result):
        assert line in told
    assert main(arguments) == 0
    assert main(["gate", "a.json", "--insufficient", "pass"]) == 0
    assert main(["gate", "a.json", "--max-fvo", "0.5"]) == 1


def test_the_command_line_tool_names_its_own_options(int2, capsys):
    arguments = ["audit", "int2.safetensors", "--data", "demo", "--out", "a.json"]
    assert main([*arguments, "--bits", "4", "--reference", "demo"]) == 4
    assert "error: --reference is for a model that is audited as it is, with --bits asis" in capsys.readouterr().err
    assert main([*arguments, "--bits", "4"]) == 4
    assert "audit it with --bits asis" in capsys.readouterr().err

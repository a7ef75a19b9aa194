import pytest
import torch
from torch import nn

from qfair_check.option_table import PLUGIN_OPTIONS
from qfair_check.record import Audit


@pytest.mark.parametrize("option", PLUGIN_OPTIONS, ids=lambda option: option.name)
def test_every_option_has_an_ini_twin(pytester, option):
    pytester.makeini(f"[pytest]\nqfair_{option.key} =\n")
    assert pytester.runpytest("--strict-config").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_an_ini_file_can_say_everything(pytester, tiny):
    pytester.makeini(
        """
        [pytest]
        qfair_model = tiny.safetensors
        qfair_data = tiny.npz
        qfair_bits = 4,2
        qfair_scheme = mse
        qfair_max_group_drop = 0.05,int2=0.9
        qfair_json = audit.json
        """
    )
    result = pytester.runpytest()
    assert "at int4, int2, mse/symmetric/per-tensor" in result.stdout.str()
    assert "worst group's accuracy drop <= 0.05, int2=0.9" in result.stdout.str()
    assert (tiny / "audit.json").exists()


def test_bins_may_stand_in_the_ini_file(pytester, tiny):
    rows = "".join(f"{index % 2},{index % 2},{'no' if index % 2 else 'yes'},{index}\n" for index in range(80))
    (tiny / "rows.csv").write_text(f"a,b,label,age\n{rows}")
    pytester.makeini(
        """
        [pytest]
        qfair_model = tiny.safetensors
        qfair_data = rows.csv
        qfair_features = a,b
        qfair_group_by = age
        qfair_bin = age=0,40,79
        qfair_json = audit.json
        """
    )
    pytester.runpytest()
    audit = Audit.load(tiny / "audit.json")
    assert (audit.groups, audit.inputs.bins) == (("[0, 40)", "[40, 79]"), "age=0,40,79")


def test_the_command_line_wins(gate, pytester):
    pytester.makeini("[pytest]\nqfair_bits = 2\nqfair_max_group_drop = 0.9\n")
    result = gate("--bits=4", "--qfair-max-group-drop=0.1")
    result.stdout.fnmatch_lines(["*at int4,*", "*worst group's accuracy drop <= 0.1,*"])


def test_paths_start_at_the_ini_file(pytester, tiny, monkeypatch):
    pytester.makeini("[pytest]\nqfair_model = tiny.safetensors\nqfair_data = tiny.npz\n")
    folder = pytester.mkdir("deeper")
    (folder / "test_mine.py").write_text("def test_mine(qfair): qfair.check()")
    monkeypatch.chdir(folder)
    pytester.syspathinsert(str(tiny))
    pytester.runpytest().assert_outcomes(passed=4)


def test_paths_on_the_command_line_start_at_the_working_directory(pytester, tiny, monkeypatch):
    pytester.makeini("[pytest]\n")
    monkeypatch.chdir(pytester.mkdir("deeper"))
    pytester.syspathinsert(str(tiny))
    result = pytester.runpytest("--qfair-model=../tiny.safetensors", "--qfair-data=../tiny.npz")
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("qfair_bits = 9", "'9' is not a bit width*"),
        ("qfair_max_fvo = 1.5", "max_fvo is '1.5': a limit is a number from 0 to 1"),
        ("qfair_trust_pickle = perhaps", "qfair_trust_pickle is 'perhaps' in the ini file: it is true or false"),
        ("qfair_junit_properties = maybe", "qfair_junit_properties is 'maybe' in the ini file: it is on or off"),
        ("qfair_insufficient = never", "qfair_insufficient is 'never' in the ini file: it is fail or warn or pass"),
        ("qfair_audit = a.json", "the ini file sets both qfair_model and qfair_audit: leave one out"),
        ("qfair_workers = -1", "workers is '-1': it is a whole number of at least 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_usage_error(pytester, tiny, line, told):
    pytester.makeini(f"[pytest]\nqfair_model = tiny.safetensors\nqfair_data = tiny.npz\n{line}\n")
    result = pytester.runpytest()
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_a_flag_may_be_on_or_off(pytester, tiny):
    torch.save(nn.Linear(2, 2, bias=False), tiny / "whole.pt")
    pytester.makeini("[pytest]\nqfair_trust_pickle = false\n")
    result = pytester.runpytest("--qfair-model=whole.pt", "--qfair-data=tiny.npz")
    assert result.ret == 4
    assert "--qfair-trust-pickle" in result.stderr.str()
    pytester.makeini("[pytest]\nqfair_trust_pickle = true\n")
    result = pytester.runpytest("--qfair-model=whole.pt", "--qfair-data=tiny.npz", "--bits=8")
    result.assert_outcomes(passed=3)

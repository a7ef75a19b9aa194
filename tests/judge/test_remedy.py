import shlex
from dataclasses import replace

import pytest

from qfair_check.judge.limits import gate_limits
from qfair_check.judge.remedy import remedy_command
from qfair_check.judge.verdicts import judge_audit

SIZES = {"A": 100, "B": 100}


def commands(audit, **limits):
    """Return the command for each verdict, by check."""
    return {verdict.check: remedy_command(verdict, audit) for verdict in judge_audit(audit, gate_limits(limits))}


@pytest.fixture
def hurt(make_audit):
    return make_audit(SIZES, fp32={"A": 90, "B": 90}, int3={"A": 90, "B": 20})


def test_a_broken_limit_on_groups_has_one_that_can_be_pasted(hurt):
    inputs = replace(hurt.inputs, model="my models/a.safetensors", group_by=("race", "sex"), split="test")
    found = commands(replace(hurt, inputs=inputs), max_fvo="0.3")
    assert found["accuracy-drop"] is None
    assert shlex.split(found["fvo"]) == [
        *("qfair", "remediate", "my models/a.safetensors", "--arch", "resnet18", "--data", "d.csv"),
        *("--label", "race", "--split", "test", "--group-by", "race,sex", "--train", "TRAIN"),
        *("--bits", "3", "--max-fvo", "0.3", "--out", "a.int3.safetensors"),
    ]
    assert found["group-drop"].endswith("--bits 3 --out a.int3.safetensors")


def test_the_demo_needs_no_more_than_its_name(hurt):
    inputs = replace(hurt.inputs, model="demo", data="demo")
    found = commands(replace(hurt, inputs=inputs))
    assert found["group-drop"] == "qfair remediate demo --bits 3 --out demo.int3.safetensors"


def test_a_grid_that_training_knows_goes_along(hurt):
    schemes = {"mse/full/per-tensor": "--scheme mse/full/per-tensor ", "absmax/symmetric/per-channel": ""}
    for scheme, told in schemes.items():
        settings = replace(hurt.settings, scheme=scheme)
        assert f"--bits 3 {told}--out" in commands(replace(hurt, settings=settings))["group-drop"]


def test_there_is_none_where_none_helps(make_audit, hurt):
    fine = make_audit(SIZES, fp32={"A": 90, "B": 90}, int3={"A": 90, "B": 90})
    half = make_audit(SIZES, fp32={"A": 90, "B": 90}, fp16={"A": 90, "B": 20})
    from_python = replace(hurt, inputs=replace(hurt.inputs, model="python", architecture=None))
    for audit in (fine, half, from_python):
        assert set(commands(audit).values()) == {None}

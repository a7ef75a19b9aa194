import shlex
from dataclasses import replace

import pytest

from qfair_check.judge.limits import gate_limits
from qfair_check.judge.remedy import remedy_command
from qfair_check.judge.verdicts import judge_audit
from qfair_check.options import data_options

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
        *("--label", "race", "--split", "test", "--group-by", "race,sex", "--classes", "A,B"),
        *("--train", "TRAIN", "--bits", "3", "--max-fvo", "0.3", "--out", "a.int3.safetensors"),
    ]
    assert found["group-drop"].endswith("--bits 3 --out a.int3.safetensors")


def test_it_reads_the_data_as_the_audit_did(hurt):
    inputs = replace(
        hurt.inputs, class_order="given", image_size=(64, 48), mean=(0.485, 0.5), std=(0.229, 1.0), bins="age=0,18,inf"
    )
    inputs = replace(inputs, features=("income", "debt, total"))
    classes = replace(hurt.data, classes=("cat", "dog, small"))
    told = shlex.split(commands(replace(hurt, inputs=inputs, data=classes))["group-drop"])
    get = dict(zip(told[3::2], told[4::2], strict=True)).get
    options = data_options(lambda key: get(f"--{key.replace('_', '-')}"))
    assert options.classes == ("cat", "dog, small")
    assert options.features == ("income", "debt, total")
    assert (options.image_size, options.mean, options.std) == ((64, 48), (0.485, 0.5), (0.229, 1.0))
    assert list(map(str, options.bins)) == ["age=0,18,inf"]


def test_transforms_go_along_and_an_order_that_nobody_gave_does_not(hurt):
    inputs = replace(hurt.inputs, class_order="sorted", transforms="ResNet18_Weights.IMAGENET1K_V1")
    told = commands(replace(hurt, inputs=inputs))["group-drop"]
    assert "--transforms ResNet18_Weights.IMAGENET1K_V1 " in told
    assert "--classes" not in told


@pytest.mark.parametrize("order", ["data", "indices", "model", "sorted"])
def test_only_classes_that_were_given_are_named(hurt, order):
    inputs = replace(hurt.inputs, class_order=order, data="z.csv")
    told = commands(replace(hurt, inputs=inputs))["group-drop"]
    assert "--classes" not in told
    assert " --data z.csv " in told


def test_classes_that_begin_with_a_dash_are_no_option(hurt):
    told = commands(replace(hurt, data=replace(hurt.data, classes=("-1", "1"))))["group-drop"]
    assert " --classes=-1,1 --train " in told


def test_groups_by_default_are_not_named_since_arrays_have_no_columns(hurt):
    told = commands(replace(hurt, inputs=replace(hurt.inputs, data="d.npz", label=None, group_by=("group",))))
    assert "--group-by" not in told["group-drop"]


@pytest.mark.parametrize("model", ["a.safetensors", "z.safetensors"])
def test_any_model_but_the_demo_needs_its_data_and_training_data(hurt, model):
    command = commands(replace(hurt, inputs=replace(hurt.inputs, model=model)))["group-drop"]
    assert command.startswith(f"qfair remediate {model} --arch resnet18 --data d.csv")
    assert "--train TRAIN" in command


def test_data_from_python_are_left_to_the_user(hurt):
    told = commands(replace(hurt, inputs=replace(hurt.inputs, data="python", label=None, group_by=("group",))))
    assert shlex.split(told["group-drop"])[3:9] == ["--arch", "resnet18", "--data", "DATA", "--train", "TRAIN"]


def test_the_demo_of_an_audit_that_was_read_is_the_demo(hurt):
    demo = replace(hurt, inputs=replace(hurt.inputs, model="".join("demo"), architecture=None))
    assert commands(demo)["group-drop"].startswith("qfair remediate demo --bits 3 ")


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
    without_architecture = [
        replace(hurt, inputs=replace(hurt.inputs, model=model, architecture=None))
        for model in ("python", "a.pt2", "demo2.pt2", "z.pt2")
    ]
    for audit in (fine, half, *without_architecture):
        assert set(commands(audit).values()) == {None}

from dataclasses import replace

import pytest

from qfair_check.curvature_record import Account
from qfair_check.report.page.next_steps import next_steps

SAMPLES = {"zero": 89, "eight": 87}
FP32 = {"zero": 89, "eight": 56}
LESS = {"zero": 89, "eight": 45}


def told(reported):
    return [(step.text, step.command) for step in next_steps(reported)]


@pytest.fixture
def failing(make_audit):
    return make_audit(SAMPLES, fp32=FP32, int8=FP32, int4=LESS)


def test_ways_out_of_a_failure(failing, judged):
    assert told(judged(failing, name="my audit.json")) == [
        ("Ship int8 instead: no limit is broken there.", ""),
        ("Keep the first and the last layer at 8 bits, and audit again:", "--first-last 8"),
        (
            "Give each output channel a scale of its own, and audit again:",
            "--scheme absmax/symmetric/per-channel",
        ),
        (
            "Train a fairer model for so few bits:",
            "qfair remediate m.safetensors --arch resnet18 --data d.csv --label race --classes zero,eight "
            "--train TRAIN --bits 4 --out m.int4.safetensors",
        ),
        (
            "Learn which layer hurts which group: measure again with this option, then run qfair explain:",
            "--curvature",
        ),
        ("See what quantization did to each layer:", "qfair layers 'my audit.json'"),
    ]


def test_what_was_tried_already_is_not_told(failing, judged):
    settings = replace(failing.settings, scheme="mse/symmetric/per-channel", allocation="first=8,last=8")
    commands = [command for _, command in told(judged(replace(failing, settings=settings)))]
    assert [command for command in commands if not command.startswith("qfair remediate")] == [
        "",
        "--curvature",
        "qfair layers a.json",
    ]


def test_half_precision_that_fails_has_no_cure_of_its_grid(make_audit, judged):
    commands = [command for _, command in told(judged(make_audit(SAMPLES, fp32=FP32, fp16=LESS)))]
    assert commands == ["--curvature", "qfair layers a.json"]


def test_eight_bits_that_fail_have_no_wider_ends(make_audit, judged):
    commands = [command for _, command in told(judged(make_audit(SAMPLES, fp32=FP32, int8=LESS)))]
    assert "--first-last 8" not in commands


def test_the_costliest_layer_is_named(make_audit, make_curvature, judged):
    account = Account((0.3, 0.01), (0.2, 0.0), 0.5)
    groups = {"zero": make_curvature(89), "eight": make_curvature(87, account=account)}
    bare = dict.fromkeys(SAMPLES, make_curvature(87))
    made = make_audit(
        SAMPLES,
        fp32=FP32,
        int4=LESS,
        int3=LESS,
        curvature={"fp32": bare, "int4": groups, "int3": groups},
        moved=("fc", "bias"),
    )
    steps = told(judged(made))
    assert steps[0] == (
        "Keep the layer that costs the worst-hurt group most at int4 and int3 at more bits:",
        "--layer-bits fc=8",
    )
    own = replace(made, settings=replace(made.settings, allocation="conv=8"))
    assert told(judged(own))[0][0].endswith("at more bits, beside those that have bits of their own:")
    assert ("See which layers hurt which group:", "qfair explain a.json") in steps
    assert "--curvature" not in [command for _, command in steps]


def test_accounts_that_blame_no_layer_name_none(make_audit, make_curvature, judged):
    account = Account((-0.3, 0.0), (0.0, 0.0), -0.5)
    groups = {name: make_curvature(count, account=account) for name, count in SAMPLES.items()}
    made = make_audit(SAMPLES, fp32=FP32, int4=LESS, curvature={"fp32": groups, "int4": groups}, moved=("fc", "bias"))
    assert not [command for _, command in told(judged(made)) if command.startswith("--layer-bits")]


def test_what_is_missing_and_how_much_of_it(make_audit, judged):
    counts = {"A": 20, "B": 10}
    made = make_audit({"A": 25, "B": 20}, fp32=counts, int8=counts)
    (step,) = next_steps(judged(made))
    assert step.text == (
        "To judge what could not be judged: more samples of such groups, or a lower --min-group-size; "
        "--insufficient=warn goes on all the same."
    )
    assert step.reasons == (
        "group A has 25 samples, and judging needs 30",
        "group B has 20 samples, and judging needs 30",
        "there is no group to judge",
    )
    assert step.command == ""


def test_many_reasons_are_counted(make_audit, judged):
    counts = {f"g{index}": 5 for index in range(9)}
    (step,) = next_steps(judged(make_audit(counts, fp32=counts, int8=counts)))
    assert step.reasons[4:] == ("group g4 has 5 samples, and judging needs 30", "and 5 more")


def test_nothing_is_to_be_done_about_a_pass(make_audit, judged):
    assert told(judged(make_audit(SAMPLES, fp32=FP32, int8=FP32))) == []

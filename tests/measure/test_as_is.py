"""A model that is audited as it is, and what it is compared with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qfair_check.errors import InputError, OptionError
from qfair_check.inputs.data import load_data
from qfair_check.inputs.model import Model, load_model
from qfair_check.judge.limits import gate_limits
from qfair_check.judge.reasons import Fault
from qfair_check.judge.verdicts import Outcome, judge_audit
from qfair_check.measure.curvature_options import CurvatureOptions
from qfair_check.measure.run import audit
from qfair_check.precision import AS_IS
from qfair_check.quantize.model import quantize_model
from qfair_check.quantize.saved import save_quantized
from qfair_check.record import Audit
from qfair_check.reference_record import NO_LOGITS, NO_OUTCOMES, NO_REFERENCE, OTHER_DATA

DRAWN = CurvatureOptions.of("5", None, None)
PAIRED = ("accuracy_drop", "both_right", "right_to_wrong", "wrong_to_right", "both_wrong")
RELATIVE = ("fvo-increase", "group-drop", "accuracy-drop")


@pytest.fixture(scope="module")
def origin():
    """The audit of the demo at int2."""
    return audit("demo", "demo", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, origin):
    """The demo at int2 in files: alone, and with the audit of its origin beside it."""
    folder = tmp_path_factory.mktemp("as_is")
    demo = load_model("demo")
    quantized = quantize_model(demo.module, 2)
    for name, source in (("alone", None), ("beside", origin)):
        target = folder / f"{name}.safetensors"
        save_quantized(quantized, target, arch=demo.architecture, classes=demo.classes, origin=source)
    origin.save(folder / "origin.json")
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    return audit(folder / "alone.safetensors", "demo", "asis")


def outcomes(made, precision, **limits):
    return {
        verdict.check: verdict.outcome
        for verdict in judge_audit(made, gate_limits(limits))
        if verdict.precision == precision
    }


def test_plain_ptq_fails_the_gate_that_its_origin_sets_with_the_same_figures(folder, origin):
    made = audit(folder / "alone.safetensors", "demo", "asis", reference="demo")
    after, expected = made.at("asis"), origin.at("int2")
    assert after.groups == expected.groups
    assert after.overall == expected.overall
    assert (after.fvo, after.fvo_increase) == (expected.fvo, expected.fvo_increase)
    assert made.fp32 == origin.fp32
    assert (made.right("asis") == origin.right("int2")).all()
    assert (made.right("fp32") == origin.right("fp32")).all()
    assert made.model_bits("asis") == origin.model_bits("int2")
    assert outcomes(made, "asis") == outcomes(origin, "int2") == dict.fromkeys(RELATIVE, Outcome.FAIL)


def test_layers_tell_of_the_grid_that_the_model_came_on(folder, origin):
    made = audit(folder / "alone.safetensors", "demo", "asis", reference="demo")
    expected = [replace(layer, rule="as is", clipped=0) for layer in origin.at("int2").weights.layers]
    assert list(made.at("asis").weights.layers) == expected
    assert made.at("asis").weights.histogram == origin.at("int2").weights.histogram
    assert made.settings.scheme == "as is"
    assert made.model.quantized_parameters == origin.model.quantized_parameters
    assert made.reference.sha256 == origin.model.sha256
    assert (made.reference.source, made.reference.kind) == ("demo", "model")


def test_an_audit_as_it_is_can_be_the_origin_of_the_next_model(folder, origin):
    made, demo = audit(folder / "beside.safetensors", "demo", "asis"), load_model("demo")
    narrower, target = quantize_model(demo.module, 3), folder / "next.safetensors"
    save_quantized(narrower, target, arch=demo.architecture, classes=demo.classes, origin=made)
    following = audit(target, "demo", "asis")
    assert following.fp32 == origin.fp32
    assert following.reference.sha256 == origin.model.sha256
    assert (following.right("fp32") == origin.right("fp32")).all()


def test_a_saved_audit_of_the_origin_gives_the_paired_counts(folder, origin):
    made = audit(folder / "alone.safetensors", "demo", "asis", reference=folder / "origin.json")
    result, expected = made.at("asis"), origin.at("int2")
    for own, other in zip((result.overall, *result.groups), (expected.overall, *expected.groups), strict=True):
        assert [getattr(own, name) for name in PAIRED] == [getattr(other, name) for name in PAIRED]
        assert own.flips is own.cosine_distance is None
        assert own.undefined["flips"] == own.undefined["l2_distance"] == NO_LOGITS
        assert (own.loss, own.dtdb) == (other.loss, other.dtdb)
    assert made.fp32 == origin.fp32
    assert (made.right("fp32") == origin.right("fp32")).all()
    assert outcomes(made, "asis") == outcomes(origin, "int2")
    assert made.reference.kind == "audit"


def test_the_audit_beside_the_file_is_found(folder, origin):
    made = audit(folder / "beside.safetensors", "demo", "asis")
    assert made.reference.kind == "beside"
    assert made.fp32 == origin.fp32
    assert made.at("asis").fvo_increase == origin.at("int2").fvo_increase


def test_an_audit_without_its_outcomes_gives_drops_and_no_pairs(folder, origin):
    bare = replace(origin, outcomes={})
    made = audit(folder / "alone.safetensors", "demo", "asis", reference=bare)
    group, expected = made.at("asis").groups[0], origin.at("int2").groups[0]
    assert group.accuracy_drop == expected.accuracy_drop
    assert group.both_right is None
    assert group.undefined["both_right"] == NO_OUTCOMES
    assert list(made.outcomes) == ["asis"]


def test_an_edited_audit_of_fewer_samples_is_of_other_data(folder, origin):
    fewer = replace(origin, data=replace(origin.data, samples=7), outcomes={"fp32": b"\0"}, group_bits=())
    made = audit(folder / "alone.safetensors", "demo", "asis", reference=fewer)
    assert made.at("asis").undefined["fvo_increase"] == OTHER_DATA


def test_without_a_reference_only_absolute_limits_are_judged(alone):
    judged = outcomes(alone, "asis", max_fvo="0.99", min_accuracy="0.5")
    assert judged == dict.fromkeys(RELATIVE, Outcome.INSUFFICIENT) | {"fvo": Outcome.PASS, "accuracy": Outcome.FAIL}
    for verdict in judge_audit(alone, gate_limits({})):
        assert verdict.reasons == (NO_REFERENCE,)
        assert verdict.fault is Fault.NO_REFERENCE
    assert alone.reference is None
    assert alone.origin_sha256 is None
    assert not alone.has_baseline
    assert alone.fp32.overall.undefined["accuracy"] == NO_REFERENCE
    assert {layer.weight_difference for layer in alone.at("asis").weights.layers} == {None}


def test_what_the_model_itself_does_needs_no_reference(alone, origin):
    for own, expected in zip(alone.at("asis").groups, origin.at("int2").groups, strict=True):
        assert (own.correct, own.loss, own.logit_variance, own.dtdb) == (
            expected.correct,
            expected.loss,
            expected.logit_variance,
            expected.dtdb,
        )
    assert alone.at("asis").fvo == origin.at("int2").fvo


@pytest.mark.parametrize("reference", [None, "demo", "audit"])
def test_it_is_the_same_after_saving(folder, origin, tmp_path, reference):
    given = origin if reference == "audit" else reference
    made = audit(folder / "alone.safetensors", "demo", "asis", reference=given)
    made.save(tmp_path / "a.json")
    assert Audit.load(tmp_path / "a.json") == made


def test_an_audit_of_other_data_tells_nothing(folder, origin):
    other = replace(origin, data=replace(origin.data, sha256="0" * 64))
    made = audit(folder / "alone.safetensors", "demo", "asis", reference=other)
    assert {verdict.reasons for verdict in judge_audit(made, gate_limits({}))} == {(OTHER_DATA,)}
    assert outcomes(made, "asis") == dict.fromkeys(RELATIVE, Outcome.INSUFFICIENT)
    assert made.reference.sha256 == origin.model.sha256


def test_other_groups_are_other_data(folder, origin):
    data = load_data("demo", model=load_model("demo"))
    grouped = replace(data, groups=data.labels % 2, group_names=("even", "odd"), group_by=("parity",))
    made = audit(folder / "alone.safetensors", grouped, "asis", reference=origin)
    assert made.at("asis").undefined["fvo_increase"] == OTHER_DATA


def test_a_model_is_never_its_own_reference(folder, alone):
    itself = load_model(folder / "alone.safetensors")
    for reference in (Model(itself.module), replace(itself, grids={}), replace(alone, reference=None)):
        with pytest.raises(OptionError, match=r"never its own reference|holds no fp32 values"):
            audit(itself, "demo", "asis", reference=reference)
    with pytest.raises(OptionError, match="never its own reference"):
        audit("demo", "demo", "asis", reference="demo")


def test_a_reference_on_a_grid_of_its_own_is_refused(folder):
    with pytest.raises(OptionError, match="lies on a grid itself"):
        audit(folder / "alone.safetensors", "demo", "asis", reference=folder / "beside.safetensors")


def test_a_reference_with_other_classes_is_refused(folder):
    other = replace(load_model("demo"), classes=tuple("abcdefghij"))
    with pytest.raises(InputError, match="has other classes than"):
        audit(folder / "alone.safetensors", "demo", "asis", reference=other)


def test_a_reference_with_other_outputs_is_refused(folder):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(InputError, match="the reference answers with 3 logits, and the model with 10"):
        audit(folder / "alone.safetensors", "demo", "asis", reference=other)


def test_another_model_than_the_file_names_is_told(folder):
    demo = load_model("demo")
    other = quantize_model(demo.module, "fp16").module
    made = audit(folder / "beside.safetensors", "demo", "asis", reference=other)
    assert any("is not the model that" in notice for notice in made.inputs.notices)


def test_an_audit_beside_the_file_of_another_model_is_refused(folder, tmp_path, origin):
    for name in ("beside.safetensors", "beside.origin.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    replace(origin, model=replace(origin.model, sha256="0" * 64)).save(tmp_path / "beside.origin.json")
    with pytest.raises(InputError, match="is the audit of another model"):
        audit(tmp_path / "beside.safetensors", "demo", "asis")


def test_a_missing_audit_beside_the_file_is_no_reference(folder, tmp_path):
    (tmp_path / "beside.safetensors").write_bytes((folder / "beside.safetensors").read_bytes())
    made = audit(tmp_path / "beside.safetensors", "demo", "asis")
    assert made.at("asis").undefined["fvo_increase"] == NO_REFERENCE


@pytest.mark.parametrize("bits", [2, "fp16", "fp32", [8, 4]])
def test_a_model_on_a_grid_has_no_other_bits(folder, bits):
    with pytest.raises(OptionError, match="lies on a grid of its own already, of 2 bits"):
        audit(folder / "alone.safetensors", "demo", bits)


def test_asis_is_never_mixed():
    with pytest.raises(OptionError, match="bits name asis and int4"):
        audit("demo", "demo", ["asis", 4])


def test_a_reference_is_for_asis_alone():
    with pytest.raises(OptionError, match="at other bits the model itself is the baseline"):
        audit("demo", "demo", 4, reference="demo")


def test_nothing_is_quantized_so_a_scheme_makes_no_sense(folder):
    with pytest.raises(OptionError, match="at asis nothing is quantized"):
        audit(folder / "alone.safetensors", "demo", "asis", scheme="mse")


def test_a_plain_model_counts_32_bits_and_says_that_no_grid_is_known(origin):
    demo = load_model("demo")
    plain = Model(quantize_model(demo.module, 2).module)
    made = audit(plain, "demo", "asis", reference=demo)
    assert made.at("asis").groups == origin.at("int2").groups
    assert {(layer.bits, layer.scale) for layer in made.at("asis").weights.layers} == {(32, ())}
    assert made.model_bits("asis") == made.model_bits("fp32")
    assert made.model.quantized_share == 0
    assert made.at("asis").weights.zeros == origin.at("int2").weights.zeros
    assert any("names no grid" in notice for notice in made.inputs.notices)


def test_a_plain_callable_is_compared_too(origin):
    demo = load_model("demo")
    module = quantize_model(demo.module, 2).module
    made = audit(lambda x: module(x), "demo", "asis", reference=demo)
    assert [group.right_to_wrong for group in made.at("asis").groups] == [
        group.right_to_wrong for group in origin.at("int2").groups
    ]
    assert made.model.sha256 is None


def test_the_model_and_its_reference_are_left_as_they_were(folder):
    model, reference = load_model(folder / "alone.safetensors"), load_model("demo")
    before = [model.sha256, reference.sha256]
    audit(model, "demo", "asis", reference=reference)
    assert [model.sha256, reference.sha256] == before


def test_curvature_and_its_account_are_those_of_ptq(folder):
    expected = audit("demo", "demo", 2, curvature=DRAWN)
    made = audit(folder / "alone.safetensors", "demo", "asis", reference="demo", curvature=DRAWN)
    assert made.at("asis").curvature == expected.at("int2").curvature
    assert made.fp32.curvature == expected.fp32.curvature
    told = audit(folder / "alone.safetensors", "demo", "asis", reference=expected, curvature=DRAWN)
    assert told.fp32.curvature == expected.fp32.curvature
    assert [one.lambda_max for one in told.at("asis").curvature] == [
        one.lambda_max for one in expected.at("int2").curvature
    ]
    assert {one.undefined["account"] for one in told.at("asis").curvature} == {NO_LOGITS}


def test_curvature_without_a_reference_has_no_baseline(folder, tmp_path):
    made = audit(folder / "alone.safetensors", "demo", "asis", curvature=DRAWN)
    assert {one.lambda_max for one in made.fp32.curvature} == {None}
    assert {one.undefined["lambda_max"] for one in made.fp32.curvature} == {NO_REFERENCE}
    assert all(one.lambda_max is not None for one in made.at("asis").curvature)
    made.save(tmp_path / "a.json")
    assert Audit.load(tmp_path / "a.json") == made


def test_curvature_needs_a_reference_of_the_same_parameters(folder):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(OptionError, match="parameter by parameter"):
        audit(folder / "alone.safetensors", "demo", "asis", reference=other, curvature=DRAWN)


def test_nan_at_the_reference_leaves_drops_undefined(folder):
    demo = load_model("demo").module
    made = audit(folder / "alone.safetensors", "demo", "asis", reference=lambda x: demo(x) * torch.nan)
    assert "NaN" in made.at("asis").groups[0].undefined["accuracy_drop"]
    assert made.at("asis").groups[0].accuracy is not None


def test_quantizing_to_asis_is_refused():
    with pytest.raises(OptionError, match="asis leaves every weight as it is"):
        quantize_model(nn.Linear(2, 2), AS_IS)


def test_outcomes_are_one_bit_for_each_sample(alone):
    assert alone.right("asis").dtype == np.bool_
    assert alone.right("asis").sum() == alone.at("asis").overall.correct
    with pytest.raises(InputError, match="nothing was measured at fp32"):
        alone.right("fp32")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 150))
def test_a_model_and_an_audit_of_it_give_the_same_counts(seed, samples):
    generator = torch.Generator().manual_seed(seed)
    origin, other = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    for net in (origin, other):
        net.weight.data = torch.randn(3, 4, generator=generator)
    x = torch.randn(samples, 4, generator=generator)
    y = torch.randint(3, (samples,), generator=generator)
    group = [["A", "B"][int(draw)] for draw in torch.randint(2, (samples,), generator=generator)]
    data = (x, y.tolist(), group)
    measured = audit(other, data, "asis", reference=origin)
    told = audit(other, data, "asis", reference=audit(origin, data, "fp32"))
    assert replace(told.fp32, weights=measured.fp32.weights) == measured.fp32
    one, two = told.at("asis"), measured.at("asis")
    assert (one.fvo, one.fvo_increase, one.undefined) == (two.fvo, two.fvo_increase, two.undefined)
    for own, expected in zip((one.overall, *one.groups), (two.overall, *two.groups), strict=True):
        assert [getattr(own, name) for name in PAIRED] == [getattr(expected, name) for name in PAIRED]

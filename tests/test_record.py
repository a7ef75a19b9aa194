import dataclasses

import numpy as np
import pytest

from qfair_check.errors import InputError, OptionError
from qfair_check.record import Audit


@pytest.fixture
def audit(make_audit):
    return make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int8={"A": 45, "B": 36}, int4={"A": 44, "B": 30})


def test_everything_is_frozen(audit):
    with pytest.raises(dataclasses.FrozenInstanceError):
        audit.groups = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        audit.fp32.groups[0].correct = 50


@pytest.mark.parametrize("bits", [4, "4", "int4"])
def test_a_precision_by_any_spelling(audit, bits):
    assert audit.at(bits).precision == "int4"


def test_a_precision_that_is_not_held_is_named_with_those_that_are(audit):
    with pytest.raises(OptionError, match=r"^the audit holds no int2: it holds fp32, int8, int4; .*--bits int2$"):
        audit.at(2)


def test_baseline_and_quantized(audit):
    assert audit.fp32.precision == "fp32"
    assert [result.precision for result in audit.quantized] == ["int8", "int4"]
    assert audit.model.quantized_share == 1000 / 1100


def test_outcomes_by_sample(audit):
    assert audit.right("int4").tolist() == [True] * 44 + [False] * 6 + [True] * 30 + [False] * 10
    assert audit.right("int4").dtype == np.bool_


def test_outcomes_that_are_not_there_are_named(audit):
    with pytest.raises(InputError, match=r"outcomes \(\*\.[0-9a-f]{16}\.outcomes\.npy\) are not there"):
        dataclasses.replace(audit, outcomes={}).right(4)


def test_the_frame_is_tidy(audit):
    frame = audit.to_frame()
    assert list(frame.columns) == ["precision", "group", "metric", "value", "n"]
    assert not frame.duplicated(["precision", "group", "metric"]).any()
    assert set(frame["precision"]) == {"fp32", "int8", "int4"}
    per_group = {
        "accuracy",
        "accuracy_drop",
        "loss",
        "cosine_distance",
        "l1_distance",
        "l2_distance",
        "logit_variance",
        "softmax_variance",
        "prediction_probability",
        "flip_rate",
    }
    assert set(frame.dropna(subset="group")["metric"]) == per_group
    overall = {"overall_accuracy", "fvo", "fvo_increase", "sparsity", "weight_difference"}
    assert set(frame[frame["group"].isna()]["metric"]) == overall | per_group - {"accuracy"}


def test_the_frame_holds_the_values_and_their_n(audit):
    frame = audit.to_frame().set_index(["precision", "group", "metric"])
    assert frame.loc[("int4", "B", "accuracy")].tolist() == [0.75, 40]
    assert frame.loc[("int4", "B", "accuracy_drop"), "value"] == pytest.approx(0.15)
    overall = audit.to_frame().query("group.isna() and precision == 'int4'").set_index("metric")
    assert overall.loc["overall_accuracy"].tolist()[2:] == [74 / 90, 90]
    assert overall.loc["fvo", "value"] == pytest.approx(0.88 - 0.75)
    assert overall.loc["sparsity"].tolist()[2:] == [0.25, 1000]


def test_a_value_that_is_not_defined_is_missing_in_the_frame(make_audit):
    frame = make_audit({"A": 50, "B": 0}, fp32={"A": 45, "B": 0}, int8={"A": 45, "B": 0}).to_frame()
    row = frame.query("precision == 'int8' and group == 'B' and metric == 'accuracy'").iloc[0]
    assert np.isnan(row["value"])
    assert row["n"] == 0


def test_the_measured_part_leaves_out_where_when_and_how(audit):
    later = dataclasses.replace(audit, run=dataclasses.replace(audit.run, seconds=9.0, threads=64))
    moved = dataclasses.replace(later, inputs=dataclasses.replace(audit.inputs, model="elsewhere.pt"))
    assert moved.measured_json() == audit.measured_json()
    reseeded = dataclasses.replace(audit, settings=dataclasses.replace(audit.settings, seed=1))
    assert reseeded.measured_json() != audit.measured_json()


def test_a_saved_audit_is_the_same_again(audit, tmp_path):
    audit.save(tmp_path / "audit.json")
    assert Audit.load(str(tmp_path / "audit.json")) == audit

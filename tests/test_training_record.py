import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import InputError
from qfair_check.record import Audit
from qfair_check.training_record import TrainingEpoch, TrainingRecord, contradiction_in


@st.composite
def trainings(draw):
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True))
    samples = [draw(st.tuples(*[st.integers(0, 50)] * len(names))) for _ in range(2)]
    epochs = draw(st.integers(1, 4))

    def counts(of):
        return draw(st.tuples(*[st.integers(0, most) for most in of]))

    return TrainingRecord(
        "fair-qat",
        "int4",
        tuple(names),
        *samples,
        tuple(TrainingEpoch(draw(st.floats(0, 9)), *map(counts, samples)) for _ in range(epochs)),
        draw(st.none() | st.integers(1, epochs)),
    )


EPOCHS = TrainingEpoch(1.5, (9, 3), (4, 1)), TrainingEpoch(1.0, (9, 8), (5, 0))
TRAINING = TrainingRecord("fair-qat", "int4", ("A", "B"), (9, 8), (5, 4), EPOCHS, 2)


@given(trainings())
def test_what_is_saved_is_what_is_loaded(saved_audit_folder, make_training_audit, training):
    audit = make_training_audit(training)
    path = saved_audit_folder / "audit.json"
    audit.save(path)
    assert Audit.load(path).training == training
    assert contradiction_in(training) is None


@pytest.fixture(scope="module")
def saved_audit_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def make_training_audit(make_audit):
    audit = make_audit({"A": 50, "B": 60}, fp32={"A": 40, "B": 50}, int4={"A": 40, "B": 50})
    return lambda training: replace(audit, training=training)


def test_an_audit_of_before_has_none(make_training_audit, tmp_path):
    path = tmp_path / "audit.json"
    make_training_audit(TRAINING).save(path)
    held = json.loads(path.read_text())
    del held["training"]
    path.write_text(json.dumps(held))
    assert Audit.load(path).training is None


def test_it_is_no_part_of_what_is_measured(make_training_audit):
    assert make_training_audit(TRAINING).measured_json() == make_training_audit(None).measured_json()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"groups": ("A", "A")}, "two groups of the training have the same name"),
        ({"precision": "int99"}, "int99"),
        ({"chosen": 3}, "epoch 3 of the training was chosen, and there are 2"),
        ({"chosen": 0}, "epoch 0 of the training was chosen"),
        ({"fit_samples": (9, 7)}, "more is right in an epoch of the training than there are samples"),
        ({"held_out_samples": (5,)}, "an epoch of the training does not tell of each group"),
        ({"epochs": (TrainingEpoch(1.0, (1,), (1, 1)),)}, "epoch 2 of the training was chosen, and there are 1"),
        ({"epochs": (TrainingEpoch(1.0, (1,), (1, 1)),), "chosen": 1}, "does not tell of each group"),
    ],
)
def test_what_cannot_be_true_is_refused(changes, told, make_training_audit, tmp_path):
    path = tmp_path / "audit.json"
    make_training_audit(replace(TRAINING, **changes)).save(path)
    with pytest.raises(InputError, match="contradicts itself") as caught:
        Audit.load(path)
    assert told in str(caught.value)


@pytest.mark.parametrize("field", ["groups", "epochs"])
def test_a_training_of_nothing_is_refused(field, make_training_audit, tmp_path):
    path = tmp_path / "audit.json"
    nothing = {"groups": (), "fit_samples": (), "held_out_samples": (), "epochs": (TrainingEpoch(1.0, (), ()),)}
    changes = nothing if field == "groups" else {"epochs": ()}
    make_training_audit(replace(TRAINING, chosen=None, **changes)).save(path)
    with pytest.raises(InputError, match=rf"length >= 1 - at `\$\.training\.{field}`"):
        Audit.load(path)

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qfair_check
from qfair_check.audit_file import json_schema, outcomes_digest
from qfair_check.errors import InputError
from qfair_check.judge.limits import gate_limits
from qfair_check.judge.verdicts import judge_audit
from qfair_check.outcome_rows import beside, npy, pack_bits, pack_positions
from qfair_check.record import Audit
from qfair_check.reference_record import ReferenceRecord

SHIPPED = Path(qfair_check.__file__).parent / "schema" / "audit.schema.json"


@pytest.fixture
def audit(make_audit):
    return make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int4={"A": 44, "B": 30})


@pytest.fixture
def path(audit, tmp_path):
    audit.save(tmp_path / "audit.json")
    return tmp_path / "audit.json"


def test_the_shipped_schema_is_that_of_the_record():
    assert json.loads(SHIPPED.read_text()) == json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_a_saved_audit_keeps_the_schema(path):
    jsonschema.validate(json.loads(path.read_text()), json.loads(SHIPPED.read_text()))


def test_a_measured_audit_keeps_the_schema(tmp_path):
    qfair_check.audit("demo", "demo", "8").save(tmp_path / "demo.json")
    jsonschema.validate(json.loads((tmp_path / "demo.json").read_text()), json.loads(SHIPPED.read_text()))


def test_the_schema_refuses_what_is_no_audit(path):
    held = json.loads(path.read_text())
    held["data"]["samples"] = -1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(held, json.loads(SHIPPED.read_text()))


def test_the_file_is_strict_json_that_reads_line_by_line(path):
    text = path.read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert len(text.splitlines()) > 100
    assert text.endswith("}\n")


def test_outcomes_lie_beside_the_file(path, audit):
    side = path.with_name(f"audit.{audit.outcomes_sha256[:16]}.outcomes.npy")
    assert sorted(path.parent.iterdir()) == sorted([path, side])
    assert np.load(side, allow_pickle=False).shape == (3, 12)  # two precisions, and a bit for two groups


def test_an_audit_without_its_outcomes_can_be_judged(path, audit):
    next(path.parent.glob("*.npy")).unlink()
    assert Audit.load(path) == dataclasses.replace(audit, outcomes={}, group_bits=())


def test_the_groups_of_samples_are_kept(make_audit, tmp_path):
    sizes = dict(zip("ABCDE", (3, 1, 4, 1, 5), strict=True))
    make_audit(sizes, fp32=sizes, int4=sizes).save(tmp_path / "audit.json")
    kept = Audit.load(tmp_path / "audit.json").sample_groups()
    assert kept.tolist() == [0] * 3 + [1] + [2] * 4 + [3] + [4] * 5


def test_an_audit_without_the_groups_of_samples_is_read(audit, tmp_path):
    bare = dataclasses.replace(
        audit, outcomes_hold_groups=False, group_bits=(), outcomes_sha256=outcomes_digest(audit.outcomes)
    )
    bare.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == bare
    assert bare.sample_groups() is None


@pytest.mark.parametrize(
    ("outcomes", "positions", "problem"),
    [
        ([45, 36, 44, 30], [49, 41], "the groups of samples are of other sizes"),
        ([45, 36, 43, 31], [50, 40], "43 samples of A are right at int4, not 44"),
        ([45, 36], [50, 40], "45 samples of A are right at int4, not 44"),  # a single row is that of the last precision
    ],
)
def test_outcomes_that_contradict_their_audit_are_refused(audit, tmp_path, outcomes, positions, problem):
    right = [
        np.concatenate([np.arange(50) < first, np.arange(40) < second])
        for first, second in zip(outcomes[::2], outcomes[1::2], strict=True)
    ]
    packed = dict(zip(("fp32", "int4"), map(pack_bits, right), strict=False))
    rows = pack_positions(np.repeat([0, 1], positions), 2)
    digest = outcomes_digest(packed, rows)
    dataclasses.replace(audit, outcomes=packed, group_bits=rows, outcomes_sha256=digest).save(tmp_path / "audit.json")
    with pytest.raises(InputError, match=f"contradicts .*audit.json \\({problem}\\): one was edited or damaged"):
        Audit.load(tmp_path / "audit.json")


def test_a_side_file_with_nothing_but_groups_is_refused(make_audit, tmp_path):
    audit = make_audit({"A": 9, "B": 9, "C": 9}, fp32={"A": 9, "B": 9, "C": 9})
    side = npy(audit.group_bits)
    digest = hashlib.sha256(side).hexdigest()
    dataclasses.replace(audit, outcomes={}, outcomes_sha256=digest).save(tmp_path / "audit.json")
    beside(tmp_path / "audit.json", digest).write_bytes(side)
    with pytest.raises(InputError, match="does not hold what the audit says: take it away"):
        Audit.load(tmp_path / "audit.json")


def test_damaged_outcomes_are_refused(path):
    next(path.parent.glob("*.npy")).write_bytes(b"x")
    with pytest.raises(InputError, match=r"outcomes\.npy is damaged: its hash is not the one the audit names"):
        Audit.load(path)


@pytest.mark.parametrize("name", ["", ".", "a\0.json"])
def test_a_path_that_is_no_file_is_named(audit, name):
    with pytest.raises(InputError, match="cannot write the audit"):
        audit.save(name)
    with pytest.raises(InputError, match="cannot read the audit"):
        Audit.load(name)


def test_a_file_name_that_is_no_text_is_escaped(audit, tmp_path):
    odd = dataclasses.replace(audit, inputs=dataclasses.replace(audit.inputs, model="m\udcff.pt"))
    odd.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json").inputs.model == "m\\udcff.pt"


def test_a_folder_that_is_not_there_is_named(audit, tmp_path):
    with pytest.raises(InputError, match=r"cannot write the audit .*gone/audit\.json: No such file"):
        audit.save(tmp_path / "gone" / "audit.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not an audit that qfair_check wrote"),
        (b"null", "is not an audit that qfair_check wrote"),
        (b"\xff\xfe", "is not an audit that qfair_check wrote"),
        (b"[" * 100_000, "is not an audit that qfair_check wrote"),
        (b'{"schema_version": 2}', "has schema version 2, and this qfair_check reads 3: audit the model again"),
        (b'{"schema_version": 3}', "is not an audit that qfair_check wrote"),
    ],
)
def test_what_is_no_audit_is_refused(tmp_path, content, reason):
    (tmp_path / "audit.json").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        Audit.load(tmp_path / "audit.json")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no audit file .*gone\.json"):
        Audit.load(tmp_path / "gone.json")
    with pytest.raises(InputError, match=r"cannot read the audit .*: Is a directory"):
        Audit.load(tmp_path)


EDITS = {
    "a precision twice": (["precisions", 1, "precision"], "fp32", "precisions are fp32, fp32"),
    "an unknown precision": (["precisions", 1, "precision"], "int99", "'int99' is not a bit width"),
    "no baseline": (["precisions", 0, "precision"], "int8", "precisions are int8, int4; they start with fp32"),
    "two groups of one name": (["groups", 1], "A", "two groups have the same name"),
    "no groups": (["groups"], [], "there is no group"),
    "a group too many": (["groups"], ["A", "B", "C"], "fp32 has 2 groups, not 3"),
    "samples": (["data", "samples"], 91, "fp32: the groups do not add up to 91 samples"),
    "an accuracy": (["precisions", 1, "groups", 1, "accuracy"], 0.9, "int4: an accuracy is not correct / samples"),
    "correct of a group": (["precisions", 1, "groups", 1, "correct"], 36, "int4: an accuracy is not correct / samples"),
    "correct of all": (["precisions", 1, "overall", "correct"], 81, "int4: an accuracy is not correct / samples"),
    "a drop": (["precisions", 1, "groups", 1, "accuracy_drop"], 0.0, "an accuracy drop is not the difference"),
    "the FVO": (["precisions", 1, "fvo"], 0.0, "int4: the FVO is not that of the groups"),
    "the FVO increase": (["precisions", 1, "fvo_increase"], 0.0, "the FVO increase is not that of the groups"),
    "flips": (["precisions", 1, "groups", 1, "flip_rate"], 0.0, "int4: a flip rate is not flips / samples"),
    "too many flips": (["precisions", 1, "groups", 1, "flips"], 41, "more is counted than there are samples"),
    "flips of all": (["precisions", 1, "overall", "nonfinite"], 3, "nonfinite of the groups does not add up"),
    "pairs": (["precisions", 1, "groups", 1, "both_wrong"], 3, "the paired counts do not add up to the samples"),
    "a distance": (["precisions", 1, "groups", 1, "cosine_distance"], -1.0, "a cosine distance is not from 0 to 2"),
    "zeros": (["precisions", 1, "weights", "zeros"], 1001, "more weights are zero than there are"),
    "sparsity": (["precisions", 1, "weights", "sparsity"], 0.0, "the sparsity is not zeros / elements"),
    "zeros of a layer": (
        ["precisions", 1, "weights", "layers", 0, "zeros"],
        249,
        "int4: the layers do not add up to the weights",
    ),
    "a layer": (["precisions", 1, "weights", "layers"], [], "int4: the layers do not add up to the weights"),
    "the difference of a layer": (
        ["precisions", 1, "weights", "layers", 0, "weight_difference"],
        3.6,
        "int4: the layers do not add up to the weights",
    ),
    "clipped": (
        ["precisions", 1, "weights", "layers", 0, "clipped"],
        1001,
        "int4: more weights of a layer are counted than there are",
    ),
    "a difference that is not known": (
        ["precisions", 1, "weights", "layers", 0, "weight_difference"],
        None,
        "int4: the layers do not add up to the weights",
    ),
    "a baseline from nowhere": (["precisions", 1, "precision"], "asis", "fp32 has values, and there is no reference"),
    "a reference for nothing": (
        ["reference"],
        {"sha256": "e" * 64, "source": "demo", "kind": "model"},
        "there is a reference, and no precision asis",
    ),
    "a reason": (
        ["precisions", 1, "groups", 1, "undefined"],
        {"accuracy": "?"},
        "accuracy has a value and is said to be undefined",
    ),
}


@pytest.mark.parametrize(("place", "value", "reason"), EDITS.values(), ids=EDITS)
def test_an_edited_audit_is_refused(path, place, value, reason):
    held = json.loads(path.read_text())
    part = held
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="contradicts itself") as caught:
        Audit.load(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("sha256", "others", "reason"),
    [
        ("a" * 64, {}, "the model is its own reference"),
        ("e" * 64, {"int8": {"A": 44, "B": 30}}, "asis stands beside other precisions"),
        ("e" * 64, {}, None),
        (None, {}, None),
    ],
)
def test_a_reference_that_cannot_be_is_refused(tmp_path, make_audit, sha256, others, reason):
    made = make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, **others, asis={"A": 44, "B": 30})
    made = dataclasses.replace(made, reference=ReferenceRecord(sha256, "origin.pt", "model"))
    made.save(tmp_path / "a.json")
    if reason is None:
        assert Audit.load(tmp_path / "a.json") == made
        return
    with pytest.raises(InputError, match=reason):
        Audit.load(tmp_path / "a.json")


def test_where_a_reference_came_from_is_outside_what_is_compared(make_audit):
    made = make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, asis={"A": 44, "B": 30})
    one, two, other = (
        dataclasses.replace(made, reference=ReferenceRecord(sha256 * 64, source, kind)).measured_json()
        for sha256, source, kind in (("e", "a.pt", "model"), ("e", "b.json", "audit"), ("f", "a.pt", "model"))
    )
    assert one == two != other


def test_a_total_that_is_not_the_sum_of_the_groups_is_refused(path):
    held = json.loads(path.read_text())
    overall = held["precisions"][1]["overall"]
    overall |= {"correct": 81, "accuracy": 0.9, "accuracy_drop": 0.0, "both_right": 81, "right_to_wrong": 0}
    overall |= {"both_wrong": 9}
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="int4: correct of the groups does not add up to that of all"):
        Audit.load(path)


@pytest.mark.parametrize("name", ["../evil", "a/b", "\x00", "", "A" * 64])
def test_a_hash_that_is_none_cannot_name_a_file(path, name):
    held = json.loads(path.read_text())
    held["outcomes_sha256"] = name
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="is not an audit that qfair_check wrote"):
        Audit.load(path)


@pytest.mark.parametrize("metric", ["fvo", "fvo_increase"])
def test_a_gap_that_an_audit_lacks_is_none_and_judged_from_the_groups(path, audit, metric):
    held = json.loads(path.read_text())
    for result in held["precisions"]:
        del result[metric]
    path.write_text(json.dumps(held))
    loaded = Audit.load(path)
    assert getattr(loaded.at(4), metric) is None
    assert judge_audit(loaded, gate_limits({})) == judge_audit(audit, gate_limits({}))


def test_a_metric_that_an_audit_lacks_is_none(path):
    held = json.loads(path.read_text())
    for result in held["precisions"]:
        for measures in (result["overall"], *result["groups"]):
            del measures["cosine_distance"]
    path.write_text(json.dumps(held))
    assert Audit.load(path).at(4).groups[0].cosine_distance is None


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.just([])


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_edit_gives_an_audit_or_one_clear_error(path, data):
    part = edited = json.loads(path.read_text())
    while True:
        key = data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        if not isinstance(part[key], dict | list) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = data.draw(VALUES)
    target = path.with_name("edited.json")
    target.write_text(json.dumps(edited))
    with contextlib.suppress(InputError):
        assert isinstance(Audit.load(target), Audit)


def test_made_up_outcomes_of_the_right_hash_are_refused(path, audit):
    made_up = b"\x93NUMPY\x01\x00v\x00" + b"{" * 118
    digest = hashlib.sha256(made_up).hexdigest()
    path.write_text(path.read_text().replace(audit.outcomes_sha256, digest))
    path.with_name(f"audit.{digest[:16]}.outcomes.npy").write_bytes(made_up)
    with pytest.raises(InputError, match=r"outcomes\.npy does not hold a bit for each sample"):
        Audit.load(path)

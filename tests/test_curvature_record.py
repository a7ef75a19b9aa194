import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from qfair_check.audit_file import json_schema
from qfair_check.curvature_record import Account, CurvatureSettings, GroupCurvature
from qfair_check.errors import InputError
from qfair_check.record import Audit


@pytest.fixture
def audit(make_audit):
    bare = make_audit({"A": 50, "B": 40}, fp32={"A": 45, "B": 36}, int4={"A": 44, "B": 30})
    nan = "a sample has NaN or infinite logits"
    at_fp32 = (
        GroupCurvature(30, 0.5, 1.5, 40.0, -2.0, 0.01, 8, True),
        GroupCurvature(30, 0.6, 2.5, 90.0, -3.0, 0.2, 9),
    )
    at_int4 = (
        GroupCurvature(
            30, 0.75, 3.5, 50.0, -5.0, 0.02, 7, True, Account((0.0625, 0.0), (0.125, 0.03125), 0.25, bound=1.5)
        ),
        GroupCurvature(30, undefined=dict.fromkeys(("loss", "gradient_norm", "lambda_max", "account"), nan)),
    )
    results = (
        replace(bare.fp32, curvature=at_fp32),
        replace(bare.at(4), curvature=at_int4, moved=("fc.weight", "fc.bias")),
    )
    settings = replace(bare.settings, curvature=CurvatureSettings(30, "lanczos", 0.05, 1100, 64))
    return replace(bare, precisions=results, settings=settings)


def test_the_account_adds_up(audit):
    account = audit.at(4).curvature[0].account
    assert account.by_tensor == (0.1875, 0.03125)
    assert account.predicted == 0.21875


def test_saved_curvature_is_the_same_again(audit, tmp_path):
    audit.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == audit
    jsonschema.validate(json.loads((tmp_path / "audit.json").read_text()), json_schema())


def test_the_frame_holds_curvature_with_its_own_n(audit):
    frame = audit.to_frame()
    assert not frame.duplicated(["precision", "group", "metric"]).any()
    added = frame[frame["metric"].str.contains("gradient|lambda|change")]
    assert set(added["n"]) == {30}
    values = {(row.precision, row.group, row.metric): row.value for row in added.itertuples()}
    assert {key: value for key, value in values.items() if key[:2] == ("int4", "A")} == {
        ("int4", "A", "gradient_norm"): 3.5,
        ("int4", "A", "lambda_max"): 50.0,
        ("int4", "A", "lambda_min"): -5.0,
        ("int4", "A", "predicted_loss_change"): 0.21875,
        ("int4", "A", "measured_loss_change"): 0.25,
    }
    assert values["fp32", "B", "lambda_max"] == 90.0
    assert all(np.isnan(value) for key, value in values.items() if key[:2] == ("int4", "B"))
    assert [key for key in values if key[0] == "fp32" and "change" in key[2]] == []


FP32, INT4 = ["precisions", 0, "curvature"], ["precisions", 1, "curvature"]
EDITS = {
    "a group too few": (INT4, [], "int4: curvature is of 0 groups, not 2"),
    "no settings": (["settings", "curvature"], None, "fp32: no settings say how curvature was measured"),
    "more than the group has": ([*FP32, 1, "samples"], 41, "fp32: curvature is of 41 samples, and 30 were drawn"),
    "fewer than were drawn": ([*FP32, 1, "samples"], 29, "fp32: curvature is of 29 samples, and 30 were drawn"),
    "more than were drawn": (["settings", "curvature", "samples"], 29, "is of 30 samples, and 29 were drawn"),
    "a reason": ([*INT4, 0, "undefined"], {"lambda_max": "?"}, "int4: lambda_max of the curvature has a value and is"),
    "a loss": ([*INT4, 0, "loss"], -0.1, "int4: a loss, a gradient norm or a residual is below 0"),
    "a gradient norm": ([*INT4, 0, "gradient_norm"], -1.0, "a loss, a gradient norm or a residual is below 0"),
    "a residual": ([*INT4, 0, "residual"], -1.0, "int4: a loss, a gradient norm or a residual is below 0"),
    "the order": ([*INT4, 0, "lambda_min"], 50.5, "int4: lambda_min is above lambda_max"),
    "what converged": ([*INT4, 0, "lambda_max"], None, "int4: a lambda_max converged, and is absent"),
    "a tensor too few": (["precisions", 1, "moved"], ["fc.weight"], "int4: an account does not tell of the tensors"),
    "a part too few": (
        [*INT4, 0, "account", "first_order"],
        [0.1],
        "an account does not tell of the tensors that moved",
    ),
    "a bound": ([*INT4, 0, "account", "bound"], -1.0, "int4: a bound is below 0"),
    "an account at fp32": (
        [*FP32, 0, "account"],
        {"first_order": [], "second_order": [], "measured": 0.0},
        "fp32 is the baseline, and has an account of what changed its loss",
    ),
}


@pytest.mark.parametrize(("place", "value", "reason"), EDITS.values(), ids=EDITS)
def test_edited_curvature_is_refused(audit, tmp_path, place, value, reason):
    path = tmp_path / "audit.json"
    audit.save(path)
    held = json.loads(path.read_text())
    part = held
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="contradicts itself") as caught:
        Audit.load(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "1e999", "null"])
def test_numbers_that_are_none_are_refused(audit, tmp_path, number):
    path = tmp_path / "audit.json"
    audit.save(path)
    path.write_text(path.read_text().replace('"measured": 0.25', f'"measured": {number}'))
    with pytest.raises(InputError, match="is not an audit that qfair_check wrote, or is damaged"):
        Audit.load(path)

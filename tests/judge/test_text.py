from dataclasses import replace
from decimal import Decimal

import pytest

from qfair_check.judge.checks import CHECKS
from qfair_check.judge.text import describe, shown_middle, shown_name
from qfair_check.judge.verdicts import judge_one


def say(audit, check, limit, precision="int3", **options):
    return describe(judge_one(audit, CHECKS[check], Decimal(limit), precision, **options), audit)


@pytest.fixture
def faces(make_audit):
    return make_audit(
        {"White": 1452, "Black": 648, "Others": 234},
        fp32={"White": 1310, "Black": 560, "Others": 56},
        int3={"White": 1365, "Black": 540, "Others": 9},
    )


TRY = (
    "  try    qfair remediate m.safetensors --arch resnet18 --data d.csv --label race --classes White,Black,Others "
    "--train TRAIN --bits 3 --out m.int3.safetensors"
)


def test_fvo(faces):
    assert say(faces, "fvo", "0.7") == (
        "FVO at int3 is 0.902, above the limit 0.700 (fp32: 0.663, so quantization added 0.239)\n"
        "  worst  Others  n=234    accuracy 0.239 → 0.038  [0.020, 0.071]\n"
        "  best   White   n=1452   accuracy 0.902 → 0.940  [0.927, 0.951]\n"
        "  try    qfair remediate m.safetensors --arch resnet18 --data d.csv --label race --classes White,Black,Others "
        "--train TRAIN --bits 3 --max-fvo 0.7 --out m.int3.safetensors"
    )


def test_fvo_increase(faces):
    assert say(faces, "fvo-increase", "0.05") == (
        "FVO increase at int3 is 0.239, above the limit 0.050 (fp32: 0.663, int3: 0.902)\n"
        "  worst  Others  n=234    accuracy 0.239 → 0.038  [0.020, 0.071]\n"
        "  best   White   n=1452   accuracy 0.902 → 0.940  [0.927, 0.951]\n"
        f"{TRY}"
    )


def test_group_drop(faces):
    assert say(faces, "group-drop", "0.05") == (
        "accuracy drop of Others at int3 is 0.201, above the limit 0.050\n"
        "  worst  Others  n=234   accuracy 0.239 → 0.038  [0.020, 0.071]\n"
        f"{TRY}"
    )


def test_overall_accuracy(faces):
    assert say(faces, "accuracy", "0.9") == (
        "overall accuracy at int3 is 0.820, below the limit 0.900 (fp32: 0.825)\n"
        "  all    n=2334   accuracy 0.825 → 0.820  [0.804, 0.835]"
    )


def test_overall_drop(faces):
    assert say(faces, "accuracy-drop", "0.001") == (
        "overall accuracy drop at int3 is 0.005, above the limit 0.001 (fp32: 0.825, int3: 0.820)\n"
        "  all    n=2334   accuracy 0.825 → 0.820  [0.804, 0.835]"
    )


def test_a_pass_reads_alike(faces):
    assert say(faces, "fvo", "0.95").splitlines()[0] == (
        "FVO at int3 is 0.902, within the limit 0.950 (fp32: 0.663, so quantization added 0.239)"
    )


def test_what_quantization_removes(make_audit):
    audit = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 50}, int3={"A": 90, "B": 70})
    assert "so quantization removed 0.200)" in say(audit, "fvo", "0.1")


def test_digits_enough_to_tell_value_and_limit_apart(make_audit):
    audit = make_audit({"A": 10000, "B": 10000}, fp32={"A": 9000, "B": 9000}, int3={"A": 9000, "B": 5999})
    assert say(audit, "fvo", "0.3").startswith("FVO at int3 is 0.3001, above the limit 0.3000 (")


def test_a_tie_is_within(make_audit):
    audit = make_audit({"A": 100, "B": 100}, fp32={"A": 90, "B": 90}, int3={"A": 90, "B": 60})
    assert say(audit, "fvo", "0.3").startswith("FVO at int3 is 0.300, within the limit 0.300 (")


def test_insufficient_names_group_and_cure(make_audit):
    audit = make_audit({"A": 100, "B": 100, "C": 12}, fp32={"A": 90, "B": 80, "C": 9}, int3={"A": 90, "B": 80, "C": 9})
    assert say(audit, "fvo", "0.7") == (
        "FVO at int3 cannot be judged against the limit 0.7\n"
        "  because  group C has 12 samples, and judging needs 30\n"
        "  among the other groups it is 0.100\n"
        "  cure     more samples of such groups, or a lower --qfair-min-group-size; "
        "--qfair-insufficient=warn goes on all the same"
    )


def test_a_failure_names_the_groups_that_were_not_judged(make_audit):
    audit = make_audit({"A": 100, "B": 100, "C": 12}, fp32={"A": 90, "B": 80, "C": 9}, int3={"A": 90, "B": 10, "C": 9})
    assert say(audit, "fvo", "0.7").splitlines()[-2] == ("  not judged  group C has 12 samples, and judging needs 30")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Others", "Others"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("two\nlines", "two\\nlines"),
        ("‮evil", "\\u202eevil"),
        ("x" * 41, "x" * 39 + "…"),
        ("日本" * 11, "日本" * 9 + "日…"),
        ("<script>", "<script>"),
    ],
)
def test_names_are_fit_for_a_terminal(name, shown):
    assert shown_name(name) == shown


def test_a_long_name_keeps_a_third_of_its_width_in_front():
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 500)))  # two columns each
    assert shown_middle("abcdefghij" * 50, 30) == "abcdefghij…bcdefghijabcdefghij"
    assert shown_middle(letters, 31) == f"{letters[:5]}…{letters[-10:]}"


def test_braces_in_names_are_only_braces(make_audit):
    audit = make_audit({"{x}": 100, "{}": 100}, fp32={"{x}": 90, "{}": 80}, int3={"{x}": 40, "{}": 80})
    assert say(audit, "group-drop", "0.05").splitlines()[0] == (
        "accuracy drop of {x} at int3 is 0.500, above the limit 0.050"
    )


def test_the_cosine_distance_says_how_many_samples_it_leaves_out(faces):
    groups = tuple(replace(group, null_logits=3) for group in faces.at("int3").groups)
    changed = replace(faces, precisions=(faces.fp32, replace(faces.at("int3"), groups=groups)))
    assert say(changed, "cosine-distance", "0.001").splitlines()[0] == (
        "worst group's cosine distance at int3 is 0.010, above the limit 0.001 "
        "(3 of 1452 samples have null logits and are left out)"
    )

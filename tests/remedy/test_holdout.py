import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfair_check.errors import InputError, OptionError
from qfair_check.remedy.holdout import check_groups, check_outputs, check_same_classes, overlap_notice, split_by_group


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=40), min_size=1, max_size=4),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_every_group_is_split_in_proportion_and_every_class_in_it(labels_by_group, share, seed):
    labels = np.concatenate([np.array(labels, np.int64) for labels in labels_by_group])
    groups = np.repeat(np.arange(len(labels_by_group)), [len(labels) for labels in labels_by_group])
    names = [f"g{index}" for index in range(len(labels_by_group))]
    split = split_by_group(labels, groups, names, share=share, seed=seed)
    assert sorted([*split.fit, *split.held_out]) == list(range(len(labels)))
    for group in range(len(names)):
        mine = np.flatnonzero(groups == group)
        held = split.held_out[groups[split.held_out] == group]
        wanted = min(max(round(share * len(mine)), 1), len(mine) - 1)
        assert len(held) == wanted
        for label in range(4):
            size = int((labels[mine] == label).sum())
            assert abs(int((labels[held] == label).sum()) - wanted * size / len(mine)) < 1


def test_a_split_depends_on_the_seed_alone():
    labels, groups = np.arange(100) % 2, np.arange(100) % 4
    first, again, other = (
        split_by_group(labels, groups, "abcd", share=0.2, seed=seed).held_out.tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_group_that_is_absent_or_too_small_is_named():
    with pytest.raises(InputError, match=r"^Others has no samples in the training data, and cannot be balanced"):
        split_by_group(np.zeros(4, np.int64), np.zeros(4, np.int64), ["White", "Others"], share=0.2, seed=0)
    with pytest.raises(InputError, match="a single sample of Others"):
        split_by_group(np.zeros(4, np.int64), np.array([0, 0, 0, 1]), ["White", "Others"], share=0.2, seed=0)
    with pytest.raises(InputError, match=r"^Asian, Others have no samples"):
        check_groups(["White"], ["White", "Asian", "Others"])
    check_groups(["White", "Others"], ["White"])


@pytest.mark.parametrize("share", [0, 1, float("nan")])
def test_a_share_that_holds_out_nothing_or_all_is_refused(share):
    with pytest.raises(OptionError, match="held-out share"):
        split_by_group(np.zeros(4, np.int64), np.zeros(4, np.int64), ["a"], share=share, seed=0)


def test_an_overlap_warns_up_to_one_percent():
    trained = [bytes([index]) for index in range(200)]
    fresh = [b"new" + bytes([index]) for index in range(200)]
    assert overlap_notice(trained, fresh) is None
    told = overlap_notice(trained, [*trained[:2], *fresh[:198]])
    assert told == "2 of 200 audited samples are also in the training data: their accuracy tells nothing of new samples"
    with pytest.raises(InputError, match=r"^3 of 200 audited samples are also in the training data, above 1%"):
        overlap_notice(trained, [*trained[:3], *fresh[:197]])


def test_classes_that_are_not_the_outputs_are_refused():
    check_outputs(np.array([0, 2]), ["a", "b", "c"], 3)
    check_outputs(np.array([0, 1]), ["0", "1"], 3)  # indices mean the same whatever is absent
    with pytest.raises(InputError, match=r"has 2 classes \(a, c\) and the model 3 outputs: pass .* 3 names"):
        check_outputs(np.array([0, 1]), ["a", "c"], 3)
    with pytest.raises(InputError, match=r"class 'c' \(index 2\), and the model has 2 outputs; .* range: 2"):
        check_outputs(np.array([0, 2, 1, 2]), ["a", "b", "c"], 2)


def test_classes_of_other_names_than_the_audited_ones_are_refused():
    check_same_classes(["a", "b"], ["a", "b"])
    check_same_classes(["0", "1"], ["a", "b"])
    check_same_classes(["a", "b"], ["0"])
    with pytest.raises(InputError, match=r"has the classes a, b, d and the audited data a, b, c: pass"):
        check_same_classes(["a", "b", "d"], ["a", "b", "c"])

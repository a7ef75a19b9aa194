import math
from collections.abc import Sequence
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, recall_score
from torch.nn import functional

from qfair_check.gaps import fvo, fvo_increase
from qfair_check.measure.tally import Tally
from qfair_check.record import Measures

LN3 = math.log(3)
MEANS = (
    "loss",
    "cosine_distance",
    "l1_distance",
    "l2_distance",
    "logit_variance",
    "softmax_variance",
    "prediction_probability",
)
PAIRED = (
    "accuracy_drop",
    "cosine_distance",
    "l1_distance",
    "l2_distance",
    "flips",
    "flip_rate",
    "both_right",
    "right_to_wrong",
    "wrong_to_right",
    "both_wrong",
)


def tally(logits, baseline, labels, groups, n_groups):
    return Tally.of(
        np.asarray(logits, np.float64),
        np.asarray(baseline, np.float64),
        np.array(labels, np.int64),
        np.array(groups, np.int64),
        n_groups,
    )[0]


def measured(logits, baseline, labels, groups, n_groups=1) -> tuple[Measures, ...]:
    before = tally(baseline, baseline, labels, groups, n_groups)
    return tally(logits, baseline, labels, groups, n_groups).measures(before)


def assert_close(found: Sequence[Measures], expected: Sequence[Measures]) -> None:
    for one, other in zip(found, expected, strict=True):
        for field in fields(Measures):
            value = getattr(other, field.name)
            wanted = pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
            assert getattr(one, field.name) == wanted, field.name


def one_hot(predicted, classes=3):
    return np.eye(classes)[predicted]


def test_predictions_are_compared_with_fp32_by_hand():
    labels, groups = [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]
    before, after = one_hot([0, 0, 1, 1, 1, 1]), one_hot([0, 1, 0, 2, 1, 0])
    first, second = measured(after, before, labels, groups, 2)
    assert (first.samples, first.correct, first.accuracy, first.accuracy_drop) == (4, 2, 0.5, 0.0)
    assert (first.flips, first.flip_rate) == (3, 0.75)
    assert (first.both_right, first.right_to_wrong, first.wrong_to_right, first.both_wrong) == (1, 1, 1, 1)
    assert (second.samples, second.correct, second.accuracy, second.accuracy_drop) == (2, 1, 0.5, 0.5)
    assert (second.flips, second.flip_rate) == (1, 0.5)
    assert (second.both_right, second.right_to_wrong, second.wrong_to_right, second.both_wrong) == (1, 1, 0, 0)
    assert first.undefined == second.undefined == {}


def test_a_gain_is_a_negative_drop():
    (found,) = measured(one_hot([0, 0, 1]), one_hot([1, 1, 1]), [0, 0, 0], [0, 0, 0])
    assert found.accuracy_drop == pytest.approx(-2 / 3)
    assert (found.right_to_wrong, found.wrong_to_right, found.both_wrong) == (0, 2, 1)


def test_the_first_of_tied_logits_is_the_prediction():
    (found,) = measured([[1, 1], [1, 1]], [[1, 1], [1, 1]], [0, 1], [0, 0])
    assert found.correct == 1


def test_probabilities_by_hand():
    logits = [[0, LN3], [LN3, 0]]
    (found,) = measured(logits, logits, [1, 1], [0, 0])
    assert found.loss == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert found.logit_variance == pytest.approx(LN3**2 / 4)
    assert found.softmax_variance == pytest.approx(1 / 16)
    assert found.prediction_probability == pytest.approx(3 / 4)
    assert {index: count for index, count in enumerate(found.dtdb) if count} == {12: 1, 37: 1}


def test_variances_divide_by_the_number_of_classes():
    logits = [[0, 0, LN3 * 2, 0], [1, 2, 3, 6]]
    found = measured(logits, logits, [0, 0], [0, 1], 2)
    probabilities = [1 / 12, 1 / 12, 9 / 12, 1 / 12]
    assert found[0].softmax_variance == pytest.approx(sum((p - 1 / 4) ** 2 for p in probabilities) / 4)
    assert found[1].logit_variance == pytest.approx((4 + 1 + 0 + 9) / 4)


def test_distances_by_hand():
    logits, baseline = [[4, 3], [3, 0], [2, 0]], [[3, 4], [0, 4], [-5, 0]]
    found = measured(logits, baseline, [0, 0, 0], [0, 0, 1], 2)
    assert found[0].cosine_distance == pytest.approx((0.04 + 1) / 2)
    assert found[0].l1_distance == pytest.approx((2 + 7) / 2)
    assert found[0].l2_distance == pytest.approx((math.sqrt(2) + 5) / 2)
    assert found[1].cosine_distance == pytest.approx(2)
    assert (found[1].l1_distance, found[1].l2_distance) == (7, 7)


def test_cosine_distances_far_below_float32_are_seen():
    angle = 1e-6
    (found,) = measured([[math.cos(angle), math.sin(angle)]], [[1, 0]], [0], [0])
    assert found.cosine_distance == pytest.approx(angle**2 / 2, rel=1e-3)


def test_equal_logits_have_no_distance():
    logits = np.random.default_rng(0).normal(size=(20, 7))
    (found,) = measured(logits, logits, [0] * 20, [0] * 20)
    assert (found.l1_distance, found.l2_distance, found.flips, found.accuracy_drop) == (0, 0, 0, 0)
    assert 0 <= found.cosine_distance < 1e-15


def test_no_cosine_distance_is_below_zero():
    logits = np.random.default_rng(0).normal(size=(20, 7))
    found = measured(logits, 3 * logits, [0] * 20, range(20), 20)
    cosines = (3 * logits**2).sum(axis=1) / np.sqrt((logits**2).sum(axis=1) * ((3 * logits) ** 2).sum(axis=1))
    assert cosines.max() > 1
    assert all(0 <= group.cosine_distance < 1e-15 for group in found)


def test_the_histogram_of_true_class_probabilities_has_fifty_bins():
    logits = [[1000, 0], [0, 1000], [0, 0], [0, 0]]
    (found,) = measured(logits, logits, [0, 0, 0, 1], [0, 0, 0, 0])
    assert len(found.dtdb) == 50
    assert {index: count for index, count in enumerate(found.dtdb) if count} == {0: 1, 25: 2, 49: 1}
    assert found.loss == pytest.approx((1000 + 2 * math.log(2)) / 4)


def test_whether_each_prediction_was_right():
    logits = np.array([[2.0, 1.0], [1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]])
    _, right = Tally.of(logits, logits, np.array([0, 0, 1, 0]), np.zeros(4, np.int64), 1)
    assert right.tolist() == [True, False, False, False]


def test_recall_by_hand():
    predicted, labels, groups = [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0]
    found = tally(one_hot(predicted), one_hot(predicted), labels, groups, 2).recalls(("cat", "dog", "fox"))
    assert [recall.label for recall in found] == ["cat", "dog", "fox"]
    assert (found[0].samples, found[0].correct, found[0].gap) == ((1, 2), (1, 1), 0.5)
    assert (found[1].samples, found[1].correct, found[1].gap) == ((3, 0), (2, 0), None)
    assert (found[2].samples, found[2].correct, found[2].gap) == ((0, 0), (0, 0), None)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(7)
    size, classes, groups = 400, 5, 3
    baseline = rng.normal(scale=3, size=(size, classes))
    logits = baseline + rng.normal(size=(size, classes))
    return logits, baseline, rng.integers(classes, size=size), rng.integers(groups, size=size)


def test_accuracy_is_that_of_fairlearn(sample):
    logits, baseline, labels, groups = sample
    frame = MetricFrame(metrics=accuracy_score, y_true=labels, y_pred=logits.argmax(axis=1), sensitive_features=groups)
    found = measured(logits, baseline, labels, groups, 3)
    assert [group.accuracy for group in found] == pytest.approx(frame.by_group.tolist(), rel=1e-12)
    assert fvo(found) == pytest.approx(frame.difference(), rel=1e-12)
    pooled = tally(logits, baseline, labels, groups, 3).pooled()
    before = tally(baseline, baseline, labels, groups, 3).pooled()
    assert pooled.measures(before)[0].accuracy == pytest.approx(frame.overall, rel=1e-12)


def test_loss_and_recall_are_those_of_scikit_learn(sample):
    logits, baseline, labels, groups = sample
    found = measured(logits, baseline, labels, groups, 3)
    recalls = tally(logits, baseline, labels, groups, 3).recalls(tuple("abcde"))
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    for group in range(3):
        member = groups == group
        expected = log_loss(labels[member], probabilities[member], labels=range(5))
        assert found[group].loss == pytest.approx(expected, rel=1e-9)
        recall = recall_score(labels[member], logits[member].argmax(axis=1), labels=range(5), average=None)
        assert [r.correct[group] / r.samples[group] for r in recalls] == pytest.approx(recall.tolist(), rel=1e-12)
    rates = np.array([np.array(recall.correct) / recall.samples for recall in recalls])
    assert [recall.gap for recall in recalls] == pytest.approx(np.ptp(rates, axis=1).tolist(), rel=1e-12)


def test_means_are_those_of_torch_in_float64(sample):
    logits, baseline, labels, groups = sample
    found = measured(logits, baseline, labels, groups, 3)
    for group in range(3):
        member = groups == group
        z, r, y = (torch.from_numpy(values[member]) for values in (logits, baseline, labels))
        softmax = torch.softmax(z, 1)
        expected = {
            "loss": functional.cross_entropy(z, y),
            "cosine_distance": (1 - functional.cosine_similarity(z, r)).mean(),
            "l1_distance": functional.pairwise_distance(z, r, p=1, eps=0).mean(),
            "l2_distance": functional.pairwise_distance(z, r, p=2, eps=0).mean(),
            "logit_variance": z.var(1, correction=0).mean(),
            "softmax_variance": softmax.var(1, correction=0).mean(),
            "prediction_probability": softmax.amax(1).mean(),
        }
        assert sorted(expected) == sorted(MEANS)
        for name, value in expected.items():
            assert getattr(found[group], name) == pytest.approx(value.item(), rel=1e-10), name
        true = softmax.gather(1, y[:, None])[:, 0].numpy()
        assert found[group].dtdb == tuple(np.histogram(true, bins=50, range=(0, 1))[0].tolist())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_leave_a_group_without_numbers(sample, bad):
    logits, baseline, labels, groups = (values.copy() for values in sample)
    clean = measured(logits, baseline, labels, groups, 3)
    where = np.flatnonzero(groups == 1)
    logits[where[0], 2] = logits[where[3], 0] = bad
    found = measured(logits, baseline, labels, groups, 3)
    assert (found[0], found[2]) == (clean[0], clean[2])
    reason = f"2 of {len(where)} samples have NaN or infinite logits"
    counted = {"samples", "nonfinite", "null_logits", "dtdb", "undefined"}
    names = {field.name for field in fields(Measures)} - counted
    assert found[1].undefined == dict.fromkeys(names, reason)
    assert all(getattr(found[1], name) is None for name in names)
    assert (found[1].samples, found[1].nonfinite, found[1].null_logits, found[1].dtdb) == (len(where), 2, 0, ())
    assert fvo(found) is None
    assert fvo_increase(found, clean) is None
    assert fvo_increase(clean, found) is None


def test_fp32_logits_that_are_not_finite_leave_a_group_without_comparisons(sample):
    logits, baseline, labels, groups = (values.copy() for values in sample)
    clean = measured(logits, baseline, labels, groups, 3)
    where = np.flatnonzero(groups == 1)
    baseline[where[0], 2] = np.nan
    found = measured(logits, baseline, labels, groups, 3)
    assert (found[0], found[2]) == (clean[0], clean[2])
    reason = f"1 of {len(where)} samples have NaN or infinite logits at fp32"
    assert found[1] == replace(clean[1], **dict.fromkeys(PAIRED), undefined=dict.fromkeys(PAIRED, reason))


def test_null_logits_are_left_out_of_the_cosine_alone_and_counted():
    logits, baseline = [[0, 0], [3, 0], [1, 0]], [[1, 0], [0, 4], [0, 0]]
    (found,) = measured(logits, baseline, [0, 0, 0], [0, 0, 0])
    assert (found.samples, found.null_logits, found.nonfinite) == (3, 2, 0)
    assert found.cosine_distance == pytest.approx(1)
    assert found.l1_distance == pytest.approx((1 + 7 + 1) / 3)
    assert found.l2_distance == pytest.approx((1 + 5 + 1) / 3)
    assert (found.accuracy, found.undefined) == (1, {})


def test_a_group_of_null_logits_has_no_cosine_distance():
    found = measured([[0, 0], [0, 0], [1, 2]], [[1, 0], [0, 0], [1, 2]], [0, 0, 1], [0, 0, 1], 2)
    assert found[0].undefined == {"cosine_distance": "all 2 samples have a null logit vector"}
    assert (found[0].cosine_distance, found[0].null_logits, found[0].accuracy) == (None, 2, 1)
    assert found[0].l1_distance == 0.5
    assert (found[1].null_logits, found[1].undefined) == (0, {})


def test_a_sample_that_is_not_finite_is_not_also_null():
    (found,) = measured([[np.nan, 0], [1, 0]], [[0, 0], [1, 0]], [0, 0], [0, 0])
    assert (found.nonfinite, found.null_logits) == (1, 0)


def test_an_empty_group_has_no_numbers():
    found = measured([[1, 0], [0, 1]], [[1, 0], [0, 1]], [0, 0], [0, 2], 3)
    names = (*MEANS, "accuracy", "accuracy_drop", "flip_rate")
    assert found[1].undefined == dict.fromkeys(names, "no samples")
    assert all(getattr(found[1], name) is None for name in names)
    assert (found[1].samples, found[1].correct, found[1].flips) == (0, 0, 0)
    assert found[1].dtdb == ()
    assert fvo(found) is None
    assert fvo((found[0], found[2])) == 1


def test_the_empty_tally_is_neutral(sample):
    logits, baseline, labels, groups = sample
    before = tally(baseline, baseline, labels, groups, 3)
    whole = tally(logits, baseline, labels, groups, 3)
    empty = Tally.empty(3, 5)
    assert (empty + whole).measures(empty + before) == whole.measures(before)
    assert (whole + empty).recalls(tuple("abcde")) == whole.recalls(tuple("abcde"))


def test_the_same_samples_twice_count_twice(sample):
    whole = tally(*sample, 3)
    twice = whole + whole
    for field in fields(Tally):
        assert (getattr(twice, field.name) == 2 * getattr(whole, field.name)).all()


def test_pooled_groups_are_one_group(sample):
    logits, baseline, labels, groups = sample
    pooled = tally(logits, baseline, labels, groups, 3).pooled()
    before = tally(baseline, baseline, labels, groups, 3).pooled()
    assert_close(pooled.measures(before), measured(logits, baseline, labels, np.zeros_like(groups)))


finite = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1.0])
anything = finite | st.sampled_from([np.nan, np.inf, -np.inf])


@st.composite
def blocks(draw, values=anything, least=0, groups=3):
    size = draw(st.integers(least, 6))
    rows = st.lists(st.tuples(values, values, values), min_size=size, max_size=size)
    indices = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    members = st.lists(st.integers(0, groups - 1), min_size=size, max_size=size)
    logits, baseline = (np.array(draw(rows), np.float64).reshape(size, 3) for _ in range(2))
    return logits, baseline, np.array(draw(indices), np.int64), np.array(draw(members), np.int64)


@given(blocks(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(block, random):
    order = np.array(random.sample(range(len(block[0])), len(block[0])), np.int64)
    assert_close(measured(*(values[order] for values in block), 3), measured(*block, 3))


@given(st.lists(blocks(), min_size=1, max_size=3), st.booleans())
def test_blocks_add_up_to_the_whole(parts, backwards):
    whole = [np.concatenate(values) for values in zip(*parts, strict=True)]
    total, before = Tally.empty(3, 3), Tally.empty(3, 3)
    for logits, baseline, labels, groups in reversed(parts) if backwards else parts:
        total += tally(logits, baseline, labels, groups, 3)
        before = tally(baseline, baseline, labels, groups, 3) + before
    assert_close(total.measures(before), measured(*whole, 3))
    expected = tally(*whole, 3)
    assert total.recalls(tuple("abc")) == expected.recalls(tuple("abc"))
    assert_close(total.pooled().measures(before.pooled()), measured(*whole[:3], np.zeros_like(whole[3])))


@given(blocks(), st.permutations(range(3)))
def test_relabelled_groups_have_permuted_numbers(block, new):
    logits, baseline, labels, groups = block
    found = measured(logits, baseline, labels, np.array(new, np.int64)[groups], 3)
    expected = measured(*block, 3)
    assert [found[new[group]] for group in range(3)] == list(expected)
    assert fvo(found) == fvo(expected)


@given(blocks(values=finite, least=1, groups=1))
def test_numbers_stay_in_their_ranges(block):
    (found,) = measured(*block)
    counts = (found.both_right, found.right_to_wrong, found.wrong_to_right, found.both_wrong)
    assert min(counts) >= 0
    assert sum(counts) == found.samples == sum(found.dtdb)
    assert found.both_right + found.wrong_to_right == found.correct
    assert found.right_to_wrong + found.wrong_to_right <= found.flips <= found.samples
    assert found.cosine_distance is None or 0 <= found.cosine_distance <= 2 + 1e-12
    assert 1 / 3 - 1e-12 <= found.prediction_probability <= 1
    assert 0 <= found.softmax_variance <= 2 / 9 + 1e-12
    assert found.loss >= -1e-12
    assert found.l2_distance <= found.l1_distance * (1 + 1e-12)
    assert found.l1_distance <= math.sqrt(3) * found.l2_distance * (1 + 1e-12)


def with_counts(counts):
    """Measures of groups that hold these (samples, correct)."""
    right = [n < correct for samples, correct in counts for n in range(samples)]
    groups = [group for group, (samples, _) in enumerate(counts) for _ in range(samples)]
    logits = one_hot([0 if flag else 1 for flag in right], 2)
    return measured(logits, logits, [0] * len(groups), groups, len(counts))


counts = st.integers(1, 12).flatmap(lambda samples: st.tuples(st.just(samples), st.integers(0, samples)))


@given(st.lists(counts, min_size=2, max_size=5))
def test_fvo_is_zero_only_if_all_groups_are_equal(held):
    found = fvo(with_counts(held))
    accuracies = [Fraction(correct, samples) for samples, correct in held]
    assert (found == 0) == (len(set(accuracies)) == 1)
    assert found == float(max(abs(a - b) for a in accuracies for b in accuracies))


def test_fvo_by_hand():
    before, after = with_counts([(10, 9), (4, 3), (2, 1)]), with_counts([(10, 9), (4, 1), (2, 1)])
    assert fvo(before) == 0.4
    assert fvo(after) == 0.65
    assert fvo_increase(after, before) == 0.25
    assert fvo_increase(before, after) == -0.25
    assert fvo(before[:1]) is None
    assert fvo(()) is None

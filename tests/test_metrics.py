"""Metrics against scikit-learn, and what must hold for any probabilities."""

import doctest

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rareshot import metrics
from rareshot.metrics import (
    accuracy,
    all_metrics,
    auc,
    balanced_accuracy,
    brier,
    ece,
    roc,
    sensitivity_at_specificity,
)

ALL = [auc, accuracy, balanced_accuracy, sensitivity_at_specificity, brier, ece, roc]


@st.composite
def answers(draw, ways=(2, 3, 4)):
    """Probabilities and labels with every class, ties and saturation: few distinct logits, some of them huge."""
    way = draw(st.sampled_from(ways))
    n = draw(st.integers(way, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 0.5, 2.0, 40.0, 1000.0]))
    logits = scale * rng.integers(-3, 4, size=(n, way))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels = rng.permutation(np.concatenate([np.arange(way), rng.integers(0, way, n - way)]))
    return odds / odds.sum(axis=1, keepdims=True), labels


def odds(p):
    """Logarithm of the odds of class 1 of two, down to the smallest numbers that are told apart."""
    first, second = np.log(np.clip(p, 1e-300, None)).T
    return second - first


def two_way(positive):
    positive = np.asarray(positive, dtype=float)
    return np.stack([1 - positive, positive], axis=1)


@given(answers())
@settings(max_examples=60, deadline=None)
def test_figures_equal_those_of_scikit_learn(answer):
    p, y = answer
    way = p.shape[1]
    area = oracle.roc_auc_score(y, odds(p) if way == 2 else p, multi_class="ovr")
    assert auc(p, y) == pytest.approx(area, abs=1e-12)
    assert accuracy(p, y) == pytest.approx(oracle.accuracy_score(y, p.argmax(1)))
    assert balanced_accuracy(p, y) == pytest.approx(oracle.balanced_accuracy_score(y, p.argmax(1)))
    assert brier(p, y) == pytest.approx(
        oracle.brier_score_loss(y, p, labels=range(way), scale_by_half=False), abs=1e-12
    )


@given(answers(ways=(2,)))
@settings(max_examples=60, deadline=None)
def test_two_way_brier_is_twice_that_of_scikit_learn(answer):
    p, y = answer
    assert brier(p, y) == pytest.approx(2 * oracle.brier_score_loss(y, p[:, 1]), abs=1e-12)


@given(answers(ways=(2,)))
@settings(max_examples=60, deadline=None)
def test_roc_equals_scikit_learn_and_its_area_is_auc(answer):
    p, y = answer
    fpr, tpr = roc(p, y)
    their_fpr, their_tpr, _ = oracle.roc_curve(y, odds(p), drop_intermediate=False)
    np.testing.assert_allclose(fpr, their_fpr, atol=1e-12)
    np.testing.assert_allclose(tpr, their_tpr, atol=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(p, y))


@given(answers(), st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]))
@settings(max_examples=60, deadline=None)
def test_sensitivity_is_the_best_of_all_thresholds(answer, specificity):
    p, y = answer
    best = []
    for label in range(p.shape[1]):
        score, positive = p[:, label] if p.shape[1] > 2 else (2 * label - 1) * odds(p), y == label
        calls = [score >= threshold for threshold in [*score, np.inf]]
        best.append(max(call[positive].mean() for call in calls if (~call[~positive]).mean() >= specificity))
    assert sensitivity_at_specificity(p, y, specificity=specificity) == pytest.approx(np.mean(best))


@given(answers())
@settings(max_examples=60, deadline=None)
def test_expected_calibration_error_equals_the_plain_loop_over_bins(answer):
    p, y = answer
    confidence, right, total = p.max(1), p.argmax(1) == y, 0.0
    for i in range(15):
        # A confidence of 0.6 belongs to the bin (8/15, 9/15]; rounding may lift a confidence of 1 above the last edge.
        inside = (confidence * 15 > i) & ((confidence * 15 <= i + 1) | (i == 14))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert ece(p, y) == pytest.approx(total, abs=1e-12)


@given(answers(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_order_of_images_changes_nothing(answer, random):
    p, y = answer
    order = random.sample(range(len(y)), len(y))
    assert all_metrics(p[order], y[order]) == pytest.approx(all_metrics(p, y))


@given(answers(ways=(3, 4)))
@settings(max_examples=40, deadline=None)
def test_names_of_the_classes_change_nothing(answer):
    p, y = answer
    for figure in (auc, sensitivity_at_specificity, brier):
        assert figure(np.roll(p, 1, axis=1), (y + 1) % p.shape[1]) == pytest.approx(figure(p, y))


def test_which_class_of_two_is_positive_changes_nothing():
    p, y = two_way([0.1, 0.4, 0.35, 0.8, 0.4, 0.9]), np.array([0, 0, 1, 1, 1, 0])
    for figure in (auc, sensitivity_at_specificity, brier, ece, accuracy, balanced_accuracy):
        assert figure(p[:, ::-1], 1 - y) == pytest.approx(figure(p, y))


def test_saturated_probabilities_count_half():
    assert auc(two_way([1.0, 1.0, 0.0, 0.0]), np.array([1, 0, 1, 0])) == 0.5
    assert auc(two_way([1.0] * 6), np.array([0, 1] * 3)) == 0.5


def test_answers_that_are_sure_keep_their_order():
    """In float32 both are 1.0 in one column; the other column still tells them apart."""
    p = torch.tensor([[0.0, 30.0], [0.0, 40.0]]).softmax(1)
    assert p[0, 1] == p[1, 1]
    assert auc(p, np.array([0, 1])) == 1.0
    assert auc(p, np.array([1, 0])) == 0.0


def test_nine_of_ten_is_a_specificity_of_ninety_percent():
    score = np.array([0.9, *[0.1] * 9, 0.8, 0.8])
    y = np.array([0] * 10 + [1] * 2)
    # Class 1 from 0.8 on leaves 9 of 10 alone and finds all; class 0 above 0.2 leaves both alone and finds 9 of 10.
    assert sensitivity_at_specificity(two_way(score), y) == pytest.approx((1.0 + 0.9) / 2)


def test_perfect_answers_get_perfect_figures():
    y = np.array([0, 1, 2, 1])
    assert all_metrics(np.eye(3)[y], y) == {
        "auc": 1.0,
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "sensitivity_at_specificity": 1.0,
        "brier": 0.0,
        "ece": 0.0,
    }


def test_constant_answers_are_worth_a_guess():
    figures = all_metrics(np.full((4, 2), 0.5), np.array([0, 0, 0, 1]))
    assert figures["auc"] == figures["balanced_accuracy"] == figures["brier"] == 0.5
    assert figures["accuracy"] == 0.75
    assert figures["ece"] == 0.25
    assert figures["sensitivity_at_specificity"] == 0.0


def test_tensors_give_what_arrays_give():
    p, y = two_way([0.2, 0.6, 0.5]), np.array([0, 1, 0])
    assert all_metrics(torch.from_numpy(p), torch.from_numpy(y)) == all_metrics(p, y)


def test_half_precision_is_taken():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 5
    assert auc(logits.softmax(1).half(), y) == pytest.approx(auc(logits.softmax(1), y), abs=0.01)


@pytest.mark.parametrize("figure", ALL)
def test_nan_is_refused_by_name(figure):
    p = two_way([0.2, np.nan, 0.5])
    with pytest.raises(
        ValueError, match=r"NaN or infinity in 1 of 3 rows, first in row 1: the classifier has diverged"
    ):
        figure(p, np.array([0, 1, 0]))


@pytest.mark.parametrize("figure", [auc, balanced_accuracy, sensitivity_at_specificity, roc, all_metrics])
def test_a_class_without_an_image_is_named(figure):
    with pytest.raises(ValueError, match=r"is undefined when a class has no image; none of the 4 labels is 1, 3"):
        figure(np.full((4, 4), 0.25), np.array([0, 2, 0, 2]))


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        (np.array([0.2, 0.8]), [0, 1], r"must be \(n, way\), labels \(n,\).*got shapes \(2,\) and \(2,\)"),
        (np.ones((2, 1)), [0, 0], r"way >= 2; got shapes \(2, 1\)"),
        (np.full((3, 2), 0.5), [0, 1], r"got shapes \(3, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), r"n >= 1"),
        (np.array([[0.5, 0.5], [2.0, 3.0]]), [0, 1], r"row 1 is \[2.0, 3.0\]: apply softmax"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), [0, 1], r"must be at least 0.*row 0"),
        (np.full((2, 2), 0.5), [0.0, 1.0], r"labels must be integers.*got float64"),
        (np.full((2, 2), 0.5), [0, 2], r"labels must be 0 to 1, one column each; they run from 0 to 2"),
        (np.full((2, 2), 0.5), [-1, 1], r"they run from -1 to 1"),
    ],
)
def test_input_that_is_no_answer_is_refused(p, y, message):
    with pytest.raises(ValueError, match=message):
        accuracy(p, np.asarray(y))


def test_specificity_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"specificity must be between 0 and 1; got 90"):
        sensitivity_at_specificity(np.eye(2), np.array([0, 1]), specificity=90)


def test_examples_in_docstrings_run():
    assert doctest.testmod(metrics).failed == 0

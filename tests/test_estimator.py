"""The scikit-learn face. scikit-learn's own checks judge it on tables of numbers, which are no images."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator
from tiny import METHOD

from rareshot import estimator
from rareshot.data.collection import LabelledImages
from rareshot.estimator import RareShotClassifier
from rareshot.methods.maml import EpisodicLearner
from rareshot.methods.supervised import Supervised
from rareshot.predict import adapt_to
from rareshot.support_set import as_float
from rareshot.types import Support

TABLES = {
    "check_array_api_input": "does not run without SCIPY_ARRAY_API",
    "check_positive_only_tag_during_fit": "fits a table with negative numbers; a pixel is never negative",
    **dict.fromkeys(
        [
            "check_classifier_data_not_an_array",
            "check_classifiers_classes",
            "check_classifiers_train",
            "check_dict_unchanged",
            "check_dont_overwrite_parameters",
            "check_dtype_object",
            "check_estimators_dtypes",
            "check_estimators_fit_returns_self",
            "check_estimators_overwrite_params",
            "check_estimators_pickle",
            "check_f_contiguous_array_estimator",
            "check_fit2d_predict1d",
            "check_fit_check_is_fitted",
            "check_fit_idempotent",
            "check_methods_sample_order_invariance",
            "check_methods_subset_invariance",
            "check_n_features_in",
            "check_n_features_in_after_fitting",
            "check_pipeline_consistency",
            "check_readonly_memmap_input",
            "check_sample_weights_invariance",
        ],
        "fits a table of 2 to 10 columns, or of numbers outside [0, 1]; the tests below ask the same of images",
    ),
}
"""Checks of scikit-learn that cannot apply, and why."""


@pytest.fixture(scope="module")
def learner(made: LabelledImages) -> EpisodicLearner:
    return METHOD.untrained(made.common(), seed=0)


@pytest.fixture(scope="module", name="X")
def ten(made: LabelledImages) -> np.ndarray:
    """Five images of each of two rare classes, (10, 16, 16, 3) uint8."""
    return np.ascontiguousarray(made.rare().pixels[[*range(0, 10, 2), *range(24, 34, 2)]])


Y = np.array(["mole"] * 5 + ["wart"] * 5)


@pytest.fixture
def fitted(learner: EpisodicLearner, X: np.ndarray) -> RareShotClassifier:
    return RareShotClassifier(learner).fit(X, Y)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_but_for_those_that_fit_a_table_that_holds_no_images() -> None:
    results = check_estimator(RareShotClassifier(), on_fail=None, on_skip=None)
    failed = {each["check_name"]: str(each["exception"]) for each in results if each["status"] != "passed"}
    assert {name: text for name, text in failed.items() if name not in TABLES} == {}
    assert all("images" in text or "SCIPY_ARRAY_API" in text or "negative" in text for text in failed.values()), failed
    assert sum(each["status"] == "passed" for each in results) > 20


def test_it_gives_what_the_learner_gives(fitted: RareShotClassifier, learner: EpisodicLearner, X: np.ndarray) -> None:
    images = as_float(torch.from_numpy(X).permute(0, 3, 1, 2))
    classifier = learner.adapt(Support(images, torch.tensor([0] * 5 + [1] * 5), ("mole", "wart")))
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities, classifier(images).numpy(), atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    assert fitted.classes_.tolist() == ["mole", "wart"]
    assert fitted.predict(X).tolist() == [fitted.classes_[at] for at in probabilities.argmax(1)]
    assert fitted.score(X, Y) > 0.5


def test_order_of_labels_decides_no_columns_name(learner: EpisodicLearner, X: np.ndarray) -> None:
    numbers = RareShotClassifier(learner).fit(X[::-1], [7] * 5 + [3] * 5)
    assert numbers.classes_.tolist() == [3, 7]
    assert set(numbers.predict(X).tolist()) <= {3, 7}


def test_floats_and_flat_rows_are_the_same_images(fitted: RareShotClassifier, X: np.ndarray) -> None:
    expected = fitted.predict_proba(X)
    for other in (X / 255, X.reshape(10, -1), (X / 255).astype(np.float32).reshape(10, -1)):
        np.testing.assert_array_equal(fitted.predict_proba(other), expected)


def test_images_of_another_shape_are_cut_to_the_centre_and_resized(fitted: RareShotClassifier, X: np.ndarray) -> None:
    wide = np.pad(X, ((0, 0), (0, 0), (8, 8), (0, 0)))
    np.testing.assert_array_equal(fitted.predict_proba(wide), fitted.predict_proba(X))


def test_subsets_and_orders_change_no_bit_and_fitting_again_neither(fitted: RareShotClassifier, X: np.ndarray) -> None:
    whole = fitted.predict_proba(X)
    np.testing.assert_array_equal(np.concatenate([fitted.predict_proba(X[at : at + 1]) for at in range(10)]), whole)
    np.testing.assert_array_equal(fitted.predict_proba(X[::-1]), whole[::-1])
    np.testing.assert_array_equal(fitted.fit(X, Y).predict_proba(X), whole)


def test_x_y_and_the_parameters_are_left_alone(learner: EpisodicLearner, X: np.ndarray) -> None:
    x, y = X.copy(), Y.copy()
    x.flags.writeable = False
    model = RareShotClassifier(learner, seed=4)
    before = dict(vars(model.fit(x, y)))
    model.predict_proba(x)
    assert vars(model).keys() == before.keys()
    assert model.get_params() == {"learner": learner, "seed": 4}
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("rule", ["maml", "logistic"])
def test_it_survives_pickle(rule: str, learner: EpisodicLearner, made: LabelledImages, X: np.ndarray) -> None:
    one: Any = (
        learner if rule == "maml" else Supervised(width=8, classifier="logistic").untrained(made.common(), seed=0)
    )
    model = RareShotClassifier(one).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def test_unpickled_it_answers_by_the_learner_that_it_was_fitted_by_or_not_at_all(
    learner: EpisodicLearner, X: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RareShotClassifier("isic2018").fit(X, Y)
    model.set_params(learner=learner, seed=1)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    monkeypatch.setattr(estimator, "load", lambda name: learner)
    with pytest.raises(ValueError, match="isic2018 is another learner now than the one that was fitted by; fit again"):
        pickle.loads(pickle.dumps(model)).predict(X)


def test_a_refused_fit_leaves_the_one_before(fitted: RareShotClassifier, X: np.ndarray) -> None:
    before = fitted.predict(X)
    with pytest.raises(ValueError, match="at most 1000"):
        fitted.fit(np.repeat(X, 200, axis=0), ["healthy", "ill"] * (100 * len(X)))
    assert fitted.predict(X).tolist() == before.tolist()


@pytest.mark.parametrize("numbers", [(5, 5), (1, 4)])
def test_a_learner_by_name_is_calibrated_and_leans_no_more_than_adapt(
    numbers: tuple[int, int], X: np.ndarray, tmp_path: Path
) -> None:
    rows = [*range(numbers[0]), *range(5, 5 + numbers[1])]
    for row in rows:
        file = tmp_path / Y[row] / f"{row}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(X[row]).save(file)
    model = RareShotClassifier("isic2018").fit(X[rows], Y[rows])
    predictor = adapt_to("isic2018", tmp_path)
    assert model.temperature_ == predictor.bundle.temperature != 1
    ours = np.concatenate([predictor(image[None]).numpy() for image in predictor.bundle.support.support.images])
    np.testing.assert_allclose(model.predict_proba(X[rows]), ours, atol=1e-6)


def test_scikit_learns_tools_take_it(X: np.ndarray) -> None:
    scores = cross_val_score(clone(RareShotClassifier("isic2018")), X, Y, cv=2)
    assert scores.mean() > 0.5


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 10)), [0, 1], r"X has shape \(2, 10\), n_features = 10: rows are no square RGB images"),
        (np.zeros((2, 16, 16)), [0, 1], r"X has shape \(2, 16, 16\); images are \(n, height, width, 3\)"),
        (np.zeros((2, 3, 16, 16)), [0, 1], r"X has shape \(2, 3, 16, 16\)"),
        (np.full((2, 8, 8, 3), 255.0), [0, 1], "X is float64 from 255 to 255; images are uint8, or float from 0 to 1"),
        (np.full((2, 8, 8, 3), -1), [0, 1], "X is int64 from -1 to -1"),
        (np.zeros((2, 8, 8, 3)), [1, 1], r"y has 1 class \(1\); a classifier needs at least 2"),
        (np.zeros((2, 8, 8, 3)), [0, 1, 2], "inconsistent numbers of samples"),
        (np.zeros((2, 8, 8, 3)), None, "the target y is None: give each image its label"),
        (np.zeros((1001, 2, 2, 3)), [0, *[1] * 1000], "1001 images of 64 pixels; at most 1000"),
    ],
)
def test_what_is_no_task_is_refused(x: np.ndarray, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RareShotClassifier().fit(x, y)


def test_a_transductive_learner_and_an_unknown_name_are_refused(made: LabelledImages, X: np.ndarray) -> None:
    learner = replace(METHOD, norm="transductive").untrained(made.common(), seed=0)
    with pytest.raises(ValueError, match="is transductive"):
        RareShotClassifier(learner).fit(X, Y)
    with pytest.raises(FileNotFoundError, match="no learner 'gpt'"):
        RareShotClassifier("gpt").fit(X, Y)
    with pytest.raises(NotFittedError):
        RareShotClassifier().predict(X)


def test_rows_of_another_length_are_refused(fitted: RareShotClassifier) -> None:
    with pytest.raises(ValueError, match="X has 3 features, but RareShotClassifier is expecting 768 features"):
        fitted.predict(np.zeros((1, 3)))

"""From features to answers: the classifiers, the memory, and the learner that holds them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import SVC

from rareshot.checkpoint import state_hash
from rareshot.data.collection import LabelledImages
from rareshot.methods.classifiers import FEATURE_RULES, FeatureRule, fit_rule
from rareshot.methods.memory import Memory, in_one_order, key_of
from rareshot.methods.supervised import Supervised, SupervisedLearner
from rareshot.types import Support

METHOD = Supervised(width=8, shot=1, batch=8, iterations=6, held_out=0.0)
EVERY_RULE = pytest.mark.parametrize("kind", FEATURE_RULES)


@pytest.fixture(scope="module")
def fitted(made: LabelledImages) -> SupervisedLearner:
    return METHOD.fit(made.common(), seed=0)


def support_of(images: LabelledImages, shots: tuple[int, ...] = (3, 3)) -> Support:
    chosen = [np.flatnonzero(images.labels == label)[:shot] for label, shot in enumerate(shots)]
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    return Support(images.images(np.concatenate(chosen)), labels, images.classes[: len(shots)])


def features_of(way: int, shots: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support features of classes that overlap, one of them with an image less; labels; query features."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(way, 12))
    labels = np.repeat(np.arange(way), shots)[1:]
    queries = centres[rng.integers(way, size=20)] + rng.normal(size=(20, 12))
    return centres[labels] + rng.normal(size=(len(labels), 12)), labels, queries


@pytest.mark.parametrize("way", [2, 3])
def test_logistic_regression_is_scikit_learns_on_normalised_rows(way: int) -> None:
    features, labels, queries = features_of(way)
    oracle = make_pipeline(Normalizer(), LogisticRegression(C=10, class_weight="balanced", tol=1e-8, max_iter=5000))
    expected = oracle.fit(features, labels).predict_proba(queries)
    np.testing.assert_allclose(fit_rule("logistic", features, labels, way)(queries), expected, atol=1e-5)


@pytest.mark.parametrize("way", [2, 3])
def test_svm_is_one_against_the_rest(way: int) -> None:
    features, labels, queries = features_of(way)
    machine = SVC(kernel="linear", C=10, class_weight="balanced", tol=1e-8)
    margins = make_pipeline(Normalizer(), OneVsRestClassifier(machine)).fit(features, labels).decision_function(queries)
    if way == 2:
        expected = np.stack([1 - expit(margins), expit(margins)], 1)
    else:
        expected = np.exp(margins) / np.exp(margins).sum(1, keepdims=True)
    np.testing.assert_allclose(fit_rule("svm", features, labels, way)(queries), expected, atol=1e-4)


@pytest.mark.parametrize(("way", "shots", "asked"), [(2, 2, 3), (2, 9, 5), (3, 4, 5)])
def test_knn_asks_the_nearest_five_by_distance_and_class_size(way: int, shots: int, asked: int) -> None:
    features, labels, queries = features_of(way, shots)
    ours = fit_rule("knn", features, labels, way)(queries)
    unit, unit_queries = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (features, queries))
    size = [shots - 1] + [shots] * (way - 1)
    for query, row in zip(unit_queries, ours, strict=True):
        nearest = sorted((np.linalg.norm(one - query), label) for one, label in zip(unit, labels, strict=True))[:asked]
        votes = np.zeros(way)
        for distance, label in nearest:
            votes[label] += 1 / distance / size[label]
        np.testing.assert_allclose(row, votes / votes.sum(), rtol=1e-6)


@pytest.mark.parametrize("way", [2, 3])
def test_the_nearest_centroid_is_the_most_probable(way: int) -> None:
    features, labels, queries = features_of(way)
    ours = fit_rule("centroid", features, labels, way)(queries)
    oracle = make_pipeline(Normalizer(), NearestCentroid()).fit(features, labels)
    np.testing.assert_array_equal(ours.argmax(1), oracle.predict(queries))
    far = np.linalg.norm(Normalizer().transform(queries)[:, None] - oracle[-1].centroids_, axis=2) ** 2
    np.testing.assert_allclose(np.log(ours[:, 0] / ours[:, 1]), far[:, 1] - far[:, 0], atol=1e-9)


@EVERY_RULE
def test_the_scale_of_an_images_features_does_not_matter(kind: FeatureRule) -> None:
    features, labels, queries = features_of(2)
    scale = np.random.default_rng(0).uniform(0.1, 100, (len(queries), 1))
    rule = fit_rule(kind, features, labels, 2)
    np.testing.assert_allclose(rule(queries * scale), rule(queries), atol=1e-6)


@EVERY_RULE
def test_features_of_nothing_but_zeros_are_answered(kind: FeatureRule) -> None:
    features, labels, queries = features_of(2)
    features[0], queries[0] = 0, 0
    answers = fit_rule(kind, features, labels, 2)(queries)
    assert np.isfinite(answers).all()
    np.testing.assert_allclose(answers.sum(1), 1)


# On a trained backbone


@EVERY_RULE
def test_one_state_serves_every_classifier(fitted: SupervisedLearner, made: LabelledImages, kind: FeatureRule) -> None:
    rare = made.rare()
    support, queries = support_of(rare), rare.images(np.arange(30, 40))
    learner = replace(METHOD, classifier=kind).blank(16).with_state(fitted.state())
    features = [
        fitted.net.backbone(fitted.pixels(x)).detach().double().numpy() for x in (support.images, queries)
    ]  # all at once: the oracle of one image at a time
    expected = fit_rule(kind, features[0], support.labels.numpy(), 2)(features[1])
    np.testing.assert_allclose(learner.adapt(support)(queries).numpy(), expected, atol=1e-4)
    assert state_hash(learner.state()) == state_hash(fitted.state())


@EVERY_RULE
def test_answers_are_bit_equal_in_any_company_and_order(
    fitted: SupervisedLearner, made: LabelledImages, kind: FeatureRule
) -> None:
    rare, order = made.rare(), torch.tensor([4, 1, 5, 0, 2, 3])
    support, queries = support_of(rare), rare.images(np.arange(30, 40))
    learner = replace(fitted, method=replace(METHOD, classifier=kind))
    shuffled = Support(support.images[order], support.labels[order], support.classes)
    assert torch.equal(learner.adapt(shuffled)(queries), learner.adapt(support)(queries))
    assert np.array_equal(learner.features(queries[3:4]), replace(learner).features(queries)[3:4])


def test_the_memory_changes_no_answer(fitted: SupervisedLearner, made: LabelledImages) -> None:
    rare = made.rare()
    support, queries = support_of(rare), rare.images(np.arange(30, 40))
    learner = replace(fitted, method=replace(METHOD, classifier="logistic"))
    first = learner.adapt(support)(queries)
    assert len(learner.memory) == 16
    assert torch.equal(learner.adapt(support)(queries), first)
    forgetful = copy.deepcopy(learner)
    assert len(forgetful.memory) == 0
    assert torch.equal(forgetful.adapt(support)(queries), first)


def test_a_learner_with_other_weights_remembers_nothing(fitted: SupervisedLearner, made: LabelledImages) -> None:
    """A memory that went along would answer with features of the old weights."""
    images = made.images(np.arange(2))
    before = fitted.features(images)
    doubled = {name: 2 * value if name.endswith("norm.bias") else value for name, value in fitted.state().items()}
    assert not np.allclose(fitted.with_state(doubled).features(images), before)
    assert not np.allclose(fitted.carrying(doubled).features(images), before)


def test_a_memory_is_bounded_and_forgets_what_was_not_asked_for_longest() -> None:
    memory, asked = Memory(limit=3 * 5 * 4), []
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)

    def of(image: torch.Tensor) -> torch.Tensor:
        asked.append(int(image[0, 0, 0, 0]))
        return image[:, 0, 0, 0, None].expand(1, 5)

    for at in (0, 1, 2, 0, 3, 0, 1):
        assert memory.features(images[at : at + 1], of).tolist() == [[float(at)] * 5]
        assert len(memory) <= 3
    assert asked == [0, 1, 2, 3, 1]


def test_a_copied_memory_is_empty() -> None:
    memory = Memory(limit=99)
    memory.features(torch.zeros(1, 3, 2, 2), lambda image: image.flatten(1))
    copied = copy.deepcopy(memory)
    assert (len(memory), len(copied), copied.limit) == (1, 0, 99)


def test_an_image_is_known_by_its_pixels_and_shape() -> None:
    image = torch.rand(3, 4, 6)
    other = image[None].contiguous(memory_format=torch.channels_last)[0]
    assert other.stride() != image.stride()
    assert key_of(other) == key_of(image)
    assert len({key_of(image), key_of(image.reshape(3, 6, 4)), key_of(image + 1e-6)}) == 3


def test_a_support_set_has_one_order(made: LabelledImages) -> None:
    support, order = support_of(made.rare(), (2, 3)), torch.tensor([4, 2, 0, 3, 1])
    shuffled = in_one_order(Support(support.images[order], support.labels[order], support.classes))
    ours = in_one_order(support)
    assert torch.equal(shuffled.images, ours.images)
    assert torch.equal(shuffled.labels, ours.labels)
    pairs = {key_of(image): int(label) for image, label in zip(support.images, support.labels, strict=True)}
    assert [pairs[key_of(image)] for image in ours.images] == ours.labels.tolist()

"""From features to probabilities by scikit-learn: the k support images are all that these classifiers learn from (§3).

Every feature vector is first divided by its length (as in Tian et al., Rethinking Few-Shot Image Classification, ECCV 2020).
One penalty then fits every network whatever the scale of its features, with one image a class too, where there is nothing
to standardise by; and it is a function of one image alone, so the answers stay inductive. Classes count alike, whatever their
number of images.

AUC asks for the order of the answers only. As probabilities, those of `svm` and `centroid` are not calibrated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor

Array = npt.NDArray[Any]
Rule = Callable[[Array], Array]
"""Features (n, features) → probabilities (n, way)."""
FeatureRule = Literal["knn", "svm", "logistic", "centroid"]
FEATURE_RULES: tuple[FeatureRule, ...] = get_args(FeatureRule)

NEIGHBOURS = 5
C = 10.0
"""Inverse penalty of `svm` and `logistic`. Features of length 1 lie close together: at scikit-learn's 1, every support image
is at its bound and both are the nearest centroid in all but name. Chosen on ImageNet features of common diseases, k = 5."""
TOLERANCE = 1e-6
"""Of the solvers: their own 1e-3 and 1e-4 would show in the fourth digit of an answer."""


@dataclass(frozen=True)
class FeatureClassifier:
    """One adapted task: features of an image, and a rule that judges them."""

    features: Callable[[Float[Tensor, "n 3 h w"]], Array]
    rule: Rule

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Probabilities."""
        return torch.from_numpy(self.rule(self.features(images))).float()

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features as the rule takes them, of length 1."""
        return torch.from_numpy(of_length_1(self.features(images))).float()


def fit_rule(kind: FeatureRule, features: Array, labels: Array, way: int) -> Rule:
    """Learn the classes of a support set.

    Args:
        kind: `knn`, `svm`, `logistic` or `centroid`; see the functions below.
        features: (s, features) of the support images.
        labels: (s,) from 0 to way - 1, each at least once.
    """
    rules = {"knn": _knn, "svm": _svm, "logistic": _logistic, "centroid": _centroid}
    rule = rules[kind](of_length_1(features), labels, way)
    return lambda others: rule(of_length_1(others))


def of_length_1(features: Array) -> Array:
    """Each row divided by its length; a row of zeros stays one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.finfo(np.float64).tiny))


def _knn(features: Array, labels: Array, way: int) -> Rule:
    """The 5 nearest support images vote (all, where there are fewer), each by 1 / distance and 1 / the size of its class.

    5 is scikit-learn's default; the paper does not give the number. Its AUC of exactly 50.00 at one image a class is what
    results when both images have equal votes; the distances tell them apart.
    """
    model = KNeighborsClassifier(min(NEIGHBOURS, len(labels)), weights="distance", algorithm="brute")
    model.fit(features, labels)
    sizes = np.bincount(labels, minlength=way)

    def rule(others: Array) -> Array:
        votes = model.predict_proba(others) / sizes
        return np.asarray(votes / votes.sum(1, keepdims=True))

    return rule


def _svm(features: Array, labels: Array, way: int) -> Rule:
    """Linear support vector machines: softmax over each class's margin against the rest; for two classes, the logistic
    function of the one margin. Platt's scaling would need images of its own to be fitted on.
    """
    models = [
        SVC(kernel="linear", C=C, class_weight="balanced", tol=TOLERANCE).fit(features, labels == label)
        for label in range(1 if way == 2 else 0, way)
    ]

    def rule(others: Array) -> Array:
        margins = np.stack([model.decision_function(others) for model in models], axis=1)
        return np.asarray(softmax(np.hstack([np.zeros_like(margins), margins]) if way == 2 else margins, axis=1))

    return rule


def _logistic(features: Array, labels: Array, way: int) -> Rule:
    """Multinomial logistic regression."""
    model = LogisticRegression(C=C, class_weight="balanced", tol=TOLERANCE, max_iter=1000).fit(features, labels)
    return lambda others: np.asarray(model.predict_proba(others))


def _centroid(features: Array, labels: Array, way: int) -> Rule:
    """Nearest centroid: softmax over minus the squared distances to the classes' mean features (Snell et al. 2017, Eq. 2)."""
    centroids = np.stack([features[labels == label].mean(0) for label in range(way)])

    def rule(others: Array) -> Array:
        # The squares of the images themselves are the same for every class, and cancel.
        return np.asarray(softmax(2 * others @ centroids.T - (centroids**2).sum(1), axis=1))

    return rule

"""How good are the answers of one episode: discrimination, decisions, calibration.

Every function takes the probabilities, (n, way) with rows that sum to 1, and the labels, (n,) integers that count from
0, as numpy arrays or torch tensors on the CPU, and raises `ValueError` where they are not that: a NaN, which a diverged
classifier gives, never becomes a figure.

"One-vs-rest" means: each class in turn is the positive one, judged by its own column; the figures are averaged with
equal weight.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from torch import Tensor

Array = npt.NDArray[Any]

ECE_BINS = 15
"""Bins of the expected calibration error; 15 as in Guo et al., On Calibration of Modern Neural Networks (ICML 2017)."""


def auc(probabilities: Array | Tensor, labels: Array | Tensor) -> float:
    """Area under the ROC curve, in [0, 1]; one-vs-rest mean when way > 2.

    The chance that an image of class 1 is ranked above an image of class 0, by `ranking`; ties count half. For way = 2 it
    does not matter which class is called positive.

    Raises:
        ValueError: if a class has no image in `labels` (the area is then undefined).

    Example:
        >>> auc(np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]), np.array([0, 1, 0]))
        0.75
    """
    p, y = _checked(probabilities, labels)
    _need_every_class(p, y, "AUC")
    scores = ranking(p)
    positives = [1] if p.shape[1] == 2 else range(p.shape[1])
    return float(np.mean([_rank_auc(scores[:, label], y == label) for label in positives]))


def ranking(probabilities: Array | Tensor) -> Array:
    """(n, way) what images are ranked by: log p1 - log p0 for two classes, the probabilities themselves for more.

    A sure classifier's p1 is rounded to 1 long before its p0 is rounded to 0; the ratio keeps the order that one column alone
    loses. It is finite: below 1e-300, in float32 below 1e-45, nothing is told apart.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape[1] != 2:
        return p
    logs = np.log(np.maximum(p, 1e-300))
    odds = logs[:, 1] - logs[:, 0]
    return np.stack([-odds, odds], axis=1)


def accuracy(probabilities: Array | Tensor, labels: Array | Tensor) -> float:
    """Share of images whose most probable class is theirs; of equally probable classes the first is taken."""
    p, y = _checked(probabilities, labels)
    return float(np.mean(p.argmax(axis=1) == y))


def balanced_accuracy(probabilities: Array | Tensor, labels: Array | Tensor) -> float:
    """Mean over classes of the share of its images that is recognised: a frequent class weighs no more than a rare one.

    Raises:
        ValueError: if a class has no image in `labels`.
    """
    p, y = _checked(probabilities, labels)
    _need_every_class(p, y, "balanced accuracy")
    right = p.argmax(axis=1) == y
    return float(np.mean([right[y == label].mean() for label in range(p.shape[1])]))


def sensitivity_at_specificity(
    probabilities: Array | Tensor, labels: Array | Tensor, *, specificity: float = 0.9
) -> float:
    """Share of a class that is found when at least `specificity` of the other images are left alone; one-vs-rest mean.

    For each class: the highest sensitivity of any threshold on its `ranking` whose specificity is at least `specificity`;
    nothing is interpolated between thresholds. Both classes of a 2-way task take their turn, so the order of the
    classes does not matter.

    Raises:
        ValueError: if a class has no image in `labels`, or `specificity` is not in [0, 1].

    Example:
        >>> found = np.array([0.8, 0.7, 0.3, 0.6, 0.4, 0.2])
        >>> sensitivity_at_specificity(np.stack([1 - found, found], axis=1), np.array([1, 1, 1, 0, 0, 0]))
        0.5
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity must be between 0 and 1; got {specificity}")
    p, y = _checked(probabilities, labels)
    _need_every_class(p, y, "sensitivity")
    found, scores = [], ranking(p)
    for label in range(p.shape[1]):
        false_positives, true_positives = _counts(scores[:, label], y == label)
        negatives = false_positives[-1]
        # As a quotient, not as 1 - fpr: 9 / 10 >= 0.9 holds in floating point, 0.1 <= 1 - 0.9 does not.
        allowed = (negatives - false_positives) / negatives >= specificity
        found.append(true_positives[allowed].max() / true_positives[-1])
    return float(np.mean(found))


def brier(probabilities: Array | Tensor, labels: Array | Tensor) -> float:
    """Brier's score in his own multi-class form, in [0, 2], 0 is best: the mean over images of Σ_c (p_c - [y = c])².

    For way = 2 this is twice (p_1 - y)², the form that some libraries give.
    """
    p, y = _checked(probabilities, labels)
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[y]) ** 2, axis=1)))


def ece(probabilities: Array | Tensor, labels: Array | Tensor) -> float:
    """Expected calibration error, in [0, 1], 0 is best: how far confidence and accuracy lie apart.

    Images fall by confidence, their highest probability, into 15 bins of equal width: (0, 1/15], (1/15, 2/15], …,
    (14/15, 1]. The error is Σ_bins n_bin / n · |accuracy in the bin - mean confidence in the bin|. Confidence is at
    least 1 / way, so the lower bins stay empty.
    """
    p, y = _checked(probabilities, labels)
    confidence = p.max(axis=1)
    surplus = (p.argmax(axis=1) == y) - confidence
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=surplus)).sum() / len(y))


def all_metrics(probabilities: Array | Tensor, labels: Array | Tensor) -> dict[str, float]:
    """Every figure of this module by the name of its function.

    Raises:
        ValueError: if a class has no image in `labels`.
    """
    figures = (auc, accuracy, balanced_accuracy, sensitivity_at_specificity, brier, ece)
    return {figure.__name__: figure(probabilities, labels) for figure in figures}


def roc(probabilities: Array | Tensor, labels: Array | Tensor) -> tuple[Array, Array]:
    """ROC curve of class 1 against the rest: false and true positive rates at each threshold, from (0, 0) to (1, 1).

    Raises:
        ValueError: if a class has no image in `labels`.
    """
    p, y = _checked(probabilities, labels)
    _need_every_class(p, y, "the ROC curve")
    false_positives, true_positives = _counts(ranking(p)[:, 1], y == 1)
    return false_positives / false_positives[-1], true_positives / true_positives[-1]


def _rank_auc(scores: Array, positive: Array) -> float:
    """Mann and Whitney's form of the area: mean ranks, so that ties count half."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    above = rankdata(scores)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def _counts(scores: Array, positive: Array) -> tuple[Array, Array]:
    """False and true positives at "score >= threshold": first above all scores, then each distinct score downwards."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true_positives = np.cumsum(positive[order])[last_of_ties]
    false_positives = 1 + last_of_ties - true_positives
    return np.append(0, false_positives), np.append(0, true_positives)


def _checked(probabilities: Array | Tensor, labels: Array | Tensor) -> tuple[Array, Array]:
    """Both as numpy arrays, after the checks that every metric shares."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != (len(p),) or not len(p):
        raise ValueError(
            f"probabilities must be (n, way), labels (n,), with n >= 1 and way >= 2; got shapes {p.shape} and {y.shape}"
        )
    not_finite = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(not_finite):
        raise ValueError(
            f"probabilities hold NaN or infinity in {len(not_finite)} of {len(p)} rows, first in row {not_finite[0]}: "
            "the classifier has diverged; a smaller step size helps"
        )
    # Half precision sums to 1 within about 1e-3; logits miss it by far.
    wrong = np.flatnonzero((np.abs(p.sum(axis=1) - 1) > 5e-3) | (p < 0).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"probabilities must be at least 0 and each row must sum to 1; row {wrong[0]} is {p[wrong[0]].tolist()}: "
            "apply softmax to logits first"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers, an index of the class; got {y.dtype}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must be 0 to {p.shape[1] - 1}, one column each; they run from {y.min()} to {y.max()}")
    return p, y


def _need_every_class(p: Array, y: Array, figure: str) -> None:
    missing = [str(label) for label in range(p.shape[1]) if not (y == label).any()]
    if missing:
        raise ValueError(
            f"{figure} is undefined when a class has no image; none of the {len(y)} labels is {', '.join(missing)}: "
            "give query images of every class"
        )

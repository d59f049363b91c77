"""The scikit-learn face: `RareShotClassifier`, whose `fit` adapts a learner to a few images. X must be images."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d
from torch import Tensor

from rareshot.checkpoint import state_hash
from rareshot.data.decode import square
from rareshot.equal_parts import adapt_evenly
from rareshot.predict import calibration_of, load, one_by_one
from rareshot.support_set import as_float, refuse_too_many
from rareshot.trust import with_temperature
from rareshot.trust.left_out import refuse_transductive
from rareshot.types import Classifier, Learner, Support

Array = npt.NDArray[Any]
FITTED = "classifier_"


class RareShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Adapt a learner to k images a class, as scikit-learn's estimators are used: `fit(X, y)`, `predict_proba(X)`.

    X is (n, height, width, 3), uint8, or float in [0, 1]; or the same of square images, flattened to (n, height * width * 3).
    Other sizes than the learner's become its size by the rules for files (docs/data.md): centre square, resized. Floats are
    rounded to bytes first. Each image is judged by itself.

    Args:
        learner: a run's folder or a word (`isic2018-transfer`, `isic2018`, `pretrained`), as in `rareshot.load`: probabilities
            are then calibrated where it was, as by `rareshot predict`. Or a learner, whose probabilities are as it gives them.
        seed: of the few methods whose adaptation draws at random.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba` are in this order.
        classifier_: the adapted task.
        temperature_: of its calibration; 1 changes nothing.
        n_features_in_: numbers of one image, height * width * 3.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.integers(0, 90, (3, 64, 64, 3)), rng.integers(160, 256, (3, 64, 64, 3))]).astype(np.uint8)
        >>> RareShotClassifier("isic2018").fit(X, ["dark"] * 3 + ["light"] * 3).predict(X[:1]).tolist()
        ['dark']
    """

    def __init__(self, learner: str | Path | Learner = "isic2018-transfer", seed: int = 0) -> None:
        self.learner = learner
        self.seed = seed

    def fit(self, X: Any, y: Any) -> "RareShotClassifier":
        """Adapt to the images of X with labels y.

        Raises:
            ValueError: if X holds no images, y has one class only, X and y differ in number, or there are more than 1,000.
        """
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None: give each image its label")
        X = _array(X)
        check_consistent_length(X, y)
        check_classification_targets(y)
        classes, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has 1 class ({classes[0]}); a classifier needs at least 2")
        images, learner = _bytes(X), _found(self.learner)
        refuse_transductive(learner, type(learner).__name__)
        refuse_too_many(len(images), learner.size)
        support = (_resized(images, learner.size), labels)
        classifier = _adapted(learner, support, self.seed)
        trust = calibration_of(self.learner, learner) if isinstance(self.learner, str | Path) else None
        temperature = trust.applied(len(classes), int(np.bincount(labels).min())) if trust else 1.0
        # All at once: what was refused above leaves an earlier fit as it was.
        self.classes_, self.support_, self.classifier_, self.temperature_ = classes, support, classifier, temperature
        self.n_features_in_, self.size_ = int(np.prod(images.shape[1:])), learner.size
        self._adapted_by = (self.learner, self.seed, state_hash(learner.state()))
        return self

    def predict_proba(self, X: Any) -> Array:
        """(n, way) float64; rows sum to 1.

        Raises:
            ValueError: if X holds no images of the size of those fitted on; or, unpickled, if what the learner's name means has
                changed since `fit`.
        """
        check_is_fitted(self)
        X = _array(X)
        if X.ndim == 2 and X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but RareShotClassifier is expecting {self.n_features_in_} features as input"
            )
        images = _bytes(X)
        if not hasattr(self, FITTED):  # unpickled
            self.classifier_ = self._adapted_again()
        found = one_by_one(self.classifier_, as_float(_resized(images, self.size_)))
        return np.asarray(with_temperature(found, self.temperature_).numpy())

    def predict(self, X: Any) -> Array:
        """The most probable class of each image."""
        probabilities = self.predict_proba(X)
        predicted: Array = self.classes_[probabilities.argmax(1)]
        return predicted

    def _adapted_again(self) -> Classifier:
        name, seed, weights = self._adapted_by
        learner = _found(name)
        if state_hash(learner.state()) != weights:
            raise ValueError(f"{name} is another learner now than the one that was fitted by; fit again")
        return _adapted(learner, self.support_, seed)

    def __getstate__(self) -> dict[str, Any]:
        """Without the classifier, which holds functions: it is adapted again, to the same bits."""
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop(FITTED, None)
        return state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "support_")


def _found(learner: str | Path | Learner) -> Learner:
    return load(learner) if isinstance(learner, str | Path) else learner


def _adapted(learner: Learner, support: tuple[Tensor, Array], seed: int) -> Classifier:
    pixels, labels = support
    classes = tuple(map(str, range(int(labels.max()) + 1)))  # labels may be anything that sorts
    return adapt_evenly(learner, Support(as_float(pixels), torch.from_numpy(labels), classes), seed=seed)


def _array(X: Any) -> Array:
    return np.asarray(check_array(X, dtype="numeric", allow_nd=True))


def _bytes(array: Array) -> Array:
    """Images as (n, height, width, 3) uint8."""
    if array.ndim == 2:
        side = round((array.shape[1] / 3) ** 0.5)
        if side * side * 3 != array.shape[1]:
            raise ValueError(
                f"X has shape {array.shape}, n_features = {array.shape[1]}: rows are no square RGB images; give X as (n, height, "
                f"width, 3), or flattened to height * height * 3"
            )
        array = array.reshape(len(array), side, side, 3)
    if array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(f"X has shape {array.shape}; images are (n, height, width, 3), or flattened to (n, features)")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        rounded: Array = np.rint(array * 255).astype(np.uint8)
        return rounded
    raise ValueError(
        f"X is {array.dtype} from {array.min():g} to {array.max():g}; images are uint8, or float from 0 to 1 (divide by the "
        f"largest possible value)"
    )


def _resized(images: Array, size: int) -> Tensor:
    squares = [square(Image.fromarray(np.ascontiguousarray(image)), size) for image in images]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()

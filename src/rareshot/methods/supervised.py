"""The strong baselines of Table 1: a backbone trained on the common diseases by cross-entropy, then k images adapt it.

`classifier` says how: the backbone's features into KNN, SVM, logistic regression or nearest centroid; or fine-tuning with
augmentation. It acts in `adapt` alone, so one fitted state serves them all:

    replace(method, classifier="svm").blank(size).with_state(state)
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from rareshot import config, machine
from rareshot.backbones import Network, build
from rareshot.backbones.efficientnet import imagenet
from rareshot.data.augment import affine, unchanged
from rareshot.data.collection import LabelledImages
from rareshot.episodes import EpisodeSpec
from rareshot.methods.classifiers import FeatureClassifier, fit_rule, of_length_1
from rareshot.methods.finetune import FineTuned, finetune
from rareshot.methods.memory import Memory, in_one_order
from rareshot.methods.pretrained import Pretrained, PretrainedLearner, imagenet_pixels
from rareshot.pixels import Pixels
from rareshot.recorded import recorded_network
from rareshot.states import carrying, refuse_other_state
from rareshot.supervised import Batch, balanced_batches, cosine, learnt, train_supervised
from rareshot.types import Observe, State, Support, TrainingState, ignore
from rareshot.validation import held_out, validation

SupervisedClassifier = Literal["knn", "svm", "logistic", "centroid", "finetune"]
QUERY = 15
"""Query images a class of a validation episode."""


@dataclass(frozen=True)
class Supervised:
    """Train a backbone on the common diseases by cross-entropy; adapt its features, or all of it, to k images."""

    backbone: str = "conv4"
    """conv4, resblocks and efficientnet-lite0 are ours; any other name is looked up in timm: densenet121 is Table 1's."""
    imagenet: bool = field(default=False, metadata=config.LATER)
    """Begin with ImageNet's weights instead of random ones: efficientnet-lite0 has them, by the extra `pretrained`."""
    beside_imagenet: bool = field(default=False, metadata=config.LATER)
    """Put ImageNet's features (extra `pretrained`) beside the backbone's; not with finetune. Training ignores it."""
    width: int | None = None
    """Filters of conv4 or resblocks; None: the paper's 64 or 32."""
    classifier: SupervisedClassifier = "finetune"
    """What adapts to the support images: knn, svm, logistic, centroid on features; or finetune. Training ignores it."""
    test_steps: int = 50
    """Steps of fine-tuning. The paper does not give it."""
    finetune_lr: float = 1e-3
    """Adam's rate while fine-tuning. The paper does not give it."""
    shot: int = 5
    """Support images a class of a validation episode, k."""
    batch: int = 64
    """Images of one iteration."""
    iterations: int = 3000
    """Steps of training; as many as MAML's."""
    lr: float = 1e-3
    """Adam's rate at first; it falls to 0 along half a cosine."""
    weight_decay: float = 1e-4
    """Adam's, decoupled from the gradient."""
    augment: bool = True
    """Turn, scale and flip every image by draws of its own, while training and while fine-tuning."""
    held_out: float = 0.2
    """Share of the common lesions kept from training, for the validation curve; the same lesions for every method."""
    validate_every: int = 100
    """Iterations between two points of the validation curve. Nearest centroid judges it on the backbone's features, whatever
    `classifier` and `beside_imagenet` are."""

    def __post_init__(self) -> None:
        EpisodeSpec(2, self.shot, QUERY)
        for name in ("test_steps", "finetune_lr", "iterations", "lr", "validate_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.batch < 2:
            raise ValueError(f"batch={self.batch} must be at least 2: batch norm needs images to compare")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width={self.width} must be at least 1, or None for the paper's")
        if self.classifier not in get_args(SupervisedClassifier):
            known = ", ".join(get_args(SupervisedClassifier))
            raise ValueError(f"classifier={self.classifier!r} is not a classifier; choose from {known}")
        if self.imagenet and self.backbone != "efficientnet-lite0":
            raise ValueError(
                f"imagenet=True, but backbone={self.backbone!r}: only efficientnet-lite0 has ImageNet's weights; "
                "take it, or --no-imagenet"
            )
        if self.beside_imagenet and self.classifier == "finetune":
            raise ValueError(
                "beside_imagenet=True, but classifier='finetune': choose knn, svm, logistic or centroid, which take features"
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be at least 0 and below 1")

    def fit(
        self,
        common: LabelledImages,
        *,
        seed: int,
        start: State | None = None,
        resume: TrainingState | None = None,
        observe: Observe = ignore,
    ) -> "SupervisedLearner":
        """Cross-entropy over the common classes; the head over them is dropped at the end, and `start` has none.

        See `rareshot.types.Method`.
        """
        train, held = held_out(common, self.held_out)
        learner = self.untrained(common, seed=seed)
        if start is not None:
            learner = learner.with_state(start)
        batches = self._batches(train, learner.pixels, seed)
        judged = replace(learner, method=replace(self, classifier="centroid", beside_imagenet=False))
        whole = build(
            self.backbone,
            size=common.size,
            norm="running",
            head="full",
            way=len(common.classes),
            seed=seed,
            width=self.width,
        )
        weights = train_supervised(
            carrying(whole, learnt(learner.net)),
            batches,
            iterations=self.iterations,
            lr=cosine(self.lr, self.iterations),
            weight_decay=self.weight_decay,
            resume=resume,
            observe=observe,
            validate=validation(
                held,
                judged.carrying,
                EpisodeSpec(2, self.shot, QUERY),
                every=self.validate_every,
                iterations=self.iterations,
            ),
            device=machine.device(),
        )
        return learner.carrying(weights)

    def untrained(self, common: LabelledImages, *, seed: int) -> "SupervisedLearner":
        """What `fit` begins with: random weights, pixels standardised as the common diseases ask; or ImageNet's of both."""
        net = self._network(common.size, seed)
        if self.imagenet:
            weights = {f"backbone.{name}": value for name, value in imagenet().items()}
            return SupervisedLearner(self, carrying(net, weights), imagenet_pixels(common.size))
        train, _ = held_out(common, self.held_out)
        return SupervisedLearner(self, net, Pixels.of(train))

    def blank(self, size: int) -> "SupervisedLearner":
        """A learner of the right shapes for images of `size`, to load a state into."""
        return SupervisedLearner(self, self._network(size, 0), Pixels.blank(size))

    def _network(self, size: int, seed: int) -> Network:
        """The backbone; its head is no one's, and no part of a state."""
        return build(self.backbone, size=size, norm="running", head="shared", way=2, seed=seed, width=self.width)

    def _batches(self, train: LabelledImages, pixels: Pixels, seed: int) -> Callable[[int], Batch]:
        drawn = balanced_batches(train, batch=self.batch, augment=affine if self.augment else unchanged, seed=seed)

        def batch_of(number: int) -> Batch:
            x, y = drawn(number)
            return pixels(x), y

        return batch_of


@dataclass(frozen=True)
class SupervisedLearner:
    """A trained backbone."""

    method: Supervised
    net: Network
    pixels: Pixels
    memory: Memory = field(init=False, default_factory=Memory, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Height and width of the images that it takes."""
        return self.pixels.size

    @property
    def inductive(self) -> bool:
        """True: batch norm is frozen."""
        return True

    def adapt(self, support: Support, *, seed: int = 0) -> FeatureClassifier | FineTuned:
        """By the method's `classifier`; `seed` is of the augmentation while fine-tuning."""
        method = self.method
        if method.classifier == "finetune":
            return finetune(
                self.net,
                self.pixels,
                support,
                steps=method.test_steps,
                lr=method.finetune_lr,
                seed=seed,
                augment=affine if method.augment else unchanged,
            )
        support = in_one_order(support)
        rule = fit_rule(method.classifier, self.features(support.images), support.labels.numpy(), support.way)
        return FeatureClassifier(self.features, rule)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> npt.NDArray[Any]:
        """(n, features) of the backbone, each image by itself; beside ImageNet's, both of length 1, where the method says so."""
        own = self.memory.features(self.pixels(images), recorded_network(self.net.backbone, machine.device()))
        if not self.method.beside_imagenet:
            return own
        return np.hstack([of_length_1(own), of_length_1(self.beside.features(images))])

    @cached_property
    def beside(self) -> PretrainedLearner:
        """Whose features stand beside these; its weights are the package's, and no part of a state."""
        return Pretrained().blank(self.size)

    def state(self) -> State:
        """The backbone's weights and running statistics, and the common diseases' pixel statistics."""
        weights = {name: value.detach() for name, value in learnt(self.net).items()}
        return {**weights, **self.pixels.state()}

    def with_state(self, state: State) -> "SupervisedLearner":
        """A learner with this state instead.

        Raises:
            ValueError: if a weight is missing, superfluous, not finite, or has another shape.
        """
        refuse_other_state(self.state(), state)
        return replace(self, net=carrying(self.net, state), pixels=self.pixels.with_state(state))

    def carrying(self, weights: State) -> "SupervisedLearner":
        """The same learner with other weights in its network; a head over the common classes is left out."""
        kept = {name: value for name, value in weights.items() if not name.startswith("head.")}
        return replace(self, net=carrying(self.net, kept))

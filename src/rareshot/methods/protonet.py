"""Prototypical Networks: the class whose mean is nearest.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017, arXiv 1703.05175.

Embed the support images; the mean of a class's features is its prototype, Eq. (1). A query's logits are minus the squared
Euclidean distances to the prototypes, Eq. (2). Train the embedding by the cross-entropy of the queries, episode by episode.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from rareshot.backbones import NormMode, build
from rareshot.data.collection import LabelledImages
from rareshot.losses import task_loss
from rareshot.methods import episodic_metric
from rareshot.methods.episodic_metric import MetricLearner, MetricNetwork, class_counts, class_sums
from rareshot.methods.meta_training import refuse_senseless
from rareshot.pixels import Pixels
from rareshot.types import Observe, State, TrainingState, ignore


@dataclass(frozen=True)
class ProtoNet:
    """Train an embedding in which an image lies near the mean of its class's k images."""

    backbone: str = "conv4"
    """conv4 and resblocks are the paper's; any other name is looked up in timm."""
    width: int | None = None
    """Filters of conv4 or resblocks; None: the paper's 64 or 32."""
    norm: NormMode = "support"
    """What normalises a query image: support, tasknorm, group; or transductive, for the paper's tables only."""
    way: int = 2
    """Classes of a training task."""
    shot: int = 5
    """Support images a class, k."""
    query: int = 15
    """Query images a class of a training task."""
    tasks: int = 4
    """Tasks of one iteration, the meta-batch."""
    iterations: int = 3000
    """Steps of the outer loop."""
    warmup: int = 1500
    """Iterations before the meta rate decays; as in MAML, so that all methods share one schedule."""
    meta_lr: float = 1e-3
    """Adam's rate."""
    decay: float = 0.1
    """The meta rate is multiplied by this when the warm-up ends: without one, from the first iteration on."""
    clip: float = 10.0
    """Largest norm of one task's gradient in the outer loop."""
    augment: bool = True
    """Turn, scale and flip every training image by draws of its own."""
    held_out: float = 0.2
    """Share of the common lesions kept from training, for the validation curve; the same lesions for every method."""
    validate_every: int = 100
    """Iterations between two points of the validation curve."""

    def __post_init__(self) -> None:
        refuse_senseless(self)

    def fit(
        self,
        common: LabelledImages,
        *,
        seed: int,
        start: State | None = None,
        resume: TrainingState | None = None,
        observe: Observe = ignore,
    ) -> MetricLearner:
        """Train by episodes; see `rareshot.types.Method`."""
        return episodic_metric.fit(self, task_loss, common, seed=seed, start=start, resume=resume, observe=observe)

    def untrained(self, common: LabelledImages, *, seed: int) -> MetricLearner:
        """What `fit` begins with: the random backbone from which MAML of the same seed begins."""
        return episodic_metric.untrained(self, self._network(common.size, seed), common)

    def blank(self, size: int, *, seed: int = 0) -> MetricLearner:
        """A learner of the right shapes for images of `size`, to load a state into; its weights are those of a seed."""
        return MetricLearner(self, self._network(size, seed), Pixels.blank(size))

    def _network(self, size: int, seed: int) -> MetricNetwork:
        network = build(
            self.backbone, size=size, norm=self.norm, head="shared", way=self.way, seed=seed, width=self.width
        )
        return MetricNetwork(network.backbone, SquaredDistance())


class SquaredDistance(nn.Module):
    """Eqs. (1) and (2): prototypes, and minus the squared Euclidean distances to them. Nothing to learn."""

    def summary(
        self, features: Float[Tensor, "s features"], labels: Int[Tensor, " s"], way: int
    ) -> Float[Tensor, "way features"]:
        """Prototypes, Eq. (1): the mean of each class."""
        return class_sums(features, labels, way) / class_counts(labels, way).unsqueeze(1)

    def forward(
        self, classes: Float[Tensor, "way features"], features: Float[Tensor, "q features"]
    ) -> Float[Tensor, "q way"]:
        """Logits of Eq. (2)."""
        # Differences first: |q|² - 2qp + |p|², as a matrix product would have it, loses digits where both are far from 0.
        gaps = features.unsqueeze(1) - classes
        return -gaps.square().sum(2)

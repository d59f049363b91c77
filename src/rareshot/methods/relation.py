"""Relation Net: a learnt comparison of two images.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning, CVPR 2018,
arXiv 1711.06025.

Embed the support images, and sum the maps of each class. Join a class's map and a query's in depth; a small network, the
relation module, gives the pair a score between 0 and 1. Train both, episode by episode, so that the score of a pair is 1
where the classes are the same and 0 where they differ, by mean squared error.

What the paper leaves open:

- Probabilities: the scores of an image divided by their sum. For two classes the AUC then ranks by the ratio of the scores.
- Classes of unequal size: the sum would favour the larger one, so a class's map is its mean times the mean size.
- A norm for pairs: the embedding's. Where that one takes the support images, this one takes all pairs of a support image and a
  class, whose statistics then hold for every pair of a query (an image is part of its own class there); the transductive norm
  alone takes the batch of the queries' pairs.
- Padding: that of their code. The convolutions that pool are unpadded, but in the relation module only where the maps are
  large enough; so the fully connected layer has 64 inputs at 28 pixels and 576 at 84, as in the paper.
- Rate and its decay: shared with the other methods here; they halve it every 100,000 episodes, of 500,000 or more.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rareshot.backbones.norms import GROUPS, NORM_MODES, EpisodicNorm, NormMode
from rareshot.data.collection import LabelledImages
from rareshot.methods import episodic_metric
from rareshot.methods.episodic_metric import MetricLearner, MetricNetwork, class_counts, class_sums
from rareshot.methods.meta_training import refuse_senseless
from rareshot.pixels import Pixels
from rareshot.types import Observe, State, TrainingState, ignore

WIDTH = 64
HIDDEN = 8
SMALLEST = 22
UNPADDED_FROM = 10
"""Smallest map, in pixels, that two unpadded convolutions with pooling leave something of."""


@dataclass(frozen=True)
class RelationNet:
    """Train an embedding, and a network that scores whether an image is of the class of k others."""

    width: int | None = None
    """Filters of every convolution; None: the paper's 64."""
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
        if self.norm not in NORM_MODES:
            raise ValueError(f"norm={self.norm!r} is not a norm mode; choose from {', '.join(NORM_MODES)}")
        if self.norm == "group" and self.width is not None and self.width % GROUPS:
            raise ValueError(
                f"width={self.width} must be a multiple of {GROUPS}, the groups of channels of norm='group'"
            )

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
        return episodic_metric.fit(self, relation_loss, common, seed=seed, start=start, resume=resume, observe=observe)

    def untrained(self, common: LabelledImages, *, seed: int) -> MetricLearner:
        """What `fit` begins with: random weights, pixels standardised as the common diseases ask."""
        return episodic_metric.untrained(self, self._network(common.size, seed), common)

    def blank(self, size: int, *, seed: int = 0) -> MetricLearner:
        """A learner of the right shapes for images of `size`, to load a state into; its weights are those of a seed."""
        return MetricLearner(self, self._network(size, seed), Pixels.blank(size))

    def _network(self, size: int, seed: int) -> MetricNetwork:
        if size < SMALLEST:
            raise ValueError(f"relation net pools an image four times, so its smallest size is {SMALLEST}; got {size}")
        width = self.width or WIDTH
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embedding = nn.Sequential(
                _Block(3, width, self.norm, padding=0, pool=True),
                _Block(width, width, self.norm, padding=0, pool=True),
                _Block(width, width, self.norm, padding=1, pool=False),
                _Block(width, width, self.norm, padding=1, pool=False),
            )
            net = MetricNetwork(embedding, Relation(width, ((size - 2) // 2 - 2) // 2, self.norm))
        return net.to(memory_format=torch.channels_last)


def relation_loss(logits: Float[Tensor, "q way"], labels: Int[Tensor, " q"]) -> Float[Tensor, ""]:
    """Mean squared error of the scores, exp(logits), to 1 for an image's own class and 0 for the others."""
    return F.mse_loss(logits.exp(), F.one_hot(labels, logits.shape[1]).to(logits))


class Relation(nn.Module):
    """The relation module: two blocks with pooling, a layer of 8 with ReLU, a sigmoid.

    Args:
        width: filters of the maps, and of its convolutions.
        size: height and width of the maps, at least 4.
        norm: the embedding's; it says which other pairs a pair may see.
    """

    def __init__(self, width: int, size: int, norm: NormMode) -> None:
        super().__init__()
        padding = 0 if size >= UNPADDED_FROM else 1
        self.block1 = _Block(2 * width, width, norm, padding=padding, pool=True)
        self.block2 = _Block(width, width, norm, padding=padding, pool=True)
        for _ in range(2):
            size = (size + 2 * padding - 2) // 2
        self.hidden = nn.Linear(width * size**2, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        for layer in (self.hidden, self.score):
            nn.init.normal_(layer.weight, std=0.01)
            # Their code's 1: with 8 units, a draw around 0 can leave none of them alive behind the ReLU.
            nn.init.ones_(layer.bias)

    def summary(
        self, features: Float[Tensor, "s c h w"], labels: Int[Tensor, " s"], way: int
    ) -> Float[Tensor, "way c h w"]:
        """The sum of each class's maps, as if all classes had the mean number of images."""
        share = len(labels) / way / class_counts(labels, way)
        return class_sums(features, labels, way) * share.to(features).view(-1, 1, 1, 1)

    def forward(
        self, classes: Float[Tensor, "way c h w"], features: Float[Tensor, "q c h w"]
    ) -> Float[Tensor, "q way"]:
        """Logarithms of the scores: their softmax is the scores divided by their sum, also where all underflow."""
        # The first convolution of a class's map joined to a query's in depth is the sum of two, and each is made once
        # instead of once a pair.
        conv, c = self.block1.conv, features.shape[1]
        of_classes = F.conv2d(classes, conv.weight[:, :c], padding=conv.padding)
        of_queries = F.conv2d(features, conv.weight[:, c:], padding=conv.padding)
        pairs = (of_classes + of_queries.unsqueeze(1)).flatten(0, 1)
        maps = self.block2(self.block1.behind(pairs))
        scores = self.score(torch.relu(self.hidden(maps.flatten(1))))
        return F.logsigmoid(scores).view(len(features), len(classes))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, norm: NormMode, *, padding: int, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=padding, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = EpisodicNorm(width, norm)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.conv(x))

    def behind(self, maps: Tensor) -> Tensor:
        """What follows the convolution."""
        maps = torch.relu(self.norm(maps))
        return torch.max_pool2d(maps, 2) if self.pool else maps

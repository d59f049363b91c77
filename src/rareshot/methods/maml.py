"""MAML and DAML: one method, which differ in the outer loss.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017, arXiv 1703.03400.
Li, Yu, Jin, Fu, Xing, Heng: Difficulty-aware Meta-Learning for Rare Disease Diagnosis, MICCAI 2020, arXiv 1907.00354.

Algorithm 1: draw tasks of common diseases; adapt to each task's support images by a few gradient steps, Eq. (2); move the
initial weights so that the query loss after adaptation falls, Eq. (4). DAML does this with the mean of the tasks' losses
until `warmup` and with Eq. (3) from then on. What the paper leaves open is numbered in docs/paper.md.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.backbones import HeadMode, Network, NormMode, build
from rareshot.backbones.norms import Moments, inductive
from rareshot.data.augment import affine, unchanged
from rareshot.data.collection import LabelledImages, split_groups
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.gradients import Task, meta_gradient
from rareshot.inner import adapt_to_support, query_logits
from rareshot.losses import DifficultyAware, Mean
from rareshot.metrics import auc
from rareshot.training import Outer, train_episodic
from rareshot.types import Observe, State, Support, TrainingState, ignore

HELD_OUT_SEED = 0
"""Fixes the common lesions that no method trains on: the same for every method and every training seed."""
VALIDATION_EPISODES = 40


@dataclass(frozen=True)
class MAML:
    """Meta-train initial weights from which a few gradient steps on k images give a classifier."""

    backbone: str = "conv4"
    """conv4 and resblocks are the paper's; any other name is looked up in timm."""
    width: int | None = None
    """Filters of conv4 or resblocks; None: the paper's 64 or 32."""
    norm: NormMode = "support"
    """What normalises a query image: support, tasknorm, group; or transductive, for the paper's tables only."""
    head: HeadMode = "shared"
    """full: a learnt row for each class, one way only. shared: every class starts from one learnt row, any way."""
    adapted: Literal["all", "head"] = "all"
    """What the inner loop moves: all weights (MAML), or the head alone (ANIL)."""
    way: int = 2
    """Classes of a training task."""
    shot: int = 5
    """Support images a class, k."""
    query: int = 15
    """Query images a class of a training task."""
    inner_lr: float = 0.01
    """Step size of the adaptation, γ in Eq. (2). The paper does not give it; see docs/paper.md §3."""
    steps: int = 5
    """Steps of adaptation while training. The paper does not give it."""
    test_steps: int = 10
    """Steps of adaptation afterwards."""
    second_order: bool = True
    """Differentiate through the steps of adaptation; without, first-order MAML."""
    meta_loss: Mean | DifficultyAware = field(default_factory=Mean)
    """Outer loss from `warmup` on: the mean (MAML) or Eq. (3) (DAML)."""
    tasks: int = 4
    """Tasks of one iteration, the meta-batch."""
    iterations: int = 3000
    """Steps of the outer loop."""
    warmup: int = 1500
    """Iterations with the mean loss; then `meta_loss` begins and the meta rate decays, for MAML too."""
    meta_lr: float = 1e-3
    """Adam's rate, α in Eq. (4)."""
    decay: float = 0.1
    """The meta rate is multiplied by this when the warm-up ends."""
    clip: float = 10.0
    """Largest norm of one task's gradient in the outer loop."""
    augment: bool = True
    """Turn, scale and flip every training image by draws of its own."""
    held_out: float = 0.2
    """Share of the common lesions kept from training, for the validation curve; the same lesions for every method."""
    validate_every: int = 100
    """Iterations between two points of the validation curve."""
    fast: bool = True
    """Take the explicit gradient where it applies (conv4 on a CPU); the same up to rounding, sooner."""

    def __post_init__(self) -> None:
        EpisodeSpec(self.way, self.shot, self.query)
        positive = (
            "inner_lr",
            "meta_lr",
            "clip",
            "decay",
            "steps",
            "test_steps",
            "tasks",
            "iterations",
            "validate_every",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width={self.width} must be at least 1, or None for the paper's")
        if self.adapted not in ("all", "head"):
            raise ValueError(f"adapted={self.adapted!r} is neither all nor head")
        if not 0 <= self.warmup <= self.iterations:
            raise ValueError(f"warmup={self.warmup} must lie between 0 and iterations={self.iterations}")
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
    ) -> "EpisodicLearner":
        """Algorithm 1; see `rareshot.types.Method`."""
        Episodes(common, EpisodeSpec(self.way, self.shot, self.query), seed=0)  # refuses classes that are too small
        train, held = self._split(common)
        learner = self.untrained(common, seed=seed)
        if start is not None:
            learner = learner.with_state(start)
        outer = Outer(
            iterations=self.iterations,
            tasks=self.tasks,
            meta_loss=lambda iteration: Mean() if iteration < self.warmup else self.meta_loss,
            meta_lr=lambda iteration: self.meta_lr * (1 if iteration < self.warmup else self.decay),
            clip=self.clip,
        )
        gradient = partial(
            meta_gradient,
            steps=self.steps,
            lr=self.inner_lr,
            adapted=self.adapted,
            second_order=self.second_order,
            fast=self.fast,
        )
        weights = train_episodic(
            learner.net,
            self._tasks(train, learner, seed),
            gradient,
            outer,
            resume=resume,
            observe=observe,
            validate=self._validation(held, learner),
        )
        return learner.with_state({**learner.state(), **weights})

    def untrained(self, common: LabelledImages, *, seed: int) -> "EpisodicLearner":
        """What `fit` begins with: random weights, pixels standardised as the common diseases ask."""
        mean, std = pixel_statistics(self._split(common)[0])
        return EpisodicLearner(self, common.size, self._network(common.size, seed), mean, std)

    def blank(self, size: int) -> "EpisodicLearner":
        """A learner of the right shapes for images of `size`, to load a state into."""
        return EpisodicLearner(self, size, self._network(size, 0), torch.zeros(3), torch.ones(3))

    def _network(self, size: int, seed: int) -> Network:
        return build(
            self.backbone, size=size, norm=self.norm, head=self.head, way=self.way, seed=seed, width=self.width
        )

    def _split(self, common: LabelledImages) -> tuple[LabelledImages, LabelledImages | None]:
        return split_groups(common, fraction=self.held_out, seed=HELD_OUT_SEED) if self.held_out else (common, None)

    def _tasks(
        self, train: LabelledImages, learner: "EpisodicLearner", seed: int
    ) -> Callable[[int], tuple[Task, Sequence[str]]]:
        try:
            episodes = Episodes(train, EpisodeSpec(self.way, self.shot, self.query), seed=seed)
        except ValueError as error:
            raise ValueError(f"with held_out={self.held_out} of the groups kept from training: {error}") from error
        transform = affine if self.augment else unchanged

        def task(number: int) -> tuple[Task, Sequence[str]]:
            episode = episodes.augmented(episodes.draw(number), transform, np.random.default_rng((seed, number, 1)))
            prepared = learner.standardised
            query_x = prepared(episode.query_x)
            return Task(
                prepared(episode.support_x), episode.support_y, query_x, episode.query_y, self.way
            ), episode.classes

        return task

    def _validation(
        self, held: LabelledImages | None, learner: "EpisodicLearner"
    ) -> Callable[[int, State], dict[str, float]]:
        if held is None:
            return lambda iteration, weights: {}
        smallest = min(groups for _, groups in held.counts().values())
        if smallest <= self.shot:
            raise ValueError(
                f"held_out={self.held_out} leaves {smallest} groups of the smallest class to validate on, and shot={self.shot} "
                f"needs more: add images, or set held_out=0 to train on all without a validation curve"
            )
        spec = EpisodeSpec(self.way, self.shot, min(self.query, smallest - self.shot))
        episodes = Episodes(held, spec, seed=HELD_OUT_SEED)

        def validate(iteration: int, weights: State) -> dict[str, float]:
            if iteration % self.validate_every and iteration != self.iterations:
                return {}
            now = learner.with_state({**learner.state(), **weights})
            return {"validation_auc": mean_auc(now, episodes, VALIDATION_EPISODES)}

        return validate


@dataclass(frozen=True)
class EpisodicLearner:
    """Initial weights that adapt by gradient steps."""

    method: MAML
    size: int
    net: Network
    mean: Float[Tensor, " 3"]
    std: Float[Tensor, " 3"]

    @property
    def inductive(self) -> bool:
        """False for the transductive norm, whose answers depend on the other query images."""
        return inductive(self.method.norm)

    def adapt(self, support: Support, *, seed: int = 0) -> "EpisodicClassifier":
        """`test_steps` gradient steps on the support images, Eq. (2); nothing here is random, so `seed` changes nothing."""
        params = {name: value.detach() for name, value in self.net.learnt().items()}
        x = self.standardised(support.images)
        moved, moments = adapt_to_support(
            copy.deepcopy(self.net),
            self.net.begin(params, support.way),
            x,
            support.labels,
            steps=self.method.test_steps,
            lr=self.method.inner_lr,
            adapted=self.method.adapted,
            fast=self.method.fast,
        )
        return EpisodicClassifier(self, moved, moments)

    def state(self) -> State:
        """Weights, and the common diseases' pixel statistics."""
        weights = {name: value.detach() for name, value in self.net.learnt().items()}
        return {**weights, "pixels.mean": self.mean, "pixels.std": self.std}

    def with_state(self, state: State) -> "EpisodicLearner":
        """A learner with these weights instead.

        Raises:
            ValueError: if a weight is missing, superfluous, not finite, or has another shape.
        """
        own = self.state()
        if own.keys() != state.keys():
            raise ValueError(f"state does not fit this method: {sorted(own.keys() ^ state.keys())} are not in both")
        for name, value in state.items():
            if value.shape != own[name].shape or value.dtype != own[name].dtype:
                raise ValueError(
                    f"state does not fit this method: {name} is {tuple(value.shape)} {value.dtype}, "
                    f"not {tuple(own[name].shape)} {own[name].dtype}"
                )
            if not value.isfinite().all():
                raise ValueError(f"state holds numbers that are not finite, in {name}")
        net = copy.deepcopy(self.net)
        with torch.no_grad():
            for name, value in net.learnt().items():
                value.copy_(state[name])
        return replace(self, net=net, mean=state["pixels.mean"].clone(), std=state["pixels.std"].clone())

    def with_test_steps(self, steps: int) -> "EpisodicLearner":
        """The same weights, adapted by another number of steps."""
        return replace(self, method=replace(self.method, test_steps=steps))

    def standardised(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Mean 0 and deviation 1 in each colour, by the statistics of the common diseases."""
        if images.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"this learner takes RGB images of {self.size} pixels; got shape {tuple(images.shape[1:])}"
            )
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError("images must lie in [0, 1]; divide bytes by 255")
        x = (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class EpisodicClassifier:
    """One adapted task."""

    learner: EpisodicLearner
    params: Mapping[str, Tensor]
    moments: list[Moments] | None

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Probabilities. A transductive learner's depend on all of `images`."""
        logits = query_logits(
            copy.deepcopy(self.learner.net), self.params, self.learner.standardised(images), self.moments
        )
        # An adaptation that diverged knows nothing, and says so: equal probabilities.
        known = logits.isfinite().all(1, keepdim=True)
        return torch.where(known, logits, 0).double().softmax(1).float()


def pixel_statistics(images: LabelledImages) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Mean and deviation of each colour over all images, in [0, 1]."""
    total, squares, n = np.zeros(3), np.zeros(3), 0
    for first in range(0, len(images), 256):
        block = images.pixels[first : first + 256].reshape(-1, 3).astype(np.float64) / 255
        total, squares, n = total + block.sum(0), squares + (block**2).sum(0), n + len(block)
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 1e-12))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def mean_auc(learner: EpisodicLearner, episodes: Episodes, count: int) -> float:
    """Mean AUC over the first `count` episodes."""
    areas = []
    for i in range(count):
        episode = episodes[i]
        areas.append(auc(learner.adapt(episode.support)(episode.query_x), episode.query_y))
    return float(np.mean(areas))

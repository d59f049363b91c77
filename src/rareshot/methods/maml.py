"""MAML and DAML: one method, which differ in the outer loss.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017, arXiv 1703.03400.
Li, Yu, Jin, Fu, Xing, Heng: Difficulty-aware Meta-Learning for Rare Disease Diagnosis, MICCAI 2020, arXiv 1907.00354.

Algorithm 1: draw tasks of common diseases; adapt to each task's support images by a few gradient steps, Eq. (2); move the
initial weights so that the query loss after adaptation falls, Eq. (4). DAML does this with the mean of the tasks' losses
until `warmup` and with Eq. (3) from then on. What the paper leaves open is numbered in docs/paper.md.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rareshot import machine, meta_batch
from rareshot.backbones import HeadMode, Network, NormMode, build
from rareshot.backbones.norms import Moments, inductive
from rareshot.config import LATER
from rareshot.data.collection import LabelledImages
from rareshot.explicit import NORMS
from rareshot.gradients import differentiate, meta_gradient
from rareshot.inner import adapt_to_support, explicit_applies, query_features, query_logits
from rareshot.losses import DifficultyAware, Mean
from rareshot.methods.meta_training import meta_train, refuse_senseless
from rareshot.methods.probabilities import probabilities
from rareshot.pixels import Pixels
from rareshot.resident import Resident
from rareshot.states import carrying, refuse_other_state
from rareshot.types import Observe, State, Support, TrainingState, ignore
from rareshot.validation import held_out


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
    """full: a learnt row for each class, one way only. shared: every class starts from the same row, of zeros; any way."""
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
    sampling: Literal["uniform", "curriculum"] = "uniform"
    """Which classes a training task has: any; or those with the most progress (task sampling, see `rareshot.policies`)."""
    tasks: int = 4
    """Tasks of one iteration, the meta-batch."""
    iterations: int = 3000
    """Steps of the outer loop."""
    warmup: int = 1500
    """Iterations with the mean loss; then `meta_loss` begins and the meta rate decays, for MAML too."""
    meta_lr: float = 1e-3
    """Adam's rate, α in Eq. (4)."""
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
    hessian: Literal["float32", "bfloat16"] = field(default="float32", metadata=LATER)
    """Numbers that the Hessian's convolutions multiply. bfloat16 is sooner (1.2 times on a CPU that has it) and not exact: the
    meta-gradient is 0.003 off in benchmarks/README.md. Explicit gradient of second order only."""
    fast: bool = True
    """Take the explicit gradient where it applies (conv4); the same up to rounding, sooner."""

    def __post_init__(self) -> None:
        refuse_senseless(self, also=("inner_lr", "steps", "test_steps"))
        if self.adapted not in ("all", "head"):
            raise ValueError(f"adapted={self.adapted!r} is neither all nor head")
        if self.sampling not in ("uniform", "curriculum"):
            raise ValueError(f"sampling={self.sampling!r} is neither uniform nor curriculum")
        if self.hessian not in ("float32", "bfloat16"):
            raise ValueError(f"hessian={self.hessian!r} is neither float32 nor bfloat16")
        explicit_one = self.fast and self.backbone == "conv4" and self.adapted == "all" and self.norm in NORMS
        if self.hessian != "float32" and not (explicit_one and self.second_order):
            raise ValueError(
                f"hessian={self.hessian!r} needs the explicit gradient of second order: backbone conv4, adapted all, fast, and "
                f"norm {', '.join(NORMS)}; leave it at float32"
            )

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
        return meta_train(
            self,
            self.untrained(common, seed=seed),
            common,
            seed=seed,
            start=start,
            resume=resume,
            observe=observe,
            in_thread=partial(
                meta_gradient, **self._inner(), adapted=self.adapted, fast=self.fast, hessian=self._hessian()
            ),
            on_device=self._on_device,
            meta_loss=self.meta_loss,
            curriculum=self.sampling == "curriculum",
        )

    def _on_device(self, net: Network, images: Resident, device: torch.device) -> meta_batch.Gradients:
        if self.fast and explicit_applies(net, self.adapted):
            return meta_batch.side_by_side(net, images, device, way=self.way, **self._inner(), hessian=self._hessian())
        through_autograd = partial(differentiate, **self._inner(), adapted=self.adapted)
        return meta_batch.one_by_one(net, through_autograd, images, device, way=self.way)

    def _inner(self) -> dict[str, Any]:
        return {"steps": self.steps, "lr": self.inner_lr, "second_order": self.second_order}

    def _hessian(self) -> torch.dtype | None:
        return torch.bfloat16 if self.hessian == "bfloat16" else None

    def untrained(self, common: LabelledImages, *, seed: int) -> "EpisodicLearner":
        """What `fit` begins with: random weights, pixels standardised as the common diseases ask."""
        train, _ = held_out(common, self.held_out)
        return EpisodicLearner(self, self._network(common.size, seed), Pixels.of(train))

    def blank(self, size: int, *, seed: int = 0) -> "EpisodicLearner":
        """A learner of the right shapes for images of `size`, to load a state into; its weights are those of a seed."""
        return EpisodicLearner(self, self._network(size, seed), Pixels.blank(size))

    def _network(self, size: int, seed: int) -> Network:
        return build(
            self.backbone, size=size, norm=self.norm, head=self.head, way=self.way, seed=seed, width=self.width
        )


@dataclass(frozen=True)
class EpisodicLearner:
    """Initial weights that adapt by gradient steps."""

    method: MAML
    net: Network
    pixels: Pixels

    @property
    def size(self) -> int:
        """Height and width of the images that it takes."""
        return self.pixels.size

    @property
    def inductive(self) -> bool:
        """False for the transductive norm, whose answers depend on the other query images."""
        return inductive(self.method.norm)

    def adapt(self, support: Support, *, seed: int = 0) -> "EpisodicClassifier":
        """`test_steps` gradient steps on the support images, Eq. (2); nothing here is random, so `seed` changes nothing."""
        device = machine.device()
        params = {name: value.detach().to(device) for name, value in self.net.learnt().items()}
        moved, moments = adapt_to_support(
            copy.deepcopy(self.net).to(device),
            self.net.begin(params, support.way),
            self.pixels(support.images).to(device),
            support.labels.to(device),
            steps=self.method.test_steps,
            lr=self.method.inner_lr,
            adapted=self.method.adapted,
            fast=self.method.fast,
        )
        return EpisodicClassifier(self, moved, moments)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """What the backbone makes of the images at the initial weights; the norm sees them as a support set."""
        features: Tensor = copy.deepcopy(self.net).backbone(self.pixels(images))  # its norms hold state during a call
        return features

    def state(self) -> State:
        """Weights, and the common diseases' pixel statistics."""
        weights = {name: value.detach() for name, value in self.net.learnt().items()}
        return {**weights, **self.pixels.state()}

    def with_state(self, state: State) -> "EpisodicLearner":
        """A learner with these weights instead.

        Raises:
            ValueError: if a weight is missing, superfluous, not finite, or has another shape.
        """
        refuse_other_state(self.state(), state)
        return replace(self, net=carrying(self.net, state), pixels=self.pixels.with_state(state))

    def carrying(self, weights: State) -> "EpisodicLearner":
        """The same learner with other weights in its network."""
        return replace(self, net=carrying(self.net, weights))


@dataclass(frozen=True)
class EpisodicClassifier:
    """One adapted task."""

    learner: EpisodicLearner
    params: Mapping[str, Tensor]
    """On the device on which they were adapted."""
    moments: list[Moments] | None

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Probabilities. A transductive learner's depend on all of `images`."""
        device = next(iter(self.params.values())).device
        net, x = copy.deepcopy(self.learner.net).to(device), self.learner.pixels(images).to(device)
        return probabilities(query_logits(net, self.params, x, self.moments))

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features under the adapted weights."""
        device = next(iter(self.params.values())).device
        net, x = copy.deepcopy(self.learner.net).to(device), self.learner.pixels(images).to(device)
        return query_features(net, self.params, x, self.moments).cpu()

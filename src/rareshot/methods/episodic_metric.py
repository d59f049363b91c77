"""What Relation Net and Prototypical Networks share: features are compared, and adapting takes no gradient step.

A network embeds the support images, keeps one summary a class, and compares a query's features with each of them. Training
goes by episodes: a task's gradient is that of its query loss at the current weights. What differs is the embedding, the
comparison and the loss.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from rareshot import explicit, machine, meta_batch
from rareshot.backbones.norms import Moments, frozen_by, inductive, needs_moments, norms_of, recording
from rareshot.data.collection import LabelledImages
from rareshot.gradients import Task, TaskGradient
from rareshot.losses import Mean
from rareshot.methods.meta_training import meta_train
from rareshot.methods.probabilities import probabilities
from rareshot.pixels import Pixels
from rareshot.states import carrying, refuse_other_state
from rareshot.types import Observe, State, Support, TrainingState
from rareshot.validation import held_out

if TYPE_CHECKING:
    from rareshot.methods.protonet import ProtoNet
    from rareshot.methods.relation import RelationNet

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (q, way), labels (q,)) → the loss of a task."""


@runtime_checkable
class Comparison(Protocol):
    """An `nn.Module` that compares features with classes."""

    def summary(self, features: Tensor, labels: Int[Tensor, " s"], way: int) -> Tensor:
        """Features of support images → what a query is compared with, one row a class."""
        ...

    def __call__(self, classes: Tensor, features: Tensor) -> Float[Tensor, "q way"]:
        """Logits of queries with these features."""
        ...


class MetricNetwork(nn.Module):
    """An embedding and a comparison.

    Args:
        embedding: (n, 3, size, size) → features of each image; its norms obey the support set as in `rareshot.inner`.
        comparison: a `Comparison`.
    """

    def __init__(self, embedding: nn.Module, comparison: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.comparison = comparison

    def learnt(self) -> dict[str, nn.Parameter]:
        """Name → weight, of all that training moves."""
        return dict(self.named_parameters())

    def summarise(
        self, x: Float[Tensor, "s 3 h w"], labels: Int[Tensor, " s"], way: int
    ) -> tuple[Tensor, list[Moments] | None]:
        """One row a class, and the support statistics under which queries pass; None where the norm needs none.

        A comparison that has norms of its own sees each support image beside each class: these statistics are of its pairs.
        """
        comparison = cast(Comparison, self.comparison)
        if not any(needs_moments(layer.mode) for layer in norms_of(self)):
            return comparison.summary(self.embedding(x), labels, way), None
        with recording(self) as layers:
            features = self.embedding(x)
            classes = comparison.summary(features, labels, way)
            if norms_of(self.comparison):
                comparison(classes, features)
            return classes, [layer.recorded for layer in layers if layer.recorded is not None]

    def answer(
        self, x: Float[Tensor, "q 3 h w"], classes: Tensor, moments: list[Moments] | None
    ) -> Float[Tensor, "q way"]:
        """Logits of queries, given what `summarise` said of the support images."""
        with nullcontext() if moments is None else frozen_by(self, moments):
            return cast(Comparison, self.comparison)(classes, self.embedding(x))

    def forward(
        self,
        support_x: Float[Tensor, "s 3 h w"],
        support_y: Int[Tensor, " s"],
        query_x: Float[Tensor, "q 3 h w"],
        way: int,
    ) -> Float[Tensor, "q way"]:
        """A whole episode: logits of its queries."""
        return self.answer(query_x, *self.summarise(support_x, support_y, way))


def class_counts(labels: Int[Tensor, " s"], way: int) -> Int[Tensor, " way"]:
    """How many images each class has; unlike `bincount` it makes no GPU wait."""
    return F.one_hot(labels, way).sum(0)


def class_sums(features: Float[Tensor, "s *f"], labels: Int[Tensor, " s"], way: int) -> Float[Tensor, "way *f"]:
    """Sum of the features of each class."""
    belongs = F.one_hot(labels, way).to(features)
    return (belongs.T @ features.flatten(1)).view(way, *features.shape[1:])


def differentiate(net: MetricNetwork, params: Mapping[str, Tensor], task: Task, *, loss: Loss) -> explicit.TaskGradient:
    """The query loss of a task and its gradient in the weights `params`; nothing in here waits for a number."""
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    logits: Tensor = functional_call(net, leaves, (task.support_x, task.support_y, task.query_x, task.way))
    value = loss(logits, task.query_y)
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return explicit.TaskGradient(value.detach(), dict(zip(leaves, gradients, strict=True)), logits.detach())


def task_gradient(net: MetricNetwork, params: Mapping[str, Tensor], task: Task, *, loss: Loss) -> TaskGradient:
    """`differentiate`, with the loss as a number."""
    result = differentiate(net, params, task, loss=loss)
    return TaskGradient(result.loss.item(), result.gradient, result.logits)


def untrained(method: "RelationNet | ProtoNet", net: MetricNetwork, common: LabelledImages) -> "MetricLearner":
    """A learner with the weights of `net`, pixels standardised as the common diseases ask."""
    train, _ = held_out(common, method.held_out)
    return MetricLearner(method, net, Pixels.of(train))


def fit(
    method: "RelationNet | ProtoNet",
    loss: Loss,
    common: LabelledImages,
    *,
    seed: int,
    start: State | None,
    resume: TrainingState | None,
    observe: Observe,
) -> "MetricLearner":
    """Train by episodes, each task's gradient that of `loss`; see `rareshot.types.Method`."""
    return meta_train(
        method,
        method.untrained(common, seed=seed),
        common,
        seed=seed,
        start=start,
        resume=resume,
        observe=observe,
        in_thread=partial(task_gradient, loss=loss),
        on_device=lambda net, images, device: meta_batch.one_by_one(
            net, partial(differentiate, loss=loss), images, device, way=method.way
        ),
        meta_loss=Mean(),
        curriculum=False,
    )


@dataclass(frozen=True)
class MetricLearner:
    """An embedding and a comparison, fitted: adapting is to embed the support images."""

    method: "RelationNet | ProtoNet"
    net: MetricNetwork
    pixels: Pixels

    @property
    def size(self) -> int:
        """Height and width of the images that it takes."""
        return self.pixels.size

    @property
    def inductive(self) -> bool:
        """False for the transductive norm, whose answers depend on the other query images."""
        return inductive(self.method.norm)

    @torch.no_grad()
    def adapt(self, support: Support, *, seed: int = 0) -> "MetricClassifier":
        """One summary a class of `support`; nothing here is random, so `seed` changes nothing."""
        device = machine.device()
        net = copy.deepcopy(self.net).to(device)  # its norms hold state during the call
        x, y = self.pixels(support.images).to(device), support.labels.to(device)
        return MetricClassifier(self, *net.summarise(x, y, support.way))

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """What the embedding makes of the images; its norms see them as a support set."""
        features: Tensor = copy.deepcopy(self.net).embedding(self.pixels(images))  # its norms hold state during a call
        return features.flatten(1)

    def state(self) -> State:
        """Weights, and the common diseases' pixel statistics."""
        weights = {name: value.detach() for name, value in self.net.learnt().items()}
        return {**weights, **self.pixels.state()}

    def with_state(self, state: State) -> "MetricLearner":
        """A learner with these weights instead.

        Raises:
            ValueError: if a weight is missing, superfluous, not finite, or has another shape.
        """
        refuse_other_state(self.state(), state)
        return replace(self, net=carrying(self.net, state), pixels=self.pixels.with_state(state))

    def carrying(self, weights: State) -> "MetricLearner":
        """The same learner with other weights in its network."""
        return replace(self, net=carrying(self.net, weights))


@dataclass(frozen=True)
class MetricClassifier:
    """One adapted task."""

    learner: MetricLearner
    classes: Tensor
    """What a query is compared with, one row a class; on the device that embedded the support images."""
    moments: list[Moments] | None

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Probabilities. A transductive learner's depend on all of `images`."""
        device = self.classes.device
        net = copy.deepcopy(self.learner.net).to(device)  # its norms hold state during the call
        return probabilities(net.answer(self.learner.pixels(images).to(device), self.classes, self.moments))

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features that are compared with the classes'."""
        device = self.classes.device
        net = copy.deepcopy(self.learner.net).to(device)
        of_embedding = None if self.moments is None else self.moments[: len(norms_of(net.embedding))]
        with nullcontext() if of_embedding is None else frozen_by(net.embedding, of_embedding):
            features: Tensor = net.embedding(self.learner.pixels(images).to(device))
        return features.flatten(1).cpu()

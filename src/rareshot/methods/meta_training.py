"""Algorithm 1 for every method that trains on tasks: what its numbers may be, and the way from a seed to a trained learner."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rareshot import meta_batch
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.gradients import Task, TaskGradient
from rareshot.losses import DifficultyAware, Mean
from rareshot.methods.tasks import tasks_and_gradients
from rareshot.policies import Curriculum
from rareshot.resident import Resident
from rareshot.training import Outer, train_episodic
from rareshot.types import Observe, State, TrainingState
from rareshot.validation import held_out, validation

if TYPE_CHECKING:
    from rareshot.methods.episodic_metric import MetricLearner
    from rareshot.methods.maml import MAML, EpisodicLearner
    from rareshot.methods.protonet import ProtoNet
    from rareshot.methods.relation import RelationNet

L = TypeVar("L", "EpisodicLearner", "MetricLearner")

POSITIVE = ("meta_lr", "clip", "decay", "tasks", "iterations", "validate_every")


def refuse_senseless(method: "MAML | RelationNet | ProtoNet", also: tuple[str, ...] = ()) -> None:
    """Refuse hyperparameters that make no sense.

    Args:
        also: other fields that must be above 0.

    Raises:
        ValueError: naming the field, its value and the rule.
    """
    EpisodeSpec(method.way, method.shot, method.query)
    for name in (*also, *POSITIVE):
        if not getattr(method, name) > 0:
            raise ValueError(f"{name}={getattr(method, name)} must be above 0")
    if method.width is not None and method.width < 1:
        raise ValueError(f"width={method.width} must be at least 1, or None for the paper's")
    if not 0 <= method.warmup <= method.iterations:
        raise ValueError(f"warmup={method.warmup} must lie between 0 and iterations={method.iterations}")
    if not 0 <= method.held_out < 1:
        raise ValueError(f"held_out={method.held_out} must be at least 0 and below 1")


def meta_rate(method: "MAML | RelationNet | ProtoNet", iteration: int) -> float:
    """Adam's rate in the outer loop, Eq. (4): from the end of the warm-up on a part of what it was."""
    return method.meta_lr * (1 if iteration < method.warmup else method.decay)


def meta_train(
    method: "MAML | RelationNet | ProtoNet",
    learner: L,
    common: LabelledImages,
    *,
    seed: int,
    start: State | None,
    resume: TrainingState | None,
    observe: Observe,
    in_thread: Callable[[Any, Mapping[str, Tensor], Task], TaskGradient],
    on_device: Callable[[Any, Resident, torch.device], meta_batch.Gradients],
    meta_loss: Mean | DifficultyAware,
    curriculum: bool,
) -> L:
    """The learner with the weights that Algorithm 1 gives it; see `rareshot.types.Method`.

    Args:
        learner: what the method begins with.
        in_thread: the learner's network, weights and a task → its gradient, on the CPU.
        on_device: the network, and images that lie on a device → the gradients of several tasks there.
        meta_loss: the outer loss from the end of the warm-up on; until then it is the mean.
        curriculum: draw the classes with the most progress (`rareshot.policies`), not any.
    """
    spec = EpisodeSpec(method.way, method.shot, method.query)
    Episodes(common, spec, seed=0)  # refuses classes that are too small
    train, held = held_out(common, method.held_out)
    if start is not None:
        learner = learner.with_state(start)
    outer = Outer(
        iterations=method.iterations,
        tasks=method.tasks,
        meta_loss=lambda iteration: Mean() if iteration < method.warmup else meta_loss,
        meta_lr=lambda iteration: meta_rate(method, iteration),
        clip=method.clip,
    )
    net = learner.net
    with tasks_and_gradients(
        net,
        train,
        learner.pixels,
        spec,
        tasks=method.tasks,
        seed=seed,
        augment=method.augment,
        held_out=method.held_out,
        in_thread=in_thread,
        on_device=lambda images, device: on_device(net, images, device),
    ) as (tasks, gradients):
        weights = train_episodic(
            net,
            tasks,
            gradients,
            outer,
            resume=resume,
            observe=observe,
            validate=validation(
                held, learner.carrying, spec, every=method.validate_every, iterations=method.iterations
            ),
            policy=Curriculum(len(train.classes), method.way, seed=seed) if curriculum else None,
        )
    return learner.carrying(weights)

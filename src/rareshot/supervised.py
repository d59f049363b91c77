"""Plain supervised training: cross-entropy over the common classes, Adam, batch norm with running statistics (§3).

Batch i is a pure function of (seed, i), so the weights, the running statistics and Adam's moments are all that a bit-identical
resume needs. A batch is computed on torch's threads as they are set, and another number of threads may give other bits.
"""

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rareshot import optimiser
from rareshot.backbones import Network
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Augment
from rareshot.training import TrainingDivergedError, restore, snapshot
from rareshot.types import Observe, Progress, State, TrainingState

CPU = torch.device("cpu")
Batch = tuple[Float[Tensor, "n 3 h w"], Int[Tensor, " n"]]


def learnt(net: Network) -> dict[str, Tensor]:
    """Name → tensor, of all that supervised training moves: parameters and running statistics, not copied.

    Batch norm's count of batches stays out: nothing reads it, and as the only integer it would hinder means of states.
    """
    statistics = {name: value for name, value in net.named_buffers() if value.is_floating_point()}
    return {**net.learnt(), **statistics}


def cosine(lr: float, iterations: int) -> Callable[[int], float]:
    """Iteration → rate: from `lr` at the first down to nearly 0 at the last along half a cosine, which has no step to choose."""
    return lambda iteration: lr * (1 + math.cos(math.pi * iteration / iterations)) / 2


def balanced_batches(images: LabelledImages, *, batch: int, augment: Augment, seed: int) -> Callable[[int], Batch]:
    """Number → batch: every image is of a class drawn uniformly, of a lesion drawn from it, and then one of its images.

    ISIC has 13 times as many nevi as basal cell carcinomas: drawn as they come, the rest would hardly be seen, and a lesion that
    was photographed six times would count six times.

    Raises:
        ValueError: if there are fewer than two classes, or one has no image.
    """
    empty = [name for name, (count, _) in images.counts().items() if not count]
    if len(images.classes) < 2 or empty:
        told = f"; none of {', '.join(empty)}" if empty else ""
        raise ValueError(
            f"supervised training needs images of at least 2 common classes; there are "
            f"{', '.join(images.classes) or 'none'}{told}"
        )
    members = [np.flatnonzero(images.labels == label) for label in range(len(images.classes))]
    lesions = [
        [own[images.groups[own] == group] for group in np.unique(images.groups[own])] for own in members
    ]  # class → lesion → its images

    def batch_of(number: int) -> Batch:
        rng = np.random.default_rng((seed, number))
        labels = rng.integers(len(lesions), size=batch)
        own = [lesions[label][rng.integers(len(lesions[label]))] for label in labels]
        chosen = np.array([indices[rng.integers(len(indices))] for indices in own])
        return augment(images.images(chosen), rng), torch.from_numpy(labels)

    return batch_of


def train_supervised(
    net: Network,
    batch_of: Callable[[int], Batch],
    *,
    iterations: int,
    lr: Callable[[int], float],
    weight_decay: float,
    resume: TrainingState | None,
    observe: Observe,
    validate: Callable[[int, State], dict[str, float]],
    device: torch.device = CPU,
) -> State:
    """Train `net` with a `full` head; returns `learnt` of the trained copy, on the CPU, and leaves `net` as it was.

    Args:
        batch_of: number of an iteration, from 0 → standardised images and labels.
        lr: number of an iteration → Adam's rate.
        weight_decay: decoupled (AdamW).
        resume: where an earlier run of the same stood.
        validate: (iterations done, weights) → figures for the log; a pure function.
        device: where it computes, and where states are that nobody has written yet; batches come from the CPU.

    Raises:
        TrainingDivergedError: if the loss or its gradient is not finite.
    """
    model = copy.deepcopy(net).to(device).eval()
    for (
        module
    ) in model.modules():  # only batch norm trains otherwise than it answers: no dropout, no global random state
        if isinstance(module, _BatchNorm):
            module.train()
    parameters = list(model.parameters())
    adam = optimiser.adam(parameters, lr=1.0, weight_decay=weight_decay)
    first = 0
    if resume is not None:
        first = resume.iteration
        with torch.no_grad():
            restore(learnt(model), adam, resume)
    for iteration in range(first, iterations):
        begun = time.perf_counter()
        x, y = (part.to(device) for part in batch_of(iteration))
        data_seconds = time.perf_counter() - begun
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        adam.zero_grad()
        torch.autograd.backward(loss)
        length = nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
        if not (loss.isfinite() and length.isfinite()):
            raise TrainingDivergedError(
                f"training diverged: at iteration {iteration + 1} the loss is {loss.item():.3g} and its gradient has length "
                f"{length.item():.3g}; the last checkpoint is good: try a smaller lr"
            )
        adam.param_groups[0]["lr"] = lr(iteration)
        adam.step()
        record: dict[str, Any] = {
            "iteration": iteration + 1,
            "loss": loss.item(),
            "lr": lr(iteration),
            "seconds": time.perf_counter() - begun,
            "data_seconds": data_seconds,
            "accuracy": float((logits.argmax(1) == y).double().mean()),
        }
        weights = learnt(model)
        record |= validate(iteration + 1, weights)
        observe(Progress(iteration + 1, iterations, record, snapshot(iteration + 1, weights, adam, (), {})))
    return {name: value.detach().cpu() for name, value in learnt(model).items()}

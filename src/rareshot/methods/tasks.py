"""Training tasks: an episode of common diseases, its images transformed and standardised (§2.1), and who differentiates them.

`training_tasks` makes the pictures; `drawn_tasks` says which they are, for a device that makes them itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rareshot import machine, meta_batch
from rareshot.data.augment import affine, draws, unchanged
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.gradients import Task, TaskGradient
from rareshot.pixels import Pixels
from rareshot.resident import DrawnTask, Resident
from rareshot.training import Trainable, in_threads

N = TypeVar("N", bound=Trainable)


@contextmanager
def tasks_and_gradients(
    net: N,
    train: LabelledImages,
    pixels: Pixels,
    spec: EpisodeSpec,
    *,
    tasks: int,
    seed: int,
    augment: bool,
    held_out: float,
    in_thread: Callable[[N, Mapping[str, Tensor], Task], TaskGradient],
    on_device: Callable[[Resident, torch.device], meta_batch.Gradients],
) -> Iterator[tuple[Callable[..., Any], Callable[..., list[TaskGradient]]]]:
    """What draws a task and what computes the gradients of up to `tasks`, for `train_episodic`; on the device in use.

    Args:
        seed, augment, held_out: see `training_tasks`.
        in_thread: the gradient of one task, on the CPU.
        on_device: images that lie on a device → the gradients of several tasks there.
    """
    device = machine.device()
    if meta_batch.on_device(device):
        drawn = drawn_tasks(train, spec, seed=seed, augment=augment, held_out=held_out)
        yield drawn, on_device(Resident(train, pixels, device), device)
        return
    with in_threads(net, in_thread, tasks) as gradients:
        yield training_tasks(train, pixels, spec, seed=seed, augment=augment, held_out=held_out), gradients


def training_tasks(
    train: LabelledImages, pixels: Pixels, spec: EpisodeSpec, *, seed: int, augment: bool, held_out: float
) -> Callable[[int, tuple[int, ...] | None], tuple[Task, Sequence[str]]]:
    """Number of a task and its classes (None: any) → the task and the names of its classes; the same for every method.

    Args:
        train: what `held_out` left to train on.
        augment: turn, scale and flip every image by draws of its own.
        held_out: the share that was kept from training; an error names it.

    Raises:
        ValueError: if a class of `train` has too few groups.
    """
    episodes = _episodes(train, spec, seed, held_out)
    transform = affine if augment else unchanged

    def task(number: int, classes: tuple[int, ...] | None) -> tuple[Task, Sequence[str]]:
        drawn = episodes.draw(number, classes)
        episode = episodes.augmented(drawn, transform, np.random.default_rng((seed, number, 1)))
        support_x, query_x = pixels(episode.support_x), pixels(episode.query_x)
        return Task(support_x, episode.support_y, query_x, episode.query_y, spec.way), episode.classes

    return task


def drawn_tasks(
    train: LabelledImages, spec: EpisodeSpec, *, seed: int, augment: bool, held_out: float
) -> Callable[[int, tuple[int, ...] | None], tuple[DrawnTask, Sequence[str]]]:
    """The same tasks by the same draws, pictures not made: indices into `train` and affine maps."""
    episodes = _episodes(train, spec, seed, held_out)

    def task(number: int, classes: tuple[int, ...] | None) -> tuple[DrawnTask, Sequence[str]]:
        drawn = episodes.draw(number, classes)
        indices = torch.from_numpy(np.concatenate([drawn.support.reshape(-1), *drawn.query]))
        maps = draws(len(indices), np.random.default_rng((seed, number, 1))) if augment else None
        names = tuple(train.classes[label] for label in drawn.classes)
        return DrawnTask(indices, maps, *episodes.labels(drawn), spec.way), names

    return task


def _episodes(train: LabelledImages, spec: EpisodeSpec, seed: int, held_out: float) -> Episodes:
    try:
        return Episodes(train, spec, seed=seed)
    except ValueError as error:
        raise ValueError(f"with held_out={held_out} of the groups kept from training: {error}") from error

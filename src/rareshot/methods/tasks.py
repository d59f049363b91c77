"""Training tasks: an episode of common diseases, its images transformed and standardised (§2.1)."""

from collections.abc import Callable, Sequence

import numpy as np

from rareshot.data.augment import affine, unchanged
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.gradients import Task
from rareshot.pixels import Pixels


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
    try:
        episodes = Episodes(train, spec, seed=seed)
    except ValueError as error:
        raise ValueError(f"with held_out={held_out} of the groups kept from training: {error}") from error
    transform = affine if augment else unchanged

    def task(number: int, classes: tuple[int, ...] | None) -> tuple[Task, Sequence[str]]:
        drawn = episodes.draw(number, classes)
        episode = episodes.augmented(drawn, transform, np.random.default_rng((seed, number, 1)))
        support_x, query_x = pixels(episode.support_x), pixels(episode.query_x)
        return Task(support_x, episode.support_y, query_x, episode.query_y, spec.way), episode.classes

    return task

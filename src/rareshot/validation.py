"""The curve that training is watched by: episodes of held-out lesions of the common diseases, never of the rare ones."""

from collections.abc import Callable

import numpy as np

from rareshot.data.collection import LabelledImages, split_groups
from rareshot.episodes import Episodes, EpisodeSpec, within
from rareshot.metrics import auc
from rareshot.types import Learner, State

HELD_OUT_SEED = 0
"""Fixes the common lesions that no method trains on: the same for every method and every training seed."""
VALIDATION_EPISODES = 40

Validate = Callable[[int, State], dict[str, float]]
"""(iterations done, weights) → figures for the log."""


def held_out(common: LabelledImages, fraction: float) -> tuple[LabelledImages, LabelledImages | None]:
    """The lesions to train on, and those kept from it (None if the fraction is 0)."""
    return split_groups(common, fraction=fraction, seed=HELD_OUT_SEED) if fraction else (common, None)


def validation(
    held: LabelledImages | None,
    learner_of: Callable[[State], Learner],
    spec: EpisodeSpec,
    *,
    every: int,
    iterations: int,
) -> Validate:
    """Mean AUC over episodes of `held`, every so many iterations and at the end; nothing where nothing is held out.

    Args:
        learner_of: weights in training → the learner that they would be.
        spec: of the episodes; their query is cut to what the smallest class leaves.

    Raises:
        ValueError: if a class of `held` has no more groups than a support set needs.
    """
    if held is None:
        return lambda iteration, weights: {}
    smallest = min(groups for _, groups in held.counts().values())
    if smallest <= spec.shot:
        raise ValueError(
            f"held_out leaves {smallest} groups of the smallest class to validate on, and shot={spec.shot} "
            f"needs more: add images, or set held_out=0 to train on all without a validation curve"
        )
    episodes = Episodes(held, within(held, spec), seed=HELD_OUT_SEED)

    def validate(iteration: int, weights: State) -> dict[str, float]:
        if iteration % every and iteration != iterations:
            return {}
        return {"validation_auc": mean_auc(learner_of(weights), episodes, VALIDATION_EPISODES)}

    return validate


def mean_auc(learner: Learner, episodes: Episodes, count: int) -> float:
    """Mean AUC over the first `count` episodes."""
    areas = []
    for i in range(count):
        episode = episodes[i]
        areas.append(auc(learner.adapt(episode.support, seed=i)(episode.query_x), episode.query_y))
    return float(np.mean(areas))

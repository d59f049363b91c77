"""Which support images may be mislabelled, or may be poor examples: those that the others do not expect.

How well an image fits its own label, by the other images' features (`rareshot.trust.centroids`): no adaptation. A warning says
that a support set looks worse than nearly all clean ones do; its threshold comes from clean tasks of common diseases.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.trust.centroids import features_over_flips, own_log_odds
from rareshot.trust.left_out import refuse_single
from rareshot.types import Learner, Support


@dataclass(frozen=True)
class Suspects:
    """Support images by suspicion."""

    own: Float[Tensor, " s"]
    """Probability of each image's own label, by the features of the others."""
    order: Int[Tensor, " s"]
    """Numbers of the images, the most suspect first."""
    lowest: float
    """Log odds of the most suspect image's own label."""
    warning: bool
    """Would most choices of as many images of each class hold one below the threshold? Always False where there is none."""


def suspects(learner: Learner, support: Support, threshold: float | None = None) -> Suspects:
    """Rank the support images, as though every class had as many as the smallest.

    Args:
        threshold: from `warning_threshold`, of as many images a class as the smallest has; None: rank only, never warn.

    Raises:
        ValueError: if the learner is not inductive, or a class has a single image.
    """
    refuse_single(support)
    odds = own_log_odds(features_over_flips(learner, support.images), support.labels, support.way, evenly=True)
    warning = threshold is not None and chance_of_one(odds < threshold, support.labels) > 0.5
    return Suspects(odds.sigmoid().float(), odds.argsort(stable=True), float(odds.min()), warning)


def chance_of_one(among: Bool[Tensor, " s"], labels: Int[Tensor, " s"]) -> float:
    """The chance that as many images of each class as the smallest has, drawn at random, hold one of `among`: 0 or 1 where all
    classes have as many.

    A threshold is of the worst of so many images: the worst of more lies lower, with no label wrong.
    """
    numbers = torch.bincount(labels).tolist()
    found = torch.bincount(labels[among], minlength=len(numbers)).tolist()
    k = min(numbers)
    return 1 - math.prod(math.comb(n - m, k) / math.comb(n, k) for n, m in zip(numbers, found, strict=True))


def warning_threshold(
    learner: Learner,
    held: LabelledImages,
    spec: EpisodeSpec,
    *,
    false_alarms: float = 0.1,
    episodes: int = 60,
    seed: int = 0,
) -> float:
    """The `lowest` below which at most a share `false_alarms` of clean support sets lie, whichever common diseases they are of.

    The lowest over all choices of `way` diseases; for each, the m-th smallest of the episodes', m = ⌊false_alarms · (episodes
    + 1)⌋: a further clean task of these diseases lies below it with probability at most `false_alarms`.

    Args:
        held: common diseases' lesions that the learner was not trained on, labels taken to be right.

    Raises:
        ValueError: if the episodes are too few for the rate, or as `suspects` does.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms={false_alarms} must be between 0 and 1")
    number = math.floor(false_alarms * (episodes + 1) + 1e-9)
    if number < 1:
        raise ValueError(
            f"episodes={episodes} are too few for false_alarms={false_alarms:g}: "
            f"at least {math.ceil(1 / false_alarms - 1)} are needed"
        )
    drawn = Episodes(held, spec, seed=seed)

    def of(classes: tuple[int, ...]) -> float:
        supports = (drawn.episode(drawn.draw(i, classes)).support for i in range(episodes))
        return sorted(suspects(learner, support).lowest for support in supports)[number - 1]

    return min(of(classes) for classes in combinations(range(len(held.classes)), spec.way))

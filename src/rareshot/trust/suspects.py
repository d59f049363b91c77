"""Which support images may be mislabelled, or may be poor examples: those that the others do not expect.

The probability of an image's own label, by the classifier that has not seen it. A warning says that a support set looks
worse than nearly all clean ones do; its threshold comes from clean tasks of common diseases.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.trust.left_out import LeftOut, class_log_odds, leave_one_out
from rareshot.types import Learner


@dataclass(frozen=True)
class Suspects:
    """Support images by suspicion."""

    own: Float[Tensor, " s"]
    """Probability of each image's own label, adapted without it."""
    order: Int[Tensor, " s"]
    """Numbers of the images, the most suspect first."""
    lowest: float
    """Log odds of the most suspect image's own label."""
    warning: bool
    """Is `lowest` below the threshold? Always False where there is none."""


def suspects(left_out: LeftOut, threshold: float | None = None) -> Suspects:
    """Rank the support images.

    Args:
        threshold: from `warning_threshold`; None: rank only, never warn.
    """
    labels = left_out.support.labels[:, None]
    own = left_out.probabilities.gather(1, labels)[:, 0]
    odds = class_log_odds(left_out.probabilities).gather(1, labels)[:, 0]
    lowest = float(odds.min())
    return Suspects(own, odds.argsort(stable=True), lowest, threshold is not None and lowest < threshold)


def warning_threshold(
    learner: Learner,
    held: LabelledImages,
    spec: EpisodeSpec,
    *,
    false_alarms: float = 0.1,
    episodes: int = 30,
    seed: int = 0,
) -> float:
    """The `lowest` below which at most a share `false_alarms` of clean support sets lie.

    The m-th smallest of the episodes', m = ⌊false_alarms · (episodes + 1)⌋: a further clean task of the same kind lies
    below it with probability at most `false_alarms`. It costs way · k adaptations an episode.

    Args:
        held: common diseases' lesions that the learner was not trained on, labels taken to be right.

    Raises:
        ValueError: if the episodes are too few for the rate, or as `leave_one_out` does.
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
    lowest = [suspects(leave_one_out(learner, drawn[i].support, seed=i)).lowest for i in range(episodes)]
    return float(torch.tensor(lowest, dtype=torch.float64).sort().values[number - 1])

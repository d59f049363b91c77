"""Intervals over lesions: would other lesions to be judged give the same AUC? A bootstrap that draws lesions, not images.

The episodes share their lesions, so that more episodes narrow an interval over episodes without end, but not this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rareshot.statistics import Interval, check_level, finite

Array = npt.NDArray[Any]


class TooFewLesionsError(ValueError):
    """An interval over lesions would say nothing: too often none of a class is drawn."""


@dataclass(frozen=True, eq=False)
class QueryScores:
    """What a classifier said of the query images of one 2-way episode.

    Args:
        scores: (q,) how sure of class 1: probabilities, or any monotone function of them.
        labels: (q,) 0 or 1, both present.
        groups: (q,) the lesion (or patient) of each image; one number is one lesion in all episodes.

    Raises:
        ValueError: if the lengths differ, a score is not finite, or the labels are not those of two classes.
    """

    scores: Array
    labels: Array
    groups: Array

    def __post_init__(self) -> None:
        if not self.scores.shape == self.labels.shape == self.groups.shape == (len(self.scores),):
            shapes = f"{self.scores.shape}, {self.labels.shape} and {self.groups.shape}"
            raise ValueError(
                f"scores, labels and groups need one entry each for every query image; got shapes {shapes}"
            )
        finite(self.scores, "scores")
        if set(self.labels.tolist()) != {0, 1}:
            found = sorted(set(self.labels.tolist()))
            raise ValueError(
                f"the bootstrap is for 2-way episodes with images of both classes, labels 0 and 1; got {found}"
            )


def bootstrap_over_groups(
    episodes: Sequence[QueryScores],
    *,
    resamples: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean AUC over episodes with a percentile interval over lesions; `n` is their number.

    A resample draws as many lesions as there are, with replacement, the same ones for all episodes. In each episode a
    query image weighs as often as its lesion was drawn; the weighted AUCs (ties half) are averaged over episodes,
    without those that kept no image of a class. Support sets stay as they were: the interval speaks of other lesions to
    be judged, not of others to learn from.

    Raises:
        TooFewLesionsError: if over 1 in 20 resamples keep no episode with both classes; up to there, such are left out.
        ValueError: if there is no episode.
    """
    names = _names(episodes)
    replicates, mean = _replicates(episodes, names, resamples, seed)
    return _percentiles(replicates, mean, len(names), level)


def bootstrap_pairs_over_groups(
    a: Sequence[QueryScores],
    b: Sequence[QueryScores],
    *,
    resamples: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Difference of two mean AUCs, first minus second, with a percentile interval over lesions, the same for both.

    Raises:
        ValueError: if the two do not hold the same episodes, and as `bootstrap_over_groups` does.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired bootstrap needs the same episodes of both methods; got {len(a)} and {len(b)}")
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        if not (np.array_equal(x.labels, y.labels) and np.array_equal(x.groups, y.groups)):
            raise ValueError(
                f"episode {number}: labels or groups differ; evaluate both methods on the same episodes, in one order"
            )
    return bootstrap_apart_over_groups(a, b, resamples=resamples, seed=seed, level=level)


def bootstrap_apart_over_groups(
    a: Sequence[QueryScores],
    b: Sequence[QueryScores],
    *,
    resamples: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Difference of the mean AUCs of two sets of episodes, first minus second, with a percentile interval over lesions.

    The episodes may be others, and their lesions too, as those of one site are of those of all: a lesion that both have is drawn
    as often for the one as for the other. `n` is the number of lesions of both together.

    Raises:
        ValueError: as `bootstrap_over_groups` does.
    """
    names = _names([*a, *b])
    replicates_a, mean_a = _replicates(a, names, resamples, seed)
    replicates_b, mean_b = _replicates(b, names, resamples, seed)
    return _percentiles(replicates_a - replicates_b, mean_a - mean_b, len(names), level)


def weighted_aucs(scores: Array, labels: Array, weights: Array) -> Array:
    """AUC of one episode for each column of image weights, (resamples,); ties half, NaN where a class weighs nothing.

    Σ_{i of class 1, j of class 0} w_i w_j ([s_i > s_j] + ½ [s_i = s_j]) / (Σ w_i · Σ w_j): the images of class 0 are
    sorted once, and the sum over j is read off their cumulative weights.

    Args:
        scores: (q,).
        labels: (q,) 0 or 1.
        weights: (q, resamples), not negative.
    """
    negatives = np.flatnonzero(labels == 0)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    below = np.zeros((len(negatives) + 1, weights.shape[1]))
    np.cumsum(weights[negatives], axis=0, out=below[1:])
    positives = scores[labels == 1]
    strictly, at_most = (np.searchsorted(scores[negatives], positives, side=side) for side in ("left", "right"))
    # Few scores are tied, as a rule: the second reading is only for those.
    read = below[strictly]
    tied = np.flatnonzero(strictly != at_most)
    read[tied] = (read[tied] + below[at_most[tied]]) / 2
    w = weights[labels == 1]
    total = w.sum(axis=0) * below[-1]
    areas: Array = np.divide(np.einsum("ir,ir->r", w, read), total, out=np.full(len(total), np.nan), where=total > 0)
    return areas


def _names(episodes: Sequence[QueryScores]) -> Array:
    """The lesions of all query images, in order."""
    names: Array = np.unique(np.concatenate([np.empty(0, int), *(episode.groups for episode in episodes)]))
    return names


def _replicates(episodes: Sequence[QueryScores], names: Array, resamples: int, seed: int) -> tuple[Array, float]:
    """Mean AUC of each resample of the lesions `names`, NaN where none is left, and mean AUC as measured."""
    if not episodes or resamples < 1:
        raise ValueError(f"the bootstrap needs episodes and resamples; got {len(episodes)} and {resamples}")
    lesions = len(names)
    times = np.random.default_rng(seed).multinomial(lesions, np.full(lesions, 1 / lesions), size=resamples)
    # The last column counts every lesion once: the mean as measured.
    weights = np.ascontiguousarray(np.vstack([times, np.ones(lesions)]).T)
    areas, defined = np.zeros(resamples + 1), np.zeros(resamples + 1)
    for episode in episodes:
        of_images = weights[np.searchsorted(names, episode.groups)]
        area = weighted_aucs(episode.scores, episode.labels, of_images)
        areas += np.nan_to_num(area)
        defined += ~np.isnan(area)
    empty = int((defined[:-1] == 0).sum())
    if empty > resamples / 20:
        raise TooFewLesionsError(
            f"{lesions} lesions are too few to resample: {empty} of {resamples} resamples leave no episode with images "
            "of both classes, and at most 1 in 20 may; the interval over episodes asks for none"
        )
    means = np.divide(areas, defined, out=np.full(resamples + 1, np.nan), where=defined > 0)
    return means[:-1], float(means[-1])


def _percentiles(replicates: Array, mean: float, n: int, level: float) -> Interval:
    check_level(level)
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n, "over lesions", level)

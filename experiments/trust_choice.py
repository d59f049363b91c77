"""The choices behind `rareshot.trust`, on held-out lesions of the common diseases; the rare ones are never opened.

    python experiments/trust_choice.py --data PATH --run RUN --other PATH --out results/trust-choice.jsonl

Appends one line a measurement and skips those that are there, so that it can be stopped and started. Adaptations leave one
image out in turn and are slow, hence fewer episodes.
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from trust import measured, opened, with_a_wrong_label

from rareshot.checkpoint import state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.run_record import versions
from rareshot.trust import Reference, leave_one_out, prediction_sets, smallest_error, suspects
from rareshot.trust.centroids import features_of, features_over_flips, own_log_odds
from rareshot.trust.left_out import class_log_odds
from rareshot.types import Learner, Support

MOST_SUSPECT = 3
QUERY = 4


def main(
    data: Path,
    run: Path,
    other: Path,
    out: Path,
    shot: int = 5,
    episodes: int = 600,
    slow_episodes: int = 60,
    threads: int | None = None,
) -> None:
    """Measure what is not there yet.

    Args:
        data: images or a store; its common diseases are measured on.
        run: of a fitted inductive learner.
        other: phone photographs; patients of even number are used, halved again.
        out: JSON lines.
        shot: k.
        episodes: of measurements that adapt nothing.
        slow_episodes: of those that leave images out by adapting.
        threads: None: all cores.
    """
    fitted, learner, _, train, held = opened(data, run, threads)
    about = {"on": "common", "shot": shot, "learner": state_hash(learner.state()), "versions": versions()}

    def measure(what: str, by: str, count: int, figures: Callable[[int], dict[str, Any]]) -> None:
        measured(out, {"what": what, "by": by}, {"episodes": count}, about, lambda: figures(count))

    drawn = Episodes(held, EpisodeSpec(2, shot, QUERY), seed=101)
    for by, score in SUSPECTS.items():
        slow = by.startswith("adapted")
        measure("suspects", by, slow_episodes if slow else episodes, lambda n, s=score: planted(learner, drawn, n, s))
    measure("suspects", "features, as many episodes", slow_episodes, lambda n: planted(learner, drawn, n, by_features))
    measure("warnings", "features over flips", episodes, lambda n: lowest_by_pair(learner, held, shot, n))
    measure("sets", "jackknife-minmax of adapted classifiers", slow_episodes, lambda n: sets(learner, drawn, n, minmax))
    measure(
        "sets", "full conformal of features, as many episodes", slow_episodes, lambda n: sets(learner, drawn, n, full)
    )
    measure("sets", "full conformal of features", episodes // 2, lambda n: sets(learner, drawn, n, full))
    photographs = load(other, fitted.size)
    measure("typicality", "distance", 0, lambda n: found(learner, train, held, photographs, False))
    measure("typicality", "distance and direction", 0, lambda n: found(learner, train, held, photographs, True))


def by_features(learner: Learner, support: Support) -> Tensor:
    """One pass."""
    return own_log_odds(features_of(learner, support.images), support.labels, support.way)


def by_flipped_features(learner: Learner, support: Support) -> Tensor:
    """As `suspects` does."""
    return own_log_odds(features_over_flips(learner, support.images), support.labels, support.way)


def by_turned_features(learner: Learner, support: Support) -> Tensor:
    """The mean of the features over eight turns and flips."""
    quarters = [torch.rot90(support.images, k, (2, 3)) for k in range(4)]
    parts = features_of(learner, torch.cat([*quarters, *(part.flip(3) for part in quarters)])).chunk(8)
    mean = torch.nn.functional.normalize(torch.stack(list(parts)).mean(0), dim=1)
    return own_log_odds(mean, support.labels, support.way)


def by_adapting(learner: Learner, support: Support) -> Tensor:
    """One adaptation a support image, without it."""
    left_out = leave_one_out(learner, support)
    return class_log_odds(left_out.probabilities).gather(1, support.labels[:, None])[:, 0]


SUSPECTS = {
    "features": by_features,
    "features over flips": by_flipped_features,
    "features over eight turns": by_turned_features,
    "adapted without each": by_adapting,
}


def planted(
    learner: Learner, drawn: Episodes, count: int, score: Callable[[Learner, Support], Tensor]
) -> dict[str, Any]:
    """How often a planted wrong label is among the three most suspect, by pair of classes too."""
    hits: dict[str, list[bool]] = {}
    for i in range(count):
        support, at = with_a_wrong_label(drawn[i], i, drawn.spec.shot)
        hit = at in score(learner, support).argsort(stable=True)[:MOST_SUSPECT].tolist()
        hits.setdefault("/".join(sorted(support.classes)), []).append(hit)
    return {
        "planted_among_most_suspect": float(np.mean([hit for part in hits.values() for hit in part])),
        "by_pair": {pair: [float(np.mean(part)), len(part)] for pair, part in sorted(hits.items())},
    }


def lowest_by_pair(learner: Learner, held: LabelledImages, shot: int, count: int) -> dict[str, Any]:
    """Log odds that a tenth of the clean support sets fall below, over all tasks and for each pair of classes."""
    drawn = Episodes(held, EpisodeSpec(2, shot, 1), seed=102)
    pairs = list(combinations(range(len(held.classes)), 2))
    lowest: dict[str, list[float]] = {}
    for i in range(count):
        pair = pairs[i % len(pairs)]
        said = suspects(learner, drawn.episode(drawn.draw(i, pair)).support).lowest
        lowest.setdefault("/".join(held.classes[label] for label in pair), []).append(said)
    every = np.concatenate(list(lowest.values()))
    limit = float(np.quantile(every, 0.1))
    return {
        "tenth": limit,
        "by_pair": {pair: float(np.quantile(part, 0.1)) for pair, part in lowest.items()},
        "warned_by_pair": {pair: float(np.mean(np.array(part) < limit)) for pair, part in lowest.items()},
    }


def full(learner: Learner, support: Support, images: Tensor) -> Tensor:
    """As `prediction_sets` does."""
    return prediction_sets(learner, support, images)


def minmax(learner: Learner, support: Support, images: Tensor) -> Tensor:
    """Jackknife-minmax (Barber et al. 2021), class by class, at the smallest error: 1 - error is promised."""
    left_out = leave_one_out(learner, support)
    own, others = class_log_odds(left_out.probabilities), class_log_odds(left_out.answers(images))
    inside = torch.zeros(len(images), support.way, dtype=torch.bool)
    for label in range(support.way):
        of_class = support.labels == label
        inside[:, label] = (own[of_class, label][:, None] <= others[of_class, :, label].amax(0)).any(0)
    return inside


def sets(
    learner: Learner, drawn: Episodes, count: int, of: Callable[[Learner, Support, Tensor], Tensor]
) -> dict[str, Any]:
    """Coverage and size on clean tasks."""
    covered, sizes, empty = [], [], []
    for i in range(count):
        episode = drawn[i]
        inside = of(learner, episode.support, episode.query_x)
        covered.append(float(inside[torch.arange(len(inside)), episode.query_y].double().mean()))
        sizes.append(float(inside.sum(1).double().mean()))
        empty.append(float((inside.sum(1) == 0).double().mean()))
    return {
        "promised": 1 - smallest_error(drawn.spec.shot),
        "coverage": float(np.mean(covered)),
        "standard_error": float(np.std(covered) / count**0.5),
        "mean_size": float(np.mean(sizes)),
        "empty": float(np.mean(empty)),
    }


def found(
    learner: Learner, train: LabelledImages, held: LabelledImages, photographs: LabelledImages, direction: bool
) -> dict[str, Any]:
    """Share of phone photographs that are called unlike, the direction fitted on one half and judged on the other."""
    flagged, flagged_with_support = [], []
    support = Episodes(held, EpisodeSpec(2, 5, 1), seed=103)[0].support
    for half in (0, 2):
        fit, judged = (photographs.images(np.flatnonzero(photographs.groups % 4 == part)) for part in (half, 2 - half))
        reference = Reference.of(learner, train, held, others=fit if direction else None)
        flagged.append(float(reference.typicality(learner, judged).is_unusual.double().mean()))
        with_support = reference.typicality(learner, judged, support=support)
        flagged_with_support.append(float(with_support.is_unusual.double().mean()))
    return {
        "flagged": float(np.mean(flagged)),
        "flagged_with_dermoscopy_support": float(np.mean(flagged_with_support)),
        "false_alarms": 0.05,
    }


if __name__ == "__main__":
    tyro.cli(main)

"""What is to be done with unequal numbers of images a class? Asked of held-out lesions of the common diseases.

    python experiments/unequal.py --data PATH --run RUN --out results/unequal.jsonl

One line for each list of numbers, with the figures of each way to adapt, and one of the suspect support images by each way to
rank them. Lines that are there are not measured again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from trust import measured, opened

from rareshot.checkpoint import state_hash
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.equal_parts import adapt_evenly, equal_parts
from rareshot.metrics import auc, ece
from rareshot.run_record import versions
from rareshot.trust import temperature_from_tasks, with_temperature
from rareshot.trust.centroids import features_over_flips, own_log_odds
from rareshot.types import Classifier, Episode, Learner, Support

QUERY = 15
COUNTS = ((1, 2), (1, 3), (1, 5), (2, 3), (2, 5), (3, 5), (4, 5), (5, 20), (1, 3, 5))
RANKED_COUNTS = ((2, 3), (2, 5), (3, 5), (4, 5), (5, 20), (2, 5, 10))
MOST_SUSPECT = 3
Adapt = Callable[[Learner, Support, int], Classifier]


def main(
    data: Path, run: Path, out: Path, episodes: int = 60, suspect_episodes: int = 400, threads: int | None = None
) -> None:
    """Compare ways to adapt to unequal numbers, and to rank them by suspicion.

    Args:
        data: images or a store; only lesions of its common diseases that the run held out are looked at.
        run: of a fitted inductive learner.
        out: JSON lines.
        episodes: for each list of numbers; which class has how many changes from one to the next.
        suspect_episodes: of those where nothing is adapted.
        threads: None: all cores.
    """
    fitted, learner, images, _, held = opened(data, run, threads)
    about = {
        "run": {**fitted.to_json(), "folder": run.name},
        "learner": state_hash(learner.state()),
        "data": {"name": images.card.name, "held_out": held.fingerprint()},
        "versions": versions(),
    }
    for counts in COUNTS:
        key = {"what": "unequal", "on": "held-out common", "counts": list(counts)}
        measured(
            out, key, {"episodes": episodes}, about, lambda counts=counts: compared(learner, held, counts, episodes)
        )
    for counts in RANKED_COUNTS:
        key = {"what": "unequal suspects", "on": "held-out common", "counts": list(counts)}
        figures_of = partial(ranked, learner, held, counts, suspect_episodes)
        measured(out, key, {"episodes": suspect_episodes}, about, figures_of)


def compared(learner: Learner, held: LabelledImages, counts: tuple[int, ...], episodes: int) -> dict[str, Any]:
    """AUC, right answers, answers that name the largest class, and ECE by the temperature of the smallest class's number."""
    temperature = temperature_from_tasks(learner, held, EpisodeSpec(len(counts), min(counts), QUERY), seed=1)
    return {
        "temperature": temperature,
        "ways": {name: figures(learner, held, counts, episodes, adapt, temperature) for name, adapt in WAYS.items()},
    }


def figures(
    learner: Learner, held: LabelledImages, counts: tuple[int, ...], episodes: int, adapt: Adapt, temperature: float
) -> dict[str, float]:
    """Of one way to adapt, over as many query images of each class."""
    drawn = Episodes(held, EpisodeSpec(len(counts), max(counts), QUERY), seed=3)
    areas, answers, labels, larger = [], [], [], []
    for i in range(episodes):
        episode = drawn[i]
        numbers = np.roll(counts, i)
        p = adapt(learner, shortened(episode, numbers), i)(episode.query_x)
        areas.append(auc(p, episode.query_y))
        answers.append(p.double())
        labels.append(episode.query_y)
        larger.append(p.argmax(1) == int(numbers.argmax()))
    p, y = torch.cat(answers), torch.cat(labels)
    return {
        "auc": float(np.mean(areas)),
        "right": float((p.argmax(1) == y).double().mean()),
        "largest": float(torch.cat(larger).double().mean()),
        "ece": ece(p, y),
        "ece_tempered": ece(with_temperature(p, temperature), y),
    }


def ranked(learner: Learner, held: LabelledImages, counts: tuple[int, ...], episodes: int) -> dict[str, Any]:
    """Whose image is the most suspect of a clean support set, and how often a planted one is among the three most suspect."""
    drawn = Episodes(held, EpisodeSpec(len(counts), max(counts), 1), seed=5)
    found = {name: Ranked([], [], []) for name in RANKINGS}
    for i in range(episodes):
        episode, numbers = drawn[i], np.roll(counts, i)
        smallest, largest = int(numbers.argmin()), int(numbers.argmax())
        support = shortened(episode, numbers)
        own = features_over_flips(learner, support.images)
        new = features_over_flips(learner, episode.query_x)
        for name, rank in RANKINGS.items():
            most = int(rank(own, support.labels, support.way)[0])
            found[name].clean.append(int(support.labels[most]) == smallest)
            for label, hits in ((smallest, found[name].in_smallest), (largest, found[name].in_largest)):
                at = int((support.labels == label).nonzero()[0, 0])
                spoilt = own.clone()
                spoilt[at] = new[episode.query_y == (label + 1) % support.way][0]
                hits.append(at in rank(spoilt, support.labels, support.way)[:MOST_SUSPECT].tolist())
    return {
        "share_of_smallest": min(counts) / sum(counts),
        "ways": {
            name: {part: float(np.mean(hits)) for part, hits in vars(each).items()} for name, each in found.items()
        },
    }


@dataclass(frozen=True)
class Ranked:
    """One truth an episode."""

    clean: list[bool]
    """Is the most suspect image of a clean support set one of the smallest class?"""
    in_smallest: list[bool]
    """Is an image of another class, planted in the smallest one, among the most suspect?"""
    in_largest: list[bool]
    """Or in the largest one?"""


def as_they_are(features: Tensor, labels: Tensor, way: int) -> Tensor:
    """Places by the distances to the class means, of however many images."""
    return own_log_odds(features, labels, way).argsort(stable=True)


def evenly(features: Tensor, labels: Tensor, way: int) -> Tensor:
    """As though every class had as many: what `suspects` does."""
    return own_log_odds(features, labels, way, evenly=True).argsort(stable=True)


RANKINGS = {"as they are": as_they_are, "evenly": evenly}


def shortened(episode: Episode, numbers: Any) -> Support:
    """The first images of each class of an episode."""
    kept = torch.cat([(episode.support_y == label).nonzero()[: int(n), 0] for label, n in enumerate(numbers)])
    return Support(episode.support_x[kept], episode.support_y[kept], episode.classes)


def as_it_is(learner: Learner, support: Support, seed: int) -> Classifier:
    """All images at once."""
    return learner.adapt(support, seed=seed)


def fewest(learner: Learner, support: Support, seed: int) -> Classifier:
    """As many of each class as the smallest has; the others are thrown away."""
    return learner.adapt(next(equal_parts(support)), seed=seed)


def repeated(learner: Learner, support: Support, seed: int) -> Classifier:
    """Images of the smaller classes several times, so that all classes have as many."""
    places = of_classes(support)
    most = max(map(len, places))
    kept = torch.cat([at[torch.arange(most) % len(at)] for at in places])
    return learner.adapt(Support(support.images[kept], support.labels[kept], support.classes), seed=seed)


def in_parts(learner: Learner, support: Support, seed: int) -> Classifier:
    """The mean over parts with as many of each: what `rareshot adapt` does."""
    return adapt_evenly(learner, support, seed=seed)


def of_classes(support: Support) -> list[Tensor]:
    """Places of each class's images."""
    return [(support.labels == label).nonzero()[:, 0] for label in range(support.way)]


WAYS: dict[str, Adapt] = {
    "as it is": as_it_is,
    "fewest": fewest,
    "repeated": repeated,
    "equal parts": in_parts,
}

if __name__ == "__main__":
    tyro.cli(main)

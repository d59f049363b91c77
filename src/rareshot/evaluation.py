"""How good is a learner on rare diseases? The protocols `paper`, `full` and `site` (§3, docs/evaluation.md).

- `paper`: 2 random rare classes, k support and 15 query images each; 20 draws of the paper's 30 runs, so that no draw is
  chosen.
- `full`: the same, with one image of every remaining lesion as query.
- `site`: every image of an episode from one acquisition site, for each pair of classes with enough lesions there, beside the
  same pair over all sites: a learner can score by recognising the camera.

It knows a learner only by what `rareshot.types.Learner` promises, and every learner meets the same episodes.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.lesion_bootstrap import QueryScores
from rareshot.metrics import all_metrics, ranking
from rareshot.statistics import Interval, interval
from rareshot.types import Learner

Protocol = Literal["paper", "full", "site"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

RUNS = 30
"""Runs of one draw of the `paper` protocol."""
DRAWS = 20
FEWEST_DRAWS = 10
"""Draws that an interval over them needs; where there are fewer it is over episodes."""
QUERY = 15
SITE_EPISODES = 100
"""Episodes of each pair at each site."""
SITE_QUERY = 10
"""Query lesions that both classes of a pair need at a site."""
PART = 32
"""Queries that an inductive learner answers at once: `full` has hundreds, and each core would hold the maps of all of its own."""
METRICS = ("auc", "accuracy", "balanced_accuracy", "sensitivity_at_specificity", "brier", "ece")
LOWER_IS_BETTER = ("brier", "ece")


@dataclass(frozen=True)
class RunResult:
    """One evaluated episode."""

    protocol: Protocol
    episode: int
    """Its number in the sequence that every learner meets."""
    classes: tuple[str, ...]
    site: str
    """The site that all its images come from; empty: all sites."""
    queries: int
    seconds: float
    """To adapt and to answer."""
    metrics: Mapping[str, float]


class Query(NamedTuple):
    """What an episode's intervals over lesions need: `metrics.ranking` of class 1, label and group of each query image."""

    scores: list[float]
    labels: list[int]
    groups: list[int]


class Plan(NamedTuple):
    """One episode to come."""

    episodes: Episodes
    episode: int
    classes: tuple[int, ...] | None
    site: str


def plan(
    images: LabelledImages,
    protocol: Protocol,
    *,
    way: int = 2,
    shot: int = 5,
    seed: int = 0,
    count: int | None = None,
    by_image: bool = False,
) -> list[Plan]:
    """The episodes of a protocol: the same for every learner.

    Args:
        images: the classes to draw from, in general `LabelledImages.rare()`.
        count: episodes; of each pair at each site in `site`. None: 600 (20 draws of 30), or 100.
        by_image: let photographs of one lesion stand on both sides (`paper` only).

    Raises:
        ValueError: if the classes cannot fill the episodes, or `site` has no site column or no pair, or is asked for another way.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not a protocol; choose from {', '.join(PROTOCOLS)}")
    if by_image and protocol != "paper":
        raise ValueError(f"by_image belongs to the paper protocol, not to {protocol}")
    if count is not None and count < 1:
        raise ValueError(f"episodes={count}: at least 1 is needed")
    if protocol == "site" and way != 2:
        raise ValueError(f"way={way}: the site protocol is of pairs of classes; leave way at 2")
    if protocol == "site":
        return _site_plan(images, shot, seed, count or SITE_EPISODES)
    spec = EpisodeSpec(way, shot, QUERY if protocol == "paper" else None)
    episodes = Episodes(images, spec, seed=seed, by_image=by_image)
    return [Plan(episodes, i, None, "") for i in range(count or DRAWS * RUNS)]


def evaluate(learner: Learner, plans: Sequence[Plan], protocol: Protocol) -> Iterator[tuple[RunResult, Query]]:
    """Adapt to each episode and judge the answers, in order; episodes run beside each other, one thread each."""
    for answered in evaluate_together(learner, [{protocol: item} for item in plans]):
        yield answered[protocol]


def evaluate_together(
    learner: Learner, plans: Sequence[Mapping[Protocol, Plan]]
) -> Iterator[dict[Protocol, tuple[RunResult, Query]]]:
    """`evaluate` by several protocols at once: those of an entry that have their support set in common share an adaptation.

    Episode i of `full` has the support set of episode i of `paper`, and adapting is most of the work for most learners. The
    results are those of one protocol after the other; `seconds` counts the adaptation in each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            for first in range(0, len(plans), 4 * threads):
                yield from pool.map(lambda items: _run(learner, items), plans[first : first + 4 * threads])
    finally:
        torch.set_num_threads(threads)


def _run(learner: Learner, items: Mapping[Protocol, Plan]) -> dict[Protocol, tuple[RunResult, Query]]:
    """One entry of plans; only one adapted classifier is held at a time, as each may be a network of its own."""
    answered: dict[Protocol, tuple[RunResult, Query]] = {}
    support: tuple[int, tuple[str, ...]] | None = None
    for protocol, item in items.items():
        drawn = item.episodes.draw(item.episode, item.classes)
        episode = item.episodes.episode(drawn)
        if (item.episode, episode.support_ids) != support:
            support = (item.episode, episode.support_ids)
            begun = time.perf_counter()
            classify = learner.adapt(episode.support, seed=item.episode)
            adapting = time.perf_counter() - begun
        begun = time.perf_counter()
        parts = torch.split(episode.query_x, PART if learner.inductive else len(episode.query_x))
        probabilities = torch.cat([classify(part) for part in parts])
        seconds = adapting + time.perf_counter() - begun
        groups = item.episodes.images.groups[np.concatenate(drawn.query)]
        metrics = all_metrics(probabilities, episode.query_y)
        result = RunResult(protocol, item.episode, episode.classes, item.site, len(groups), seconds, metrics)
        query = Query(ranking(probabilities)[:, 1].tolist(), episode.query_y.tolist(), groups.tolist())
        answered[protocol] = (result, query)
    return answered


def _site_plan(images: LabelledImages, shot: int, seed: int, count: int) -> list[Plan]:
    column = images.card.site_column or "site"
    if column not in images.columns:
        raise ValueError(
            f"the site protocol needs a column that says where an image comes from; {images.card.name} has "
            f"{', '.join(images.columns) or 'no extra columns'}: add a column called site to its table"
        )
    sites = images.columns[column].astype(str)
    plans = []
    for first, second in itertools.combinations(range(len(images.classes)), 2):
        pair = (images.classes[first], images.classes[second])
        whole = images.of(pair)
        found = []
        for site in sorted(set(sites) - {""}):  # blank: nobody wrote down where
            there = images.take(np.flatnonzero(sites == site)).of(pair)
            if min(groups for _, groups in there.counts().values()) >= shot + SITE_QUERY:
                found.append((site, there))
        for site, there in [("", whole), *found] if found else []:
            episodes = Episodes(there, EpisodeSpec(2, shot, None), seed=seed)
            plans += [Plan(episodes, i, None, site) for i in range(count)]
    if not plans:
        raise ValueError(
            f"the site protocol needs a pair of classes with {shot} + {SITE_QUERY} lesions each at one site; there is none"
        )
    return plans


def line_of(result: RunResult) -> dict[str, Any]:
    """A result as plain JSON values."""
    return {**asdict(result), "classes": list(result.classes), "metrics": dict(result.metrics)}


def result_of(line: Mapping[str, Any]) -> RunResult:
    """The result that `line_of` wrote down."""
    return RunResult(**{**line, "classes": tuple(line["classes"])})


def query_scores(queries: Sequence[Query]) -> list[QueryScores]:
    """In the form that the bootstrap over lesions takes."""
    return [QueryScores(np.array(q.scores), np.array(q.labels), np.array(q.groups)) for q in queries]


def overall(results: Sequence[RunResult], metric: str = "auc") -> Interval:
    """Mean of a metric with its interval: over episodes, or in the `paper` protocol over draws of 30 runs, from 10 of them on.

    Runs are drawn apart from each other, so that both are right; few draws only make Student's t wide.
    """
    return averaged([result.metrics[metric] for result in results], results[0].protocol)


def averaged(values: Sequence[float], protocol: str) -> Interval:
    """`overall`, of one figure an episode."""
    draws = len(values) // RUNS
    if protocol == "paper" and draws >= FEWEST_DRAWS:
        means = [float(np.mean(values[draw * RUNS : (draw + 1) * RUNS])) for draw in range(draws)]
        return interval(means, kind=f"over {draws} draws of {RUNS} runs")
    return interval(values, kind="over episodes")


Place = tuple[str, tuple[str, ...]]
"""A site, empty for all of them, and a pair of classes in alphabetical order."""


def place_of(result: RunResult) -> Place:
    """Where an episode's images come from, and of which classes they are."""
    return result.site, tuple(sorted(result.classes))


def by_pair(results: Sequence[RunResult]) -> dict[Place, Interval]:
    """Mean AUC over the episodes of each place."""
    cells: dict[Place, list[float]] = {}
    for result in results:
        cells.setdefault(place_of(result), []).append(result.metrics["auc"])
    return {key: interval(values, kind="over episodes") for key, values in sorted(cells.items())}

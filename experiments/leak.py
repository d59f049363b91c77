"""What is a lesion on both sides of an episode worth by itself?

Where single images are drawn (`--by-image`), other lesions are drawn too, so that its AUC answers another question. Here the
photographs are the same on both counts. An episode has two supports, A and B, of k lesions a class each, none shared; its query
images are a second photograph of every lesion of A and of B. A learner adapts to A and to B in turn. Each time the photographs
of its own support's lesions are judged by themselves, and so are those of the other's: over both turns, all photographs and both
supports stand on either side of the comparison alike, and nothing is left but the lesion, with all that its photographs share:
the patient, the camera, the day.

    python experiments/leak.py --data PATH --results results --out results/leak.jsonl

Judges the laptop scale's learners of seed 0. Appends one line a row of Table 1, and the share of query images whose lesion is in
the support where images are drawn; skips what is there, so that it can be stopped and started.
"""

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from trust import measured

from rareshot.cells import learner_of
from rareshot.checkpoint import state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.episodes import Drawn, Episodes, EpisodeSpec
from rareshot.evaluation import plan
from rareshot.experiments import TABLES, Cell
from rareshot.machine import settle
from rareshot.metrics import auc
from rareshot.run_record import versions
from rareshot.scales import SCALES
from rareshot.setting import Setting
from rareshot.statistics import interval, paired
from rareshot.types import Learner

SCALE = "laptop"
SLOW = "finetune-densenet"
"""Half a minute and more an adaptation, on a CPU: left out unless asked for."""
ROWS = tuple(row.key for row in TABLES["table1"].rows if row.key != SLOW)


def main(
    data: Path,
    results: Path,
    out: Path,
    rows: tuple[str, ...] = ROWS,
    shot: int = 5,
    episodes: int = 300,
    threads: int | None = None,
) -> None:
    """Measure what is not there yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        results: where `rareshot reproduce` has put its runs.
        out: JSON lines, one a row.
        rows: keys of Table 1. One that fine-tunes is judged by as many episodes as there.
        shot: k.
        episodes: of each row.
        threads: None: all cores.
    """
    settle(threads)
    setting = Setting.of(TABLES["table1"], results, SCALE, load(data, SCALES[SCALE].size))
    about = {"scale": SCALE, "seed": 0, "data": setting.rare.fingerprint(), "versions": versions()}
    size = {"episodes": episodes}
    measured(
        out,
        {"row": "drawn by image", "shot": shot},
        size,
        about,
        lambda: {"shared": shared(setting.rare, shot, episodes)},
    )
    for row in TABLES["table1"].rows:
        if row.key in rows:
            learner = learner_of(setting, Cell(row, shot, 0), lambda *_: None, lambda: False)
            count = min(episodes, row.episodes or episodes)
            figures = partial(compared, learner, setting.rare, shot, count)
            judged = {**about, "learner": state_hash(learner.state())}
            measured(out, {"row": row.key, "shot": shot}, {"episodes": count}, judged, figures)


def shared(images: LabelledImages, shot: int, episodes: int) -> float:
    """Share of the query images whose lesion is in the support, in the `paper` protocol drawn by image."""
    shares = []
    for item in plan(images, "paper", shot=shot, count=episodes, by_image=True):
        drawn = item.episodes.draw(item.episode)
        lesions = images.groups[np.concatenate(drawn.query)]
        shares.append(np.isin(lesions, images.groups[drawn.support]).mean())
    return float(np.mean(shares))


class Crossed(NamedTuple):
    """The two halves of an episode: the query images are the same, and `own` says whose lesions are in the support."""

    drawn: Drawn
    own: npt.NDArray[np.bool_]
    """(query,) in the order of the query images."""


def crossed(images: LabelledImages, shot: int, episodes: int) -> Iterator[tuple[Crossed, Crossed]]:
    """Pairs of classes in turn; every lesion in an episode has two photographs, one in a support and one in the query.

    Raises:
        ValueError: if a class has fewer than 2 · shot lesions with two photographs.
    """
    pairs = list(combinations(range(len(images.classes)), 2))
    several = [_several(images, label) for label in range(len(images.classes))]
    short = [images.classes[label] for label, lesions in enumerate(several) if len(lesions) < 2 * shot]
    if short:
        raise ValueError(f"{', '.join(short)}: fewer than {2 * shot} lesions with two photographs")
    for i in range(episodes):
        rng = np.random.default_rng((0, i))
        classes = pairs[i % len(pairs)]
        # (way, 2 · shot, 2): the first half of the lesions is A's, the last photograph the query's.
        chosen = np.stack(
            [
                [
                    rng.choice(several[label][at], 2, replace=False)
                    for at in rng.permutation(len(several[label]))[: 2 * shot]
                ]
                for label in classes
            ]
        )
        query = [photographs[:, 1] for photographs in chosen]
        is_a = np.tile(np.arange(2 * shot) < shot, len(classes))
        support_a, support_b = chosen[:, :shot, 0], chosen[:, shot:, 0]
        of = np.asarray(classes)
        yield Crossed(Drawn(of, support_a, query), is_a), Crossed(Drawn(of, support_b, query), ~is_a)


def _several(images: LabelledImages, label: int) -> list[npt.NDArray[np.int64]]:
    """Photographs of each lesion of a class that has two or more."""
    lesions = images.groups[images.labels == label]
    found = [np.flatnonzero((images.groups == lesion) & (images.labels == label)) for lesion in np.unique(lesions)]
    return [photographs for photographs in found if len(photographs) > 1]


def compared(learner: Learner, images: LabelledImages, shot: int, episodes: int) -> dict[str, Any]:
    """AUC on photographs of the support's lesions and of others, and their difference on the same episodes."""
    spec = Episodes(images, EpisodeSpec(2, shot, None), seed=0)
    areas = []
    for i, halves in enumerate(crossed(images, shot, episodes)):
        found = []
        for drawn, own in halves:
            episode = spec.episode(drawn)
            answers = learner.adapt(episode.support, seed=i)(episode.query_x)
            found.append([auc(answers[own], episode.query_y[own]), auc(answers[~own], episode.query_y[~own])])
        areas.append(np.mean(found, axis=0))
    own, others = np.transpose(areas)
    apart = {"own": interval(own, "over episodes"), "others": interval(others, "over episodes")}
    apart["difference"] = paired(own, others, kind="over episodes").interval
    return {name: {"mean": each.mean, "low": each.low, "high": each.high} for name, each in apart.items()}


if __name__ == "__main__":
    tyro.cli(main)

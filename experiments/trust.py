"""Is what `rareshot.trust` promises kept? Tuned on held-out lesions of the common diseases, measured on the rare ones once.

    python experiments/trust.py --data PATH --run RUN --out results/trust.jsonl --other PATH

Appends one line a measurement, with the number of its episodes, and skips those that are there: it can be stopped and started.
With `--way 3 --shot 1`, `MALLOC_MMAP_THRESHOLD_=1048576` before it gives freed memory back: 1.2 GB, else over 17.
`--episodes 600` is the full run. Leaving images out by adapting takes two adaptations an image, hence a number of its own.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from rareshot.checkpoint import load_learner, state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec, within
from rareshot.machine import round_alike, use_threads
from rareshot.metrics import auc, brier, ece
from rareshot.run_record import Run, read_run, versions
from rareshot.statistics import interval
from rareshot.trust import (
    Reference,
    augmented_answers,
    leave_one_out,
    prediction_sets,
    smallest_error,
    spread,
    suspects,
    temperature_from_support,
    temperature_from_tasks,
    warning_threshold,
    with_prevalence,
    with_temperature,
)
from rareshot.types import Episode, Learner, Support
from rareshot.validation import held_out

QUERY = 15
SETS_QUERY = 4
"""Query images a class whose prediction sets are made."""
MOST_SUSPECT = 3


def main(
    data: Path,
    run: Path,
    out: Path,
    other: Path | None = None,
    shot: int = 5,
    way: int = 2,
    episodes: int = 60,
    slow_episodes: int = 20,
    threads: int | None = None,
) -> None:
    """Tune, then measure.

    Args:
        data: images or a store; its common diseases are tuned on, its rare ones measured on.
        run: of a fitted inductive learner.
        out: JSON lines.
        other: images that the learner was not made for, as phone photographs; half of them are judged. None: made junk alone.
        shot: k. With 1 nothing can be left out: the temperature alone is measured.
        way: classes of a task. With more than 2 the temperature alone is measured, on the rare ones where there are so many.
        episodes: of measurements that adapt once an episode, or not at all.
        slow_episodes: of those that leave images out by adapting.
        threads: None: all cores.
    """
    fitted, learner, images, train, held = opened(data, run, threads)
    rare = images.rare()
    about = {
        "run": {**fitted.to_json(), "folder": run.name},
        "learner": state_hash(learner.state()),
        "data": {"name": images.card.name, "rare": list(rare.classes), "fingerprint": rare.fingerprint()},
        "shot": shot,
        "versions": versions(),
    }

    def measure(what: str, on: str, count: int, figures: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        what = what if way == 2 else f"{what}, {way} classes"
        return measured(out, {"what": what, "on": on}, {"episodes": count}, about, figures)

    # Tuned on the common diseases.
    spec = within(held, EpisodeSpec(way, shot, QUERY))
    few = min(episodes, 200)
    temperature = measure(
        "temperature",
        "common",
        few,
        lambda: {"temperature": temperature_from_tasks(learner, held, spec, episodes=few, seed=1)},
    )["temperature"]
    if shot == 1 or way > 2:
        if way <= len(rare.classes):
            measure(
                "calibration", "rare", episodes, lambda: calibration(rare, learner, temperature, shot, episodes, way)
            )
        return
    threshold = measure(
        "warning threshold",
        "common",
        60,
        lambda: {"threshold": warning_threshold(learner, held, EpisodeSpec(2, shot, 1), seed=2), "false_alarms": 0.1},
    )["threshold"]
    known, judged = (None, None) if other is None else phone(other, fitted.size)
    reference = Reference.of(learner, train, held, others=known)
    parts = made_junk(fitted.size) | ({} if other is None or judged is None else {other.name: judged})
    for name, part in parts.items():
        measure("typicality", name, 0, lambda part=part: flagged(reference, learner, part, rare, shot))
    if other is not None and judged is not None:
        plain = Reference.of(learner, train, held)
        measure("typicality, distance alone", other.name, 0, lambda: flagged(plain, learner, judged, rare, shot))

    # Measured on the rare diseases.
    measure("typicality", "rare", 0, lambda: typicality_of_rare(rare, reference, learner, shot))
    measure("suspects", "rare", episodes, lambda: planted(rare, learner, threshold, shot, episodes))
    measure("prediction sets", "rare", episodes, lambda: covered(rare, learner, shot, episodes))
    measure("calibration", "rare", episodes, lambda: calibration(rare, learner, temperature, shot, episodes))
    measure(
        "left out", "rare", slow_episodes, lambda: left_out_figures(rare, learner, temperature, shot, slow_episodes)
    )


def opened(
    data: Path, run: Path, threads: int | None
) -> tuple[Run, Learner, LabelledImages, LabelledImages, LabelledImages]:
    """Run, learner, all images, and the common lesions that it was trained on and that were held out."""
    round_alike()
    use_threads(threads)  # and not `keep_memory`: episodes of changing sizes leave holes that nothing fits into again
    fitted, learner = read_run(run), load_learner(run)
    images = load(data, fitted.size)
    # A method that trains on nothing has no share of its own.
    train, held = held_out(images.common(), getattr(fitted.method, "held_out", 0.2))
    if held is None:
        raise ValueError(f"{run} was fitted with held_out=0: there are no lesions left to tune on")
    return fitted, learner, images, train, held


def measured(
    out: Path,
    key: dict[str, Any],
    size: dict[str, Any],
    about: dict[str, Any],
    figures: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """The line in `out` of all that is given but `versions`; measured and appended if it is not there."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    wanted = json.loads(json.dumps({**key, **size, **about}))  # as it is read: lists for tuples
    wanted.pop("versions", None)
    for line in lines:
        if all(name in line and line[name] == value for name, value in wanted.items()):
            return dict(line)
    begun = time.process_time()
    line = {**key, **size, **figures()}
    line |= {"cpu_seconds": time.process_time() - begun, **about}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def flagged(reference: Reference, learner: Learner, images: Tensor, rare: LabelledImages, shot: int) -> dict[str, Any]:
    """Share of images of another kind that are called unlike, by themselves and beside support sets of rare lesions."""
    drawn = Episodes(rare, EpisodeSpec(2, shot, 1), seed=5)
    beside = [
        reference.typicality(learner, images, support=drawn[i].support).is_unusual.double().mean() for i in range(5)
    ]
    alone = reference.typicality(learner, images).is_unusual
    return {
        "images": len(images),
        "flagged": float(alone.double().mean()),
        "flagged_beside_support": float(torch.stack(beside).mean()),
        "false_alarms": 0.05,
    }


def typicality_of_rare(rare: LabelledImages, reference: Reference, learner: Learner, shot: int) -> dict[str, Any]:
    """False alarms on rare lesions: one image of each, by itself; and query images beside their support sets."""
    _, first = np.unique(rare.groups, return_index=True)
    unusual = reference.typicality(learner, rare.images(first)).is_unusual.numpy()
    drawn = Episodes(rare, EpisodeSpec(2, shot, QUERY), seed=5)
    beside: dict[str, list[float]] = {name: [] for name in rare.classes}
    for i in range(60):
        episode = drawn[i]
        said = reference.typicality(learner, episode.query_x, support=episode.support).is_unusual
        for label, name in enumerate(episode.classes):
            beside[name].append(float(said[episode.query_y == label].double().mean()))
    return {
        "images": len(first),
        "flagged": float(unusual.mean()),
        "of_class": {name: float(unusual[rare.labels[first] == c].mean()) for c, name in enumerate(rare.classes)},
        "beside_support_of_class": {name: float(np.mean(part)) for name, part in beside.items()},
        "false_alarms": 0.05,
    }


def calibration(
    rare: LabelledImages, learner: Learner, temperature: float, shot: int, count: int, way: int = 2
) -> dict[str, Any]:
    """ECE and Brier score in the `full` protocol, all episodes' queries pooled, before and after the temperature from tasks.

    Two readings. All remaining lesions, where one class is up to three times as frequent as the other: with the prevalence
    that an episode has, and with none. And as many lesions of both classes, the first QUERY of each.
    """
    drawn = Episodes(rare, EpisodeSpec(way, shot, None), seed=0)
    raw, labels, classes = [], [], []
    for i in range(count):
        episode = drawn[i]
        raw.append(learner.adapt(episode.support, seed=i)(episode.query_x).double())
        labels.append(episode.query_y)
        classes.append(episode.classes)
    tempered = [with_temperature(p, temperature) for p in raw]
    known = [at_its_prevalence(p, y, names) for p, y, names in zip(tempered, labels, classes, strict=True)]
    equal = [torch.cat([(y == c).nonzero()[:QUERY, 0] for c in range(way)]) for y in labels]
    few = [y[at] for y, at in zip(labels, equal, strict=True)]
    return {
        "all lesions": {
            "raw": pooled(raw, labels),
            "temperature": pooled(tempered, labels),
            "temperature and prevalence": pooled(known, labels),
        },
        "as many of each class": {
            "raw": pooled([p[at] for p, at in zip(raw, equal, strict=True)], few),
            "temperature": pooled([p[at] for p, at in zip(tempered, equal, strict=True)], few),
        },
    }


def at_its_prevalence(p: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Where the shares of the classes among the query images are known."""
    shares = labels.bincount(minlength=len(classes)) / len(labels)
    return with_prevalence(p, classes, dict(zip(classes, shares.tolist(), strict=True)))


def planted(rare: LabelledImages, learner: Learner, threshold: float, shot: int, count: int) -> dict[str, Any]:
    """How often a planted wrong label is among the most suspect, and how often a warning is given."""
    drawn = Episodes(rare, EpisodeSpec(2, shot, 1), seed=4)
    found: dict[str, list[bool]] = {}
    warned, warned_planted = [], []
    for i in range(count):
        episode = drawn[i]
        warned.append(suspects(learner, episode.support, threshold).warning)
        support, at = with_a_wrong_label(episode, i, shot)
        said = suspects(learner, support, threshold)
        found.setdefault("/".join(sorted(support.classes)), []).append(at in said.order[:MOST_SUSPECT].tolist())
        warned_planted.append(said.warning)
    hits = [float(hit) for part in found.values() for hit in part]
    return {
        "of": 2 * shot,
        "most_suspect": MOST_SUSPECT,
        "planted_among_most_suspect": asdict(interval(hits, "over episodes")),
        "by_pair": {pair: float(np.mean(part)) for pair, part in sorted(found.items())},
        "warned_clean": float(np.mean(warned)),
        "warned_planted": float(np.mean(warned_planted)),
    }


def covered(rare: LabelledImages, learner: Learner, shot: int, count: int) -> dict[str, Any]:
    """Coverage and size of prediction sets at the smallest error."""
    drawn = Episodes(rare, EpisodeSpec(2, shot, SETS_QUERY), seed=4)
    inside, sizes, empty = [], [], []
    for i in range(count):
        episode = drawn[i]
        sets = prediction_sets(learner, episode.support, episode.query_x)
        inside.append(float(sets[torch.arange(len(sets)), episode.query_y].double().mean()))
        sizes.append(float(sets.sum(1).double().mean()))
        empty.append(float((sets.sum(1) == 0).double().mean()))
    error = smallest_error(shot)
    return {
        "error": error,
        "promised": 1 - error,
        "coverage": asdict(interval(inside, "over episodes")),
        "mean_size": float(np.mean(sizes)),
        "empty": float(np.mean(empty)),
    }


def left_out_figures(
    rare: LabelledImages, learner: Learner, temperature: float, shot: int, count: int
) -> dict[str, Any]:
    """What takes an adaptation a support image: the temperature of each task, and the spread."""
    drawn = Episodes(rare, EpisodeSpec(2, shot, QUERY), seed=4)
    raw, labels, widths, turned = [], [], [], []
    scales: dict[str, list[float]] = {"raw": [], "temperature from tasks": [], "support": [], "support, prior": []}
    for i in range(count):
        episode = drawn[i]
        x = episode.query_x
        left_out = leave_one_out(learner, episode.support, seed=i)
        raw.append(learner.adapt(episode.support, seed=i)(x).double())
        labels.append(episode.query_y)
        own, drawn_to = (temperature_from_support(left_out, prior=prior) for prior in (1.0, temperature))
        for part, scale in zip(scales.values(), (1.0, temperature, own, drawn_to), strict=True):
            part.append(scale)
        without = left_out.answers(x)
        turned.append(float((without.argmax(2) != raw[-1].argmax(1)).any(0).double().mean()))
        low, high = spread(torch.cat([without, augmented_answers(learner, episode.support, x, seed=i)]))
        widths.append(float((high - low)[:, 0].mean()))
    calibrated = {
        by: pooled([with_temperature(p, scale) for p, scale in zip(raw, part, strict=True)], labels)
        for by, part in scales.items()
    }
    # another_class: images that have another answer without one of the support images.
    return {
        "calibration": calibrated,
        "spread": {"mean_width": float(np.mean(widths)), "another_class": float(np.mean(turned))},
    }


def pooled(probabilities: list[Tensor], labels: list[Tensor]) -> dict[str, float]:
    """Figures over all query images together; AUC within episodes, as their mean."""
    p, y = torch.cat(probabilities), torch.cat(labels)
    return {
        "ece": ece(p, y),
        "brier": brier(p, y),
        "mean_ece_of_episodes": float(np.mean([ece(a, b) for a, b in zip(probabilities, labels, strict=True)])),
        "auc": float(np.mean([auc(a, b) for a, b in zip(probabilities, labels, strict=True)])),
    }


def with_a_wrong_label(episode: Episode, number: int, shot: int) -> tuple[Support, int]:
    """The support set with one image replaced by one of the other class, labels kept; and which."""
    label = number % 2
    at = label * shot + number // 2 % shot
    images = episode.support_x.clone()
    images[at] = episode.query_x[episode.query_y == 1 - label][0]
    return Support(images, episode.support_y, episode.classes), at


def phone(path: Path, size: int) -> tuple[Tensor, Tensor]:
    """Images of another kind: of even groups, by which the choices were made, and of odd ones, which are judged."""
    images = load(path, size)
    even, odd = (images.images(np.flatnonzero(images.groups % 2 == part)) for part in (0, 1))
    return even, odd


def made_junk(size: int) -> dict[str, Tensor]:
    """Noise, blank pages, a written page, plain skin."""
    rng = np.random.default_rng(0)
    page = np.full((20, 3, size, size), 0.96)
    for row in range(size // 16, size - size // 16, size // 10):
        page[:, :, row : row + size // 32, :] -= 0.85 * (rng.random((20, 1, 1, size)) < 0.6)
    skin = np.array([0.78, 0.63, 0.55])[:, None, None] + rng.normal(0, 0.015, (20, 3, size, size))
    junk = {
        "noise": rng.random((20, 3, size, size)),
        "blank pages": np.stack([np.full((3, size, size), grey) for grey in (0.0, 0.5, 1.0)]),
        "written pages": page,
        "plain skin": skin,
    }
    return {name: torch.from_numpy(part).float().clamp(0, 1) for name, part in junk.items()}


if __name__ == "__main__":
    tyro.cli(main)

"""Is what `rareshot.trust` promises kept? Tuned on held-out lesions of the common diseases, measured on the rare ones once.

    python experiments/trust.py --data PATH --run RUN --out results/trust.jsonl --other PATH

Writes one line a measurement: what, over how many episodes, figures, versions, the learner's hash. `--episodes 600
--slow-episodes 600` is the full run; leaving images out takes way · k adaptations an episode, hence a number of its own.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from rareshot.checkpoint import load_learner, read_run, state_hash, versions
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.machine import keep_memory, use_threads
from rareshot.metrics import auc, brier, ece
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
    with_temperature,
)
from rareshot.types import Episode, Learner, Support
from rareshot.validation import held_out

QUERY = 15
SETS_QUERY = 8
"""Query images a class whose prediction sets are made: each is answered by way · k classifiers."""
MOST_SUSPECT = 3


def main(
    data: Path,
    run: Path,
    out: Path,
    other: Path | None = None,
    shot: int = 5,
    episodes: int = 60,
    slow_episodes: int = 20,
    threads: int | None = None,
) -> None:
    """Tune, then measure.

    Args:
        data: images or a store; its common diseases are tuned on, its rare ones measured on.
        run: of a fitted inductive learner.
        out: JSON lines, rewritten.
        other: images that the learner was not made for, as phone photographs; None: made junk alone.
        shot: k.
        episodes: of measurements that adapt once an episode.
        slow_episodes: of those that leave images out.
        threads: None: all cores.
    """
    keep_memory()
    use_threads(threads)
    fitted, learner = read_run(run), load_learner(run)
    images = load(data, fitted.size)
    rare = images.rare()
    # A method that trains on nothing has no share of its own.
    train, held = held_out(images.common(), getattr(fitted.method, "held_out", 0.2))
    if held is None:
        raise ValueError(f"{run} was fitted with held_out=0: there are no lesions left to tune on")
    about = {
        "run": {**fitted.to_json(), "folder": run.name},
        "learner": state_hash(learner.state()),
        "data": {"name": images.card.name, "rare": list(rare.classes), "fingerprint": rare.fingerprint()},
        "shot": shot,
        "versions": versions(),
    }
    lines: list[dict[str, Any]] = []

    def note(what: str, on: str, count: int, **figures: Any) -> None:
        lines.append(
            {"what": what, "on": on, "episodes": count, **figures, "cpu_seconds": time.process_time(), **about}
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(line) + "\n" for line in lines))

    # Tuned on the common diseases.
    spec = EpisodeSpec(2, shot, QUERY)
    temperature = temperature_from_tasks(learner, held, spec, episodes=episodes, seed=1)
    note("temperature", "common", episodes, temperature=temperature)
    threshold = None
    if shot > 1:
        threshold = warning_threshold(learner, held, spec, episodes=max(9, slow_episodes), seed=2)
        note("warning threshold", "common", max(9, slow_episodes), threshold=threshold, false_alarms=0.1)
    reference = Reference.of(learner, train, held)
    for name, part in (made_junk(fitted.size) | ({} if other is None else phone(other, fitted.size))).items():
        unusual = reference.typicality(learner, part).is_unusual
        note("typicality", name, 0, images=len(part), flagged=float(unusual.double().mean()), false_alarms=0.05)

    # Measured on the rare diseases.
    note_typicality_of_rare(rare, reference, learner, note)
    note_calibration(rare, learner, temperature, spec, episodes, note)
    if shot > 1:
        note_left_out(rare, learner, temperature, threshold, shot, slow_episodes, note)


def note_typicality_of_rare(rare: LabelledImages, reference: Reference, learner: Learner, note: Any) -> None:
    """False alarms on rare lesions, one image of each."""
    _, first = np.unique(rare.groups, return_index=True)
    unusual = reference.typicality(learner, rare.images(first)).is_unusual.numpy()
    of_class = {name: float(unusual[rare.labels[first] == c].mean()) for c, name in enumerate(rare.classes)}
    note(
        "typicality", "rare", 0, images=len(first), flagged=float(unusual.mean()), of_class=of_class, false_alarms=0.05
    )


def note_calibration(
    rare: LabelledImages, learner: Learner, temperature: float, spec: EpisodeSpec, count: int, note: Any
) -> None:
    """ECE and Brier score, all episodes' queries pooled, before and after the temperature from tasks."""
    drawn = Episodes(rare, spec, seed=3)
    raw, labels = [], []
    for i in range(count):
        episode = drawn[i]
        raw.append(learner.adapt(episode.support, seed=i)(episode.query_x).double())
        labels.append(episode.query_y)
    for name, scale in (("raw", 1.0), ("temperature from tasks", temperature)):
        note("calibration", "rare", count, by=name, **pooled([with_temperature(p, scale) for p in raw], labels))


def note_left_out(
    rare: LabelledImages,
    learner: Learner,
    temperature: float,
    threshold: float | None,
    shot: int,
    count: int,
    note: Any,
) -> None:
    """Everything that leaves support images out: sets, temperature of each task, suspects, spread."""
    drawn = Episodes(rare, EpisodeSpec(2, shot, SETS_QUERY + 1), seed=4)
    raw: list[Tensor] = []
    labels: list[Tensor] = []
    own_temperatures: dict[str, list[float]] = {"support, prior 1": [], "support, prior from tasks": []}
    covered, sizes, empty, warned, found, warned_planted, widths = [], [], [], [], [], [], []
    for i in range(count):
        episode = drawn[i]
        spare = [0, SETS_QUERY + 1]  # the first query image of each class is planted in the other class
        kept = [q for q in range(len(episode.query_y)) if q not in spare]
        x, y = episode.query_x[kept], episode.query_y[kept]
        left_out = leave_one_out(learner, episode.support, seed=i)
        answers = left_out.answers(x)
        sets = prediction_sets(left_out, answers)
        covered.append(float(sets[torch.arange(len(y)), y].double().mean()))
        sizes.append(float(sets.sum(1).double().mean()))
        empty.append(float((sets.sum(1) == 0).double().mean()))
        raw.append(learner.adapt(episode.support, seed=i)(x).double())
        labels.append(y)
        own_temperatures["support, prior 1"].append(temperature_from_support(left_out))
        own_temperatures["support, prior from tasks"].append(temperature_from_support(left_out, prior=temperature))
        warned.append(suspects(left_out, threshold).warning)
        planted, at = with_a_wrong_label(episode, i, shot)
        said = suspects(leave_one_out(learner, planted, seed=i), threshold)
        found.append(at in said.order[:MOST_SUSPECT].tolist())
        warned_planted.append(said.warning)
        low, high = spread(torch.cat([answers, augmented_answers(learner, episode.support, x, seed=i)]))
        widths.append(float((high - low)[:, 0].mean()))
    error = smallest_error(shot)
    note(
        "prediction sets",
        "rare",
        count,
        error=error,
        promised=1 - error,
        coverage=asdict(interval(covered, "over episodes")),
        mean_size=float(np.mean(sizes)),
        empty=float(np.mean(empty)),
    )
    note("calibration", "rare", count, by="raw", **pooled(raw, labels))
    note(
        "calibration",
        "rare",
        count,
        by="temperature from tasks",
        **pooled([with_temperature(p, temperature) for p in raw], labels),
    )
    for name, scales in own_temperatures.items():
        scaled = [with_temperature(p, scale) for p, scale in zip(raw, scales, strict=True)]
        note("calibration", "rare", count, by=name, mean_temperature=float(np.mean(scales)), **pooled(scaled, labels))
    note(
        "suspects",
        "rare",
        count,
        of=2 * shot,
        planted_among_most_suspect=float(np.mean(found)),
        most_suspect=MOST_SUSPECT,
        warned_clean=float(np.mean(warned)),
        warned_planted=float(np.mean(warned_planted)),
    )
    note("spread", "rare", count, mean_width=float(np.mean(widths)))


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


def phone(path: Path, size: int) -> dict[str, Tensor]:
    """Images of another kind, those of odd groups: the features were chosen on the even ones."""
    images = load(path, size)
    return {path.name: images.images(np.flatnonzero(images.groups % 2 == 1))}


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

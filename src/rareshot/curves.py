"""Fig. 3: training loss and test AUC over the steps of fine-tuning, for few and for many images (§3).

One line of `fig3.jsonl` is a step of one k: the mean over 30 runs, as in the paper. Each run is an episode of the `paper`
protocol: two rare classes, k images of each to tune on, 15 to be judged by. Its text speaks of few and of a "large" k alone:
which, and of which network, is our choice (docs/paper.md §27).
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rareshot.atomic import write_atomically
from rareshot.checkpoint import state_hash
from rareshot.data.augment import affine
from rareshot.data.collection import LabelledImages
from rareshot.evaluation import RUNS, Plan, plan
from rareshot.gathered import read_fine_tuning
from rareshot.methods.finetune import FineTuned, finetune
from rareshot.methods.supervised import SupervisedLearner
from rareshot.metrics import auc

SHOTS = (1, 3, 5, 20)
"""The last one is large; the smallest rare class of ISIC 2018 has 73 lesions, and 15 of each are to be judged by."""
EVERY = 5
"""Steps between two points of the curves."""


def curves(
    file: Path,
    row: str,
    learner: SupervisedLearner,
    rare: LabelledImages,
    *,
    scale: str,
    data: str,
    runs: int = RUNS,
    observe: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add to `file` what it lacks, one k after the other.

    Args:
        row: the key that the lines carry.
        scale: a name in `SCALES`, and
        data: that of the images; they stand in every line, beside the hash of the learner.
        observe: called after every run with those done and their number; what it raises stops the work, whole ks are kept.

    Raises:
        ValueError: if a class has too few lesions for the largest k, or the file is damaged or of another learner.
    """
    about = {"row": row, "scale": scale, "data": data, "learner": state_hash(learner.state())}
    lines = read_curves(file)
    if any(line.get(name) != value for line in lines for name, value in about.items()):
        raise ValueError(
            f"{file} has the curves of another learner, scale or data set; move it away, or choose another --out"
        )
    kept = {line["shot"] for line in lines}
    plans = {shot: plan(rare, "paper", shot=shot, count=runs) for shot in SHOTS}
    done = len(kept & set(SHOTS)) * runs
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            for shot in SHOTS:
                if shot in kept:
                    continue
                found = []
                for curve in pool.map(lambda item: _curve(learner, item), plans[shot]):
                    found.append(curve)
                    done += 1
                    observe(done, len(SHOTS) * runs)
                means = np.mean(found, axis=0)
                lines += [
                    {**about, "shot": shot, "step": step * EVERY, "loss": loss, "auc": area, "runs": runs}
                    for step, (loss, area) in enumerate(means.tolist())
                ]
                write_atomically(file, "".join(json.dumps(line) + "\n" for line in lines).encode())
    finally:
        torch.set_num_threads(threads)


def missing(file: Path) -> list[int]:
    """Every k that a file lacks.

    Raises:
        ValueError: if it is damaged.
    """
    kept = {line["shot"] for line in read_curves(file)}
    return [shot for shot in SHOTS if shot not in kept]


def _curve(learner: SupervisedLearner, item: Plan) -> list[tuple[float, float]]:
    """Loss on the support images and AUC on the query images, every few steps of one run."""
    episode = item.episodes[item.episode]
    points = []

    def watch(step: int, loss: float, classify: FineTuned) -> None:
        if step % EVERY == 0:
            points.append((loss, auc(classify(episode.query_x), episode.query_y)))

    finetune(
        learner.net,
        learner.pixels,
        episode.support,
        steps=learner.method.test_steps + 1,  # watched before each step, so that the last one is seen too
        lr=learner.method.finetune_lr,
        seed=item.episode,
        augment=affine,
        observe=watch,
    )
    return points


def read_curves(file: Path) -> list[dict[str, Any]]:
    """The lines of a file; none where there is none.

    Raises:
        ValueError: if it is damaged.
    """
    return [dict(line) for line in read_fine_tuning(file)] if file.exists() else []

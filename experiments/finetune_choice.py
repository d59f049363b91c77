"""The rate of fine-tuning, chosen on the common diseases alone.

Two common diseases are left out of training; then fine-tuning on k images of each must tell these two apart, as it must the rare
ones, on lesions that no method trains on. Logistic regression on the same features meets the same episodes. The rare diseases are
never opened.

    python experiments/finetune_choice.py --data PATH --out results/finetune-choice.jsonl

Appends a line a measurement and skips those that are there, so that it can be stopped and started. What was trained lies beside
the lines, in a folder of their name, and is trained once.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from search import SIZE
from trust import measured

from rareshot.checkpoint import load_state, save_state
from rareshot.commands.options import Machine
from rareshot.data.collection import LabelledImages, split_groups
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.evaluation import Plan, evaluate
from rareshot.methods.supervised import Supervised, SupervisedLearner
from rareshot.run_record import versions
from rareshot.statistics import interval
from rareshot.types import Learner
from rareshot.validation import HELD_OUT_SEED

HELD_OUT = 0.2
ITERATIONS = 1000
"""The laptop scale's."""
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


def main(
    data: Path,
    out: Path,
    backbone: str = "conv4",
    left_out: tuple[str, ...] = ("bcc+mel", "bkl+nv"),
    shots: tuple[int, ...] = (1, 5),
    rates: tuple[float, ...] = RATES,
    episodes: int = 60,
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine(device="cpu"),
) -> None:
    """Measure what is not there yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        out: JSON lines, one a network, rate and shot.
        backbone: conv4, or a name of timm.
        left_out: two common diseases joined by +, one training after the other.
        shots: support images a class, k; none: only train.
        rates: of Adam while fine-tuning.
        episodes: the same ones for every rate.
    """
    machine.start()
    train, held = split_groups(load(data, SIZE).common(), fraction=HELD_OUT, seed=HELD_OUT_SEED)
    for pair in left_out:
        strange = pair.split("+")
        if len(strange) != 2 or not set(strange) < set(train.classes):
            raise SystemExit(f"--left-out {pair}: two of {', '.join(train.classes)}, joined by +")
        seen = train.of([name for name in train.classes if name not in strange])
        trained = Supervised(backbone=backbone, iterations=ITERATIONS, validate_every=ITERATIONS, held_out=0.0)
        learner = kept(out.with_suffix("") / f"{backbone}-without-{pair}.safetensors", trained, seen)
        for shot in shots:
            candidates = [replace(trained, classifier="logistic")]
            candidates += [replace(trained, classifier="finetune", finetune_lr=rate) for rate in rates]
            for method in candidates:
                judged = replace(learner, method=method)
                key = {
                    "backbone": backbone,
                    "left_out": pair,
                    "shot": shot,
                    "classifier": method.classifier,
                    "rate": method.finetune_lr if method.classifier == "finetune" else None,
                }
                about = {"size": SIZE, "seed": 0, "steps": method.test_steps, "versions": versions()}
                figures = partial(told_apart, judged, held, strange, shot, episodes)
                measured(out, key, {"episodes": episodes}, about, figures)


def kept(file: Path, method: Supervised, images: LabelledImages) -> SupervisedLearner:
    """The learner in `file`; trained, where there is none yet."""
    if not file.exists():
        learner = method.fit(images, seed=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_state(file, learner.state(), {})
        return learner
    return method.blank(SIZE).with_state(load_state(file)[0])


def told_apart(learner: Learner, held: LabelledImages, strange: list[str], shot: int, episodes: int) -> dict[str, Any]:
    """AUC of telling two diseases apart that the learner was not trained on, over the same episodes for every learner."""
    labels = (held.classes.index(strange[0]), held.classes.index(strange[1]))
    tasks = Episodes(held, EpisodeSpec(2, shot, 15), seed=0)
    plans = [Plan(tasks, i, labels, "") for i in range(episodes)]
    areas = [result.metrics["auc"] for result, _ in evaluate(learner, plans, "paper")]
    found = interval(areas, "over episodes")
    return {"auc": {"mean": found.mean, "low": found.low, "high": found.high}, "areas": areas}


if __name__ == "__main__":
    tyro.cli(main)

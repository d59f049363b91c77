"""Rate and length of training from ImageNet's weights, chosen on the common diseases alone.

Two common diseases are left out of training; then logistic regression on k images of each must tell these two apart by the
trained features, as it must the rare ones, on lesions that no method trains on. ImageNet's own features meet the same episodes,
as does the conv4 of results/finetune-choice.jsonl. The rare diseases are never opened.

    python experiments/transfer_choice.py --data PATH --out results/transfer-choice.jsonl

Appends a line a measurement and skips those that are there, so that it can be stopped and started; training begins anew.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import tyro
from finetune_choice import HELD_OUT, told_apart
from search import SIZE
from trust import measured

from rareshot.data.collection import LabelledImages, split_groups
from rareshot.data.store import load
from rareshot.machine import settle
from rareshot.methods.pretrained import Pretrained
from rareshot.methods.supervised import Supervised
from rareshot.run_record import versions
from rareshot.types import Learner, Method
from rareshot.validation import HELD_OUT_SEED


def main(
    data: Path,
    out: Path,
    left_out: tuple[str, ...] = ("bcc+mel", "bkl+nv"),
    shots: tuple[int, ...] = (1, 5),
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3),
    iterations: tuple[int, ...] = (300,),
    episodes: int = 60,
    threads: int | None = None,
) -> None:
    """Measure what is not there yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        out: JSON lines, one a network, rate, length and shot.
        left_out: two common diseases joined by +, one training after the other.
        shots: support images a class, k.
        rates: of Adam while training.
        iterations: lengths of training.
        episodes: the same ones for every candidate.
        threads: None: all cores.
    """
    settle(threads)
    train, held = split_groups(load(data, SIZE).common(), fraction=HELD_OUT, seed=HELD_OUT_SEED)
    begun = Supervised(backbone="efficientnet-lite0", imagenet=True, classifier="logistic", held_out=0.0)
    candidates: list[Method] = [Pretrained()]
    candidates += [
        replace(begun, lr=rate, iterations=length, validate_every=length) for length in iterations for rate in rates
    ]
    for pair in left_out:
        strange = pair.split("+")
        if len(strange) != 2 or not set(strange) < set(train.classes):
            raise SystemExit(f"--left-out {pair}: two of {', '.join(train.classes)}, joined by +")
        seen = train.of([name for name in train.classes if name not in strange])
        for method in candidates:
            learner = cache(partial(method.fit, seen, seed=0))
            trained = method if isinstance(method, Supervised) else None
            for shot in shots:
                key = {
                    "network": trained.backbone if trained else "ImageNet's own",
                    "left_out": pair,
                    "shot": shot,
                    "rate": trained.lr if trained else None,
                    "iterations": method.iterations,
                }
                about = {"size": SIZE, "seed": 0, "versions": versions()}
                figures = partial(areas_of, learner, held, strange, shot, episodes)
                measured(out, key, {"episodes": episodes}, about, figures)


def areas_of(
    learner: Callable[[], Learner], held: LabelledImages, strange: list[str], shot: int, episodes: int
) -> dict[str, Any]:
    """AUCs of a learner that is trained at the first call."""
    return told_apart(learner(), held, strange, shot, episodes)


if __name__ == "__main__":
    tyro.cli(main)

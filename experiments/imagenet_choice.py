"""What to do with ImageNet's weights, and the rate of training that begins with them, chosen on the common diseases alone.

Two common diseases are left out of training; then logistic regression on k images of each must tell these two apart by the
features of a network, as it must the rare ones, on lesions that no method trains on: ImageNet's own network, a conv4 trained from
random weights, the features of both side by side, and ImageNet's network trained on. The rare diseases are never opened.

    python experiments/imagenet_choice.py --data PATH --out results/imagenet-choice.jsonl

Appends a line a measurement and skips those that are there, so that it can be stopped and started; training begins anew.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import tyro
from finetune_choice import HELD_OUT, ITERATIONS, told_apart
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
    plain = Supervised(classifier="logistic", iterations=ITERATIONS, validate_every=ITERATIONS, held_out=0.0)
    begun = replace(plain, backbone="efficientnet-lite0", imagenet=True)
    candidates: list[Method] = [Pretrained(), plain]
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
            for shot in shots:
                for judged in (method, replace(plain, beside_imagenet=True)) if method is plain else (method,):
                    key = {"network": called(judged), "left_out": pair, "shot": shot, **lengths(judged)}
                    about = {"size": SIZE, "seed": 0, "versions": versions()}
                    figures = partial(areas_of, learner, judged, held, strange, shot, episodes)
                    measured(out, key, {"episodes": episodes}, about, figures)


def called(method: Method) -> str:
    """Its network."""
    if not isinstance(method, Supervised):
        return "ImageNet's own"
    return f"{method.backbone} beside ImageNet's" if method.beside_imagenet else method.backbone


def lengths(method: Method) -> dict[str, Any]:
    """Rate and iterations of its training."""
    return {"rate": method.lr if isinstance(method, Supervised) else None, "iterations": method.iterations}


def areas_of(
    learner: Callable[[], Learner], method: Method, held: LabelledImages, strange: list[str], shot: int, episodes: int
) -> dict[str, Any]:
    """AUCs of a learner that is trained at the first call, adapted by `method`."""
    fitted: Any = learner()
    return told_apart(replace(fitted, method=method), held, strange, shot, episodes)


if __name__ == "__main__":
    tyro.cli(main)

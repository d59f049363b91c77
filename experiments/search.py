"""The small search behind the defaults: inner rate, norm mode, head. Judged on the common diseases alone.

One common disease is left out of training; a candidate is judged by 2-way episodes between that disease, unseen, and the
others, all drawn from lesions that no method trains on. The rare diseases are never opened.

    python experiments/search.py --data PATH --out results/search.jsonl

Appends one line a candidate and skips those that are there, so that it can be stopped and started.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rareshot.data.collection import split_groups
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.evaluation import Plan, evaluate
from rareshot.machine import settle
from rareshot.methods.maml import MAML
from rareshot.types import Progress
from rareshot.validation import HELD_OUT_SEED

SIZE = 64
ITERATIONS = 200
EPISODES = 150

BASE = MAML(iterations=ITERATIONS, warmup=ITERATIONS, validate_every=ITERATIONS)
CANDIDATES: list[tuple[str, dict[str, Any]]] = [
    ("bcc", {"norm": "support", "inner_lr": 0.01}),
    ("bcc", {"norm": "support", "inner_lr": 0.05}),
    ("bcc", {"norm": "group", "inner_lr": 0.05}),
    ("bcc", {"norm": "support", "inner_lr": 0.05, "head": "full"}),
    ("bcc", {"norm": "transductive", "inner_lr": 0.05}),
    ("bcc", {"norm": "support", "inner_lr": 0.1}),
    ("bcc", {"norm": "group", "inner_lr": 0.2}),
    ("bcc", {"norm": "tasknorm", "inner_lr": 0.05}),
]
"""(common disease left out, what differs from the base)."""


def main(data: Path, out: Path, threads: int | None = None, only: tuple[int, ...] = ()) -> None:
    """Run the candidates that are not in `out` yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        out: JSON lines, one a candidate.
        threads: None: all cores.
        only: numbers of the candidates to run; empty: all.
    """
    settle(threads)
    train, held = split_groups(load(data, SIZE).common(), fraction=BASE.held_out, seed=HELD_OUT_SEED)
    for number, (left_out, changes) in enumerate(CANDIDATES):
        done = [json.loads(line)["candidate"] for line in out.read_text().splitlines()] if out.exists() else []
        key = {"left_out": left_out, **changes}
        if key in done or (only and number not in only):
            continue
        method = replace(BASE, held_out=0.0, **changes)
        seen = [name for name in train.classes if name != left_out]
        begun = time.perf_counter()
        records: list[Progress] = []
        learner = method.fit(train.of(seen), seed=0, observe=records.append)
        losses = [progress.record["loss"] for progress in records]
        line: dict[str, Any] = {"candidate": key, "fit_seconds": round(time.perf_counter() - begun, 1)}
        line["loss_first_50"], line["loss_last_50"] = float(np.mean(losses[:50])), float(np.mean(losses[-50:]))
        episodes = Episodes(held, EpisodeSpec(2, method.shot, method.query), seed=0)
        unseen = held.classes.index(left_out)
        others = [label for label in range(len(held.classes)) if label != unseen]
        plans = [Plan(episodes, i, (unseen, others[i % len(others)]), "") for i in range(EPISODES)]
        untrained = method.untrained(train.of(seen), seed=0)
        for name, judged, steps in (("untrained", untrained, 10), ("trained", learner, 5), ("trained", learner, 10)):
            now = replace(judged, method=replace(method, test_steps=steps))
            areas = [result.metrics["auc"] for result, _ in evaluate(now, plans, "paper")]
            line[f"{name}_auc_{steps}_steps"] = float(np.mean(areas))
        line["standard_error"] = float(np.std(areas) / len(areas) ** 0.5)
        line["method"] = asdict(method)
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as lines:
            lines.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    tyro.cli(main)

"""Do the plain and the fast gradient train the same learner? The same runs by each, over seeds, on the common diseases.

    python experiments/same_curve.py --data PATH --out results/same-curve.jsonl

A task's gradient is the same up to rounding (with a bfloat16 Hessian, up to more of it), but rounding can turn a ReLU, and
hundreds of iterations carry that on; so the learners differ, and what is asked is whether their AUC does. Judged on
lesions of the common diseases that were held out. Appends one line a run and skips those that are there, so that it can
be stopped and started.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rareshot import config
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.machine import settle
from rareshot.methods.maml import MAML
from rareshot.run_record import versions
from rareshot.types import Progress
from rareshot.validation import held_out, mean_auc

DESIGNS: dict[str, dict[str, Any]] = {
    "plain": {"fast": False},
    "explicit": {},
    "bfloat16": {"hessian": "bfloat16"},
}


def main(
    data: Path,
    out: Path,
    size: int = 32,
    iterations: int = 200,
    seeds: tuple[int, ...] = (0, 1, 2),
    episodes: int = 200,
    threads: int | None = None,
) -> None:
    """Run what is not in `out` yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        out: JSON lines, one a run.
        size: pixels.
        iterations: of training; the warm-up is half of them.
        seeds: training seeds. Two processes with other seeds may write to one `out`.
        episodes: of held-out common lesions, the same for every run.
        threads: None: all cores.
    """
    settle(threads)
    common = load(data, size).common()
    _, held = held_out(common, 0.2)
    assert held is not None
    judged = Episodes(held, EpisodeSpec(2, 5, 15), seed=1)
    for seed in seeds:
        for name, changes in DESIGNS.items():
            method = replace(MAML(iterations=iterations, warmup=iterations // 2, validate_every=iterations), **changes)
            key = {"design": name, "seed": seed, "size": size, "method": config.to_json(method)}
            done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            if any(all(line.get(part) == value for part, value in key.items()) for line in done):
                continue
            records: list[Progress] = []
            begun = time.process_time()
            learner = method.fit(common, seed=seed, observe=records.append)
            seconds = time.process_time() - begun
            losses = [float(np.mean([each.record["loss"] for each in part])) for part in np.array_split(records, 10)]
            auc = mean_auc(learner, judged, episodes)
            line = {**key, "losses": losses, "auc": auc, "episodes": episodes, "cpu_seconds": seconds}
            line |= {"data": {"name": common.card.name, "fingerprint": common.fingerprint()}, "versions": versions()}
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            print(f"{name}, seed {seed}: AUC {auc:.4f} on {episodes} episodes, {seconds:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    tyro.cli(main)

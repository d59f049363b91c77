"""What is sharing the training worth? DAML on the hospitals of ISIC 2018: all images together, shared, and each hospital alone.

The clients are the data set's sites, with the classes that each has enough lesions of. Every training has the same number of
iterations: shared and alone a hospital works as long; all together is as much work as one hospital's, or, with more tasks in an
iteration, as that of all of them. Judged on the rare diseases by the same episodes. Small pictures and few iterations: the
figures compare these trainings with each other, and with no table.

    python experiments/federated.py --data PATH --runs FOLDER --out results/federated.jsonl

Appends a line a training and skips those that are there; FOLDER has the runs, and a training that was stopped goes on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from trust import measured

from rareshot import config
from rareshot.checkpoint import last_training_state
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.evaluation import evaluate, plan
from rareshot.federated.server import run_rounds
from rareshot.federated.simulation import Simulated, split_by
from rareshot.machine import settle
from rareshot.methods import METHODS
from rareshot.methods.maml import MAML
from rareshot.run_record import Run, read_run, versions
from rareshot.runs import fit_run
from rareshot.statistics import interval
from rareshot.types import Learner, ignore

SIZE = 32
EPISODES = 300
MORE = "together, as many tasks as the clients have"


def main(
    data: Path,
    runs: Path,
    out: Path,
    iterations: int = 200,
    local: tuple[int, ...] = (20,),
    seeds: tuple[int, ...] = (0,),
    threads: int | None = None,
) -> None:
    """Measure what is not there yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        runs: folder of the runs.
        out: JSON lines, one a training.
        iterations: of every training; half of them are warm-up.
        local: iterations of a client between two means, one training each.
        seeds: of training.
        threads: None: all cores.
    """
    settle(threads)
    images = load(data, SIZE)
    daml = METHODS["daml"]
    assert isinstance(daml, MAML)
    method = replace(daml, iterations=iterations, warmup=iterations // 2, validate_every=iterations)
    clients, left_out = split_by(method, images.common(), images.card.site_column)
    held = {name: {each: lesions for each, (_, lesions) in part.counts().items()} for name, part in clients.items()}
    used = np.concatenate([part.ids for part in clients.values()])
    together = images.take(np.flatnonzero(np.isin(images.ids, used)))
    plans = plan(images.rare(), "paper", shot=method.shot, count=EPISODES)
    for seed in seeds:
        run = Run(method, "daml", seed, SIZE, "own", {"name": images.card.name}, versions())
        for name in (
            "together",
            MORE,
            *(f"shared, {count} local" for count in local),
            *(f"alone, {each}" for each in clients),
        ):

            def figures(name: str = name, run: Run = run) -> dict[str, Any]:
                folder = runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed{run.seed}"
                kind, _, what = name.partition(", ")
                if kind == "shared":
                    learner = _share(folder, run, clients, int(what.split()[0]))
                else:
                    tasks = method.tasks * (len(clients) if name == MORE else 1)
                    own = replace(run, method=replace(method, tasks=tasks))
                    learner = _fit(folder, own, clients[what] if kind == "alone" else together.common())
                areas = [result.metrics["auc"] for result, _ in evaluate(learner, plans, "paper")]
                found = interval(areas, "over episodes")
                auc = {"mean": found.mean, "low": found.low, "high": found.high}
                return {"auc": auc, "areas": areas, "method": config.to_json(read_run(folder).method)}

            key = {"training": name, "seed": seed, "iterations": iterations}
            about = {"size": SIZE, "clients": held, "left_out": left_out}
            measured(out, key, {"episodes": EPISODES}, about | {"versions": versions()}, figures)


def _fit(folder: Path, run: Run, common: LabelledImages) -> Learner:
    return fit_run(folder, run, common, resume=last_training_state(folder), observe=ignore)


def _share(folder: Path, run: Run, clients: dict[str, LabelledImages], local: int) -> Learner:
    assert isinstance(run.method, MAML)
    at = Simulated(run.method, clients, folder / "clients", run.seed)
    return run_rounds(folder, run, at, local=local, fewest=len(clients))


if __name__ == "__main__":
    tyro.cli(main)

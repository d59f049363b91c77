"""Do methods that learn to compare, compare a disease that they have not met? Judged on the common diseases alone.

One common disease is left out of training. A method is judged by 2-way episodes, on lesions that no method trains on, between
two diseases that it was trained on, and between the one left out and another. The rare diseases are never opened.

    python experiments/unseen_disease.py --data PATH --out results/unseen-disease.jsonl

Appends one line a method and skips those that are there, so that it can be stopped and started.
"""

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import tyro
from search import EPISODES, ITERATIONS, SIZE
from trust import measured

from rareshot.checkpoint import versions
from rareshot.data.collection import LabelledImages, split_groups
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.evaluation import Plan, evaluate
from rareshot.machine import keep_memory, use_threads
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.statistics import interval
from rareshot.types import Learner
from rareshot.validation import HELD_OUT_SEED

HELD_OUT = 0.2
SHORT: dict[str, Any] = {
    "iterations": ITERATIONS,
    "warmup": ITERATIONS,
    "validate_every": ITERATIONS,
    "held_out": 0.0,
}
METHODS: dict[str, RelationNet | ProtoNet] = {
    "relation": RelationNet(**SHORT),
    "relation, transductive": RelationNet(norm="transductive", **SHORT),
    "protonet": ProtoNet(**SHORT),
}


def main(data: Path, out: Path, left_out: tuple[str, ...] = ("bcc", "mel"), threads: int | None = None) -> None:
    """Measure what is not there yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        out: JSON lines, one a method and disease left out.
        left_out: common diseases to leave out, one after the other.
        threads: None: all cores.
    """
    keep_memory()
    use_threads(threads)
    train, held = split_groups(load(data, SIZE).common(), fraction=HELD_OUT, seed=HELD_OUT_SEED)
    for unseen in left_out:
        for name, method in METHODS.items():
            about = {"iterations": ITERATIONS, "size": SIZE, "shot": method.shot, "versions": versions()}
            key = {"method": name, "left_out": unseen}
            measured(out, key, {"episodes": EPISODES}, about, partial(_judged, method, train, held, unseen))


def _judged(method: RelationNet | ProtoNet, train: LabelledImages, held: LabelledImages, unseen: str) -> dict[str, Any]:
    seen = [name for name in train.classes if name != unseen]
    learner = method.fit(train.of(seen), seed=0)
    return {
        "auc_seen": _auc(learner, held, list(combinations(seen, 2))),
        "auc_unseen": _auc(learner, held, [(unseen, other) for other in seen]),
    }


def _auc(learner: Learner, held: LabelledImages, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Mean AUC of episodes that take the pairs in turn, with its 95 % interval over episodes."""
    episodes = Episodes(held, EpisodeSpec(2, 5, 15), seed=0)
    labels = [(held.classes.index(one), held.classes.index(other)) for one, other in pairs]
    plans = [Plan(episodes, i, labels[i % len(labels)], "") for i in range(EPISODES)]
    found = interval([result.metrics["auc"] for result, _ in evaluate(learner, plans, "paper")], "over episodes")
    return {"mean": found.mean, "low": found.low, "high": found.high}


if __name__ == "__main__":
    tyro.cli(main)

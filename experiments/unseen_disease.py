"""Do methods that learn to compare, compare a disease that they have not met? Judged on the common diseases alone.

One common disease is left out of training, or two. Now and then during it the method is judged by 2-way episodes, on lesions that
no method trains on: between two diseases that it is trained on, between one left out and one that it is trained on, and, where
two are left out, between these, as between the rare ones: to know one of two by heart tells them apart too. The rare diseases are
never opened.

    python experiments/unseen_disease.py --data PATH --out results/unseen-disease.jsonl

Lines called `relation` are of an earlier Relation Net, whose relation module normalised groups of channels of each pair.

Appends a line each time and skips those that are there, so that it can be stopped and started; a run begins anew. With
`--left-out bcc+mel` both are left out of one run.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import combinations, product
from pathlib import Path
from typing import Any

import tyro
from search import EPISODES, SIZE
from trust import measured

from rareshot.data.collection import LabelledImages, split_groups
from rareshot.data.store import load
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.evaluation import Plan, evaluate
from rareshot.machine import settle
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.run_record import versions
from rareshot.statistics import interval
from rareshot.types import Learner, Progress
from rareshot.validation import HELD_OUT_SEED

HELD_OUT = 0.2
JUDGED_AT = (50, 100, 200, 500, 1000)
"""Iterations, the last one the laptop scale's."""
LAPTOP: dict[str, Any] = {"iterations": 1000, "warmup": 500, "validate_every": 1000, "held_out": 0.0}
METHODS: dict[str, RelationNet | ProtoNet] = {
    "relation, pairs by the support": RelationNet(**LAPTOP),
    "relation, transductive": RelationNet(norm="transductive", **LAPTOP),
    "protonet": ProtoNet(**LAPTOP),
}


def main(
    data: Path,
    out: Path,
    left_out: tuple[str, ...] = ("bcc", "mel"),
    methods: tuple[str, ...] = tuple(METHODS),
    until: int = LAPTOP["iterations"],
    threads: int | None = None,
) -> None:
    """Measure what is not there yet.

    Args:
        data: the ISIC 2018 images, or a store of them.
        out: JSON lines, one a method, disease left out and time.
        left_out: common diseases to leave out, one run after the other; those joined by + in one run.
        methods: names in METHODS.
        until: stop a run after this iteration, one of JUDGED_AT; what was run until then is the same.
        threads: None: all cores.
    """
    if until not in JUDGED_AT:
        raise SystemExit(f"--until {until}: choose from {', '.join(map(str, JUDGED_AT))}")
    settle(threads)
    train, held = split_groups(load(data, SIZE).common(), fraction=HELD_OUT, seed=HELD_OUT_SEED)
    unknown = sorted({name for joined in left_out for name in joined.split("+")} - set(train.classes))
    if unknown:
        raise SystemExit(f"--left-out {', '.join(unknown)}: choose from {', '.join(train.classes)}")
    for unseen in left_out:
        for name in methods:
            with suppress(_EnoughError):
                _measure(out, name, train, held, unseen, until)


class _EnoughError(Exception):
    """Raised after the last judgement that is wanted."""


def _measure(out: Path, name: str, train: LabelledImages, held: LabelledImages, unseen: str, until: int) -> None:
    """Fit a method without some diseases, and judge it at every time that is not in `out` yet."""
    method = METHODS[name]
    strange = unseen.split("+")
    seen = [each for each in train.classes if each not in strange]
    common = train.of(seen)
    start = method.untrained(common, seed=0)
    about = {"size": SIZE, "shot": method.shot, "seed": 0, "versions": versions()}

    def judge(now: Progress) -> None:
        if now.iteration in JUDGED_AT:
            learner = start.carrying(now.training_state.weights)
            key = {"method": name, "left_out": unseen, "iteration": now.iteration}
            measured(out, key, {"episodes": EPISODES}, about, lambda: _figures(learner, held, seen, strange))
        if now.iteration == until:
            raise _EnoughError

    method.fit(common, seed=0, observe=judge)


def _figures(learner: Learner, held: LabelledImages, seen: Sequence[str], unseen: Sequence[str]) -> dict[str, Any]:
    pairs: dict[str, Iterable[tuple[str, str]]] = {
        "auc_seen": combinations(seen, 2),
        "auc_unseen": product(unseen, seen),
    }
    if len(unseen) > 1:
        pairs["auc_both_unseen"] = combinations(unseen, 2)
    return {name: _auc(learner, held, list(each)) for name, each in pairs.items()}


def _auc(learner: Learner, held: LabelledImages, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Mean AUC of episodes that take the pairs in turn, with its 95 % interval over episodes."""
    episodes = Episodes(held, EpisodeSpec(2, 5, 15), seed=0)
    labels = [(held.classes.index(one), held.classes.index(other)) for one, other in pairs]
    plans = [Plan(episodes, i, labels[i % len(labels)], "") for i in range(EPISODES)]
    found = interval([result.metrics["auc"] for result, _ in evaluate(learner, plans, "paper")], "over episodes")
    return {"mean": found.mean, "low": found.low, "high": found.high}


if __name__ == "__main__":
    tyro.cli(main)

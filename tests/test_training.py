import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rareshot import validation
from rareshot.backbones import build
from rareshot.checkpoint import load_training_state, save_training_state, state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.gradients import Task, TaskGradient
from rareshot.losses import DifficultyAware, Mean, MetaLoss, difficulty_weight
from rareshot.machine import use_threads
from rareshot.methods import maml
from rareshot.methods.maml import MAML, EpisodicLearner
from rareshot.pixels import Pixels
from rareshot.policies import Curriculum
from rareshot.training import Outer, TrainingDivergedError, in_threads, train_episodic
from rareshot.types import Progress, State, TrainingState
from rareshot.validation import held_out, mean_auc

TINY = MAML(
    width=8,
    shot=1,
    query=2,
    steps=2,
    test_steps=2,
    inner_lr=0.05,
    iterations=6,
    warmup=3,
    validate_every=4,
    held_out=0.3,
)
BIAS = "backbone.blocks.0.norm.bias"
DAML = replace(TINY, meta_loss=DifficultyAware())


@pytest.fixture(autouse=True)
def few_validation_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)


class Log:
    """Every record, and the state after every iteration."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.states: list[TrainingState] = []

    def __call__(self, progress: Progress) -> None:
        timeless = {name: value for name, value in progress.record.items() if not name.endswith("seconds")}
        self.records.append(json.loads(json.dumps(timeless)))
        self.states.append(progress.training_state)


def hash_of(state: TrainingState) -> tuple[int, str, str, tuple[int, ...]]:
    return state.iteration, state_hash(state.weights), state_hash(state.optimiser), state.skipped


def trained(method: MAML, images: LabelledImages, **how: Any) -> tuple[EpisodicLearner, Log]:
    log = Log()
    return method.fit(images.common(), seed=3, observe=log, **how), log


@pytest.mark.parametrize(
    "method",
    [
        DAML,
        replace(DAML, fast=False, norm="tasknorm", head="full"),
        replace(DAML, adapted="head", second_order=False),
        replace(TINY, sampling="curriculum"),
    ],
    ids=["fast", "plain tasknorm", "first-order head", "curriculum"],
)
def test_training_goes_on_bit_identically_from_any_state(made: LabelledImages, method: MAML, tmp_path: Path) -> None:
    """Before, at and after the end of the warm-up; every other state goes over the disk."""
    learner, whole = trained(method, made)
    for state in whole.states[:-1]:
        given = load_training_state(save_training_state(tmp_path, state)) if state.iteration % 2 else state
        resumed, log = trained(method, made, resume=given)
        assert state_hash(resumed.state()) == state_hash(learner.state())
        assert log.records == whole.records[state.iteration :]
        assert [hash_of(s) for s in log.states] == [hash_of(s) for s in whole.states[state.iteration :]]


def test_a_state_is_a_copy_and_resuming_leaves_it(made: LabelledImages) -> None:
    _, whole = trained(DAML, made)
    before = [hash_of(state) for state in whole.states]
    assert len({weights for _, weights, _, _ in before}) == DAML.iterations
    trained(DAML, made, resume=whole.states[2])
    assert [hash_of(state) for state in whole.states] == before


def test_a_state_that_is_looked_at_later_is_that_of_its_iteration(made: LabelledImages) -> None:
    states: list[TrainingState] = []
    at_once: list[str] = []

    def observe(progress: Progress) -> None:
        states.append(progress.training_state)
        at_once.append(hash_of(progress.training_state))

    DAML.fit(made.common(), seed=3, observe=observe)
    assert [hash_of(state) for state in states] == at_once


@pytest.mark.parametrize("change", [{BIAS: torch.zeros(())}, {BIAS: None}, {BIAS: torch.zeros(5)}])
def test_a_state_of_another_network_is_refused(made: LabelledImages, change: dict[str, Any]) -> None:
    _, whole = trained(replace(DAML, iterations=1, warmup=0), made)
    weights = {name: value for name, value in {**whole.states[0].weights, **change}.items() if value is not None}
    with pytest.raises(ValueError, match="of another network"):
        trained(replace(DAML, iterations=2, warmup=0), made, resume=replace(whole.states[0], weights=weights))


def test_resuming_a_finished_run_gives_its_weights(made: LabelledImages) -> None:
    learner, whole = trained(DAML, made)
    resumed, log = trained(DAML, made, resume=whole.states[-1])
    assert state_hash(resumed.state()) == state_hash(learner.state())
    assert log.records == []


@pytest.mark.parametrize("fast", [True, False])
def test_the_number_of_threads_does_not_change_a_bit(made: LabelledImages, fast: bool) -> None:
    threads, answers = torch.get_num_threads(), []
    for number in (1, 3):
        torch.set_num_threads(number)
        learner, log = trained(replace(DAML, fast=fast), made)
        assert torch.get_num_threads() == number
        answers.append((state_hash(learner.state()), log.records))
    torch.set_num_threads(threads)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("known", [True, False])
def test_the_number_of_threads_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    if not known:  # as on systems that cannot tell which cores a process may use
        monkeypatch.delattr(os, "sched_getaffinity")
    before = torch.get_num_threads()
    assert use_threads(3) == 3
    assert use_threads(None) == (len(os.sched_getaffinity(0)) if known else os.cpu_count())
    torch.set_num_threads(before)
    with pytest.raises(ValueError, match="threads=0: at least 1 is needed"):
        use_threads(0)


def test_a_hessian_in_bfloat16_trains_another_way(made: LabelledImages) -> None:
    (exact, records), (learner, others) = (
        trained(replace(TINY, hessian=kind), made) for kind in ("float32", "bfloat16")
    )
    assert others.records[0]["tasks"][0]["loss"] == records.records[0]["tasks"][0]["loss"]
    assert state_hash(learner.state()) != state_hash(exact.state())


@pytest.mark.parametrize(
    "change",
    [{"fast": False}, {"backbone": "resblocks"}, {"adapted": "head"}, {"norm": "tasknorm"}, {"second_order": False}],
)
def test_a_hessian_in_bfloat16_is_refused_without_the_explicit_gradient(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hessian='bfloat16' needs the explicit gradient of second order"):
        replace(TINY, hessian="bfloat16", **change)


def test_training_depends_on_the_seed_and_leaves_the_global_random_state(made: LabelledImages) -> None:
    before = torch.get_rng_state()
    first, other = (DAML.fit(made.common(), seed=seed) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert state_hash(first.state()) != state_hash(other.state())


def test_maml_and_daml_are_the_same_until_the_warm_up_ends(made: LabelledImages) -> None:
    (_, plain), (_, daml) = trained(TINY, made), trained(DAML, made)
    assert plain.records[:3] == daml.records[:3]
    assert hash_of(plain.states[2]) == hash_of(daml.states[2])
    assert [task["weight"] for task in daml.records[2]["tasks"]] == [1] * 4
    assert [task["loss"] for task in plain.records[3]["tasks"]] == [task["loss"] for task in daml.records[3]["tasks"]]
    assert [task["weight"] for task in daml.records[3]["tasks"]] != [1] * 4
    assert state_hash(plain.states[3].weights) != state_hash(daml.states[3].weights)
    assert [record["meta_lr"] for record in plain.records] == [1e-3] * 3 + [1e-4] * 3
    assert [record["meta_lr"] for record in daml.records] == [1e-3] * 3 + [1e-4] * 3


def test_the_validation_auc_is_recorded_every_so_often_and_at_the_end(made: LabelledImages) -> None:
    _, log = trained(DAML, made)
    recorded = {record["iteration"]: record["validation_auc"] for record in log.records if "validation_auc" in record}
    assert list(recorded) == [4, 6]
    assert all(0 <= area <= 1 for area in recorded.values())
    _, log = trained(replace(DAML, held_out=0.0), made)
    assert not any("validation_auc" in record for record in log.records)


def test_no_task_shows_a_lesion_that_is_held_out_for_validation(
    made: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {"train": set(), "held": set()}
    original = Episodes.episode

    def watched(self: Episodes, drawn: Any) -> Any:
        episode = original(self, drawn)
        part = "train" if len(self.images) > len(made.common()) / 2 else "held"
        seen[part] |= {str(name).rsplit("-", 1)[0] for name in episode.support_ids + episode.query_ids}
        return episode

    monkeypatch.setattr(Episodes, "episode", watched)
    trained(DAML, made)
    assert seen["train"]
    assert seen["held"]
    assert not seen["train"] & seen["held"]


def test_a_record_holds_each_task(made: LabelledImages) -> None:
    _, log = trained(DAML, made)
    for number, record in enumerate(log.records, start=1):
        assert record["iteration"] == number
        assert record["loss"] == pytest.approx(np.mean([task["loss"] for task in record["tasks"]]), rel=1e-12)
        assert record["skipped"] == 0
        for task in record["tasks"]:
            assert set(task) == {"classes", "loss", "auc", "weight", "gradient_norm"}
            assert set(task["classes"]) < set(made.card.common)
            assert task["gradient_norm"] > 0


def test_training_raises_the_auc_on_separable_lesions() -> None:
    clean = separable(16, lesions=16, seed=1)
    rng = np.random.default_rng(0)  # a colour cast for each image, which an untrained network takes for the class
    cast = rng.normal(0, 70, (len(clean), 1, 1, 3))
    pixels = np.clip(clean.pixels * 0.6 + 50 + cast, 0, 255).astype(np.uint8)
    images = replace(clean, pixels=pixels)
    method = replace(TINY, iterations=20, warmup=20, held_out=0.0, augment=False, query=4, norm="group", meta_lr=0.01)
    episodes = Episodes(images.common(), EpisodeSpec(2, 1, 10), seed=5)
    untrained, learner = method.untrained(images.common(), seed=0), method.fit(images.common(), seed=0)
    before, after = (mean_auc(one, episodes, 40) for one in (untrained, learner))
    assert before < 0.8
    assert after > 0.9


# What follows replaces the gradient, to see what the outer loop makes of it.

NET = build("conv4", size=16, norm="group", head="full", way=2, seed=0, width=8)
Answer = Callable[[int], float]


def numbered(number: int, classes: Any) -> tuple[Task, tuple[str, str]]:
    """A task that carries its number as its support image."""
    labels = torch.tensor([0, 1])
    return Task(torch.full((1,), float(number)), labels, torch.zeros(1), labels, 2), ("a", "b")


def outer_loop(
    loss: Answer, size: Answer = lambda number: 1.0, *, meta_loss: MetaLoss | None = None, **how: Any
) -> tuple[State, Log]:
    """Train on made gradients: every entry of task i's is `size(i)` over the length of a vector of ones."""
    length = sum(value.numel() for value in NET.parameters()) ** 0.5

    def gradient_of(net: Any, weights: State, task: Task) -> TaskGradient:
        number = int(task.support_x.item())
        entries = {name: torch.full_like(value, size(number) / length) for name, value in weights.items()}
        return TaskGradient(loss(number), entries, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))

    log, loss_of = Log(), meta_loss or Mean()
    plain: dict[str, Any] = {"iterations": 1, "tasks": 4, "clip": 10.0}
    outer = Outer(meta_loss=lambda i: loss_of, meta_lr=lambda i: 1e-3, **{**plain, **how})
    with in_threads(NET, gradient_of, outer.tasks) as gradients:
        weights = train_episodic(
            NET, numbered, gradients, outer, resume=None, observe=log, validate=lambda iteration, weights: {}
        )
    return weights, log


def first_gradient(log: Log) -> float:
    """Length of the first iteration's gradient: Adam's first moment is a tenth of it."""
    moments = [value for name, value in log.states[0].optimiser.items() if name.endswith(".exp_avg")]
    return float(torch.stack([value.norm() for value in moments]).norm()) * 10


def test_the_gradient_is_the_weighted_mean_of_the_tasks() -> None:
    _, log = outer_loop(lambda number: 0.3 + 0.1 * number, lambda number: 1 + number, meta_loss=DifficultyAware())
    weights = [task["weight"] for task in log.records[0]["tasks"]]
    assert len(set(weights)) == 4
    assert first_gradient(log) == pytest.approx(sum(w * (1 + i) for i, w in enumerate(weights)) / 4, rel=1e-5)
    assert [task["gradient_norm"] for task in log.records[0]["tasks"]] == pytest.approx([1, 2, 3, 4], rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "size", "expected"),
    [
        (Mean(), 1e6, (3 * 1 + 10) / 4),  # the gradient itself is long
        (Mean(), 8.0, (3 * 1 + 8) / 4),
        (DifficultyAware(form="paper"), 1.0, (3 * 0.01788 + 10) / 4),  # its weight, 5e5, makes it long
    ],
)
def test_no_task_pulls_longer_than_the_clip(loss: MetaLoss, size: float, expected: float) -> None:
    _, log = outer_loop(
        lambda number: 0.3 if number else 1 - 2e-6, lambda number: 1 if number else size, meta_loss=loss
    )
    assert first_gradient(log) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_task_that_is_not_finite_is_skipped_counted_and_recorded(where: str, broken: float) -> None:
    def loss(number: int) -> float:
        return broken if where == "loss" and number == 2 else 0.5

    def size(number: int) -> float:
        return broken if where == "gradient" and number == 2 else 3.0

    weights, log = outer_loop(loss, size, iterations=2)
    assert first_gradient(log) == pytest.approx(3.0, rel=1e-5)
    assert [record["skipped"] for record in log.records] == [1, 1]
    assert log.records[0]["tasks"][2] == {"classes": ["a", "b"], "skipped": True}
    assert log.records[0]["loss"] == 0.5
    assert [state.skipped for state in log.states] == [(2,), (2,)]
    assert all(value.isfinite().all() for value in weights.values())


def test_a_task_whose_weight_leaves_the_floats_is_skipped() -> None:
    loss = DifficultyAware(eta=300, form="paper")
    weights, log = outer_loop(lambda number: 20.0 if number == 2 else 0.5, iterations=1, meta_loss=loss)
    assert log.records[0]["skipped"] == 1
    assert all(value.isfinite().all() for value in weights.values())


def test_an_iteration_without_a_finite_task_moves_nothing() -> None:
    weights, log = outer_loop(lambda number: math.nan)
    assert state_hash(weights) == state_hash({name: value.detach() for name, value in NET.named_parameters()})
    assert log.states[0].skipped == (0, 1, 2, 3)


def test_more_than_5_broken_tasks_of_the_last_100_stop_the_training() -> None:
    message = (
        r"training diverged: 6 of the last 100 tasks were not finite \(numbers \[60, 70, 80, 90, 100, 110\]\) at "
        "iteration 28; the last checkpoint is good: try a smaller inner_lr or meta_lr"
    )
    with pytest.raises(TrainingDivergedError, match=message):
        outer_loop(lambda number: math.nan if number % 10 == 0 and number >= 60 else 0.5, iterations=50)


def test_5_broken_tasks_in_any_100_are_borne() -> None:
    _, log = outer_loop(lambda number: math.nan if number % 20 == 0 else 0.5, iterations=60)
    assert len(log.states[-1].skipped) == 12


def test_the_network_that_is_trained_stays_as_it_was() -> None:
    before = state_hash({name: value.detach().clone() for name, value in NET.named_parameters()})
    weights, _ = outer_loop(lambda number: 0.5)
    assert state_hash({name: value.detach() for name, value in NET.named_parameters()}) == before
    assert state_hash(weights) != before


def test_adam_steps_at_the_rate_that_is_recorded(made: LabelledImages) -> None:
    _, log = trained(replace(TINY, iterations=2, warmup=1), made)
    before, after = (state.weights for state in log.states)
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert log.records[1]["meta_lr"] == pytest.approx(1e-4)
    assert 0.5e-4 < moved <= 1.01e-4


@pytest.mark.parametrize("sampling", ["uniform", "curriculum"])
def test_another_training_seed_meets_other_tasks(made: LabelledImages, sampling: str) -> None:
    """From the same weights, so that only the draws differ."""
    method = replace(TINY, iterations=1, warmup=0, sampling=sampling)  # type: ignore[arg-type]
    start, told = method.untrained(made.common(), seed=0).state(), []
    for seed in (3, 4):
        method.fit(made.common(), seed=seed, start=start, observe=lambda now: told.append(now.record["tasks"]))
    one, other = told
    assert [task["classes"] for task in one] != [task["classes"] for task in other]
    assert not {task["loss"] for task in one} & {task["loss"] for task in other}


def test_no_two_draws_of_a_training_share_a_stream(made: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which images, how they are turned, which classes: equal seeds would tie one to the other."""
    original, seeds = np.random.default_rng, []

    def watched(seed: object = None) -> np.random.Generator:
        seeds.append(seed)
        return original(seed)  # type: ignore[arg-type]

    monkeypatch.setattr(np.random, "default_rng", watched)
    trained(replace(TINY, sampling="curriculum", iterations=2, warmup=1, held_out=0.0), made)
    assert len(seeds) == 3 * 2 * TINY.tasks
    assert len(set(seeds)) == len(seeds)


def test_the_curriculum_is_told_the_auc_of_each_task(made: LabelledImages) -> None:
    _, log = trained(replace(TINY, sampling="curriculum", iterations=2, warmup=1, query=5), made)
    common = made.common().classes
    arms, last = Curriculum(len(common), 2, seed=0).arms, {}
    for record in log.records:
        for task in record["tasks"]:
            last[arms.index(tuple(sorted(common.index(name) for name in task["classes"])))] = task["auc"]
    state = log.states[-1].policy
    assert {arm: float(state["last"][arm]) for arm in last} == pytest.approx(last)
    assert int(state["last_known"].sum()) == len(last)


def test_training_tasks_have_the_methods_shot_and_query(made: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = set(), maml.meta_gradient

    def watched(net, params, task, **how):  # type: ignore[no-untyped-def]
        seen.add((len(task.support_y), len(task.query_y), how["steps"], how["lr"], how["second_order"]))
        return original(net, params, task, **how)

    monkeypatch.setattr(maml, "meta_gradient", watched)
    trained(replace(TINY, shot=2, query=3, steps=3, second_order=False, iterations=1, warmup=0), made)
    assert seen == {(4, 6, 3, 0.05, False)}


def test_augment_says_whether_training_images_are_turned(made: LabelledImages) -> None:
    losses = [
        trained(replace(TINY, iterations=1, warmup=0, augment=on), made)[1].records[0]["loss"] for on in (True, False)
    ]
    assert losses[0] != losses[1]


def test_what_training_begins_with_is_of_its_seed_and_of_the_lesions_it_trains_on(made: LabelledImages) -> None:
    one, again, other = (TINY.untrained(made.common(), seed=seed) for seed in (0, 0, 1))
    assert state_hash(one.state()) == state_hash(again.state()) != state_hash(other.state())
    train, _ = held_out(made.common(), TINY.held_out)
    assert torch.equal(one.pixels.mean, Pixels.of(train).mean)
    assert not torch.equal(one.pixels.mean, Pixels.of(made.common()).mean)


def test_the_outer_loss_is_told_how_many_classes_a_task_has(made: LabelledImages) -> None:
    loss = DifficultyAware(normalised=True)
    _, log = trained(replace(TINY, way=3, meta_loss=loss, iterations=1, warmup=0), made)
    tasks = log.records[0]["tasks"]
    expected = difficulty_weight(loss, torch.tensor([task["loss"] for task in tasks], dtype=torch.float64), 3)
    assert [task["weight"] for task in tasks] == pytest.approx(expected.tolist(), rel=1e-12)


def test_each_validation_episode_adapts_by_its_own_seed(made: LabelledImages) -> None:
    seeds: list[int] = []

    def adapt(support: Any, *, seed: int = 0) -> Any:
        seeds.append(seed)
        return lambda x: torch.full((len(x), 2), 0.5)

    mean_auc(SimpleNamespace(adapt=adapt), Episodes(made.rare(), EpisodeSpec(2, 1, 2), seed=0), 3)  # type: ignore[arg-type]
    assert seeds == [0, 1, 2]

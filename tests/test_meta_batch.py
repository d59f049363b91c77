"""Training as a GPU does it, on the CPU: all tasks side by side, pictures made where the gradient is."""

import copy
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny import as_a_graph_does, relative_distance
from torch import Tensor

from rareshot import machine, meta_batch, validation
from rareshot.backbones import HeadMode, Network, NormMode
from rareshot.checkpoint import state_hash
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.explicit import batched
from rareshot.gradients import Task, differentiate, plain
from rareshot.graphs import Recording, Replayed, as_it_is
from rareshot.inner import adapt_to_support
from rareshot.losses import DifficultyAware
from rareshot.methods.maml import MAML, EpisodicLearner
from rareshot.methods.tasks import drawn_tasks, training_tasks
from rareshot.recorded import RecordedAdaptation
from rareshot.resident import Resident
from rareshot.types import Episode, Progress

CPU = torch.device("cpu")
TINY = MAML(
    width=16,
    shot=2,
    query=3,
    steps=2,
    test_steps=2,
    inner_lr=0.05,
    iterations=4,
    warmup=2,
    validate_every=4,
    held_out=0.3,
    meta_loss=DifficultyAware(),
)
SPEC = EpisodeSpec(2, 2, 3)
HOW: dict[str, Any] = {"steps": 2, "lr": 0.05}
NORMS: list[NormMode] = ["support", "group", "transductive"]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_batch, "on_device", lambda device: True)


@pytest.fixture(autouse=True)
def few_validation_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)


def trained(
    method: MAML, images: LabelledImages, **how: Any
) -> tuple[EpisodicLearner, list[dict[str, Any]], list[Any]]:
    records, states = [], []

    def observe(now: Progress) -> None:
        timeless = {name: value for name, value in now.record.items() if not name.endswith("seconds")}
        records.append(json.loads(json.dumps(timeless)))
        states.append(now.training_state)

    return method.fit(images.common(), seed=3, observe=observe, **how), records, states


@pytest.mark.parametrize("augment", [True, False])
def test_pictures_made_on_a_device_are_those_made_on_the_cpu(made: LabelledImages, augment: bool) -> None:
    learner, how = TINY.untrained(made.common(), seed=0), {"seed": 4, "augment": augment, "held_out": 0.0}
    pictured, drawn = training_tasks(made, learner.pixels, SPEC, **how), drawn_tasks(made, SPEC, **how)
    images = Resident(made, learner.pixels, CPU)
    for number, classes in ((0, None), (7, None), (2, (3, 1))):
        task, names = pictured(number, classes)
        ours, own_names = drawn(number, classes)
        assert names == own_names
        assert torch.equal(images(ours.indices, ours.maps), torch.cat([task.support_x, task.query_x]))
        assert torch.equal(ours.support_y, task.support_y)
        assert torch.equal(ours.query_y, task.query_y)
        assert ours.way == task.way


@pytest.mark.parametrize("record", [as_it_is, as_a_graph_does])
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_a_meta_batch_has_the_gradients_of_autograd(
    made: LabelledImages, norm: NormMode, second_order: bool, record: Any
) -> None:
    learner = replace(TINY, norm=norm).untrained(made.common(), seed=0)
    net = copy.deepcopy(learner.net).double()
    weights = {name: value.detach() for name, value in net.learnt().items()}
    how: dict[str, Any] = {"seed": 4, "augment": True, "held_out": 0.0}
    pictured, drawn = training_tasks(made, learner.pixels, SPEC, **how), drawn_tasks(made, SPEC, **how)
    images = Resident(made, learner.pixels, CPU)
    gradients = meta_batch.side_by_side(net, images, CPU, way=2, **HOW, second_order=second_order, record=record)
    are_those_of_autograd(gradients, net, weights, pictured, drawn, adapted="all", second_order=second_order)


def are_those_of_autograd(
    gradients: meta_batch.Gradients,
    net: Network,
    weights: dict[str, Tensor],
    pictured: Callable[..., Any],
    drawn: Callable[..., Any],
    *,
    adapted: str,
    second_order: bool,
) -> None:
    for first in (0, 3):  # the second call replays
        answers = gradients(weights, [drawn(number, None)[0] for number in range(first, first + 3)])
        for number, ours in enumerate(answers, first):
            task = pictured(number, None)[0]
            double = Task(task.support_x.double(), task.support_y, task.query_x.double(), task.query_y, 2)
            theirs = plain(net, weights, double, **HOW, adapted=adapted, second_order=second_order)
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-10)
            assert relative_distance(ours.gradient, theirs.gradient) < 1e-10
            torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-9, atol=1e-10)


OTHERS = [replace(TINY, backbone="resblocks", width=8), replace(TINY, adapted="head")]


def task_after_task(
    method: MAML, made: LabelledImages, device: torch.device, record: Any = None, *, second_order: bool = True
) -> tuple[Any, ...]:
    learner = method.untrained(made.common(), seed=0)
    net = copy.deepcopy(learner.net).double()
    gradients = meta_batch.one_by_one(
        net,
        partial(differentiate, **HOW, adapted=method.adapted, second_order=second_order),
        Resident(made, learner.pixels, device),
        device,
        way=2,
        record=record,
    )
    return learner, net, {name: value.detach() for name, value in net.learnt().items()}, gradients


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("method", OTHERS, ids=["resblocks", "head alone"])
def test_task_after_task_can_be_recorded_through_autograd(
    made: LabelledImages, method: MAML, second_order: bool
) -> None:
    learner, net, weights, gradients = task_after_task(method, made, CPU, as_a_graph_does, second_order=second_order)
    how: dict[str, Any] = {"seed": 4, "augment": True, "held_out": 0.0}
    pictured, drawn = training_tasks(made, learner.pixels, SPEC, **how), drawn_tasks(made, SPEC, **how)
    are_those_of_autograd(gradients, net, weights, pictured, drawn, adapted=method.adapted, second_order=second_order)


@pytest.mark.parametrize(
    "method",
    [TINY, replace(TINY, norm="group", head="full", second_order=False), replace(TINY, sampling="curriculum")],
    ids=["support", "group, first order, full", "curriculum"],
)
def test_training_side_by_side_is_training_in_threads(
    made: LabelledImages, method: MAML, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, records, _ = trained(method, made)
    monkeypatch.setattr(meta_batch, "on_device", lambda device: True)
    other, others, _ = trained(method, made)
    for ours, theirs in zip(others, records, strict=True):
        assert [task["classes"] for task in ours["tasks"]] == [task["classes"] for task in theirs["tasks"]]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.02)  # float32: a flipped ReLU moves it so far
    assert others[0]["loss"] == pytest.approx(records[0]["loss"], rel=1e-4)
    assert relative_distance(dict(other.state()), dict(learner.state())) < 0.02


@pytest.mark.parametrize("backbone", ["resblocks", pytest.param("resnet10t", marks=pytest.mark.long)])
def test_any_other_network_trains_on_a_device_task_after_task(
    made: LabelledImages, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = 8 if backbone == "resblocks" else None
    method = replace(TINY, backbone=backbone, width=width, iterations=2, warmup=1, tasks=2, steps=1)
    learner, records, _ = trained(method, made)
    monkeypatch.setattr(meta_batch, "on_device", lambda device: True)
    other, others, _ = trained(method, made)
    assert others == records
    assert state_hash(other.state()) == state_hash(learner.state())


@pytest.mark.usefixtures("as_on_a_gpu")
def test_training_side_by_side_goes_on_bit_identically(made: LabelledImages) -> None:
    learner, records, states = trained(TINY, made)
    resumed, others, _ = trained(TINY, made, resume=states[1])
    assert state_hash(resumed.state()) == state_hash(learner.state())
    assert others == records[2:]


META = torch.device("meta")
"""Has shapes and no numbers; and like a GPU it refuses to meet a tensor that was left on the CPU."""


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", ["full", "shared"])
def test_nothing_of_a_meta_batch_is_left_on_the_cpu(made: LabelledImages, norm: NormMode, head: HeadMode) -> None:
    learner = replace(TINY, norm=norm, head=head).untrained(made.common(), seed=0)
    weights = {name: value.detach().to(META) for name, value in learner.net.learnt().items()}
    tasks = [drawn_tasks(made, SPEC, seed=4, augment=True, held_out=0.0)(number, None)[0] for number in range(3)]
    indices, maps, *labels = (torch.stack(parts).to(META) for parts in list(zip(*tasks, strict=True))[:4])
    x = Resident(made, learner.pixels, META)(indices, maps)
    for kind in (None, torch.bfloat16):
        result = batched.meta_gradients(
            learner.net.begin(weights, 2), x[:, :4], labels[0], x[:, 4:], labels[1], **HOW, norm=norm, hessian=kind
        )
        assert result.logits.shape == (3, 6, 2)
        for name, value in weights.items():
            assert result.gradient[name].device == META
            assert result.gradient[name].shape == (3, *value.shape)


@pytest.mark.parametrize("method", OTHERS, ids=["resblocks", "head alone"])
def test_nothing_of_autograd_is_left_on_the_cpu(made: LabelledImages, method: MAML) -> None:
    learner = method.untrained(made.common(), seed=0)
    weights = {name: value.detach().to(META) for name, value in learner.net.learnt().items()}
    drawn = drawn_tasks(made, SPEC, seed=4, augment=True, held_out=0.0)(0, None)[0]
    x = Resident(made, learner.pixels, META)(drawn.indices.to(META), cast(Tensor, drawn.maps).to(META))
    task = Task(x[:4], drawn.support_y.to(META), x[4:], drawn.query_y.to(META), 2)
    net = copy.deepcopy(learner.net).to(META)
    result = differentiate(net, weights, task, **HOW, adapted=method.adapted, second_order=True)
    assert result.loss.device == result.logits.device == META
    assert {name: (value.shape, value.device) for name, value in result.gradient.items()} == {
        name: (value.shape, META) for name, value in weights.items()
    }


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_nothing_of_an_adaptation_is_left_on_the_cpu(
    made: LabelledImages, norm: NormMode, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = replace(TINY, norm=norm, fast=fast).untrained(made.common(), seed=0)
    monkeypatch.setattr(machine, "device", lambda: META)
    classifier = learner.adapt(Episodes(made, SPEC, seed=0)[0].support)
    own = learner.net.begin({name: value.detach() for name, value in learner.net.learnt().items()}, 2)
    assert {name: (value.shape, value.device) for name, value in classifier.params.items()} == {
        name: (value.shape, META) for name, value in own.items()
    }
    assert all(moments.mean.device == META for moments in classifier.moments or ())


@pytest.mark.parametrize("record", [as_it_is, as_a_graph_does])
@pytest.mark.parametrize("norm", NORMS)
def test_a_recorded_adaptation_is_the_plain_one(made: LabelledImages, norm: NormMode, record: Any) -> None:
    recorded = RecordedAdaptation(CPU, HOW["steps"], HOW["lr"], norm, record)
    kept = []
    for seed in (0, 1):  # the second call replays, with other weights and other pictures
        net = replace(TINY, norm=norm).untrained(made.common(), seed=seed).net.double()
        episode = Episodes(made, SPEC, seed=seed)[0]
        params, support = {name: value.detach() for name, value in net.learnt().items()}, episode.support_x.double()
        own = net.begin(params, 2)
        plainly = adapt_to_support(net, own, support, episode.support_y, **HOW, adapted="all", fast=False)
        kept.append((recorded(own, support, episode.support_y), plainly))
    for (ours, our_moments), (theirs, their_moments) in kept:  # the second answer did not overwrite the first
        assert relative_distance(ours, theirs) < 1e-10
        assert (our_moments is None) == (their_moments is None) == (norm != "support")
        for one, other in zip(our_moments or (), their_moments or (), strict=True):
            torch.testing.assert_close(one.mean, other.mean, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(one.var, other.var, rtol=1e-9, atol=1e-10)
            assert one.images == other.images == 4


def test_each_shape_is_recorded_once_and_what_comes_in_is_not_kept() -> None:
    recorded: list[int] = []

    def record(function: Callable[[], dict[str, Tensor]]) -> Recording:
        recorded.append(1)
        return as_a_graph_does(function)

    doubled = Replayed(lambda given: {"twice": 2 * given["x"]}, CPU, record)
    x = torch.ones(2)
    first = doubled({"x": x})["twice"]
    assert first.tolist() == [2, 2]
    x += 1
    assert first.tolist() == [2, 2]
    assert doubled({"x": x})["twice"].tolist() == [4, 4]
    assert first.tolist() == [2, 2], "an answer of its own"
    assert doubled({"x": torch.ones(3)})["twice"].tolist() == [2, 2, 2]
    assert len(recorded) == 2


def test_what_cannot_be_recorded_is_called_as_it_is_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def refused(function: Callable[[], dict[str, Tensor]]) -> Recording:
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    doubled = Replayed(lambda given: {"twice": 2 * given["x"]}, CPU, refused)
    with caplog.at_level(logging.WARNING):
        answers = [doubled({"x": torch.full((1,), value)})["twice"].item() for value in (1.0, 3.0)]
    assert answers == [2, 6]
    assert [each.message for each in caplog.records] == [
        "no CUDA graph (operation not permitted when stream is capturing): steps run one operation after the other"
    ]


def test_the_device_in_use_is_the_one_asked_for() -> None:
    assert machine.device() == CPU
    assert machine.use_device("cpu") == machine.device() == CPU


@pytest.mark.cuda
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_gpu_a_recorded_meta_batch_has_the_gradients_of_the_cpu(
    made: LabelledImages, gpu: torch.device, norm: NormMode, caplog: pytest.LogCaptureFixture
) -> None:
    learner = replace(TINY, norm=norm).untrained(made.common(), seed=0)
    net = copy.deepcopy(learner.net).double()
    weights = {name: value.detach() for name, value in net.learnt().items()}
    drawn = drawn_tasks(made, SPEC, seed=4, augment=False, held_out=0.0)
    ours, theirs = (
        meta_batch.side_by_side(net, Resident(made, learner.pixels, device), device, way=2, **HOW, second_order=True)
        for device in (gpu, CPU)
    )
    for first in (0, 3):
        tasks = [drawn(number, None)[0] for number in range(first, first + 3)]
        for one, other in zip(ours(weights, tasks), theirs(weights, tasks), strict=True):
            assert relative_distance(one.gradient, other.gradient) < 1e-6  # pictures are standardised in float32
    assert not caplog.records, "recorded, not called as it is"


@pytest.mark.cuda
@pytest.mark.parametrize("method", OTHERS, ids=["resblocks", "head alone"])
def test_on_a_gpu_autograd_is_recorded_too(
    made: LabelledImages, gpu: torch.device, method: MAML, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = drawn_tasks(made, SPEC, seed=4, augment=False, held_out=0.0)
    _, _, weights, ours = task_after_task(method, made, gpu)
    theirs = task_after_task(method, made, CPU)[3]
    for first in (0, 3):
        tasks = [drawn(number, None)[0] for number in range(first, first + 3)]
        answers = ours(weights, tasks)
        assert not caplog.records, "recorded, not called as it is"
        for one, other in zip(answers, theirs(weights, tasks), strict=True):
            # Pictures are standardised in float32, and two devices may round them otherwise.
            assert relative_distance(one.gradient, other.gradient) < 1e-5


@pytest.mark.cuda
def test_on_a_gpu_training_goes_on_bit_identically_and_adapts(made: LabelledImages, gpu: torch.device) -> None:
    learner, records, states = trained(TINY, made)
    resumed, others, _ = trained(TINY, made, resume=states[1])
    assert state_hash(resumed.state()) == state_hash(learner.state())
    assert others == records[2:]
    assert np.mean([record["loss"] for record in records]) < 2


@pytest.mark.cuda
def test_on_a_gpu_every_thread_gets_the_answers_of_the_cpu(
    made: LabelledImages, gpu: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    learner = TINY.untrained(made.common(), seed=0)
    episodes = [Episodes(made, SPEC, seed=0)[number] for number in range(40)]

    def answer(episode: Episode) -> Tensor:
        return learner.adapt(episode.support)(episode.query_x)

    with ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(answer, episodes))
    assert not caplog.records, "recorded, not called as it is"
    machine.use_device("cpu")
    for one, episode in zip(ours, episodes, strict=True):
        torch.testing.assert_close(one, answer(episode), rtol=1e-3, atol=1e-4)

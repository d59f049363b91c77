"""Every other method as a GPU does it, on the CPU: compared features, plain training, fine-tuning. Marked `cuda`: on a GPU."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import as_a_graph_does
from torch import nn

from rareshot import machine, meta_batch, recorded, validation
from rareshot.checkpoint import load_training_state, save_training_state, state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.gradients import Task
from rareshot.losses import task_loss
from rareshot.methods import episodic_metric
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet, relation_loss
from rareshot.methods.supervised import Supervised
from rareshot.recorded import recorded_network, there
from rareshot.types import Learner, Method, Progress, TrainingState

META = torch.device("meta")
"""Has shapes and no numbers; and like a GPU it refuses to meet a tensor that was left on the CPU."""
SHORT: dict[str, Any] = {"shot": 2, "query": 3, "iterations": 3, "warmup": 2, "validate_every": 3, "held_out": 0.3}
METRIC = [ProtoNet(width=8, **SHORT), RelationNet(width=8, **SHORT)]
NAMES = ["protonet", "relation"]
PLAIN = Supervised(width=8, shot=1, batch=8, iterations=6, validate_every=6, held_out=0.3, test_steps=2)


@pytest.fixture(scope="module")
def larger() -> LabelledImages:
    """As `made`, large enough for Relation Net."""
    return separable(24, lesions=12, seed=0)


@pytest.fixture(autouse=True)
def few_validation_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)


def trained(method: Method, images: LabelledImages, **how: Any) -> tuple[Learner, list[float], list[TrainingState]]:
    losses, states = [], []

    def observe(now: Progress) -> None:
        losses.append(now.record["loss"])
        states.append(now.training_state)

    return method.fit(images.common(), seed=3, observe=observe, **how), losses, states


@pytest.mark.parametrize("method", METRIC, ids=NAMES)
def test_comparing_trains_on_a_device_as_in_threads(
    larger: LabelledImages, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, losses, _ = trained(method, larger)
    monkeypatch.setattr(meta_batch, "on_device", lambda device: True)
    monkeypatch.setattr(
        meta_batch, "one_by_one", lambda *given, **how: one_by_one(*given, **how, record=as_a_graph_does)
    )
    other, others, _ = trained(method, larger)
    assert others == losses
    assert state_hash(other.state()) == state_hash(learner.state())


one_by_one = meta_batch.one_by_one


@pytest.mark.parametrize("method", METRIC, ids=NAMES)
def test_nothing_of_a_comparison_is_left_on_the_cpu(
    larger: LabelledImages, method: ProtoNet | RelationNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = method.untrained(larger.common(), seed=0)
    episode = Episodes(larger, EpisodeSpec(2, 2, 3), seed=0)[0]
    monkeypatch.setattr(machine, "device", lambda: META)
    classifier = learner.adapt(episode.support)
    net = copy.deepcopy(learner.net).to(META)
    assert net.answer(episode.query_x.to(META), classifier.classes, classifier.moments).device == META
    weights = {name: value.detach().to(META) for name, value in learner.net.learnt().items()}
    task = Task(
        *(part.to(META) for part in (episode.support_x, episode.support_y, episode.query_x, episode.query_y)), 2
    )
    loss = task_loss if isinstance(method, ProtoNet) else relation_loss
    result = episodic_metric.differentiate(net, weights, task, loss=loss)
    assert result.logits.device == META
    assert {name: (value.shape, value.device) for name, value in result.gradient.items()} == {
        name: (value.shape, META) for name, value in weights.items()
    }


def test_a_recorded_network_says_what_it_says() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    ours = there(net, torch.device("cpu"), as_a_graph_does)
    images = torch.rand(4, 1, 3, 2, 2)
    answers = [ours(image) for image in images]
    for answer, image in zip(answers, images, strict=True):
        assert torch.equal(answer, net(image))
    assert recorded_network(net, torch.device("cpu")) is net


def test_threads_that_ask_at_once_share_one_copy_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made, together, ask = [], threading.Barrier(4), nn.Flatten()

    def slowly(net: nn.Module, device: torch.device) -> nn.Module:
        made.append(device)
        time.sleep(0.05)
        return net

    def asked(_: int) -> object:
        together.wait()
        return recorded_network(ask, META)

    monkeypatch.setattr(recorded, "there", slowly)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(asked, range(4))) == {ask}
    assert made == [META]


@pytest.mark.cuda
@pytest.mark.parametrize("method", METRIC, ids=NAMES)
def test_on_a_gpu_comparing_is_as_on_the_cpu(
    larger: LabelledImages, gpu: torch.device, method: Method, caplog: pytest.LogCaptureFixture
) -> None:
    learner, losses, states = trained(method, larger)
    resumed, others, _ = trained(method, larger, resume=states[0])
    assert not caplog.records, "recorded, not called as it is"
    assert others == losses[1:]
    assert state_hash(resumed.state()) == state_hash(learner.state())
    answers_as_on_the_cpu(learner, larger)
    assert trained(method, larger)[1][0] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("classifier", ["centroid", "finetune"])
def test_on_a_gpu_plain_training_is_as_on_the_cpu(
    made: LabelledImages, gpu: torch.device, classifier: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    method = replace(PLAIN, classifier=classifier)
    learner, losses, states = trained(method, made)
    written = load_training_state(save_training_state(tmp_path, states[2]))
    resumed, others, _ = trained(method, made, resume=written)
    assert others == losses[3:]
    assert state_hash(resumed.state()) == state_hash(learner.state())
    answers_as_on_the_cpu(learner, made)
    assert not caplog.records, "recorded, not called as it is"
    on_the_cpu = trained(method, made)[1]
    assert on_the_cpu[0] == pytest.approx(losses[0], rel=1e-3)
    assert on_the_cpu == pytest.approx(losses, rel=5e-2)


def answers_as_on_the_cpu(learner: Learner, images: LabelledImages) -> None:
    """Asked for from several threads. Leaves the CPU in use."""
    episodes = [Episodes(images, EpisodeSpec(2, 2, 3), seed=0)[number] for number in range(12)]
    fresh = learner.with_state(learner.state())  # remembers no features
    with ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(lambda episode: learner.adapt(episode.support)(episode.query_x), episodes))
    machine.use_device("cpu")
    for one, episode in zip(ours, episodes, strict=True):
        torch.testing.assert_close(one, fresh.adapt(episode.support)(episode.query_x), rtol=1e-2, atol=1e-3)

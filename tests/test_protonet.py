"""Prototypical Networks, and what every method without inner steps shares."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import random_network, random_task, relative_distance, weights_of
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.losses import task_loss
from rareshot.methods.episodic_metric import MetricClassifier, MetricLearner, MetricNetwork, task_gradient
from rareshot.methods.maml import MAML
from rareshot.methods.protonet import ProtoNet, SquaredDistance
from rareshot.methods.tasks import training_tasks
from rareshot.pixels import Pixels
from rareshot.types import Progress, Support

SMALL = ProtoNet(
    width=8, shot=1, query=2, tasks=2, iterations=4, warmup=2, held_out=0.3, validate_every=4, augment=False
)


def network(norm: str = "support") -> MetricNetwork:
    return MetricNetwork(random_network(norm).backbone, SquaredDistance())  # type: ignore[arg-type]


def support_and_queries(made: LabelledImages, *, way: int = 2, shot: int = 2) -> tuple[Support, Tensor]:
    episode = Episodes(made.rare(), EpisodeSpec(way, shot, 4), seed=0)[0]
    return episode.support, episode.query_x


def by_hand(learner: MetricLearner, support: Support, queries: Tensor) -> Tensor:
    """Logits with group norm, image by image and class by class."""
    embed = learner.net.embedding
    rows = []
    for query in queries:
        row = []
        for label in range(support.way):
            own = [embed(learner.pixels(image[None]))[0] for image in support.images[support.labels == label]]
            prototype = sum(own) / len(own)
            row.append(
                -sum((a - b) ** 2 for a, b in zip(embed(learner.pixels(query[None]))[0], prototype, strict=True))
            )
        rows.append(torch.stack(row))
    return torch.stack(rows).detach()


def test_logits_are_minus_squared_distances_to_the_class_means(made: LabelledImages) -> None:
    learner = replace(SMALL, norm="group").untrained(made.common(), seed=0)
    support, queries = support_and_queries(made, way=3, shot=2)
    keep = torch.tensor([0, 1, 2, 4, 5])  # unequal: two, one, two
    support = Support(support.images[keep], support.labels[keep], support.classes)
    expected = by_hand(learner, support, queries[:4]).softmax(1)
    torch.testing.assert_close(learner.adapt(support)(queries[:4]), expected, rtol=1e-3, atol=1e-6)


def test_with_one_image_of_each_of_two_classes_it_is_a_linear_classifier() -> None:
    """|q - b|² - |q - a|² = 2q(a - b) + |b|² - |a|²: Section 2.4 of the paper."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    queries = 3 * torch.randn(5, 6, generator=draw, dtype=torch.float64)
    distance = SquaredDistance()
    logits = distance(distance.summary(torch.stack([b, a]), torch.tensor([1, 0]), 2), queries)
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], 2 * queries @ (a - b) + b @ b - a @ a)


@torch.no_grad()
def test_queries_pass_under_the_support_sets_statistics() -> None:
    """The reference: every norm sees the support images alone, and its moments are put into a batch norm in eval mode."""
    net, task = network(), random_task()
    x, z = task.support_x, task.query_x
    for block in net.embedding.blocks:  # type: ignore[union-attr]
        x, z = block.conv(x), block.conv(z)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x, z = (
            torch.nn.functional.batch_norm(each, mean, var, block.norm.weight, block.norm.bias, False, 0.0, 1e-5)
            for each in (x, z)
        )
        x, z = (torch.max_pool2d(torch.relu(each), 2) for each in (x, z))
    x, z = x.flatten(1), z.flatten(1)
    prototypes = torch.stack([x[task.support_y == label].mean(0) for label in range(2)])
    logits = net(task.support_x, task.support_y, task.query_x, 2)
    torch.testing.assert_close(logits, -(torch.cdist(z, prototypes) ** 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["support", "tasknorm", "group", "transductive"])
def test_a_tasks_gradient_is_the_slope_of_its_loss(norm: str) -> None:
    net, task = network(norm), random_task()
    weights = weights_of(net)  # type: ignore[arg-type]
    result = task_gradient(net, weights, task, loss=task_loss)
    direction = {name: torch.randn_like(value) for name, value in weights.items()}
    step = 1e-6

    def loss_at(shift: float) -> float:
        moved = {name: value + shift * direction[name] for name, value in weights.items()}
        return task_gradient(net, moved, task, loss=task_loss).loss

    slope = (loss_at(step) - loss_at(-step)) / (2 * step)
    ours = sum(float((result.gradient[name] * direction[name]).sum()) for name in weights)
    assert ours == pytest.approx(slope, rel=1e-4)


def test_a_tasks_gradient_is_autograds_and_leaves_the_network_as_it_was() -> None:
    net, task = network(), random_task(way=3)
    weights = weights_of(net)  # type: ignore[arg-type]
    result = task_gradient(net, weights, task, loss=task_loss)
    assert all(value.grad is None and torch.equal(value, weights[name]) for name, value in net.named_parameters())
    loss = torch.nn.functional.cross_entropy(net(task.support_x, task.support_y, task.query_x, 3), task.query_y)
    loss.backward()
    theirs = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
    assert result.loss == pytest.approx(loss.item(), rel=1e-12)
    assert relative_distance(result.gradient, theirs) < 1e-12


def test_training_is_plain_adam_on_the_mean_loss_at_the_methods_rates(made: LabelledImages) -> None:
    """The reference knows neither the loop nor `task_gradient`: one backward pass, one rate after another."""
    method = replace(SMALL, held_out=0.0, clip=math.inf)
    fitted = method.fit(made.common(), seed=3)
    learner = method.untrained(made.common(), seed=3)
    spec = EpisodeSpec(method.way, method.shot, method.query)
    tasks = training_tasks(made.common(), learner.pixels, spec, seed=3, augment=False, held_out=0.0)
    adam = torch.optim.Adam(learner.net.parameters(), lr=1.0)
    for iteration in range(method.iterations):
        adam.param_groups[0]["lr"] = 1e-3 if iteration < 2 else 1e-4
        losses = []
        for number in (2 * iteration, 2 * iteration + 1):
            task, _ = tasks(number, None)
            losses.append(task_loss(learner.net(task.support_x, task.support_y, task.query_x, 2), task.query_y))
        adam.zero_grad()
        (sum(losses) / 2).backward()  # type: ignore[union-attr]
        adam.step()
    assert relative_distance(dict(fitted.state()), dict(learner.state())) < 1e-5


def test_fitting_reports_and_resumes_bit_identically(made: LabelledImages) -> None:
    seen: list[Progress] = []
    fitted = SMALL.fit(made.common(), seed=0, observe=seen.append)
    assert [progress.iteration for progress in seen] == [1, 2, 3, 4]
    assert "validation_auc" in seen[-1].record
    resumed = SMALL.fit(made.common(), seed=0, resume=seen[1].training_state)
    assert all(torch.equal(value, resumed.state()[name]) for name, value in fitted.state().items())


def test_its_backbone_begins_where_mamls_does(made: LabelledImages) -> None:
    ours = SMALL.untrained(made.common(), seed=5).net.embedding.state_dict()
    theirs = MAML(width=8).untrained(made.common(), seed=5).net.backbone.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert ours.keys() == theirs.keys()


def test_only_the_transductive_norm_lets_queries_see_each_other(made: LabelledImages) -> None:
    support, queries = support_and_queries(made)
    queries[1:] *= 0.5  # so that the first alone has other statistics than all together
    gaps = {}
    for norm in ("support", "tasknorm", "group", "transductive"):
        learner = replace(SMALL, norm=norm).untrained(made.common(), seed=0)
        classifier = learner.adapt(support)
        gaps[norm] = float((classifier(queries)[:1] - classifier(queries[:1])).abs().max())
        assert learner.inductive == (norm != "transductive")
    assert gaps.pop("transductive") > 1e-3
    assert max(gaps.values()) < 1e-5


def test_huge_distances_and_diverged_weights_give_probabilities(made: LabelledImages) -> None:
    learner = SMALL.untrained(made.common(), seed=0)
    support, queries = support_and_queries(made)

    def answers(factor: float) -> Tensor:
        weights = {name: value * factor for name, value in learner.net.learnt().items()}
        return learner.carrying(weights).adapt(support)(queries)

    far = answers(1e4)  # distances of 1e8 and more: their exponentials are 0
    assert far.isfinite().all()
    torch.testing.assert_close(far.sum(1), torch.ones(len(queries)))
    assert torch.equal(answers(1e30), torch.full((len(queries), 2), 0.5))


def test_a_state_carries_to_a_blank_learner(made: LabelledImages) -> None:
    learner = SMALL.untrained(made.common(), seed=0)
    support, queries = support_and_queries(made)
    carried = SMALL.blank(16).with_state(learner.state())
    assert torch.equal(carried.adapt(support)(queries), learner.adapt(support)(queries))
    with pytest.raises(ValueError, match=r"\['extra'\] are not in both"):
        learner.with_state({**learner.state(), "extra": torch.ones(1)})


def test_any_backbone_by_name() -> None:
    learner = ProtoNet(backbone="resnet10t").blank(32)
    support = Support(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), ("a", "b"))
    classifier = learner.adapt(support)
    assert isinstance(classifier, MetricClassifier)
    assert classifier.classes.shape == (2, 512)
    assert classifier(torch.rand(3, 3, 32, 32)).shape == (3, 2)


def test_training_tasks_are_standardised_episodes_of_the_seed(made: LabelledImages) -> None:
    spec, pixels = EpisodeSpec(2, 1, 2), Pixels.of(made)
    plain = training_tasks(made, pixels, spec, seed=1, augment=False, held_out=0.0)
    turned = training_tasks(made, pixels, spec, seed=1, augment=True, held_out=0.0)
    task, classes = plain(7, None)
    episode = Episodes(made, spec, seed=1)[7]
    assert classes == episode.classes
    assert torch.equal(task.query_x, pixels(episode.query_x))
    assert torch.equal(turned(7, None)[0].support_x, turned(7, None)[0].support_x)
    assert not torch.equal(turned(7, None)[0].support_x, task.support_x)
    assert list(plain(7, (4, 2))[1]) == [made.classes[4], made.classes[2]]


def test_too_few_lesions_are_refused_by_name(made: LabelledImages) -> None:
    with pytest.raises(ValueError, match=r"^each class needs shot \+ query = 5 \+ 15 = 20"):
        ProtoNet(width=8).fit(made.common(), seed=0)
    with pytest.raises(ValueError, match=r"with held_out=0.5 of the groups kept from training: each class needs"):
        ProtoNet(width=8, shot=2, query=8, held_out=0.5).fit(made.common(), seed=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"way": 1}, "way=1: a task needs at least 2 classes"),
        ({"shot": 0}, "shot=0: a task needs at least 1 support image"),
        ({"width": 0}, "width=0 must be at least 1, or None for the paper's"),
        ({"meta_lr": -1.0}, "meta_lr=-1.0 must be above 0"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
        ({"decay": float("nan")}, "decay=nan must be above 0"),
        ({"tasks": 0}, "tasks=0 must be above 0"),
        ({"iterations": 0, "warmup": 0}, "iterations=0 must be above 0"),
        ({"validate_every": 0}, "validate_every=0 must be above 0"),
        ({"warmup": 4000}, "warmup=4000 must lie between 0 and iterations=3000"),
        ({"held_out": 1.0}, "held_out=1.0 must be at least 0 and below 1"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProtoNet(**wrong)


def test_a_backbone_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no backbone 'conv5'; ours are conv4, resblocks"):
        ProtoNet(backbone="conv5").blank(28)

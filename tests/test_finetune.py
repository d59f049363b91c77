from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rareshot.checkpoint import state_hash
from rareshot.data.augment import affine, unchanged
from rareshot.data.collection import LabelledImages
from rareshot.methods.finetune import FineTuned, finetune
from rareshot.methods.memory import in_one_order
from rareshot.methods.probabilities import probabilities
from rareshot.methods.supervised import Supervised, SupervisedLearner
from rareshot.metrics import ranking
from rareshot.pixels import Pixels
from rareshot.types import Support

METHOD = Supervised(width=8, shot=1, batch=16, iterations=10, held_out=0.0, test_steps=10)


@pytest.fixture(scope="module")
def learner(made: LabelledImages) -> SupervisedLearner:
    return METHOD.fit(made.common(), seed=0)


@pytest.fixture(scope="module")
def support(made: LabelledImages) -> Support:
    rare = made.rare()
    return Support(rare.images(np.array([0, 2, 4, 24, 26])), torch.tensor([0, 0, 0, 1, 1]), rare.classes[:2])


@pytest.fixture(scope="module")
def queries(made: LabelledImages) -> Tensor:
    return made.rare().images(np.arange(30, 36))


def tuned(learner: SupervisedLearner, support: Support, **more: Any) -> FineTuned:
    return finetune(learner.net, learner.pixels, support, **{"steps": 10, "lr": 1e-2, "seed": 0, **more})


def test_it_is_adam_on_all_weights_and_a_new_head(
    learner: SupervisedLearner, support: Support, queries: Tensor
) -> None:
    """A plain loop: a Sequential with a head of zeros, batch norm frozen, class means of the image losses."""
    ours = tuned(learner, support, steps=4, seed=5)(queries)
    head = nn.Linear(learner.net.head.in_features, 2)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    plain = nn.Sequential(METHOD.blank(16).with_state(learner.state()).net.backbone, head).eval()
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2)
    ordered = in_one_order(support)
    for step in range(4):
        x = learner.pixels(affine(ordered.images, np.random.default_rng((5, step))))
        each = F.cross_entropy(plain(x), ordered.labels, reduction="none")
        loss = (each[ordered.labels == 0].mean() + each[ordered.labels == 1].mean()) / 2
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    torch.testing.assert_close(ours, plain(learner.pixels(queries)).softmax(1).detach().double(), rtol=1e-3, atol=1e-4)


def test_it_lowers_the_training_loss_and_leaves_the_learner_bit_equal(
    learner: SupervisedLearner, support: Support
) -> None:
    before, random_state, losses = state_hash(learner.state()), torch.get_rng_state(), []
    head = learner.net.head.weight.clone()
    tuned(learner, support, steps=20, observe=lambda step, loss, classify: losses.append(loss))
    assert losses[0] == pytest.approx(np.log(2))
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert state_hash(learner.state()) == before
    assert torch.equal(learner.net.head.weight, head)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_curve_shows_the_classifier_of_every_step(
    learner: SupervisedLearner, support: Support, queries: Tensor
) -> None:
    seen: list[tuple[int, Tensor]] = []
    tuned(learner, support, steps=3, observe=lambda step, loss, classify: seen.append((step, classify(queries))))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert torch.equal(seen[0][1], torch.full((6, 2), 0.5))
    for step, answers in seen[1:]:
        assert torch.equal(answers, tuned(learner, support, steps=step)(queries))


def test_batch_norm_stays_frozen_and_its_scale_is_learnt(learner: SupervisedLearner, support: Support) -> None:
    moved, norm = tuned(learner, support).net, "backbone.blocks.0.norm"
    assert torch.equal(moved.get_buffer(f"{norm}.running_var"), learner.net.get_buffer(f"{norm}.running_var"))
    assert not torch.equal(moved.get_parameter(f"{norm}.weight"), learner.net.get_parameter(f"{norm}.weight"))


def test_augmentation_is_drawn_anew_every_step_from_the_seed(
    learner: SupervisedLearner, support: Support, queries: Tensor
) -> None:
    drawn: list[tuple[int, ...]] = []

    def watching(x: Tensor, rng: np.random.Generator) -> Tensor:
        drawn.append(tuple(rng.integers(2**30, size=2).tolist()))
        return x

    first, again, other = (tuned(learner, support, seed=seed)(queries) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    tuned(learner, support, seed=1, augment=watching)
    assert len(set(drawn)) == 10
    assert drawn[3] == tuple(np.random.default_rng((1, 3)).integers(2**30, size=2).tolist())


def test_without_augmentation_the_seed_changes_nothing(
    learner: SupervisedLearner, support: Support, queries: Tensor
) -> None:
    plain = replace(learner, method=replace(METHOD, augment=False))
    assert torch.equal(plain.adapt(support, seed=1)(queries), plain.adapt(support, seed=2)(queries))
    assert not torch.equal(plain.adapt(support)(queries), learner.adapt(support)(queries))


def test_a_learner_fine_tunes_by_the_methods_steps_and_rate(
    learner: SupervisedLearner, support: Support, queries: Tensor
) -> None:
    method = replace(METHOD, test_steps=3, finetune_lr=0.02)
    expected = tuned(learner, support, steps=3, lr=0.02, seed=4)(queries)
    assert torch.equal(replace(learner, method=method).adapt(support, seed=4)(queries), expected)


def test_images_given_twice_as_often_count_no_more(
    learner: SupervisedLearner, support: Support, queries: Tensor
) -> None:
    """The loss is the mean of the classes' means, so a class of doubled images weighs as before."""
    double = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])
    doubled = Support(support.images[double], support.labels[double], support.classes)
    once, twice = (tuned(learner, given, augment=unchanged)(queries) for given in (support, doubled))
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("turn", [1, -1])
def test_logits_that_lie_far_apart_are_still_told_apart(turn: int) -> None:
    """599.9 to 600.1: no step where distances begin to be written smaller."""
    most = torch.finfo(torch.float32).max
    distances = torch.tensor(
        [-most, -1e9, -745.0, -600.0, -599.0, -140.0, 0.0, 120.0, 150.0, 599.9, 600.1, 700.0, 1e6, most]
    )
    logits = turn * torch.stack([torch.zeros_like(distances), distances], 1)
    logits[-1] = turn * torch.tensor([-most, most])
    odds = turn * ranking(probabilities(logits, torch.float64))[:, 1]
    assert (np.diff(odds) > 0).all()
    near = distances.abs() < 600
    np.testing.assert_allclose(odds[near], distances[near], rtol=1e-9, atol=1e-6)
    assert np.abs(odds).max() < 690.7, "the least probability that is told from 0"
    assert len(np.unique(ranking(probabilities(logits))[:, 1])) < len(distances), "in float32 they tie"


def test_fine_tuning_that_diverged_answers_equal_probabilities(queries: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    nn.init.constant_(net[1].weight, torch.inf)  # type: ignore[arg-type]
    assert torch.equal(FineTuned(net, Pixels.blank(16))(queries), torch.full((6, 2), 0.5))

"""One image's answer must not depend on the other images that are sent with it, for every mode that claims so."""

import pytest
import torch
from torch import Tensor

from rareshot.backbones import NORM_MODES, NormMode
from rareshot.checkpoint import state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.methods.maml import MAML, EpisodicClassifier, EpisodicLearner
from rareshot.types import Episode

INDUCTIVE: list[NormMode] = [mode for mode in NORM_MODES if mode != "transductive"]


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return separable(28, lesions=10, seed=3)


@pytest.fixture(scope="module")
def episode(images: LabelledImages) -> Episode:
    return Episodes(images.rare(), EpisodeSpec(2, 3, 6), seed=0)[0]


def learner_of(norm: NormMode, images: LabelledImages, *, fast: bool = True) -> EpisodicLearner:
    method = MAML(norm=norm, width=16, inner_lr=0.1, test_steps=10, fast=fast)
    return method.untrained(images.common(), seed=0)


def spread(probabilities: Tensor) -> float:
    return float(probabilities[:, 0].max() - probabilities[:, 0].min())


def largest_change(classifier: EpisodicClassifier, queries: Tensor) -> tuple[float, bool]:
    """Largest change of a probability when the company changes, and whether every decision stays."""
    together = classifier(queries)
    white = torch.ones_like(queries[:1])
    companies = {
        "alone": torch.cat([classifier(queries[i : i + 1]) for i in range(len(queries))]),
        "reversed": classifier(queries.flip(0)).flip(0),
        "in pairs": torch.cat([classifier(queries[i : i + 2]) for i in range(0, len(queries), 2)]),
        "beside white": torch.cat(
            [classifier(torch.cat([queries[i : i + 1], white]))[:1] for i in range(len(queries))]
        ),
        "among many white": classifier(torch.cat([queries, white.repeat(20, 1, 1, 1)]))[: len(queries)],
    }
    changes = [float((answers - together).abs().max()) for answers in companies.values()]
    same = all(torch.equal(answers.argmax(1), together.argmax(1)) for answers in companies.values())
    return max(changes), same


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("norm", INDUCTIVE)
def test_an_answer_ignores_the_other_images(
    images: LabelledImages, episode: Episode, norm: NormMode, fast: bool
) -> None:
    learner = learner_of(norm, images, fast=fast)
    before = state_hash(learner.state())
    assert learner.inductive
    classifier = learner.adapt(episode.support)
    assert spread(classifier(episode.query_x)) > 0.2
    change, same_decisions = largest_change(classifier, episode.query_x)
    assert change <= 1e-5
    assert same_decisions
    assert state_hash(learner.state()) == before


def test_the_transductive_control_does_not_pass(images: LabelledImages, episode: Episode) -> None:
    learner = learner_of("transductive", images)
    assert not learner.inductive
    classifier = learner.adapt(episode.support)
    assert spread(classifier(episode.query_x)) > 0.2
    assert largest_change(classifier, episode.query_x)[0] > 0.1


@pytest.mark.parametrize("norm", INDUCTIVE)
def test_an_answer_does_depend_on_the_image_and_the_support(
    images: LabelledImages, episode: Episode, norm: NormMode
) -> None:
    learner = learner_of(norm, images)
    other = Episodes(images.rare(), EpisodeSpec(2, 3, 6), seed=0).draw(0).support[::-1]
    swapped = Episodes(images.rare(), EpisodeSpec(2, 3, 6), seed=0).images.images(other.reshape(-1))
    changed = learner.adapt(type(episode.support)(swapped, episode.support_y, episode.classes))
    difference = learner.adapt(episode.support)(episode.query_x) - changed(episode.query_x)
    assert float(difference.abs().max()) > 0.2

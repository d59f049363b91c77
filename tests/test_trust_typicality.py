"""None of these: which images are unlike all that a learner knows."""

from typing import Any

import numpy as np
import pytest
import torch

from rareshot.backbones import NormMode
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.methods.maml import MAML
from rareshot.methods.relation import RelationNet
from rareshot.methods.supervised import Supervised
from rareshot.trust import Reference
from rareshot.trust.typicality import describe, statistics
from rareshot.validation import held_out


@pytest.fixture(scope="module")
def parts() -> tuple[LabelledImages, LabelledImages]:
    train, held = held_out(separable(28, lesions=40, seed=1).common(), 0.4)
    assert held is not None
    return train, held


def maml(parts: tuple[LabelledImages, LabelledImages], norm: NormMode = "support") -> Any:
    return MAML(width=8, norm=norm).untrained(parts[0], seed=0)


@pytest.fixture(scope="module")
def reference(parts: tuple[LabelledImages, LabelledImages]) -> Reference:
    return Reference.of(maml(parts), *parts)


def test_noise_blank_pages_and_inverted_lesions_are_unusual(
    reference: Reference, parts: tuple[LabelledImages, LabelledImages]
) -> None:
    noise = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    pages = torch.stack([torch.full((3, 28, 28), grey) for grey in (0.0, 0.5, 1.0)])
    inverted = 1 - parts[1].images(np.arange(5))
    for images in (noise, pages, inverted):
        assert reference.typicality(maml(parts), images).is_unusual.all()


def test_held_out_lesions_raise_it_as_often_as_asked(parts: tuple[LabelledImages, LabelledImages]) -> None:
    train, held = parts
    reference = Reference.of(maml(parts), train, held)
    for rate in (0.05, 0.3):
        unusual = reference.typicality(maml(parts), held.images(np.arange(len(held))), false_alarms=rate).is_unusual
        assert abs(float(unusual.double().mean()) - rate) < 0.06


def test_an_image_is_judged_by_itself(reference: Reference, parts: tuple[LabelledImages, LabelledImages]) -> None:
    images = parts[1].images(np.arange(7))
    together, alone = (reference.typicality(maml(parts), part) for part in (images, images[3:4]))
    assert torch.allclose(together.distance[3:4], alone.distance, rtol=1e-4)


def test_the_share_falls_as_the_distance_grows(
    reference: Reference, parts: tuple[LabelledImages, LabelledImages]
) -> None:
    said = reference.typicality(maml(parts), parts[1].images(np.arange(30)))
    order = said.distance.argsort()
    assert (said.share[order].diff() <= 0).all()
    assert said.share.min() >= 0
    assert said.share.max() <= 1


def test_a_reference_survives_being_stored(reference: Reference, parts: tuple[LabelledImages, LabelledImages]) -> None:
    again = Reference.from_state(reference.state())
    images = parts[1].images(np.arange(5))
    one, two = (each.typicality(maml(parts), images) for each in (reference, again))
    assert torch.equal(one.distance, two.distance)
    assert torch.equal(one.share, two.share)


def test_a_damaged_reference_is_refused(reference: Reference) -> None:
    state = dict(reference.state())
    with pytest.raises(ValueError, match="the reference lacks 'precision'"):
        Reference.from_state({name: value for name, value in state.items() if name != "precision"})
    with pytest.raises(ValueError, match="the reference is damaged"):
        Reference.from_state(state | {"mean": state["mean"] * float("nan")})
    with pytest.raises(ValueError, match="the reference is damaged"):
        Reference.from_state(state | {"std": state["std"][:3]})


@pytest.mark.parametrize("norm", ["support", "tasknorm", "group"])
def test_conv4_is_described_by_its_maps_too(norm: NormMode, parts: tuple[LabelledImages, LabelledImages]) -> None:
    images = parts[0].images(np.arange(20))
    own = maml(parts, norm)
    reference = Reference.of(own, *parts)
    numbers = describe(own, images, reference.moments)
    assert numbers.shape == (20, statistics(images).shape[1] + 2 * 8)
    assert bool(reference.moments) == (norm != "group")
    assert np.allclose(numbers[:1], describe(own, images[:1], reference.moments), rtol=1e-4, atol=1e-5)


def test_a_supervised_backbone_needs_no_moments(parts: tuple[LabelledImages, LabelledImages]) -> None:
    own = Supervised(width=8).untrained(parts[0], seed=0)
    assert Reference.of(own, *parts).moments == ()


def test_a_learner_without_conv4_is_described_without_its_network(
    parts: tuple[LabelledImages, LabelledImages],
) -> None:
    own = RelationNet(norm="group").untrained(parts[0], seed=0)
    images = parts[0].images(np.arange(3))
    assert np.array_equal(describe(own, images), statistics(images).numpy())


def test_the_reference_of_another_learner_is_refused(
    reference: Reference, parts: tuple[LabelledImages, LabelledImages]
) -> None:
    images = parts[1].images(np.arange(2))
    for other in (MAML(width=16), MAML(width=8, norm="group")):
        with pytest.raises(ValueError, match="made with another learner, of other norm layers"):
            reference.typicality(other.untrained(parts[0], seed=0), images)
    with pytest.raises(
        ValueError, match="describes an image by 32 numbers, the learner by 16: it was made with another"
    ):
        reference.typicality(RelationNet(norm="group").untrained(parts[0], seed=0), images)


def test_wrong_rates_few_images_and_transductive_learners_are_refused(
    reference: Reference, parts: tuple[LabelledImages, LabelledImages]
) -> None:
    train, held = parts
    with pytest.raises(ValueError, match="false_alarms=0 must be between 0 and 1"):
        reference.typicality(maml(parts), held.images(np.arange(2)), false_alarms=0)
    with pytest.raises(ValueError, match="at least 20 training images and 20 held-out lesions; got 10 and"):
        Reference.of(maml(parts), train.take(np.arange(10)), held)
    with pytest.raises(ValueError, match="this learner is transductive"):
        Reference.of(maml(parts, "transductive"), train, held)

"""Maps and neighbours change when the evidence does, for every kind of learner."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import RUN
from torch import Tensor

from rareshot.bundle import Bundle
from rareshot.data.collection import LabelledImages
from rareshot.equal_parts import Evenly, adapt_evenly
from rareshot.explain import Embeds, attribution, nearest_support
from rareshot.methods.maml import MAML
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.methods.supervised import Supervised
from rareshot.predict import Predictor, load
from rareshot.support_set import SupportSet

SIZE = 64
RED, BLUE = (200, 40, 40), (40, 40, 200)
PLACES = {"left, above": (8, 8), "right, below": (40, 40)}
METHODS = {
    "maml": MAML(width=8, inner_lr=0.05, norm="support"),
    "anil, group norm": MAML(width=8, inner_lr=0.05, norm="group", adapted="head"),
    "protonet": ProtoNet(width=8),
    "relation": RelationNet(width=8),
    "finetune": Supervised(width=8, test_steps=10),
    "logistic": Supervised(width=8, classifier="logistic"),
}


def picture(colour: tuple[int, int, int], place: tuple[int, int], seed: int) -> Tensor:
    """Skin-coloured noise with a blob of 16 pixels, as bytes."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.tensor([190, 160, 140]).view(3, 1, 1) + torch.randint(-20, 20, (3, SIZE, SIZE), generator=draw)
    top, left = place
    pixels[:, top : top + 16, left : left + 16] = torch.tensor(colour).view(3, 1, 1) + torch.randint(
        -20, 20, (3, 16, 16), generator=draw
    )
    return pixels.to(torch.uint8)


def blobs(first: tuple[int, int, int] = RED, second: tuple[int, int, int] = BLUE) -> SupportSet:
    """Four pictures of each class, which the colour of the blob decides; its place does not."""
    places = [(8, 8), (40, 40), (8, 40), (40, 8)]
    images = [picture(colour, place, at) for colour in (first, second) for at, place in enumerate(places)]
    names = tuple(f"{at}.png" for at in range(8))
    return SupportSet(torch.stack(images), torch.arange(2).repeat_interleave(4), ("red", "blue"), names)


def predictor_of(learner: Any, support: SupportSet) -> Predictor:
    run = replace(RUN, method=learner.method, size=SIZE)
    bundle = Bundle(run, "tiny", learner.state(), support)
    return Predictor(bundle, adapt_evenly(learner, support.support))


@pytest.fixture(scope="module")
def isic2018() -> Predictor:
    return predictor_of(load("isic2018"), blobs())


@pytest.fixture(scope="module", params=METHODS)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    """One of each kind, with the weights that training begins with."""
    return predictor_of(METHODS[request.param].blank(SIZE), blobs())


def share_on(found: Tensor, place: tuple[int, int]) -> float:
    """Share of the map's positive mass within 8 pixels of a blob."""
    top, left = place
    mass = found.clamp_min(0)
    return float(mass[top - 8 : top + 24, left - 8 : left + 24].sum() / mass.sum())


@pytest.mark.parametrize("place", PLACES)
def test_a_map_lies_on_the_blob_that_decides_and_moves_with_it(isic2018: Predictor, place: str) -> None:
    image = picture(RED, PLACES[place], 50).float() / 255
    assert isic2018(image[None])[0].argmax() == 0
    found = attribution(isic2018, image, 0)
    assert found.shape == (SIZE, SIZE)
    other = next(where for name, where in PLACES.items() if name != place)
    assert share_on(found, PLACES[place]) > 0.5  # by chance 0.25
    assert share_on(found, other) < 0.2


def test_what_speaks_for_one_of_two_classes_speaks_against_the_other(isic2018: Predictor) -> None:
    image = picture(RED, (8, 40), 50).float() / 255
    torch.testing.assert_close(attribution(isic2018, image, 0), -attribution(isic2018, image, 1), atol=1e-3, rtol=1e-3)


def test_a_map_turns_about_when_the_labels_do(isic2018: Predictor) -> None:
    image = picture(RED, (8, 40), 50).float() / 255
    swapped = predictor_of(isic2018.learner, blobs(BLUE, RED))
    before, after = attribution(isic2018, image, 0), attribution(swapped, image, 0)
    assert before[8:24, 40:56].mean() > 0 > after[8:24, 40:56].mean()


def test_every_learner_gives_a_finite_map_that_the_image_changes(predictor: Predictor) -> None:
    here, there = (attribution(predictor, picture(RED, place, 50).float() / 255, 0) for place in PLACES.values())
    assert here.isfinite().all()
    assert not torch.equal(here, there)


def test_a_support_image_is_its_own_nearest(predictor: Predictor) -> None:
    assert isinstance(predictor.classifier, Embeds)
    support = predictor.bundle.support.support
    for at, image in enumerate(support.images):
        found = nearest_support(predictor, image, 8)
        assert found[0].position == at
        assert found[0].similarity == pytest.approx(1)
        assert sorted(one.position for one in found) == list(range(8))
        assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


def test_a_classifier_of_equal_parts_embeds_by_all_of_them(predictor: Predictor) -> None:
    whole = predictor.bundle.support
    few = SupportSet(whole.images[2:], whole.labels[2:], whole.classes, whole.names[2:])  # two red, four blue
    uneven = predictor_of(predictor.learner, few)
    assert isinstance(uneven.classifier, Evenly)
    image = whole.support.images[0]
    found = {one.position: one.similarity for one in nearest_support(uneven, image, len(few.labels))}
    by_parts = [
        {
            one.position: one.similarity
            for one in nearest_support(replace(uneven, classifier=part), image, len(few.labels))
        }
        for part in uneven.classifier.parts
    ]
    assert len(by_parts) == 2
    for at, similarity in found.items():
        assert similarity == pytest.approx(sum(part[at] for part in by_parts) / 2, abs=1e-6)


def test_the_nearest_are_of_the_colour_that_decides(isic2018: Predictor) -> None:
    for colour, positions in ((RED, {0, 1, 2, 3}), (BLUE, {4, 5, 6, 7})):
        found = nearest_support(isic2018, picture(colour, (24, 24), 60).float() / 255, 3)
        assert {one.position for one in found} <= positions


def test_a_classifier_that_embeds_nothing_is_served_by_its_pixels(made: LabelledImages) -> None:
    support = blobs()

    def even(images: Tensor) -> Tensor:
        return torch.full((len(images), 2), 0.5)

    told = replace(predictor_of(METHODS["maml"].blank(SIZE), support), classifier=even)
    assert not isinstance(told.classifier, Embeds)
    assert nearest_support(told, support.support.images[5], 1)[0].position == 5
    assert not attribution(told, support.support.images[5], 0).any()


def test_what_cannot_be_explained_is_refused(isic2018: Predictor) -> None:
    with pytest.raises(ValueError, match=r"label=2: the classes are numbered 0 to 1 \(red, blue\)"):
        attribution(isic2018, torch.zeros(3, SIZE, SIZE), 2)
    with pytest.raises(ValueError, match=r"takes RGB images of 64 pixels; got shape \(3, 8, 8\)"):
        attribution(isic2018, torch.zeros(3, 8, 8), 0)
    with pytest.raises(ValueError, match="count=0: ask for at least 1"):
        nearest_support(isic2018, torch.zeros(3, SIZE, SIZE), 0)


def test_embedding_is_what_the_head_decides_by() -> None:
    learner = METHODS["maml"].blank(SIZE)
    classify = learner.adapt(blobs().support)
    images = torch.rand(2, 3, SIZE, SIZE)
    logits = classify.embed(images) @ classify.params["head.weight"].T + classify.params["head.bias"]  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.softmax(logits, 1), classify(images))


def test_support_of_other_order_gives_the_same_neighbours(isic2018: Predictor) -> None:
    support = blobs()
    turned = torch.arange(7, -1, -1)
    other = SupportSet(support.images[turned], support.labels[turned], support.classes, support.names[::-1])
    image = picture(BLUE, (24, 24), 60).float() / 255
    told = [
        [one.bundle.support.names[found.position] for found in nearest_support(one, image)]
        for one in (isic2018, predictor_of(isic2018.learner, other))
    ]
    assert told[0] == told[1]

"""Unequal numbers of images a class: no lean to the larger class, no image lost, and nothing new where numbers are equal."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rareshot.equal_parts import MOST_PARTS, Evenly, adapt_evenly, equal_parts
from rareshot.methods.classifiers import FeatureClassifier, FeatureRule, fit_rule
from rareshot.methods.memory import key_of
from rareshot.types import Learner, State, Support

SIZE = 8
APART = 0.08
"""Between the classes' mean pixels: two images of one class lie further apart than that, as with real ones."""


@dataclass(frozen=True)
class Pixels:
    """Pixels as features, and a rule."""

    rule: FeatureRule = "logistic"
    inductive: bool = True
    size: int = SIZE

    def adapt(self, support: Support, *, seed: int = 0) -> FeatureClassifier:
        features = self.features(support.images).numpy()
        return FeatureClassifier(
            lambda images: self.features(images).numpy(),
            fit_rule(self.rule, features, support.labels.numpy(), support.way),
        )

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() - 0.5

    def state(self) -> State:
        return {}

    def with_state(self, state: State) -> "Pixels":
        return self


def drawn(numbers: tuple[int, ...], seed: int) -> Support:
    """Noise about a mean a class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers))
    noise = torch.rand(len(labels), 3, SIZE, SIZE, generator=draw) * 0.8
    means = torch.zeros(len(numbers), 3, SIZE, SIZE)
    for label in range(len(numbers)):
        means[label, label % 3] = APART
    return Support(noise + means[labels], labels, tuple("abcdef"[: len(numbers)]))


def called_largest(learner: Learner, numbers: tuple[int, ...], *, evenly: bool) -> float:
    """Share of query images, as many of each class, that are called the largest class, over 40 tasks."""
    shares = []
    for i in range(40):
        support, queries = drawn(numbers, 2 * i), drawn((10,) * len(numbers), 2 * i + 1)
        classify = adapt_evenly(learner, support) if evenly else learner.adapt(support)
        shares.append(float((classify(queries.images).argmax(1) == int(np.argmax(numbers))).double().mean()))
    return float(np.mean(shares))


@pytest.mark.parametrize("rule", ["logistic", "svm", "centroid"])
@pytest.mark.parametrize("numbers", [(1, 5), (2, 5), (1, 3, 6)])
def test_the_mean_over_equal_parts_does_not_lean_to_the_larger_class(
    numbers: tuple[int, ...], rule: FeatureRule
) -> None:
    plain, even = (called_largest(Pixels(rule), numbers, evenly=evenly) for evenly in (False, True))
    assert even == pytest.approx(1 / len(numbers), abs=0.06)
    assert plain > even + 0.15, "without parts it leans, or this shows nothing"


def test_the_answer_is_the_softmax_of_the_parts_mean_log_probabilities() -> None:
    support, queries = drawn((2, 3), 0), drawn((4, 4), 1).images
    classify = adapt_evenly(Pixels(), support)
    assert isinstance(classify, Evenly)
    logs = torch.stack([Pixels().adapt(part)(queries).double().log() for part in equal_parts(support)])
    assert len(logs) == 2
    torch.testing.assert_close(classify(queries), logs.mean(0).softmax(1).float())
    torch.testing.assert_close(classify(queries).sum(1), torch.ones(8))


def test_equal_numbers_are_adapted_to_as_they_are() -> None:
    support, queries = drawn((3, 3), 0), drawn((4, 4), 1).images
    (whole,) = equal_parts(support)
    assert whole is support
    assert torch.equal(adapt_evenly(Pixels(), support)(queries), Pixels().adapt(support)(queries))


@pytest.mark.parametrize("numbers", [(1, 5), (5, 2), (4, 5), (2, 3, 7), (1, MOST_PARTS)])
def test_each_part_has_as_many_of_each_and_every_image_is_in_one(numbers: tuple[int, ...]) -> None:
    support = drawn(numbers, 3)
    parts = list(equal_parts(support))
    assert len(parts) == -(-max(numbers) // min(numbers))
    held = set()
    for part in parts:
        assert part.numbers == [min(numbers)] * len(numbers)
        keys = [key_of(image) for image in part.images]
        assert len(set(keys)) == len(keys), "an image stands once in a part"
        held |= set(keys)
    assert held == {key_of(image) for image in support.images}


def test_there_are_no_more_parts_than_one_would_wait_for() -> None:
    assert len(list(equal_parts(drawn((1, MOST_PARTS + 3), 4)))) == MOST_PARTS


def test_parts_do_not_depend_on_the_order_of_the_images() -> None:
    support, queries = drawn((2, 5), 5), drawn((4, 4), 6).images
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = Support(support.images[order], support.labels[order], support.classes)
    assert torch.equal(adapt_evenly(Pixels(), shuffled)(queries), adapt_evenly(Pixels(), support)(queries))


def test_parts_that_are_sure_of_different_classes_leave_a_number() -> None:
    parts = tuple(lambda images, p=p: torch.tensor([p]) for p in ([1.0, 0.0], [0.0, 1.0]))
    assert torch.equal(Evenly(parts)(torch.zeros(1, 3, 8, 8)), torch.tensor([[0.5, 0.5]]))


def test_every_part_is_adapted_to_by_the_seed_asked_for() -> None:
    seeds: list[int] = []
    learner = SimpleNamespace(adapt=lambda support, *, seed=0: seeds.append(seed))
    adapt_evenly(learner, drawn((1, 3), 0), seed=7)  # type: ignore[arg-type]
    assert seeds == [7, 7, 7]

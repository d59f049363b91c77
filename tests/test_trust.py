"""Calibration, sets, suspects and spread: what each promises, on a learner that can be reckoned by hand."""

from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from test_equal_parts import Pixels, drawn
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.equal_parts import Evenly, adapt_evenly
from rareshot.methods.supervised import Supervised
from rareshot.metrics import auc
from rareshot.trust import (
    LeftOut,
    augmented_answers,
    leave_one_out,
    prediction_sets,
    smallest_error,
    spread,
    suspects,
    temperature_from_support,
    temperature_from_tasks,
    warning_threshold,
    with_prevalence,
    with_temperature,
)
from rareshot.trust.centroids import SHARPNESS, own_log_odds
from rareshot.trust.left_out import class_log_odds
from rareshot.trust.suspects import chance_of_one
from rareshot.types import Support


@dataclass(frozen=True)
class Brightness:
    """Softmax over minus the distance of an image's mean to each class's, `sure` times."""

    sure: float = 20.0
    inductive: bool = True
    size: int = 4

    def adapt(self, support: Support, *, seed: int = 0) -> Any:
        values = support.images.mean((1, 2, 3)).double()
        centres = torch.stack([values[support.labels == c].mean() for c in range(support.way)])

        def classify(images: Tensor) -> Tensor:
            gaps = (images.mean((1, 2, 3)).double()[:, None] - centres[None]).abs()
            return torch.softmax(-self.sure * gaps, 1)

        return classify

    def features(self, images: Tensor) -> Tensor:
        angles = images.mean((1, 2, 3)).double() * torch.pi / 2  # length 1 whatever the brightness
        return torch.stack([angles.cos(), angles.sin()], 1)

    def state(self) -> dict[str, Tensor]:
        return {}

    def with_state(self, state: Any) -> "Brightness":
        return self


def images_of(values: Tensor) -> Tensor:
    return values.float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


def support_of(values: list[list[float]]) -> Support:
    labels = torch.tensor([c for c, part in enumerate(values) for _ in part])
    flat = torch.tensor([value for part in values for value in part])
    return Support(images_of(flat), labels, tuple("abcdef"[: len(values)]))


SUPPORT = support_of([[0.1, 0.2, 0.3, 0.25], [0.6, 0.7, 0.8, 0.65]])


@pytest.fixture(scope="module")
def common() -> LabelledImages:
    return separable(16, lesions=12, seed=3).common()


def learner(common: LabelledImages) -> Any:
    return Supervised(width=4, classifier="logistic").untrained(common, seed=0)


def two_class(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities of a classifier three times too sure, in single precision, and the labels."""
    draw = torch.Generator().manual_seed(seed)
    odds = 3 * torch.randn(n, generator=draw, dtype=torch.float64)
    labels = (torch.rand(n, generator=draw, dtype=torch.float64) < odds.sigmoid()).long()
    return torch.softmax(torch.stack([torch.zeros(n, dtype=torch.float64), 3 * odds], 1), 1).float(), labels


# Calibration


@pytest.mark.parametrize("temperature", [0.3, 1.7, 8.0])
def test_a_temperature_leaves_the_auc_of_two_classes_exactly_as_it_was(temperature: float) -> None:
    p, labels = two_class()
    assert auc(with_temperature(p, temperature), labels) == auc(p, labels)


def test_a_temperature_leaves_each_image_s_ranking_of_many_classes() -> None:
    p = torch.softmax(4 * torch.randn(50, 5, generator=torch.Generator().manual_seed(0)), 1)
    assert torch.equal(with_temperature(p, 3).argsort(1), p.argsort(1))


def test_temperature_1_changes_nothing_and_rows_sum_to_1() -> None:
    p, _ = two_class()
    assert torch.allclose(with_temperature(p, 1).float(), p, atol=1e-7)
    assert torch.allclose(with_temperature(p, 5).sum(1), torch.ones(len(p), dtype=torch.float64))


def test_an_impossible_answer_stays_a_number() -> None:
    assert with_temperature(torch.tensor([[1.0, 0.0]]), 4).isfinite().all()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"temperature=.* must be a number above 0"):
        with_temperature(torch.tensor([[0.5, 0.5]]), value)


def test_a_diverged_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="the classifier has diverged"):
        with_temperature(torch.tensor([[float("nan"), 0.5]]), 2)


def test_the_support_s_temperature_finds_how_much_too_sure_a_classifier_is() -> None:
    p, labels = two_class(2000)
    many = LeftOut(Support(torch.zeros(2000, 3, 1, 1), labels, ("a", "b")), (), p)
    assert temperature_from_support(many) == pytest.approx(3, rel=0.15)


def test_few_answers_move_the_temperature_little_from_its_prior() -> None:
    p, labels = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    few = LeftOut(Support(torch.zeros(2, 3, 1, 1), labels, ("a", "b")), (), p)
    # Two right answers alone would send it to its lowest.
    assert 1.5 < temperature_from_support(few, prior=2.0) < 2
    assert 0.75 < temperature_from_support(few) < 1


def test_a_surer_learner_needs_a_higher_temperature(common: LabelledImages) -> None:
    grey = np.random.default_rng(0).normal(100 + 15 * common.labels, 25).clip(0, 255).astype(np.uint8)
    overlapping = replace(common, pixels=np.broadcast_to(grey[:, None, None, None], (len(grey), 4, 4, 3)).copy())
    cold, hot = (
        temperature_from_tasks(Brightness(sure), overlapping, EpisodeSpec(2, 2, 5), episodes=8) for sure in (20.0, 80.0)
    )
    assert hot == pytest.approx(4 * cold, rel=0.02)


def test_a_transductive_learner_is_refused_by_name(common: LabelledImages) -> None:
    other = Brightness(inductive=False)
    with pytest.raises(ValueError, match="this learner is transductive"):
        temperature_from_tasks(other, common, EpisodeSpec(2, 2, 2))
    for refuse in (leave_one_out, suspects, lambda own, support: prediction_sets(own, support, support.images)):
        with pytest.raises(ValueError, match="this learner is transductive"):
            refuse(other, SUPPORT)


def test_no_episodes_give_no_temperature(common: LabelledImages) -> None:
    with pytest.raises(ValueError, match="episodes=0: at least 1 is needed"):
        temperature_from_tasks(Brightness(), common, EpisodeSpec(2, 2, 2), episodes=0)


# Prevalence


def test_prevalence_multiplies_the_odds_by_the_odds_of_the_shares() -> None:
    p = with_prevalence(torch.tensor([[0.2, 0.8]]), ("a", "b"), {"b": 0.1, "a": 0.9})
    assert float(p[0, 1] / p[0, 0]) == pytest.approx(4 / 9)


def test_equal_shares_change_nothing() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5]])
    assert torch.allclose(with_prevalence(p, ("a", "b", "c"), dict.fromkeys("abc", 1 / 3)).float(), p)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 0.5, "b": 0.6}, r"must sum to 1; they sum to 1\.1"),
        ({"a": 0.5, "x": 0.5}, "unknown: x, missing: b"),
        ({"a": 1.0, "b": 0.0}, r"must be above 0; got \{'b': 0\.0\}"),
        ({"a": float("nan"), "b": 0.5}, "must be above 0; got"),
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_prevalence(torch.tensor([[0.5, 0.5]]), ("a", "b"), shares)


# Leaving out


def test_each_image_is_judged_by_the_classifier_that_has_not_seen_it() -> None:
    left_out = leave_one_out(Brightness(), SUPPORT)
    for i in range(8):
        others = [j for j in range(8) if j != i]
        without = Support(SUPPORT.images[others], SUPPORT.labels[others], SUPPORT.classes)
        expected = adapt_evenly(Brightness(), without)(SUPPORT.images[i : i + 1])[0]
        assert torch.equal(left_out.probabilities[i], expected)
    left_out = leave_one_out(Pixels(), drawn((3, 3), 0))
    assert all(isinstance(classify, Evenly) for classify in left_out.classifiers), "2 against 3 images would lean"
    left_out = leave_one_out(Brightness(), SUPPORT)
    queries = images_of(torch.tensor([0.4, 0.5]))
    assert torch.equal(left_out.answers(queries)[3], left_out.classifiers[3](queries))


def test_a_class_with_a_single_image_is_refused_by_name() -> None:
    single = support_of([[0.1, 0.2], [0.9]])
    for refuse in (leave_one_out, suspects, lambda own, support: prediction_sets(own, support, support.images)):
        with pytest.raises(ValueError, match="there is a single one of b"):
            refuse(Brightness(), single)


def test_log_odds_tell_apart_what_probabilities_round_to_1() -> None:
    p = torch.softmax(torch.tensor([[0.0, 50.0], [0.0, 60.0]], dtype=torch.float64), 1)
    assert class_log_odds(p)[:, 1].tolist() == pytest.approx([50, 60])


# Nearest class means


def test_an_image_s_own_log_odds_are_those_of_the_class_means_without_it() -> None:
    features = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    said = own_log_odds(features, labels, 3)
    for i in range(7):
        others = [j for j in range(7) if j != i]
        means = torch.stack([features[[j for j in others if labels[j] == c]].mean(0) for c in range(3)])
        p = torch.softmax(-SHARPNESS * (features[i] - means).square().sum(1), 0)[labels[i]]
        assert float(said[i]) == pytest.approx(float((p / (1 - p)).log()))


def test_evenly_a_class_s_mean_is_as_far_as_that_of_so_few_of_its_images_on_average() -> None:
    features = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1, 1, 1, 2, 0, 2])  # three, four, two
    said = own_log_odds(features, labels, 3, evenly=True)
    for i in range(9):

        def to_means(label: int, drawn: int, i: int = i) -> float:
            places = [j for j in range(9) if j != i and labels[j] == label]
            means = torch.stack([features[list(some)].mean(0) for some in combinations(places, drawn)])
            return float((features[i] - means).square().sum(1).mean())

        own = int(labels[i])
        others = [-SHARPNESS * to_means(label, 2) for label in range(3) if label != own]
        expected = -SHARPNESS * to_means(own, 1) - float(torch.tensor(others, dtype=torch.float64).logsumexp(0))
        assert float(said[i]) == pytest.approx(expected)


def test_evenly_changes_no_bit_where_the_numbers_are_equal() -> None:
    features = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 3
    assert torch.equal(own_log_odds(features, labels, 3, evenly=True), own_log_odds(features, labels, 3))


def test_features_that_diverged_are_refused() -> None:
    class Diverged(Brightness):
        def features(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), float("nan"))

    with pytest.raises(ValueError, match="the learner's features hold NaN"):
        suspects(Diverged(), SUPPORT)


# Prediction sets


@pytest.mark.parametrize("way", [2, 3])
def test_a_set_covers_a_new_image_of_a_class_as_often_as_promised_and_hardly_more_often(way: int) -> None:
    rng, held, n = np.random.default_rng(0), [], 600
    for _ in range(n):
        values = [rng.normal(0.4 + 0.1 * c, 0.1, 5).tolist() for c in range(way)]
        new = images_of(torch.tensor([rng.normal(0.4 + 0.1 * c, 0.1) for c in range(way)]))
        sets = prediction_sets(Brightness(), support_of(values), new)
        held.append(sets.diagonal().double().mean().item())
    assert abs(np.mean(held) - (1 - smallest_error(5))) < 3 * np.std(held) / n**0.5


def test_features_that_depend_on_the_whole_batch_keep_the_promise() -> None:
    class Centred(Brightness):
        def features(self, images: Tensor) -> Tensor:
            values = images.mean((2, 3)).double()
            return values - values.mean(0)

    rng, held, n = np.random.default_rng(1), [], 600
    for _ in range(n):
        images = torch.from_numpy(rng.normal([[0.4, 0.5, 0.6]] * 6 + [[0.5, 0.5, 0.5]] * 5, 0.1)).float()
        x = images.view(-1, 3, 1, 1).expand(-1, 3, 4, 4)
        sets = prediction_sets(Centred(), Support(x[1:], torch.tensor([0] * 5 + [1] * 5), ("a", "b")), x[:1])
        held.append(float(sets[0, 0]))
    assert abs(np.mean(held) - (1 - smallest_error(5))) < 3 * np.std(held) / n**0.5


def test_a_higher_error_rate_gives_smaller_sets_inside_the_larger() -> None:
    images = images_of(torch.linspace(0, 1, 41))
    large, small = (prediction_sets(Brightness(), SUPPORT, images, error=error) for error in (0.2, 0.61))
    assert (large | ~small).all()
    assert large.sum() > small.sum()


def test_a_clear_image_has_a_set_of_one_class_alone_or_among_others() -> None:
    images = images_of(torch.tensor([0.2, 0.7, 0.45]))
    assert prediction_sets(Brightness(), SUPPORT, images)[:2].tolist() == [[True, False], [False, True]]
    assert torch.equal(prediction_sets(Brightness(), SUPPORT, images[1:2])[0], torch.tensor([False, True]))


def test_the_smallest_error_rate_is_that_of_the_number_of_images() -> None:
    assert smallest_error(5) == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="at least 2 support images of each class; got 1"):
        smallest_error(1)


def test_an_error_rate_that_k_does_not_allow_is_refused_with_what_it_takes() -> None:
    with pytest.raises(
        ValueError, match=r"4 support images of a allow no error rate below 1 / \(4 \+ 1\) = 0\.200.* 19 im"
    ):
        prediction_sets(Brightness(), SUPPORT, SUPPORT.images, error=0.05)
    with pytest.raises(ValueError, match="error=1: "):
        prediction_sets(Brightness(), SUPPORT, SUPPORT.images, error=1.0)


def test_unequal_classes_each_keep_their_own_promise() -> None:
    unequal = support_of([[0.1, 0.2], [0.5, 0.6, 0.7, 0.8, 0.65, 0.55]])
    images = images_of(torch.linspace(0, 1, 11))
    assert prediction_sets(Brightness(), unequal, images).shape == (11, 2)
    with pytest.raises(ValueError, match="the 2 support images of a"):
        prediction_sets(Brightness(), unequal, images, error=0.2)


# Suspects


def test_a_planted_wrong_label_is_the_most_suspect() -> None:
    planted = support_of([[0.1, 0.2, 0.75, 0.15, 0.22], [0.6, 0.7, 0.8, 0.65, 0.72]])
    said = suspects(Brightness(), planted)
    assert said.order[0] == 2
    assert said.own[2] == said.own.min()
    assert not said.warning


def test_of_unequal_clean_classes_each_image_is_the_most_suspect_about_as_often() -> None:
    class Pixels(Brightness):  # of so many numbers that the mean of few images is far from each
        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1) - 0.5

    draw, labels, n = torch.Generator().manual_seed(0), torch.tensor([0, 0, 1, 1, 1, 1, 1, 1]), 600
    smaller = 0
    for _ in range(n):
        images = torch.rand(8, 3, 4, 4, generator=draw) + 0.1 * (2 * labels - 1)[:, None, None, None]
        smaller += int(suspects(Pixels(), Support(images, labels, ("a", "b"))).order[0] < 2)
    assert abs(smaller / n - 2 / 8) < 0.1  # 0.62 by the distances as they are


def test_a_warning_comes_below_the_threshold_only() -> None:
    lowest = suspects(Brightness(), SUPPORT).lowest
    assert suspects(Brightness(), SUPPORT, lowest + 0.01).warning
    assert not suspects(Brightness(), SUPPORT, lowest).warning


def test_a_warning_is_of_as_many_images_of_each_class_as_the_smallest_has() -> None:
    labels, among = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2]), torch.tensor([0, 0, 1, 0, 0, 1, 0, 0, 1]) > 0
    drawn = [list(combinations((labels == label).nonzero()[:, 0].tolist(), 2)) for label in range(3)]
    hits = [bool(among[list(sum(parts, ()))].any()) for parts in product(*drawn)]
    assert chance_of_one(among, labels) == pytest.approx(np.mean(hits))
    assert chance_of_one(among[[0, 1, 2, 3, 6, 7]], labels[[0, 1, 2, 3, 6, 7]]) == 1
    assert chance_of_one(torch.zeros(9, dtype=torch.bool), labels) == 0


def test_more_clean_images_of_one_class_raise_no_more_warnings() -> None:
    draw, n = torch.Generator().manual_seed(0), 2000
    threshold = float(torch.randn(n, 10, generator=draw).amin(1).quantile(0.1))  # of 5 images a class
    for numbers in ([5, 5], [5, 10], [5, 50]):
        labels = torch.arange(2).repeat_interleave(torch.tensor(numbers))
        odds = torch.randn(n, len(labels), generator=draw)
        warned = np.mean([chance_of_one(each < threshold, labels) > 0.5 for each in odds])
        assert warned < 0.13  # by the worst of all of them 0.44 at 5 and 50


def test_clean_tasks_of_no_pair_raise_the_warning_more_often_than_asked(common: LabelledImages) -> None:
    spec, own = EpisodeSpec(2, 2, 1), learner(common)
    threshold = warning_threshold(own, common, spec, episodes=19, seed=5)
    assert warning_threshold(own, common, spec, episodes=19, seed=5, false_alarms=0.05) < threshold
    drawn = Episodes(common, spec, seed=5)
    for pair in combinations(range(len(common.classes)), 2):
        warned = [suspects(own, drawn.episode(drawn.draw(i, pair)).support, threshold).warning for i in range(19)]
        assert sum(warned) <= 1


def test_too_few_episodes_for_a_rate_are_refused(common: LabelledImages) -> None:
    with pytest.raises(ValueError, match=r"episodes=5 are too few for false_alarms=0\.1: at least 9"):
        warning_threshold(Brightness(), common, EpisodeSpec(2, 2, 1), episodes=5)
    with pytest.raises(ValueError, match=r"false_alarms=1\.5 must be between 0 and 1"):
        warning_threshold(Brightness(), common, EpisodeSpec(2, 2, 1), false_alarms=1.5)


# Spread


def test_the_spread_is_the_lowest_and_highest_of_the_views() -> None:
    low, high = spread(torch.tensor([[[0.2, 0.8]], [[0.5, 0.5]], [[0.4, 0.6]]]))
    assert (low.tolist(), high.tolist()) == ([[pytest.approx(0.2), 0.5]], [[0.5, pytest.approx(0.8)]])


def test_no_views_have_no_spread() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        spread(torch.zeros(0, 3, 2))


def test_augmented_answers_follow_the_seed_and_differ_between_draws(common: LabelledImages) -> None:
    own = learner(common)
    images = common.images(np.arange(6))
    support = Support(images[:4], torch.tensor([0, 0, 1, 1]), ("a", "b"))
    one, same, other = (augmented_answers(own, support, images[4:], draws=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    with pytest.raises(ValueError, match="draws=0: at least 1"):
        augmented_answers(own, support, images, draws=0)

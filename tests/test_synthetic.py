"""The made sets: reproducible bytes, honest groups and sites, classes of graded difficulty."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import SYNTHETIC, separable, synthetic

Array = np.ndarray[Any, Any]
RARE_PAIRS = list(combinations(SYNTHETIC.rare, 2))
MAKERS = [synthetic, separable]


@pytest.fixture(scope="module")
def lesions() -> LabelledImages:
    return synthetic()


def _colour(pixels: Array) -> Array:
    """Mean and standard deviation of each channel: what a classifier gets without looking at the lesion."""
    x = pixels / 255
    return np.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=1)


def _texture(pixels: Array) -> Array:
    """Contrast at three scales and colour against the skin, ring by ring around the centre."""
    x = pixels / 255
    centres = (np.arange(x.shape[1]) + 0.5) * 2 / x.shape[1] - 1
    r = np.hypot(*np.meshgrid(centres, centres))
    rings = [(r >= low) & (r < low + 0.2) for low in (0, 0.2, 0.4, 0.6)]
    skin = x[:, (r > 0.85) & (r < 1)].mean(1)
    features = [f(x[:, ring]) - skin for ring in rings for f in (_mean, _high, _low)]
    for k in (1, 2, 4):
        change = (x - np.roll(x, k, 1)) ** 2 + (x - np.roll(x, k, 2)) ** 2
        features += [np.log(change[:, ring].mean(1) + 1e-5) for ring in rings]
    return np.concatenate(features, axis=1)


def _mean(x: Array) -> Array:
    return x.mean(1)


def _high(x: Array) -> Array:
    return np.quantile(x, 0.95, axis=1)


def _low(x: Array) -> Array:
    return np.quantile(x, 0.05, axis=1)


def _auc(images: LabelledImages, features: Any, pair: tuple[str, str]) -> float:
    """Cross-validated AUC of a logistic regression, no lesion on both sides."""
    two = images.of(pair)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = cross_val_predict(
        model, features(two.pixels), two.labels, groups=two.groups, cv=GroupKFold(5), method="decision_function"
    )
    return float(roc_auc_score(two.labels, scores))


@pytest.mark.parametrize("make", MAKERS)
def test_same_arguments_give_the_same_bytes(make: Any) -> None:
    assert make(24, lesions=2).fingerprint() == make(24, lesions=2).fingerprint()


@pytest.mark.parametrize("make", MAKERS)
def test_another_seed_shares_no_image(make: Any) -> None:
    a, b = make(24, lesions=2), make(24, lesions=2, seed=1)
    assert not {image.tobytes() for image in a.pixels} & {image.tobytes() for image in b.pixels}


@pytest.mark.parametrize("make", MAKERS)
def test_no_two_images_are_identical(make: Any) -> None:
    made = make(24, lesions=5)
    assert len({image.tobytes() for image in made.pixels}) == len(made)


@pytest.mark.parametrize("make", MAKERS)
def test_a_larger_set_begins_with_the_lesions_of_the_smaller(make: Any) -> None:
    small, large = make(24, lesions=2), make(24, lesions=3)
    rows = np.flatnonzero(np.isin(large.ids, small.ids))
    assert large.ids[rows].tolist() == small.ids.tolist()
    assert np.array_equal(large.pixels[rows], small.pixels)
    assert large.columns["site"][rows].tolist() == small.columns["site"].tolist()


@pytest.mark.parametrize("make", MAKERS)
def test_a_group_is_one_lesion_of_one_class_at_one_site(make: Any) -> None:
    made = make(24, lesions=4)
    for group in np.unique(made.groups):
        rows = made.groups == group
        assert len(np.unique(made.labels[rows])) == 1
        assert len(np.unique(made.columns["site"][rows])) == 1
        assert len({name.rsplit("-", 1)[0] for name in made.ids[rows]}) == 1


def test_every_class_has_the_lesions_asked_for_with_one_to_three_images_each(lesions: LabelledImages) -> None:
    _, images = np.unique(lesions.groups, return_counts=True)
    assert set(images.tolist()) == {1, 2, 3}
    assert {groups for _, groups in lesions.counts().values()} == {60}


def test_images_per_lesion_can_be_fixed() -> None:
    made = synthetic(24, lesions=3, images_per_lesion=(2, 2))
    assert set(made.counts().values()) == {(6, 3)}


def test_separable_has_two_images_a_lesion() -> None:
    assert set(separable(lesions=3).counts().values()) == {(6, 3)}


@pytest.mark.parametrize("make", MAKERS)
def test_card_names_four_common_and_three_rare_classes(make: Any) -> None:
    made = make(24, lesions=1)
    assert made.common().classes == SYNTHETIC.common
    assert made.rare().classes == SYNTHETIC.rare
    assert (len(SYNTHETIC.common), len(SYNTHETIC.rare)) == (4, 3)
    assert made.card.site_column in made.columns


def test_card_says_synthetic_everywhere_a_reader_may_look() -> None:
    assert "Synthetic" in SYNTHETIC.title
    assert all("synthetic" in words for words in SYNTHETIC.classes.values())


def test_both_sites_hold_at_least_15_lesions_of_every_rare_class(lesions: LabelledImages) -> None:
    rare = lesions.rare()
    for label in range(3):
        for site in ("north", "south"):
            here = (rare.labels == label) & (rare.columns["site"] == site)
            assert len(np.unique(rare.groups[here])) >= 15


def test_site_goes_with_class(lesions: LabelledImages) -> None:
    north = lesions.columns["site"] == "north"
    share = [north[lesions.labels == label].mean() for label in range(len(lesions.classes))]
    assert max(share) - min(share) > 0.3


def test_south_is_warmer_and_less_sharp_than_north(lesions: LabelledImages) -> None:
    x, north = lesions.pixels / 255, lesions.columns["site"] == "north"
    warmth = (x[..., 0] / (x[..., 2] + 0.1)).mean((1, 2))
    # Relative to coarser change: a soft lesion changes little at any scale.
    detail = ((x - np.roll(x, 1, 2)) ** 2).mean((1, 2, 3)) / ((x - np.roll(x, 4, 2)) ** 2).mean((1, 2, 3))
    assert roc_auc_score(~north, warmth) > 0.6
    assert roc_auc_score(north, detail) > 0.7


def test_pixels_are_skin_coloured_neither_black_nor_burnt_out(lesions: LabelledImages) -> None:
    red, green, blue = lesions.pixels.mean((0, 1, 2))
    assert 150 < red < 230
    assert red > green > blue > 80
    assert (lesions.pixels == 255).mean() < 0.05
    assert (lesions.pixels < 40).all(-1).mean() < 0.05
    assert lesions.pixels.std((1, 2)).min() > 3


def test_photographs_of_one_lesion_resemble_each_other_more_than_other_lesions() -> None:
    made = synthetic(32, lesions=30, images_per_lesion=(2, 2)).of(("network", "streaked", "globular", "crusted"))
    features = StandardScaler().fit_transform(_texture(made.pixels))
    first, second = features[::2], features[1::2]
    assert np.linalg.norm(first - second, axis=1).mean() < 0.8 * np.linalg.norm(first - second[::-1], axis=1).mean()


def test_larger_size_draws_the_same_picture() -> None:
    small = synthetic(32, lesions=1, images_per_lesion=(1, 1)).pixels.astype(float)
    large = synthetic(64, lesions=1, images_per_lesion=(1, 1)).pixels.astype(float)
    halved = large.reshape(7, 32, 2, 32, 2, 3).mean((2, 4))
    assert abs(small - halved).mean() < 6


@pytest.mark.parametrize("pair", RARE_PAIRS)
def test_mean_colour_tells_rare_classes_apart_only_partly(lesions: LabelledImages, pair: tuple[str, str]) -> None:
    assert 0.55 < _auc(lesions, _colour, pair) < 0.85


@pytest.mark.parametrize("pair", RARE_PAIRS)
def test_texture_tells_rare_classes_apart_better_than_colour(lesions: LabelledImages, pair: tuple[str, str]) -> None:
    assert _auc(lesions, _texture, pair) > max(0.85, _auc(lesions, _colour, pair) + 0.1)


def test_an_easy_pair_is_easier_than_a_hard_pair(lesions: LabelledImages) -> None:
    easy, hard = _auc(lesions, _texture, ("lacunar", "ringed")), _auc(lesions, _texture, ("streaked", "crusted"))
    assert easy > 0.9
    assert 0.65 < hard < easy - 0.05


@pytest.mark.parametrize("pair", RARE_PAIRS)
def test_separable_classes_are_told_apart_by_the_nearest_of_two_single_images(pair: tuple[str, str]) -> None:
    two = separable(lesions=10).of(pair)
    x = two.pixels.reshape(len(two), -1) / 255
    one, other = x[two.labels == 0][0], x[two.labels == 1][0]
    closer_to_other = ((x - one) ** 2).sum(1) - ((x - other) ** 2).sum(1)
    assert roc_auc_score(two.labels, closer_to_other) > 0.99


@pytest.mark.parametrize("make", MAKERS)
def test_arguments_out_of_range_are_refused_by_name(make: Any) -> None:
    with pytest.raises(ValueError, match="size must be at least 16; got 8"):
        make(8)
    with pytest.raises(ValueError, match="lesions must be at least 1; got 0"):
        make(lesions=0)
    with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
        make(seed=-1)


@pytest.mark.parametrize("bounds", [(0, 2), (3, 1)])
def test_images_per_lesion_out_of_order_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"1 <= fewest <= most; got \(\d, \d\)"):
        synthetic(24, lesions=1, images_per_lesion=bounds)

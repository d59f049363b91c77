import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rareshot.data.augment import affine, draws, unchanged
from rareshot.data.cards import DataCard
from rareshot.data.collection import LabelledImages, split_groups
from rareshot.data.synthetic import separable
from rareshot.episodes import Drawn, Episodes, EpisodeSpec, within
from rareshot.validation import held_out

Array = np.ndarray[Any, Any]


def images_of(labels: Any, groups: Any, classes: int | None = None) -> LabelledImages:
    """Images that have labels and groups and nothing to see: picture i is of the grey value i."""
    y, g = np.asarray(labels, dtype=np.int64), np.asarray(groups, dtype=np.int64)
    names = tuple("abcdefgh"[: classes or int(y.max()) + 1])
    pixels = np.broadcast_to(np.arange(len(y)).astype(np.uint8)[:, None, None, None], (len(y), 2, 2, 3))
    card = DataCard("made", "made", {name: name for name in names}, rare=names)
    return LabelledImages(pixels, y, names, g, np.array([f"i{i}" for i in range(len(y))]), card)


def simple(classes: int = 4, groups: int = 25, each: int = 2) -> LabelledImages:
    """`groups` groups of `each` images in each class."""
    return images_of(np.repeat(np.arange(classes), groups * each), np.repeat(np.arange(classes * groups), each))


def indices(drawn: Drawn) -> tuple[Array, Array]:
    return drawn.support.reshape(-1), np.concatenate(drawn.query)


def same(one: Drawn, other: Drawn) -> bool:
    pairs = [(one.classes, other.classes), (one.support, other.support), *zip(one.query, other.query, strict=True)]
    return all(np.array_equal(a, b) for a, b in pairs)


def test_an_episode_is_the_same_in_any_order_of_access() -> None:
    episodes, others = (Episodes(simple(), EpisodeSpec(3, 2, 5), seed=4) for _ in range(2))
    forwards = [episodes.draw(i) for i in range(20)]
    backwards = [others.draw(i) for i in reversed(range(20))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert all(same(episodes.draw(i), forwards[i]) for i in (3, 3, 17))
    assert not same(forwards[0], forwards[1])
    assert not same(forwards[0], Episodes(simple(), EpisodeSpec(3, 2, 5), seed=5).draw(0))


def test_an_episode_ignores_and_leaves_the_global_random_states() -> None:
    episodes = Episodes(simple(), EpisodeSpec(2, 2, 5), seed=4)
    np.random.seed(1)
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), episodes.draw(3)
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    np.random.seed(2)
    assert same(first, episodes.draw(3))
    assert torch.equal(torch.get_rng_state(), before)
    np.random.seed(1)
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[index, arg-type]


def test_another_process_draws_the_same_ids() -> None:
    program = (
        "from rareshot.data.synthetic import separable; from rareshot.episodes import *\n"
        "e = Episodes(separable(16, lesions=12), EpisodeSpec(2, 3, 4), seed=9)\n"
        "print(*(e[i].support_ids + e[i].query_ids for i in range(3)), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    episodes = Episodes(separable(16, lesions=12), EpisodeSpec(2, 3, 4), seed=9)
    ours = [str(episodes[i].support_ids + episodes[i].query_ids) for i in range(3)]
    assert told.stdout.splitlines() == ours


def test_labels_ids_and_pictures_belong_together(made: LabelledImages) -> None:
    episode = Episodes(made.rare(), EpisodeSpec(3, 2, 4), seed=0)[5]
    assert episode.support_y.tolist() == [0, 0, 1, 1, 2, 2]
    assert episode.query_y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    place = {name: i for i, name in enumerate(made.ids.tolist())}
    for x, y, ids in (
        (episode.support_x, episode.support_y, episode.support_ids),
        (episode.query_x, episode.query_y, episode.query_ids),
    ):
        assert x.dtype == torch.float32
        for picture, label, name in zip(x, y.tolist(), ids, strict=True):
            assert made.classes[made.labels[place[name]]] == episode.classes[label]
            assert torch.equal(picture, torch.from_numpy(made.pixels[place[name]]).permute(2, 0, 1) / 255)
    assert episode.support.classes == episode.classes


@pytest.mark.parametrize("way", [2, 3, 4])
def test_classes_are_random_permutations(way: int) -> None:
    episodes = Episodes(simple(), EpisodeSpec(way, 1, 1), seed=0)
    orders = Counter(tuple(episodes.draw(i).classes.tolist()) for i in range(2000))
    count = {2: 12, 3: 24, 4: 24}[way]
    assert len(orders) == count
    assert max(orders.values()) < 2000 / count + 5 * (2000 / count) ** 0.5
    assert min(orders.values()) > 2000 / count - 5 * (2000 / count) ** 0.5


def test_given_classes_are_taken_in_their_order() -> None:
    drawn = Episodes(simple(), EpisodeSpec(2, 1, 1), seed=0).draw(0, (3, 1))
    assert drawn.classes.tolist() == [3, 1]
    assert simple().labels[drawn.support].tolist() == [[3], [1]]


def test_every_image_of_a_group_has_its_turn() -> None:
    images = simple(classes=2, groups=6, each=3)
    episodes = Episodes(images, EpisodeSpec(2, 1, None), seed=0)
    seen = Counter(int(i) for number in range(300) for i in np.concatenate(indices(episodes.draw(number))))
    assert set(seen) == set(range(len(images)))
    assert min(seen.values()) > 60  # of about 100


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_group_stands_twice_in_an_episode(data: st.DataObject) -> None:
    """Also where groups cross classes: what is not refused can be drawn in full."""
    classes = data.draw(st.integers(2, 4), "classes")
    n = data.draw(st.integers(10, 90), "images")
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n), "labels"))
    own = np.array(data.draw(st.lists(st.integers(0, 30), min_size=n, max_size=n), "groups"))
    crossing = data.draw(st.integers(0, 31), "groups from here on hold one class only")
    groups = np.where(own < crossing, own, own + 100 * (labels + 1))
    way, shot = data.draw(st.integers(2, classes), "way"), data.draw(st.integers(1, 4), "shot")
    query = data.draw(st.none() | st.integers(1, 5), "query")
    images = images_of(labels, groups, classes)
    try:
        episodes = Episodes(images, EpisodeSpec(way, shot, query), seed=data.draw(st.integers(0, 9), "seed"))
    except ValueError:
        return
    for i in range(5):
        drawn = episodes.draw(i)
        assert drawn.support.shape == (way, shot)
        both = np.concatenate(indices(drawn))
        assert len(np.unique(groups[both])) == len(both)
        for label, support, queries in zip(drawn.classes, drawn.support, drawn.query, strict=True):
            assert (labels[support] == label).all()
            assert (labels[queries] == label).all()
            assert query is None or len(queries) == query


def test_without_a_query_size_every_other_group_is_asked_once() -> None:
    images = images_of([0] * 30 + [1] * 20 + [2] * 9, [*range(10), *range(20), *range(100, 120), *range(200, 209)])
    episodes = Episodes(images, EpisodeSpec(2, 3, None), seed=1)
    for i in range(30):
        drawn = episodes.draw(i, (0, 1))
        for label, support, queries in zip(drawn.classes, drawn.support, drawn.query, strict=True):
            groups = images.groups[np.concatenate([support, queries])].tolist()
            assert sorted(groups) == sorted(set(images.groups[images.labels == label].tolist()))


def test_without_a_query_size_every_class_is_asked() -> None:
    images = images_of([0] * 20 + [1] * 20, [*range(20), *range(20)])  # every group holds both classes
    episodes = Episodes(images, EpisodeSpec(2, 5, None), seed=0)
    assert all(len(queries) for i in range(10) for queries in episodes.draw(i).query)


def test_by_image_lets_lesions_cross() -> None:
    images, spec = simple(each=4), EpisodeSpec(2, 5, 15)

    def crossings(by_image: bool) -> int:
        episodes = Episodes(images, spec, seed=0, by_image=by_image)
        sides = [indices(episodes.draw(i)) for i in range(100)]
        assert all(len(np.unique(np.concatenate(side))) == 40 for side in sides)
        return sum(bool(set(images.groups[s]) & set(images.groups[q])) for s, q in sides)

    assert crossings(by_image=False) == 0
    assert crossings(by_image=True) > 50


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((1, 5, 15), "way=1: a task needs at least 2 classes"),
        ((2, 0, 15), "shot=0: a task needs at least 1 support image a class"),
        ((2, 5, 0), "query=0: a task needs at least 1 query image a class, or None for all that are left"),
    ],
)
def test_a_task_that_there_is_not_is_refused(spec: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeSpec(*spec)


def test_a_class_with_too_few_groups_is_refused_with_both_counts() -> None:
    images = images_of([0] * 40 + [1] * 40, [*range(40), *np.repeat(np.arange(100, 120), 2)])
    Episodes(images, EpisodeSpec(2, 5, 15), seed=0)
    message = (
        r"each class needs shot \+ query = 6 \+ 15 = 21 groups \(lesions, patients\), and 'b' has 20: "
        "ask for a smaller shot or query, or leave the class out"
    )
    with pytest.raises(ValueError, match=message):
        Episodes(images, EpisodeSpec(2, 6, 15), seed=0)
    with pytest.raises(ValueError, match=r"shot \+ query = 20 \+ 1 = 21 groups .* 'b' has 20"):
        Episodes(images, EpisodeSpec(2, 20, None), seed=0)


def test_by_image_counts_images() -> None:
    images = images_of([0] * 40 + [1] * 40, [*range(40), *np.repeat(np.arange(100, 110), 4)])
    Episodes(images, EpisodeSpec(2, 5, 35), seed=0, by_image=True)
    with pytest.raises(ValueError, match=r"shot \+ query = 6 \+ 35 = 41 images, and 'a' has 40; 'b' has 40"):
        Episodes(images, EpisodeSpec(2, 6, 35), seed=0, by_image=True)


def test_groups_that_another_class_could_use_up_are_not_counted_on() -> None:
    images = images_of([0] * 30 + [1] * 12, [*range(30), *range(12)])
    with pytest.raises(ValueError, match=r"'b' has 12 \(8 of them hold another class as well\)"):
        Episodes(images, EpisodeSpec(2, 3, 5), seed=0)


def test_a_patient_with_a_rare_disease_is_not_trained_on() -> None:
    images = images_of([0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 3, 4])
    card = replace(images.card, common=("a", "b"), rare=("c",))
    images = replace(images, card=card)
    assert images.left_out() == 1
    assert images.common().ids.tolist() == ["i0", "i1", "i2"]
    assert images.rare().ids.tolist() == ["i4", "i5"]
    apart = replace(images, groups=np.arange(6))
    assert apart.left_out() == 0
    assert apart.common().ids.tolist() == ["i0", "i1", "i2", "i3"]


def test_within_asks_for_as_many_queries_as_the_smallest_class_gives() -> None:
    images = images_of([0] * 30 + [1] * 9, list(range(39)))
    assert within(images, EpisodeSpec(2, 5, 15)) == EpisodeSpec(2, 5, 4)
    assert within(images, EpisodeSpec(2, 5, None)) == EpisodeSpec(2, 5, 4)
    assert within(images, EpisodeSpec(2, 5, 2)) == EpisodeSpec(2, 5, 2)
    shared = images_of([0] * 9 + [1] * 9, [*range(9), *range(7, 16)])  # two patients have both
    assert within(shared, EpisodeSpec(2, 5, 15)) == EpisodeSpec(2, 5, 2)
    with pytest.raises(ValueError, match=r"shot \+ query = 9 \+ 1 = 10 groups"):
        within(images, EpisodeSpec(2, 9, 15))


def test_more_classes_than_there_are_are_refused() -> None:
    with pytest.raises(
        ValueError, match="way=5 needs 5 classes, and here there are 4: a, b, c, d; to train keep fewer"
    ):
        Episodes(simple(), EpisodeSpec(5, 1, 1), seed=0)


def test_augmented_pictures_stay_in_range_and_differ_image_by_image(made: LabelledImages) -> None:
    episodes = Episodes(made.rare(), EpisodeSpec(2, 3, 4), seed=0)
    drawn = episodes.draw(0)
    plain, moved = episodes.episode(drawn), episodes.augmented(drawn, affine, np.random.default_rng((0, 0, 1)))
    again = episodes.augmented(drawn, affine, np.random.default_rng((0, 0, 1)))
    other = episodes.augmented(drawn, affine, np.random.default_rng((0, 1, 1)))
    for ours, was, repeated, different in zip(
        (moved.support_x, moved.query_x),
        (plain.support_x, plain.query_x),
        (again.support_x, again.query_x),
        (other.support_x, other.query_x),
        strict=True,
    ):
        assert ours.shape == was.shape
        assert ours.min() >= 0
        assert ours.max() <= 1 + 1e-6
        assert torch.equal(ours, repeated)
        assert all(not torch.equal(a, b) for a, b in zip(ours, different, strict=True))
        assert all(not torch.equal(a, b) for a, b in zip(ours, was, strict=True))
    assert moved.query_ids == plain.query_ids
    assert torch.equal(moved.query_y, plain.query_y)
    same_pictures = affine(plain.support_x[:1].repeat(5, 1, 1, 1), np.random.default_rng(0))
    assert all(not torch.equal(same_pictures[0], same_pictures[i]) for i in range(1, 5))
    assert torch.equal(episodes.augmented(drawn, unchanged, np.random.default_rng(0)).query_x, plain.query_x)


class Fixed(np.random.Generator):
    """A generator whose draws are chosen."""

    def __init__(self, angle: float, scale: float, flips: tuple[float, float]) -> None:
        super().__init__(np.random.PCG64(0))
        self.angle, self.scale, self.flips = angle, scale, flips

    def uniform(self, low: float, high: float, n: int) -> Array:
        return np.full(n, self.angle if low == 0 else self.scale)

    def choice(self, of: tuple[float, float], shape: tuple[int, int]) -> Array:
        return np.repeat(np.array(self.flips)[:, None], shape[1], 1)


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_and_flips_only_move_the_pixels(turns: int, flips: tuple[float, float]) -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = affine(x, Fixed(turns * np.pi / 2, 1.0, flips))  # type: ignore[arg-type]
    candidates = [torch.rot90(y, k, (2, 3)) for y in (x, x.flip(3)) for k in range(4)]
    matches = [k for k, y in enumerate(candidates) if torch.allclose(moved, y, atol=1e-5)]
    assert len(matches) == 1
    assert (matches[0] >= 4) == (flips[0] * flips[1] < 0)


@pytest.mark.parametrize(("scale", "part"), [(0.8, 1 / 0.8), (1.2, 1 / 1.2)])
def test_a_larger_scale_shows_a_smaller_part(scale: float, part: float) -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    moved = affine(ramp, Fixed(0.0, scale, (1, 1)))  # type: ignore[arg-type]
    middle = moved[0, 0, 32, 24:40]
    assert (middle[-1] - middle[0]).item() == pytest.approx(part * 15 / 63, rel=1e-3)


@pytest.mark.parametrize("degrees", [0, 30, 45, 77])
def test_turning_and_flipping_keep_the_mean_of_a_picture(degrees: float, made: LabelledImages) -> None:
    x = made.images(np.arange(0, len(made), 5))
    moved = affine(x, Fixed(np.deg2rad(degrees), 1.0, (-1, 1)))  # type: ignore[arg-type]
    assert float((moved.mean((2, 3)) - x.mean((2, 3))).abs().max()) < 0.12
    assert float((moved.mean() - x.mean()).abs()) < 0.02


def assert_no_leak(images: LabelledImages, shot: int, query: int, draws: int) -> None:
    episodes = Episodes(images, EpisodeSpec(2, shot, query), seed=0)
    for first in range(0, draws, 5000):
        block = [np.concatenate(indices(episodes.draw(i))) for i in range(first, min(first + 5000, draws))]
        groups = np.sort(images.groups[np.stack(block)], axis=1)
        assert (np.diff(groups, axis=1) > 0).all()


@pytest.mark.isic
def test_no_lesion_stands_twice_in_5000_draws_of_the_rare_diseases(isic_labels: LabelledImages) -> None:
    assert_no_leak(isic_labels.rare(), 5, 15, 5000)


@pytest.mark.isic
@pytest.mark.long
def test_no_lesion_stands_twice_in_100000_draws_of_the_rare_diseases(isic_labels: LabelledImages) -> None:
    assert_no_leak(isic_labels.rare(), 5, 15, 100_000)


@pytest.mark.isic
def test_isic_has_the_published_images_and_lesions(isic_labels: LabelledImages) -> None:
    counts = {"nv": (6705, 5403), "mel": (1113, 614), "bkl": (1099, 727), "bcc": (514, 327)}
    assert isic_labels.counts() == counts | {"akiec": (327, 228), "vasc": (142, 98), "df": (115, 73)}
    assert len(np.unique(isic_labels.groups)) == 7470


@pytest.mark.isic
def test_the_full_protocol_asks_every_remaining_lesion_once(isic_labels: LabelledImages) -> None:
    rare = isic_labels.rare()
    episodes = Episodes(rare, EpisodeSpec(3, 5, None), seed=0)
    for i in range(20):
        support, query = indices(episodes.draw(i))
        groups = rare.groups[np.concatenate([support, query])]
        assert len(groups) == len(np.unique(groups)) == len(np.unique(rare.groups))


@pytest.mark.isic
def test_by_image_photographs_of_support_lesions_are_asked(isic_labels: LabelledImages) -> None:
    """For k = 5: in 45 % of the draws for df, 34 % for vasc, 16 % for akiec."""
    rare = isic_labels.rare()
    episodes = Episodes(rare, EpisodeSpec(3, 5, 15), seed=0, by_image=True)
    crossed = np.zeros(3)
    for i in range(1000):
        drawn = episodes.draw(i)
        for label, support, queries in zip(drawn.classes, drawn.support, drawn.query, strict=True):
            crossed[label] += bool(np.isin(rare.groups[support], rare.groups[queries]).any())
    shares = dict(zip(rare.classes, crossed / 1000, strict=True))
    assert shares == pytest.approx({"akiec": 0.16, "vasc": 0.34, "df": 0.45}, abs=0.05)


def test_sequences_of_neighbouring_seeds_share_no_episode() -> None:
    one, other = ([Episodes(simple(), EpisodeSpec(2, 2, 5), seed=seed).draw(i) for i in range(6)] for seed in (4, 5))
    assert not any(same(a, b) for a in one for b in other)


@pytest.mark.parametrize("mirrored", [False, True])
def test_augmentation_turns_by_any_angle_scales_by_a_fifth_and_mirrors_half(mirrored: bool) -> None:
    parts = draws(20_000, np.random.default_rng(0)).double().numpy()[:, :, :2]
    areas = np.linalg.det(parts)
    assert (areas < 0).mean() == pytest.approx(0.5, abs=0.02)
    parts, areas = parts[(areas < 0) == mirrored], areas[(areas < 0) == mirrored]
    turns = np.arctan2(parts[:, 1, 0], parts[:, 1, 1])
    assert stats.kstest(np.abs(areas) ** -0.5, stats.uniform(0.8, 0.4).cdf).pvalue > 0.001
    assert stats.kstest(turns, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.001


def test_what_comes_in_from_outside_is_the_images_reflection() -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    around = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric"))
    moved = affine(x, Fixed(0.0, 0.5, (1, 1)))  # type: ignore[arg-type]
    torch.testing.assert_close(moved, torch.nn.functional.avg_pool2d(around, 2))


def test_two_other_classes_could_use_up_the_groups_of_a_third() -> None:
    groups = [*range(10), *range(4), *range(100, 110), *range(4, 8), *range(200, 210)]
    images = images_of([0] * 10 + [1] * 14 + [2] * 14, groups)
    Episodes(images, EpisodeSpec(2, 2, 2), seed=0)
    with pytest.raises(ValueError, match=r"'a' has 10 \(8 of them hold another class as well\)"):
        Episodes(images, EpisodeSpec(3, 2, 2), seed=0)


@pytest.mark.parametrize("part", ["labels", "groups", "ids", "pixels", "classes"])
def test_a_fingerprint_is_of_every_part(made: LabelledImages, part: str) -> None:
    other = tuple(reversed(made.classes)) if part == "classes" else getattr(made, part)[::-1].copy()
    assert replace(made, **{part: other}).fingerprint() != made.fingerprint()


def test_a_split_takes_the_nearest_share_of_each_class_by_group_and_by_seed(made: LabelledImages) -> None:
    rest, held = split_groups(made, fraction=0.3, seed=0)  # 3.6 of 12
    assert not set(rest.groups) & set(held.groups)
    assert [groups for _, groups in held.counts().values()] == [4] * len(made.classes)
    assert len(rest) + len(held) == len(made)
    assert len(held) == sum(np.isin(made.groups, held.groups))
    again, other = (split_groups(made, fraction=0.3, seed=seed)[1] for seed in (0, 1))
    assert again.ids.tolist() == held.ids.tolist() != other.ids.tolist()


def test_published_draws_stay_what_they_were(made: LabelledImages) -> None:
    """Results on disk are gone on with: another stream would mix other episodes, or other held-out lesions, into them."""
    drawn = Episodes(simple(), EpisodeSpec(2, 2, 3), seed=4).draw(7)
    assert drawn.classes.tolist() == [1, 0]
    assert drawn.support.tolist() == [[64, 86], [8, 29]]
    assert [each.tolist() for each in drawn.query] == [[59, 60, 56], [35, 23, 43]]
    _, held = held_out(made, 0.3)
    assert np.unique(held.groups).tolist()[:8] == [2, 4, 7, 9, 16, 17, 21, 22]

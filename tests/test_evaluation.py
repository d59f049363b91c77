"""The protocols: which episodes, and what a mean is over."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.evaluation import FEWEST_DRAWS, PART, RUNS, SITE_QUERY, RunResult, evaluate, overall, plan
from rareshot.methods.maml import MAML
from rareshot.metrics import ranking
from rareshot.types import Classifier, Support


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return separable(16, lesions=80).rare()


def test_an_episode_of_one_site_has_lesions_of_that_site_alone(images: LabelledImages) -> None:
    plans = plan(images, "site", shot=2, count=2)
    assert {item.site for item in plans} == {"", *set(images.columns["site"].tolist())}
    for item in plans:
        drawn = item.episodes.draw(item.episode, item.classes)
        there = item.episodes.images.columns["site"][np.concatenate([*drawn.support, *drawn.query])]
        assert not item.site or set(there.tolist()) == {item.site}


def test_the_site_protocol_is_of_pairs(images: LabelledImages) -> None:
    with pytest.raises(ValueError, match="way=3: the site protocol is of pairs of classes"):
        plan(images, "site", way=3, shot=2)


def test_a_blank_is_no_site(images: LabelledImages) -> None:
    first = images.columns["site"][0]
    blank = replace(images, columns={"site": np.where(images.columns["site"] == first, "", images.columns["site"])})
    plans = plan(blank, "site", shot=2, count=2)
    assert first not in {item.site for item in plans}
    for item in plans:
        if not item.site:  # all of the pair, with and without a site
            assert len(item.episodes.images) == sum(
                int((images.labels == images.classes.index(name)).sum()) for name in item.episodes.images.classes
            )


def test_the_paper_protocol_has_its_interval_over_whole_draws_or_over_episodes_where_they_are_few() -> None:
    areas = np.random.default_rng(0).random(FEWEST_DRAWS * RUNS + 10)
    results = [RunResult("paper", i, ("a", "b"), "", 30, 0.1, {"auc": value}) for i, value in enumerate(areas)]
    found = overall(results)
    assert found.n == FEWEST_DRAWS
    assert found.mean == pytest.approx(areas[: FEWEST_DRAWS * RUNS].mean())
    few = overall(results[: FEWEST_DRAWS * RUNS - 1])
    assert (few.n, few.kind) == (FEWEST_DRAWS * RUNS - 1, "over episodes")
    assert overall([replace(result, protocol="full") for result in results]).n == len(areas)


class _Watched:
    """A learner that remembers how many images it was sent at a time."""

    def __init__(self, norm: str) -> None:
        self.learner = MAML(width=8, norm=norm).blank(16)  # type: ignore[arg-type]
        self.inductive = self.learner.inductive
        self.sent: list[int] = []

    def adapt(self, support: Support, *, seed: int = 0) -> Classifier:
        classify = self.learner.adapt(support, seed=seed)

        def watched(images: Tensor) -> Tensor:
            self.sent.append(len(images))
            return classify(images)

        return watched


@pytest.mark.parametrize("norm", ["support", "transductive"])
def test_an_inductive_learner_is_asked_in_parts_and_answers_the_same(images: LabelledImages, norm: str) -> None:
    learner = _Watched(norm)
    (item,) = plan(images, "full", shot=2, count=1)
    ((result, query),) = evaluate(learner, [item], "full")  # type: ignore[arg-type]
    assert result.queries > 2 * PART
    assert sum(learner.sent) == result.queries
    assert max(learner.sent) == (PART if norm == "support" else result.queries)
    episode = item.episodes.episode(item.episodes.draw(item.episode))
    whole = learner.learner.adapt(episode.support, seed=item.episode)(episode.query_x)
    assert len(set(query.scores)) > 9
    torch.testing.assert_close(torch.tensor(query.scores), torch.tensor(ranking(whole)[:, 1]).float())


@pytest.mark.parametrize("by_image", [False, True])
def test_an_answer_carries_the_lesion_of_its_image(images: LabelledImages, by_image: bool) -> None:
    (item,) = plan(images, "paper", shot=2, count=1, by_image=by_image)
    ((_, query),) = evaluate(_Watched("support"), [item], "paper")  # type: ignore[arg-type]
    assert query.groups == images.groups[np.concatenate(item.episodes.draw(item.episode).query)].tolist()


@pytest.mark.parametrize("protocol", ["paper", "full", "site"])
def test_another_seed_asks_other_episodes(images: LabelledImages, protocol: str) -> None:
    one, other = (plan(images, protocol, shot=2, count=1, seed=seed) for seed in (0, 1))  # type: ignore[arg-type]
    for a, b in zip(one, other, strict=True):
        told = [np.concatenate([*x.support, *x.query]) for x in (i.episodes.draw(i.episode, i.classes) for i in (a, b))]
        assert not np.array_equal(*told)


def test_by_image_a_plan_lets_lesions_cross(images: LabelledImages) -> None:
    for by_image in (False, True):
        plans = plan(images, "paper", shot=5, count=100, by_image=by_image)
        crossed = [
            bool(np.isin(images.groups[drawn.support], images.groups[np.concatenate(drawn.query)]).any())
            for drawn in (item.episodes.draw(item.episode) for item in plans)
        ]
        assert any(crossed) == by_image


def test_the_paper_protocol_has_the_papers_numbers(images: LabelledImages) -> None:
    """20 draws of its 30 runs, 15 query images a class."""
    plans = plan(images, "paper", shot=2)
    assert (len(plans), RUNS) == (600, 30)
    assert [len(queries) for queries in plans[599].episodes.draw(599).query] == [15, 15]


def test_a_site_needs_ten_lesions_of_each_class_beside_the_support(images: LabelledImages) -> None:
    few = [np.unique(images.groups[images.labels == label])[: 2 + SITE_QUERY] for label in range(len(images.classes))]
    where = np.where(np.isin(images.groups, np.concatenate(few)), "small", "large")
    sites = replace(images, columns={"site": where})
    assert {item.site for item in plan(sites, "site", shot=2, count=1)} == {"", "small", "large"}
    assert {item.site for item in plan(sites, "site", shot=3, count=1)} == {"", "large"}

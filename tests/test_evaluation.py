"""The protocols: which episodes, and what a mean is over."""

from dataclasses import replace

import numpy as np
import pytest

from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.evaluation import RUNS, RunResult, overall, plan


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


def test_the_paper_protocol_has_its_interval_over_whole_draws() -> None:
    areas = np.random.default_rng(0).random(2 * RUNS + 10)
    results = [RunResult("paper", i, ("a", "b"), "", 30, 0.1, {"auc": value}) for i, value in enumerate(areas)]
    found = overall(results)
    assert found.n == 2
    assert found.mean == pytest.approx(areas[: 2 * RUNS].mean())
    assert overall([replace(result, protocol="full") for result in results]).n == len(areas)

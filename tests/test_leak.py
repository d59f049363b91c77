"""The experiment that says what a lesion on both sides is worth: nothing but the lesion differs."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rareshot.data.cards import DataCard
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.types import Support

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
SHOT = 3


@pytest.fixture(scope="module")
def leak() -> ModuleType:
    if not EXPERIMENTS.is_dir():
        pytest.skip("experiments/ comes with the repository, not with the package")
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        return __import__("leak")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    """Three classes that nothing tells apart; a lesion is a random colour, photographed once, twice or three times."""
    photographs = np.tile([1, 2, 3, 2], 12)
    groups = np.repeat(np.arange(len(photographs)), photographs)
    colours = np.random.default_rng(0).integers(0, 256, (len(photographs), 3), dtype=np.uint8)
    pixels = np.broadcast_to(colours[groups][:, None, None], (len(groups), 4, 4, 3))
    ids = np.array([f"i{i}" for i in range(len(groups))])
    card = DataCard("made", "made", {})
    return LabelledImages(np.ascontiguousarray(pixels), groups % 3, ("a", "b", "c"), groups, ids, card)


def test_the_halves_differ_in_the_lesions_of_the_support_alone(leak: ModuleType, images: LabelledImages) -> None:
    pairs = list(leak.crossed(images, SHOT, 9))
    assert len({tuple(a.drawn.classes) for a, _ in pairs}) == 3
    for a, b in pairs:
        query = np.concatenate(a.drawn.query)
        assert (query == np.concatenate(b.drawn.query)).all()
        assert (a.own == ~b.own).all()
        for half in (a, b):
            lesions, supports = images.groups[query], images.groups[half.drawn.support]
            assert set(lesions[half.own]) == set(supports.ravel())
            assert not set(lesions[~half.own]) & set(supports.ravel())
            assert not set(query) & set(half.drawn.support.ravel())
            assert (images.labels[half.drawn.support] == half.drawn.classes[:, None]).all()
        assert len(set(images.groups[query])) == len(query) == 4 * SHOT


def test_the_share_of_query_images_whose_lesion_is_in_the_support_is_counted(
    leak: ModuleType, images: LabelledImages
) -> None:
    shares = []
    episodes = Episodes(images, EpisodeSpec(2, SHOT, 15), seed=0, by_image=True)
    for i in range(5):
        drawn = episodes.draw(i)
        lesions = {int(images.groups[at]) for at in drawn.support.ravel()}
        query = [at for part in drawn.query for at in part]
        shares.append(sum(int(images.groups[at]) in lesions for at in query) / len(query))
    assert 0 < leak.shared(images, SHOT, 5) == pytest.approx(np.mean(shares))


def nearest(support: Support, seed: int) -> Any:
    """Answers with the class of the support image of the nearest colour."""

    def answer(x: Tensor) -> Tensor:
        at = torch.cdist(x.mean((2, 3)), support.images.mean((2, 3))).argmin(1)
        return torch.nn.functional.one_hot(support.labels[at], 2).double()

    return answer


def test_a_learner_that_knows_lesions_and_no_classes_gains_all(leak: ModuleType, images: LabelledImages) -> None:
    found = leak.compared(SimpleNamespace(adapt=nearest), images, SHOT, 60)
    assert found["own"]["mean"] == 1
    assert found["others"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert found["difference"]["mean"] == pytest.approx(found["own"]["mean"] - found["others"]["mean"])


def test_a_learner_that_does_not_look_gains_nothing(leak: ModuleType, images: LabelledImages) -> None:
    blind = SimpleNamespace(adapt=lambda support, seed: lambda x: torch.full((len(x), 2), 0.5, dtype=torch.float64))
    assert leak.compared(blind, images, SHOT, 6)["difference"]["mean"] == 0


def test_too_few_lesions_with_two_photographs_are_named(leak: ModuleType, images: LabelledImages) -> None:
    with pytest.raises(ValueError, match="b, a: fewer than 14 lesions"):
        next(leak.crossed(images.of(("b", "a")), 7, 1))


def test_a_line_is_found_again_by_all_that_it_depends_on(leak: ModuleType, tmp_path: Path) -> None:
    """As many episodes, another learner or other data are another measurement; another version is not."""
    out, calls = tmp_path / "lines.jsonl", []

    def ask(episodes: int = 60, learner: str = "a", commit: str = "1") -> Any:
        about = {"learner": learner, "shots": (1, 3), "versions": {"commit": commit}}
        return leak.measured(out, {"row": "maml"}, {"episodes": episodes}, about, lambda: {"auc": len(calls)})

    first = ask()
    calls.append(1)
    assert ask() == ask(commit="2") == json.loads(json.dumps(first))
    assert [ask(episodes=600)["auc"], ask(learner="b")["auc"], ask()["auc"]] == [1, 1, 0]
    assert len(out.read_text().splitlines()) == 3

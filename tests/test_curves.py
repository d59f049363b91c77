"""Fig. 3's curves: what a line says, and that work is not done twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from rareshot import curves as room
from rareshot.curves import EVERY, curves
from rareshot.data.synthetic import separable
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.methods.supervised import Supervised, SupervisedLearner
from rareshot.metrics import auc

IMAGES = separable(16, lesions=24)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> SupervisedLearner:
    monkeypatch.setattr(room, "SHOTS", (1, 2))
    return Supervised(width=8, test_steps=10, finetune_lr=1e-2, held_out=0).untrained(IMAGES.common(), seed=0)


def written(file: Path, learner: SupervisedLearner) -> list[dict[str, float]]:
    curves(file, "finetune", learner, IMAGES.rare(), scale="own", data="made", runs=2)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_last_point_is_what_the_adapted_learner_reaches(learner: SupervisedLearner, tmp_path: Path) -> None:
    lines = written(tmp_path / "fig3.jsonl", learner)
    assert [(line["shot"], line["step"]) for line in lines] == [(k, s) for k in (1, 2) for s in (0, EVERY, 2 * EVERY)]
    for shot in (1, 2):
        episodes = Episodes(IMAGES.rare(), EpisodeSpec(2, shot, 15), seed=0)
        reached = [
            auc(learner.adapt(episodes[i].support, seed=i)(episodes[i].query_x), episodes[i].query_y) for i in (0, 1)
        ]
        (last,) = [line for line in lines if (line["shot"], line["step"]) == (shot, 2 * EVERY)]
        assert last["auc"] == pytest.approx(np.mean(reached))
        assert last["runs"] == 2


def test_the_first_loss_is_that_of_chance_and_falls(learner: SupervisedLearner, tmp_path: Path) -> None:
    first, *_, last = written(tmp_path / "fig3.jsonl", learner)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert last["loss"] < 0.6 * first["loss"]


def test_a_k_that_is_there_is_not_computed_again(learner: SupervisedLearner, tmp_path: Path) -> None:
    file = tmp_path / "fig3.jsonl"
    whole = written(file, learner)
    file.write_text("".join(json.dumps({**line, "auc": 0.125}) + "\n" for line in whole[:3]))
    again = written(file, learner)
    assert [line["auc"] for line in again[:3]] == [0.125] * 3
    assert again[3:] == whole[3:]


def test_a_damaged_file_is_named(learner: SupervisedLearner, tmp_path: Path) -> None:
    file = tmp_path / "fig3.jsonl"
    file.write_text("{\n")
    with pytest.raises(ValueError, match=r"fig3.jsonl, line 1, is damaged \(.*\); move it away"):
        written(file, learner)


def test_curves_of_another_learner_are_refused_and_kept(learner: SupervisedLearner, tmp_path: Path) -> None:
    file = tmp_path / "fig3.jsonl"
    written(file, learner)
    before = file.read_bytes()
    other = learner.method.untrained(IMAGES.common(), seed=1)
    with pytest.raises(ValueError, match="has the curves of another learner, scale or data set; move it away"):
        written(file, other)
    assert file.read_bytes() == before


def test_a_line_that_says_nothing_of_its_learner_is_refused_and_kept(
    learner: SupervisedLearner, tmp_path: Path
) -> None:
    file = tmp_path / "fig3.jsonl"
    written(file, learner)
    first, *rest = file.read_text().splitlines()
    foreign = "\n".join([json.dumps({**json.loads(first), "learner": ""}), *rest]) + "\n"
    file.write_text(foreign)
    with pytest.raises(ValueError, match="has the curves of another learner"):
        written(file, learner)
    assert file.read_text() == foreign

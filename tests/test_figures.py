"""The pictures: sound SVG with the numbers in their words, whatever a class is called."""

import base64
import itertools
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from scipy.integrate import trapezoid

from rareshot import figures
from rareshot.evaluation import Query
from rareshot.report import Figure
from rareshot.statistics import Interval
from rareshot.types import Episode

HOSTILE = ("<script>alert(1)</script>", "$\\frac{a", "_hidden & $x$")
PAIRS = list(itertools.combinations(("a", "b", "c"), 2))


def _texts(figure: Figure) -> list[str]:
    """Every text of the picture; fails where it is no XML."""
    svg = base64.b64decode(figure.image.removeprefix("data:image/svg+xml;base64,"))
    root = ElementTree.fromstring(svg)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    return ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")]


def _episode(classes: tuple[str, ...] = ("a", "b"), shot: int = 2, query: int = 3) -> Episode:
    def part(n: int) -> tuple[Any, Any, Any]:
        labels = torch.arange(len(classes)).repeat_interleave(n)
        return torch.rand(len(labels), 3, 8, 8), labels, tuple(map(str, range(len(labels))))

    (sx, sy, sid), (qx, qy, qid) = part(shot), part(query)
    return Episode(sx, sy, qx, qy, classes, sid, qid)


def _records(iterations: int = 12, classes: tuple[str, ...] = ("a", "b", "c")) -> list[dict[str, Any]]:
    pairs = list(itertools.combinations(classes, 2))
    return [
        {
            "iteration": i,
            "loss": 1 / i,
            "tasks": [{"classes": list(pairs[(i + j) % len(pairs)]), "loss": (1 + j) / i} for j in range(2)],
        }
        | ({"validation_auc": 0.5 + 0.4 * i / iterations} if i % 3 == 0 else {})
        for i in range(1, iterations + 1)
    ]


def _query(seed: int, shift: float) -> Query:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 15)
    return Query(rng.normal(shift * labels).tolist(), labels.tolist(), list(range(30)))


def _cells(mean: float, sites: tuple[str, ...] = ("",)) -> dict[tuple[str, tuple[str, ...]], Interval]:
    return {
        (site, pair): Interval(mean, mean - 0.05, mean + 0.05, 20, "over episodes") for site in sites for pair in PAIRS
    }


def test_episode_shows_support_and_answers_with_their_probabilities() -> None:
    episode = _episode()
    right = torch.tensor([[0.9, 0.1]] * 3 + [[0.3, 0.7]] * 2 + [[0.8, 0.2]])
    figure = figures.episode_picture(episode, right, "Words.")
    texts = _texts(figure)
    assert "5 of 6 are right" in figure.alt
    assert figure.caption == "Words."
    assert (texts.count("✓ a"), texts.count("✓ b"), texts.count("✗ a")) == (3, 2, 1)
    assert (texts.count("90 %"), texts.count("70 %"), texts.count("80 %")) == (3, 2, 1)


@pytest.mark.parametrize(("shot", "query"), [(1, 1), (5, 15), (9, 2)])
def test_episode_of_any_shape_has_a_picture(shot: int, query: int) -> None:
    episode = _episode(("a", "b", "c"), shot, query)
    shown = 3 * (min(shot, figures.SHOWN) + min(query, figures.SHOWN))
    figure = figures.episode_picture(episode, torch.full((3 * query, 3), 1 / 3))
    assert base64.b64decode(figure.image.split(",")[1]).count(b"<image ") == shown


def test_learning_curve_marks_where_eq_3_begins() -> None:
    figure = figures.learning_curve(_records(), 6)
    assert "Eq. (3) begins" in _texts(figure)
    assert "validation AUC from 0.60 to 0.90" in figure.alt


@pytest.mark.parametrize("warmup", [0, 12])
def test_learning_curve_of_one_phase_has_no_mark(warmup: int) -> None:
    assert "Eq. (3) begins" not in _texts(figures.learning_curve(_records(), warmup))


def test_an_iteration_whose_tasks_were_all_skipped_is_left_out_of_the_curve() -> None:
    records = _records()
    whole = figures.learning_curve([each for each in records if each["iteration"] != 5], 6)
    records[4] |= {"loss": None, "tasks": []}
    assert figures.learning_curve(records, 6) == whole


def test_smoothing_leaves_a_constant_as_it_is() -> None:
    assert figures._smoothed(np.full(40, 0.3)) == pytest.approx(np.full(40, 0.3))


def test_difficulty_names_the_hardest_pair_and_writes_its_losses() -> None:
    records = _records(16)
    for record in records:
        for task in record["tasks"]:
            task["loss"] = 0.8 if task["classes"] == ["b", "c"] else 0.2
    figure = figures.difficulty_over_time(records, 8)
    assert "b and c (0.80) was hardest" in figure.alt
    assert {"0.80", "0.20", "b – c", "Eq. (3) begins"} <= set(_texts(figure))


def test_pair_in_another_order_is_the_same_pair() -> None:
    records = _records(16, ("a", "b"))
    records[0]["tasks"][0]["classes"].reverse()
    assert "1 class pairs" in figures.difficulty_over_time(records, 8).alt


def test_skipped_tasks_and_empty_windows_are_left_blank() -> None:
    records = _records(16)
    for record in records[:8]:
        record["tasks"] = [{"classes": ["a", "b"], "skipped": True}]
    texts = _texts(figures.difficulty_over_time(records, 0))
    assert "nan" not in texts
    assert sum("." in text for text in texts) <= 3 * 4


def test_training_of_one_iteration_has_pictures() -> None:
    assert _texts(figures.learning_curve(_records(1), 1))
    assert _texts(figures.difficulty_over_time(_records(1), 1))


def test_roc_area_is_the_mean_of_the_episodes_areas() -> None:
    queries = [_query(seed, 1.5) for seed in range(6)]
    areas = [oracle.roc_auc_score(q.labels, q.scores) for q in queries]
    figure = figures.roc_curves({"DAML": queries, "random": [_query(0, 0.0)]})
    assert f"DAML: area {np.mean(areas):.3f}" in _texts(figure)
    assert f"DAML {np.mean(areas):.3f}" in figure.alt


def test_area_under_the_averaged_curve_agrees_with_the_legend() -> None:
    queries = [_query(seed, 1.5) for seed in range(6)]
    rates, mean, _, area = figures._mean_roc(queries)
    # 201 points of a staircase with steps of 1/15: each step may be late by half a spacing.
    assert trapezoid(mean, rates) == pytest.approx(area, abs=0.01)


def test_pair_bars_tell_every_learners_mean() -> None:
    figure = figures.pair_bars({"DAML": _cells(0.81), "random": _cells(0.62)})
    assert "a and b, DAML: 0.81; a and b, random: 0.62" in figure.alt
    assert [_texts(figure).count(mean) for mean in ("0.81", "0.62")] == [3, 3]


def test_pair_bars_leave_single_sites_out() -> None:
    assert _texts(figures.pair_bars({"DAML": _cells(0.8, ("", "north"))})).count("0.80") == 3


def test_site_bars_leave_out_sites_that_a_pair_does_not_have() -> None:
    cells = _cells(0.8, ("", "north"))
    del cells[("north", PAIRS[0])]
    figure = figures.site_bars(cells)
    assert "a and b, site north" not in figure.alt
    assert _texts(figure).count("0.80") == 5


def test_mean_without_an_interval_is_still_drawn() -> None:
    alone = Interval(0.7, math.nan, math.nan, 1, "over episodes")
    assert "0.70" in _texts(figures.pair_bars({"DAML": {("", ("a", "b")): alone}}))


def test_hostile_class_names_are_drawn_as_they_are() -> None:
    long = "x" * 200
    names = (*HOSTILE, long)
    assert HOSTILE[1] in _texts(figures.episode_picture(_episode(names), torch.full((12, 4), 0.25)))
    assert any("<script>" in text for text in _texts(figures.difficulty_over_time(_records(16, names), 8)))
    cells = {("", pair): Interval(0.7, 0.6, 0.8, 9, "over episodes") for pair in itertools.combinations(names, 2)}
    for figure in (
        figures.pair_bars({HOSTILE[0]: cells}),
        figures.site_bars({**cells, (HOSTILE[1], PAIRS[0]): cells[("", names[:2])]}),
    ):
        assert all(long not in text for text in _texts(figure))
    assert _texts(figures.roc_curves({HOSTILE[1]: [_query(0, 1.0)]}))


def test_same_data_give_the_same_picture() -> None:
    assert figures.learning_curve(_records(), 6) == figures.learning_curve(_records(), 6)


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    figures.learning_curve(_records(), 6)
    assert dict(matplotlib.rcParams) == before
    assert "pyplot" not in Path(figures.__file__).read_text()

"""The paper's pictures: sound SVG whose words say what these data show."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_figures import HOSTILE, _texts

from rareshot import paper_figures
from rareshot.statistics import Interval


def _slope(eta: float, loss: float) -> float:
    """Of Eq. (3) as printed, by hand."""
    return -eta * loss ** (eta - 1) * math.log(1 - loss) + loss**eta / (1 - loss)


def test_fig_2_tells_the_slopes_of_eq_3() -> None:
    alt = paper_figures.difficulty_loss("paper").alt
    for eta in (1, 3, 5, 7):
        assert f"η = {eta}: {_slope(eta, 0.3):.2g} and {_slope(eta, 0.9):.2g}" in alt


def test_normalised_slopes_are_those_of_two_classes_on_the_scaled_loss() -> None:
    scale = math.log(2) / math.log(3)
    figure = paper_figures.difficulty_loss("smooth", normalised=True, way=3)
    assert f"η = 5: {scale * _slope(5, 0.3 * scale):.2g} and {scale * _slope(5, 0.9 * scale):.2g}" in figure.alt
    assert "chance, ln 3" in _texts(figure)


def test_fig_2_has_a_line_for_each_eta_and_one_for_cross_entropy() -> None:
    texts = _texts(paper_figures.difficulty_loss("smooth", "Words."))
    assert [texts.count(f"η = {eta}") for eta in (1, 3, 5, 7)] == [1, 1, 1, 1]
    assert "L itself: cross-entropy" in texts


def test_critical_difference_names_what_cannot_be_told_apart() -> None:
    ranks = {"worst": 3.6, "best": 1.2, "second": 1.5, "third": 1.9}
    figure = paper_figures.critical_difference(ranks, 0.45, 600)
    assert "best 1.20, second 1.50, third 1.90, worst 3.60" in figure.alt
    assert figure.alt.endswith("Not to be told apart: best and second; second and third.")
    assert {"1.20", "3.60", "critical difference 0.45"} <= set(_texts(figure))


@given(st.lists(st.floats(1, 9), min_size=2, max_size=8), st.floats(0.01, 4))
def test_bars_join_every_two_that_cannot_be_told_apart_and_no_others(ranks: list[float], distance: float) -> None:
    values = np.sort(ranks)
    groups = paper_figures._not_apart(values, distance)
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            assert any(first <= i and j <= last for first, last in groups) == (values[j] <= values[i] + distance)


def test_validation_curves_tell_where_each_begins_and_ends() -> None:
    curves = {"MAML": [(10, 0.6), (20, 0.8)], "DAML": [(15, 0.65), (20, 0.75)]}
    figure = paper_figures.validation_curves(curves, 12)
    assert figure.alt == "Validation AUC over 20 iterations: MAML from 0.600 to 0.800; DAML from 0.650 to 0.750."
    assert {"MAML", "DAML", "Eq. (3) begins"} <= set(_texts(figure))
    assert "Eq. (3) begins" not in _texts(paper_figures.validation_curves(curves, 0))


def test_fine_tuning_tells_each_k_whatever_the_order_of_the_lines() -> None:
    lines: list[dict[str, Any]] = [
        {
            "row": "finetune",
            "shot": shot,
            "step": step,
            "loss": 0.7 - step / 100,
            "auc": 0.5 + shot * step / 1000,
            "runs": 30,
        }
        for shot in (5, 1)
        for step in (40, 0, 20)
    ]
    figure = paper_figures.fine_tuning(lines)
    assert "mean over 30 runs. k = 1: loss 0.70 to 0.30, AUC 0.50 to 0.54; k = 5: loss 0.70 to 0.30" in figure.alt
    assert [_texts(figure).count(f"k = {shot}") for shot in (1, 5)] == [1, 1]


def test_fine_tuning_of_one_step_has_a_picture() -> None:
    line = {"row": "finetune", "shot": 1, "step": 0, "loss": 0.7, "auc": 0.3, "runs": 2}
    assert _texts(paper_figures.fine_tuning([line, {**line, "shot": 3, "runs": 4}]))
    assert "means over 2 to 4 runs" in paper_figures.fine_tuning([line, {**line, "shot": 3, "runs": 4}]).alt


@pytest.mark.parametrize("name", [*HOSTILE, "word " * 30])
def test_hostile_labels_are_drawn(name: str) -> None:
    bare = Interval(0.7, math.nan, math.nan, 1, "over episodes")
    assert _texts(paper_figures.compared({(name,): {name: bare}}, [name], "AUC", ""))
    assert _texts(paper_figures.critical_difference({name: 1.0, "b": 2.0}, 0.1, 9))
    assert _texts(paper_figures.validation_curves({name: [(1, 0.3), (2, 0.4)]}, 0))

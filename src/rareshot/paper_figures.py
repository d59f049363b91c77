"""The paper's pictures: Eq. (3) and its slope (Fig. 2), fine-tuning on few images (Fig. 3), and those that a comparison needs.

As in `figures`, every function returns SVG with an alternative text that says what is to be seen in these data.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import figure as mpl
from matplotlib.axes import Axes

from rareshot.drawing import (
    COLOURS,
    DASHES,
    INK,
    LINE,
    MARKERS,
    SOFT,
    WIDTH,
    dots,
    finished,
    listed,
    plain,
    reference,
    styled,
    wrapped,
)
from rareshot.losses import DifficultyAware, difficulty_weight
from rareshot.report import Figure

Array = npt.NDArray[Any]
ETAS = (1.0, 3.0, 5.0, 7.0)
"""Those of Table 2."""
HIGHEST = 4.0
"""Where Fig. 2 is cut off: `paper` goes on to 13.8 at L = 1."""

compared = styled(dots)
"""Means with intervals, a row under the other, one mark a series."""


@styled
def difficulty_loss(
    form: Literal["paper", "smooth"], caption: str = "", *, normalised: bool = False, way: int = 2
) -> Figure:
    """Fig. 2: Eq. (3) of one task's loss L for each η, above its slope, beside the cross-entropy itself."""
    chance = math.log(way)
    end = 1.0 if chance < 1 else 1.5
    losses = np.linspace(0, end, 251)[1:-1]
    figure = mpl.Figure(figsize=(WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot([0, end], [0, end], color=SOFT, linewidth=1.2, linestyle=":", label="L itself: cross-entropy")
    lower.axhline(1, color=SOFT, linewidth=1.2, linestyle=":")
    told = []
    for eta, colour, dashes in zip(ETAS, COLOURS, DASHES, strict=False):
        loss = DifficultyAware(eta=eta, form=form, normalised=normalised)
        values = [float(loss(torch.tensor([each]), way)) for each in losses]
        slopes = difficulty_weight(loss, torch.tensor(losses), way).numpy()
        upper.plot(losses, values, color=colour, linestyle=dashes, label=f"η = {eta:g}")
        lower.plot(losses, slopes, color=colour, linestyle=dashes)
        low, high = difficulty_weight(loss, torch.tensor([0.3, 0.9]), way).tolist()
        told.append(f"η = {eta:g}: {low:.2g} and {high:.2g}")
    for axes in (upper, lower):
        axes.axvline(chance, color=SOFT, linewidth=0.8)
    upper.annotate(
        f"chance, ln {way}", (chance, 0.97), (-4, 0), ("data", "axes fraction"), "offset points",
        ha="right", va="top", color=SOFT, size=8.5,
    )  # fmt: skip
    upper.set(ylim=(0, HIGHEST), xlim=(0, end))
    upper.set_title("Loss of a task in the outer loop")
    upper.legend(loc="upper left", handlelength=2.6)
    lower.set_yscale("log")
    lower.set_ylim(1e-4, 1e3)
    lower.set_title("Its slope: how much the task counts (cross-entropy: 1)")
    lower.set_xlabel("query loss L of the task after adaptation")
    name = f"{form}{', normalised' if normalised else ''}"
    alt = (
        f"Eq. (3), form {name}, and its slope over the task's loss L from 0 to {end:g}, {way} classes. All curves lie below the "
        f"straight line of cross-entropy where L is small, the lower the larger η. Slope at L = 0.3 and 0.9: {'; '.join(told)}."
    )
    return finished(figure, alt, caption)


@styled
def critical_difference(ranks: Mapping[str, float], distance: float, episodes: int, caption: str = "") -> Figure:
    """Demšar's critical differences: the mean rank of each method, best on top, with half of `distance` on both sides.

    Two methods can be told apart where their lines do not overlap; bars on the right join those that cannot.

    Args:
        ranks: method → mean rank over episodes.
        distance: Nemenyi's critical difference.
    """
    order = sorted(ranks, key=ranks.__getitem__)
    values = np.array([ranks[name] for name in order])
    groups = _not_apart(values, distance)
    labels = [wrapped(name) for name in order]
    heights = np.array([max(0.34, 0.17 * (label.count("\n") + 1)) for label in labels])
    places = heights.cumsum() - heights / 2
    figure = mpl.Figure(figsize=(WIDTH, 1.0 + heights.sum()), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(
        values, places, xerr=distance / 2, fmt="o", color=COLOURS[0], markersize=3.5, elinewidth=1.8, capsize=3
    )
    for value, place in zip(values, places, strict=True):
        axes.annotate(
            f"{value:.2f}", (value + distance / 2, place), (4, 0), textcoords="offset points", va="center", size=8
        )
    right = max(len(order), float(values[-1]) + distance / 2) + 0.12 * len(order)
    for number, (first, last) in enumerate(groups):
        at = [right + 0.035 * number * len(order)] * 2
        ends = places[[first, last]] + [-0.07, 0.07]
        axes.plot(at, ends, color=COLOURS[1], linewidth=3.5, solid_capstyle="butt", clip_on=False)
    axes.set_yticks(places, labels, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(heights.sum(), 0)
    axes.set_xlim(
        min(1.0, float(values[0]) - distance / 2) - 0.02 * len(order), right + 0.035 * len(groups) * len(order)
    )
    axes.set_xticks(range(1, len(order) + 1, 1 + len(order) // 9))
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"critical difference {distance:.2f}", weight="normal", size=8.5, color=SOFT)
    axes.set_xlabel("mean rank, 1 is best")
    told = ", ".join(f"{name} {value:.2f}" for name, value in zip(order, values, strict=True))
    joined = "; ".join(listed(order[first : last + 1]) for first, last in groups) or "none"
    alt = (
        f"Mean ranks over {episodes} episodes, 1 is best: {told}. Critical difference {distance:.2f}. "
        f"Not to be told apart: {joined}."
    )
    return finished(figure, alt, caption)


@styled
def validation_curves(curves: Mapping[str, Sequence[tuple[int, float]]], warmup: int, caption: str = "") -> Figure:
    """AUC on held-out lesions of the common diseases over training, one line a run.

    Args:
        curves: label → (iteration, AUC).
        warmup: where Eq. (3) begins; no mark if that is not within the training.
    """
    figure = mpl.Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(DASHES), itertools.cycle(MARKERS))
    for (name, points), (colour, dashes, marker) in zip(curves.items(), looks, strict=False):
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 4.5}
        axes.plot(*zip(*points, strict=True), label=plain(name), **look)
    last = max(iteration for points in curves.values() for iteration, _ in points)
    lowest = min(value for points in curves.values() for _, value in points)
    axes.set(xlim=(0, last * 1.02), xlabel="iteration", ylabel="AUC, held-out common diseases")
    axes.set_ylim(min(0.7, math.floor(20 * lowest - 0.2) / 20), 1.0)
    if axes.get_ylim()[0] <= 0.5:
        reference(axes, 0.5, "chance")
    if 0 < warmup < last:
        _mark(axes, warmup)
    figure.legend(loc="outside upper left", ncols=2, handlelength=2.8)
    told = "; ".join(f"{name} from {points[0][1]:.3f} to {points[-1][1]:.3f}" for name, points in curves.items())
    return finished(figure, f"Validation AUC over {last} iterations: {told}.", caption)


@styled
def fine_tuning(lines: Sequence[Mapping[str, Any]], caption: str = "") -> Figure:
    """Fig. 3: training loss and test AUC over the steps of fine-tuning, one line for each k.

    Args:
        lines: of one row, each with shot, step, loss, auc and runs, in any order.
    """
    figure = mpl.Figure(figsize=(WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    told = []
    for shot, colour, dashes in zip(
        sorted({line["shot"] for line in lines}), itertools.cycle(COLOURS), itertools.cycle(DASHES), strict=False
    ):
        curve = sorted((line["step"], line["loss"], line["auc"]) for line in lines if line["shot"] == shot)
        steps, losses, areas = zip(*curve, strict=True)
        look: dict[str, Any] = {"color": colour, "linestyle": dashes}
        if len(steps) == 1:
            look["marker"] = "o"
        upper.plot(steps, losses, label=f"k = {shot}", **look)
        lower.plot(steps, areas, **look)
        told.append(f"k = {shot}: loss {losses[0]:.2f} to {losses[-1]:.2f}, AUC {areas[0]:.2f} to {areas[-1]:.2f}")
    upper.set_title("Loss on the k images of each class")
    upper.set_ylim(bottom=0)
    lower.set_title("AUC on the query images")
    lower.set_ylim(min(0.45, *(line["auc"] for line in lines)), 1.0)
    lower.axhline(0.5, color=SOFT, linewidth=1, linestyle=":")
    lower.annotate(
        "chance",
        (1, 0.5),
        (-2, -2),
        ("axes fraction", "data"),
        "offset points",
        color=SOFT,
        size=8.5,
        ha="right",
        va="top",
    )
    lower.set_xlabel("step of fine-tuning")
    figure.legend(loc="outside upper left", ncols=4, handlelength=2.8)
    runs = sorted({line["runs"] for line in lines})
    mean = f"mean over {runs[0]} runs" if len(runs) == 1 else f"means over {runs[0]} to {runs[-1]} runs"
    return finished(figure, f"Fine-tuning on k images of each class, {mean}. {'; '.join(told)}.", caption)


def _mark(axes: Axes, warmup: int) -> None:
    axes.axvline(warmup, color=COLOURS[1], linewidth=1.2, linestyle=DASHES[1])
    axes.annotate(
        "Eq. (3) begins", (warmup, 0), (4, 4), ("data", "axes fraction"), "offset points",
        va="bottom", color=COLOURS[1], size=8.5,
    )  # fmt: skip


def _not_apart(values: Array, distance: float) -> list[tuple[int, int]]:
    """First and last of every longest stretch of sorted ranks that spans no more than `distance`, of two or more."""
    found: list[tuple[int, int]] = []
    for first, value in enumerate(values):
        last = int(np.searchsorted(values, value + distance, side="right")) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found

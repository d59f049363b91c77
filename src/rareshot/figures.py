"""Pictures for reports: an episode, how training went, how good the answers are (not in the paper).

Each function takes what training and evaluation give and returns a `Figure`: SVG with its alternative text.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from matplotlib import figure as mpl
from torch import Tensor

from rareshot.drawing import (
    COLOURS,
    DASHES,
    INK,
    LINE,
    SOFT,
    WIDTH,
    dots,
    finished,
    listed,
    plain,
    reference,
    styled,
)
from rareshot.evaluation import Place, Query
from rareshot.metrics import auc, roc
from rareshot.report import Figure
from rareshot.statistics import Interval
from rareshot.types import Episode

Array = npt.NDArray[Any]
Record = Mapping[str, Any]
"""A line of the training log."""
Cells = Mapping[Place, Interval]
"""What `evaluation.by_pair` gives: (site, classes) → mean with interval."""

RIGHT, WRONG = COLOURS[0], COLOURS[1]
SHOWN = 5
"""Pictures side by side in an episode."""
WINDOWS = 8
"""Columns of the difficulty map."""


@styled
def episode_picture(episode: Episode, probabilities: Float[Tensor, "q way"], caption: str = "") -> Figure:
    """One task: the support images of each class, and the first query images of each with the answer to them.

    Args:
        probabilities: of the query images, as the adapted classifier gave them.
    """
    way, size, edge = len(episode.classes), 0.87, 0.015
    blocks = ((episode.support_y, episode.support_x, 0.08), (episode.query_y, episode.query_x, 0.42))
    height = 0.44 + 0.55 + way * sum(0.22 + size + words for *_, words in blocks)
    figure = mpl.Figure(figsize=(WIDTH, height))
    top, pitch = height, (WIDTH - size - 2 * edge) / (SHOWN - 1)
    guess = probabilities.argmax(1)
    right = int((guess == episode.query_y).sum())
    titles = (
        f"Support: {len(episode.support_y)} images to adapt to",
        f"Query: {right} of {len(episode.query_y)} answered correctly; the first of each class",
    )
    for block, (title, (labels, images, words)) in enumerate(zip(titles, blocks, strict=True)):
        figure.text(0, (top - 0.14) / height, title, weight="bold", size=9.5, va="top")
        top -= 0.44
        for label, name in enumerate(episode.classes):
            figure.text(
                0, (top - 0.04) / height, f"true class: {plain(name)}" if block else plain(name), va="top", color=SOFT
            )
            top -= 0.22
            for column, i in enumerate(torch.nonzero(labels == label)[:SHOWN, 0].tolist()):
                place = ((edge + column * pitch) / WIDTH, (top - size) / height, size / WIDTH, size / height)
                axes = figure.add_axes(place)
                axes.imshow(images[i].permute(1, 2, 0).numpy(), interpolation="none")
                axes.set(xticks=[], yticks=[])
                colour = LINE if not block else RIGHT if guess[i] == label else WRONG
                axes.spines[:].set(visible=True, color=colour, linewidth=2.2 if block else 0.8)
                if block:
                    mark = "✓" if guess[i] == label else "✗"
                    share = 100 * float(probabilities[i, guess[i]])
                    told = f"{mark} {plain(episode.classes[int(guess[i])], 12)}\n{share:.0f} %"
                    figure.text(place[0], place[1] - 0.05 / height, told, va="top", size=8, color=colour)
            top -= size + words
        top -= 0.11
    alt = (
        f"{len(episode.support_y)} support images of {listed(episode.classes)}, and query images with the class that "
        f"the adapted classifier gives each: {right} of {len(episode.query_y)} are right."
    )
    return finished(figure, alt, caption)


@styled
def learning_curve(records: Sequence[Record], warmup: int, caption: str = "") -> Figure:
    """Query loss of each iteration, smoothed, and validation AUC; a line where the warm-up ends and Eq. (3) begins."""
    records = [record for record in records if record["loss"] is not None]  # without those whose tasks were all skipped
    iterations = np.array([record["iteration"] for record in records])
    loss = np.array([record["loss"] for record in records])
    points = [(r["iteration"], r["validation_auc"]) for r in records if "validation_auc" in r]
    figure = mpl.Figure(figsize=(WIDTH, 3.9), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    way = len(records[0]["tasks"][0]["classes"])
    upper.plot(iterations, loss, color=COLOURS[5], alpha=0.45, linewidth=0.8)
    smooth = _smoothed(loss)
    upper.plot(iterations, smooth, color=COLOURS[0])
    reference(upper, math.log(way), "chance")
    upper.set_ylim(0, max(1.15 * math.log(way), 1.05 * float(np.quantile(loss, 0.98))))
    upper.set_title("Query loss after adaptation")
    ending = ""
    if points:
        lower.plot(*zip(*points, strict=True), color=COLOURS[0], marker="o", markersize=4.5)
        ending = f"; validation AUC from {points[0][1]:.2f} to {points[-1][1]:.2f}"
    lower.set_title("AUC on held-out lesions")
    lower.set_ylim(min([0.45, *(value for _, value in points)]), 1.0)
    reference(lower, 0.5, "chance")
    lower.set(xlabel="iteration", xlim=(0, iterations[-1] * 1.01))
    if 0 < warmup < iterations[-1]:
        for axes in (upper, lower):
            axes.axvline(warmup, color=WRONG, linewidth=1.2, linestyle=DASHES[1])
        upper.annotate(
            "Eq. (3) begins", (warmup, 1), (-4, -2), ("data", "axes fraction"), "offset points",
            ha="right", va="top", color=WRONG, size=8.5,
        )  # fmt: skip
    fall = f"smoothed query loss from {smooth[0]:.2f} to {smooth[-1]:.2f} over {iterations[-1]} iterations"
    return finished(figure, f"Training: {fall}{ending}.", caption)


@styled
def difficulty_over_time(records: Sequence[Record], warmup: int, caption: str = "") -> Figure:
    """Mean query loss of each pair of classes in parts of the training: which are hard, and until when."""
    tasks = [(r["iteration"], task) for r in records for task in r["tasks"] if "loss" in task]
    last = max(r["iteration"] for r in records)
    pairs = sorted({tuple(sorted(task["classes"])) for _, task in tasks})
    windows = min(WINDOWS, last)
    total, count = np.zeros((len(pairs), windows)), np.zeros((len(pairs), windows))
    for iteration, task in tasks:
        at = pairs.index(tuple(sorted(task["classes"]))), (iteration - 1) * windows // last
        total[at] += task["loss"]
        count[at] += 1
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    half = windows // 2
    seen = count[:, half:].sum(1)
    late = np.divide(total[:, half:].sum(1), seen, out=np.full(len(pairs), -np.inf), where=seen > 0)
    order = np.argsort(-late, kind="stable")
    figure = mpl.Figure(figsize=(WIDTH, 1.05 + 0.36 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    bottom, top = float(np.nanmin(mean)), max(math.log(len(pairs[0])), float(np.nanmax(mean)))
    edges = np.arange(windows + 1) - 0.5, np.arange(len(pairs) + 1) - 0.5
    shades: dict[str, Any] = {"cmap": "cividis_r", "vmin": bottom, "vmax": top}
    axes.pcolormesh(*edges, np.ma.masked_invalid(mean[order]), edgecolors="white", linewidth=1.5, **shades)
    axes.invert_yaxis()
    for row, column in itertools.product(range(len(pairs)), range(windows)):
        value = mean[order[row], column]
        if np.isfinite(value):
            shade = "white" if value > (bottom + top) / 2 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", size=8, color=shade)
    axes.set_yticks(range(len(pairs)), [" – ".join(plain(name, 14) for name in pairs[i]) for i in order], color=INK)
    axes.set_xticks(range(windows), [f"{last * (i + 1) / windows:.0f}" for i in range(windows)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("up to iteration")
    if 0 < warmup < last:
        axes.axvline(warmup / last * windows - 0.5, color=WRONG, linewidth=1.8)
        axes.annotate(
            "Eq. (3) begins", (warmup / last * windows - 0.5, 1), (0, 3), ("data", "axes fraction"), "offset points",
            ha="right" if warmup > last / 2 else "left", va="bottom", color=WRONG, size=8.5,
        )  # fmt: skip
    hardest, easiest = (f"{listed(pairs[i])} ({late[i]:.2f})" for i in order[[0, np.sum(seen > 0) - 1]])
    alt = (
        f"Mean query loss of {len(pairs)} class pairs in {windows} parts of the training. "
        f"In the second half {hardest} was hardest, {easiest} easiest."
    )
    return finished(figure, alt, caption)


@styled
def roc_curves(curves: Mapping[str, Sequence[Query]], caption: str = "") -> Figure:
    """Mean ROC curve of each learner, averaged vertically over its episodes, with 95 % bands; areas in the legend.

    The area is the mean of the episodes' areas.
    """
    figure = mpl.Figure(figsize=(WIDTH, 4.3), layout="constrained")
    axes = figure.subplots()
    areas: dict[str, float] = {}
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=":")
    axes.text(0.62, 0.575, "chance", color=SOFT, size=8.5, ha="left")
    for (name, queries), colour, dashes in zip(curves.items(), COLOURS, itertools.cycle(DASHES)):
        rates, mean, half, areas[name] = _mean_roc(queries)
        axes.fill_between(rates, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1), color=colour, alpha=0.15, lw=0)
        axes.plot(
            [0, *rates], [0, *mean], color=colour, linestyle=dashes, label=f"{plain(name)}: area {areas[name]:.3f}"
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
    axes.legend(loc="lower right", handlelength=2.4)
    told = ", ".join(f"{name} {area:.3f}" for name, area in areas.items())
    return finished(figure, f"Mean ROC curves with the areas: {told}.", caption)


@styled
def pair_bars(results: Mapping[str, Cells], caption: str = "") -> Figure:
    """AUC of each pair of classes over all sites, with its interval, one mark a learner.

    Args:
        results: name of a learner → what `evaluation.by_pair` gives for it.
    """
    pairs = sorted({pair for cells in results.values() for site, pair in cells if not site})
    rows = {pair: {name: cells[("", pair)] for name, cells in results.items() if ("", pair) in cells} for pair in pairs}
    return dots(rows, list(results), "AUC by class pair and learner", caption)


@styled
def site_bars(cells: Cells, caption: str = "") -> Figure:
    """AUC of each pair over all sites and with every image from one site: a gap between them may be the camera's.

    Args:
        cells: what `evaluation.by_pair` gives for the `site` protocol.
    """
    sites = sorted({site for site, _ in cells})
    names = {site: f"site {site}" if site else "all sites" for site in sites}
    pairs = sorted({pair for _, pair in cells})
    rows = {pair: {names[site]: cells[(site, pair)] for site in sites if (site, pair) in cells} for pair in pairs}
    return dots(rows, list(names.values()), "AUC by class pair and site", caption)


def _mean_roc(queries: Sequence[Query]) -> tuple[Array, Array, Array, float]:
    """False positive rates, mean true positive rate at each, half of its 95 % band, mean of the episodes' areas."""
    rates = np.linspace(0, 1, 201)
    found, areas = [], []
    for query in queries:
        probabilities = 1 / (1 + np.exp(np.outer(query.scores, [1, -1])))
        found.append(np.interp(rates, *roc(probabilities, np.array(query.labels))))
        areas.append(auc(probabilities, np.array(query.labels)))
    half = 1.96 * np.std(found, axis=0) / math.sqrt(len(found))
    return rates, np.mean(found, axis=0), half, float(np.mean(areas))


def _smoothed(values: Array) -> Array:
    """Centred moving mean over a fifteenth of the values; shorter at both ends."""
    window = np.ones(max(1, len(values) // 15))
    return np.asarray(np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same"))

"""How pictures are drawn: one style, colours that the colour-blind can tell apart, SVG with its words (not in the paper).

Colours are those of Okabe and Ito (Color Universal Design, 2008); markers and dashes say the same again.
"""

import base64
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import figure as mpl
from matplotlib.axes import Axes

from rareshot.report import Figure, legible
from rareshot.statistics import Interval

P = ParamSpec("P")

WIDTH = 4.8
"""Inches; with text of 9 points it can be read at the width of a telephone."""
INK, SOFT, LINE = "#1d2429", "#566069", "#d9dee2"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
FONTS = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
"""What readers see; the layout is made with DejaVu Sans, which is wider."""
BLOCKY = "image-rendering:crisp-edges;image-rendering:pixelated"
"""What matplotlib asks of a reader for pictures that it does not enlarge itself."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "rareshot",
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under STYLE and leave matplotlib's settings as they were."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def dots(
    rows: Mapping[tuple[str, ...], Mapping[str, Interval]], series: Sequence[str], alt: str, caption: str
) -> Figure:
    """A mark and its interval for each (row, series).

    Args:
        rows: names that stand beside the marks, one under the other → series → mean with interval.
        series: in the order of the legend; a name has the same colour in two pictures that are given the same list.
        alt: what is shown; the means are added to it.
    """
    labels = [" –\n".join(wrapped(name) for name in pair) for pair in rows]
    step = 0.13
    drawn = [(number, name) for number, name in enumerate(series) if any(name in cells for cells in rows.values())]
    pitch = max(step * len(drawn) + 0.2, 0.16 * max(label.count("\n") + 1 for label in labels) + 0.1)
    figure = mpl.Figure(figsize=(WIDTH, 1.1 + pitch * len(rows)), layout="constrained")
    axes = figure.subplots()
    lowest = 0.5
    for at, (number, name) in enumerate(drawn):
        places = [row * pitch + at * step for row, cells in enumerate(rows.values()) if name in cells]
        found = [cells[name] for cells in rows.values() if name in cells]
        means = np.array([cell.mean for cell in found])
        halves = np.nan_to_num(np.array([[c.mean - c.low, c.high - c.mean] for c in found]).reshape(-1, 2).T)
        halves = halves.clip(0)  # percentiles of few lesions may leave the mean out
        lowest = min([lowest, *(means - halves[0])])
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            means, places, xerr=halves, fmt=MARKERS[number % len(MARKERS)], color=colour, label=plain(name),
            markersize=5, elinewidth=1.6,
        )  # fmt: skip
        for mean, high, place in zip(means, means + halves[1], places, strict=True):
            axes.annotate(
                f"{mean:.2f}", (high, place), (4, 0), textcoords="offset points", va="center", size=8, color=colour
            )
    middles = [row * pitch + step * (len(drawn) - 1) / 2 for row in range(len(rows))]
    axes.set_yticks(middles, labels, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(middles[-1] + pitch / 2, middles[0] - pitch / 2)
    axes.spines["left"].set_visible(False)
    axes.axvline(0.5, color=SOFT, linewidth=1, linestyle=":")
    axes.set_xlim(math.floor(20 * lowest - 0.01) / 20, 1.06)
    axes.set_xticks([tick for tick in np.arange(0, 1.01, 0.1) if tick > axes.get_xlim()[0]])
    axes.set_xlabel("AUC (dotted: chance)")
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.4)
    told = [f"{listed(pair)}, {name}: {cell.mean:.2f}" for pair, cells in rows.items() for name, cell in cells.items()]
    return finished(figure, f"{alt}. {'; '.join(told)}.", caption)


def reference(axes: Axes, value: float, name: str) -> None:
    """A dotted line across, with its name."""
    axes.axhline(value, color=SOFT, linewidth=1, linestyle=":")
    axes.annotate(
        name, (0, value), (4, 2), ("axes fraction", "data"), "offset points", color=SOFT, size=8.5, va="bottom"
    )


def plain(name: str, longest: int = 28) -> str:
    """As text that matplotlib takes neither for a formula nor for something to hide, cut where it would not fit."""
    short = name if len(name) <= longest else f"{name[: longest - 1]}…"
    short = f" {short}" if short.startswith("_") else short
    return legible(short).replace("$", r"\$")


def wrapped(name: str) -> str:
    """As `plain`, on up to three lines where it would not fit on one."""
    return plain("\n".join(textwrap.wrap(name, 28, max_lines=3, placeholder="…")), 90)


def listed(names: Sequence[str]) -> str:
    """In words."""
    return " and ".join(names)


def finished(figure: mpl.Figure, alt: str, caption: str) -> Figure:
    """The drawing as a picture of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    svg = buffer.getvalue().replace("'DejaVu Sans'", FONTS).replace(BLOCKY, "image-rendering:auto")
    return Figure("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(), alt, caption)

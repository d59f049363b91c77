"""The roofline: what each design makes of the machine."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import figure as mpl

from rareshot.bench.tables import ORDERS, Record
from rareshot.drawing import COLOURS, INK, LINE, SOFT, STYLE


def draw_roofline(records: Sequence[Record], *files: Path) -> None:
    """Useful operations a second of each exact design, in both orders, against the floor's; a file's name says its format."""
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "path"}):
        timed = [each for each in records if each["part"] == "step" and "seconds" in each and each["exact"]]
        names = list(dict.fromkeys(each["design"] for each in timed))
        figure = mpl.Figure(figsize=(7.2, 1.2 + 0.5 * len(names)), layout="constrained")
        axes = figure.subplots()
        for order, shift, colour in ((True, -0.19, COLOURS[0]), (False, 0.19, COLOURS[4])):
            floor = next(each for each in records if each["part"] == "floor" and each["second_order"] == order)
            roof = floor["gflop"] / floor["seconds"]
            for place, name in enumerate(names):
                found = [
                    each
                    for each in records
                    if each["part"] == "step" and (each["design"], each["second_order"]) == (name, order)
                ]
                if not found or "seconds" not in found[0]:
                    continue
                rate = floor["gflop"] / statistics.median(found[0]["seconds"])
                axes.barh(place + shift, rate, 0.34, color=colour, label=None if place else ORDERS[order])
                axes.annotate(
                    f"{rate / roof:.0%}", (rate, place + shift), (4, 0), textcoords="offset points", va="center", size=8
                )
            axes.axvline(roof, color=colour, linestyle="--", linewidth=1.2, label=f"roof, {ORDERS[order]}")
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
        axes.set_xlabel("useful GFLOP/s (per cent: of the direct-convolution floor)", color=SOFT)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=4)
        for file in files:
            figure.savefig(file, dpi=150, facecolor="white", metadata={"Date": None} if file.suffix == ".svg" else {})

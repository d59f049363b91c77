"""Lesion or camera: each pair of classes within one site, beside the same pair over all sites, for every method."""

from collections.abc import Mapping

from rareshot.evaluation import by_pair
from rareshot.paper_figures import compared
from rareshot.report import Figure, Section, Table
from rareshot.reporting.lines import Line, Part
from rareshot.reporting.tables import NONE, points
from rareshot.statistics import Interval

Place = tuple[tuple[str, ...], str]
"""The classes of a pair, and a site; empty: all sites."""


def site_section(part: Part) -> Section | None:
    """A row a method and k, of its lowest training seed; a chart a pair at the largest k. None without such evaluations."""
    found = {
        (line, shot): {(pair, site): cell for (site, pair), cell in by_pair(evaluations[0].results).items()}
        for line in part.lines
        for shot in part.shots
        if (evaluations := line.at(shot, "site"))
    }
    if not found:
        return None
    places = sorted({place for cells in found.values() for place in cells})
    rows = [(line.label, str(shot), *_cells(cells, places)) for (line, shot), cells in found.items()]
    header = ("Method", "k", *(site or f"{' and '.join(pair)}: all sites" for pair, site in places))
    seeds = sorted({line.at(shot, "site")[0].seed for line, shot in found})
    halves = [(cell.high - cell.low) / 2 for cells in found.values() for cell in cells.values() if cell.n > 1]
    text = f"""
    In many collections the class goes with the site, so that recognising the camera looks like recognising the disease. Here
    every image of an episode, support and query, is from one site; before it stands the same pair with images from all sites,
    and in brackets the difference. A figure well below that of all sites says that the camera did part of the work. The
    episodes of a site are other ones than those of all sites, so these are differences of means.
    {f"95 % intervals over episodes reach {100 * max(halves):.1f} points or less to either side." if halves else ""}
    """
    caption = f"One site or all. {part.name}; AUC in %, training seed {', '.join(map(str, seeds))}"
    largest = max(shot for _, shot in found)
    at_largest = {line: cells for (line, shot), cells in found.items() if shot == largest}
    figures = [_chart(part, pair, largest, at_largest) for pair in dict.fromkeys(pair for pair, _ in places)]
    return Section(f"Lesion or camera? ({part.name})", text, figures, Table(caption, header, tuple(rows)))


def _cells(cells: Mapping[Place, Interval], places: list[Place]) -> list[str]:
    """The mean at each place; where the pair was met over all sites too, the difference to that."""
    drawn = []
    for pair, site in places:
        cell, whole = cells.get((pair, site)), cells.get((pair, ""))
        apart = f" ({points(100 * (cell.mean - whole.mean))})" if cell and whole and site else ""
        drawn.append(f"{100 * cell.mean:.1f}{apart}" if cell else NONE)
    return drawn


def _chart(part: Part, pair: tuple[str, ...], shot: int, found: Mapping[Line, Mapping[Place, Interval]]) -> Figure:
    marks: dict[tuple[str, ...], dict[str, Interval]] = {
        (line.label,): {
            f"site {site}" if site else "all sites": cell for (of, site), cell in cells.items() if of == pair
        }
        for line, cells in found.items()
    }
    series = sorted({name for cells in marks.values() for name in cells})
    told = f"{' and '.join(pair)}: AUC within one site and over all at k = {shot}, {part.name}"
    words = f"{' and '.join(pair)}; {part.name}, k = {shot}. Intervals are 95 % over episodes."
    return compared(marks, series, told, words)

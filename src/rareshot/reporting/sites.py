"""Lesion or camera: each pair of classes within one site, beside the same pair over all sites, for every method."""

from collections.abc import Mapping, Sequence

from rareshot.evaluated import Evaluation
from rareshot.evaluation import Place, by_pair
from rareshot.paper_figures import compared
from rareshot.report import Figure, Section, Table
from rareshot.reporting.lines import Line, Part
from rareshot.reporting.tables import NONE, interval_text, points
from rareshot.statistics import Interval

Cells = Mapping[Place, Interval]


def site_section(part: Part) -> Section | None:
    """A row a method and k, of its lowest training seed; a chart a pair at the largest k. None without such evaluations."""
    found = {
        (line, shot): evaluations[0]
        for line in part.lines
        for shot in part.shots
        if (evaluations := line.at(shot, "site"))
    }
    if not found:
        return None
    places = sorted(
        {place for each in found.values() for place in by_pair(each.results)}, key=lambda place: place[::-1]
    )
    lesions = {place: over.lesions for each in found.values() for place, over in each.places.items()}
    rows = [(line.label, str(shot), *_cells(each, places)) for (line, shot), each in found.items()]
    header = ("Method", "k", *(_heading(place, lesions.get(place, {})) for place in places))
    seeds = sorted({each.seed for each in found.values()})
    over = any(each.places for each in found.values())
    interval = f", with its 95 % interval over {part.group}s and episodes where that was drawn" if over else ""
    text = f"""
    In many collections the class goes with the site, so that recognising the camera looks like recognising the disease. Here
    every image of an episode, support and query, is from one site; before it stands the same pair with images from all sites,
    and in brackets the difference{interval}. A figure
    well below that of all sites says that the camera did part of the work, if there are {part.group}s enough to say so. The
    episodes of a site are other ones than those of all sites, so these are differences of means.
    """
    caption = f"One site or all. {part.name}; AUC in %, training seed {', '.join(map(str, seeds))}"
    largest = max(shot for _, shot in found)
    at_largest = {line: _intervals(each) for (line, shot), each in found.items() if shot == largest}
    pairs = dict.fromkeys(pair for _, pair in places)
    series = [_series(site) for site in sorted({site for site, _ in places})]
    drawn = {
        pair for cells in at_largest.values() for _, pair in cells
    }  # others had lesions enough at a smaller k alone
    figures = [_chart(part, pair, largest, at_largest, series) for pair in pairs if pair in drawn]
    return Section(f"Lesion or camera? ({part.name})", text, figures, Table(caption, header, tuple(rows)))


def _heading(place: Place, lesions: Mapping[str, int]) -> str:
    """The pair over all sites, or the site with what it has of each class."""
    site, pair = place
    if not site:
        return f"{' and '.join(pair)}: all sites"
    return f"{site} ({', '.join(f'{number} {name}' for name, number in lesions.items())})" if lesions else site


def _cells(evaluation: Evaluation, places: Sequence[Place]) -> list[str]:
    """The mean at each place; where the pair was met over all sites too, the difference to that."""
    cells, drawn = by_pair(evaluation.results), []
    for place in places:
        cell, whole = cells.get(place), cells.get(("", place[1]))
        apart = ""
        if cell and whole and place[0]:
            over = evaluation.places.get(place)
            interval = f"; {interval_text(over.apart)}" if over and over.apart else ""
            apart = f" ({points(100 * (cell.mean - whole.mean))}{interval})"
        drawn.append(f"{100 * cell.mean:.1f}{apart}" if cell else NONE)
    return drawn


def _intervals(evaluation: Evaluation) -> Cells:
    """Over lesions where that was drawn."""
    return {
        place: evaluation.places[place].auc if place in evaluation.places else cell
        for place, cell in by_pair(evaluation.results).items()
    }


def _series(site: str) -> str:
    return f"site {site}" if site else "all sites"


def _chart(part: Part, pair: tuple[str, ...], shot: int, found: Mapping[Line, Cells], series: Sequence[str]) -> Figure:
    marks: dict[tuple[str, ...], dict[str, Interval]] = {
        (line.label,): {_series(site): cell for (site, of), cell in cells.items() if of == pair}
        for line, cells in found.items()
    }
    told = f"{' and '.join(pair)}: AUC within one site and over all at k = {shot}, {part.name}"
    kinds = sorted({cell.kind for cells in marks.values() for cell in cells.values()})
    over = " or ".join(kinds).replace("lesions", f"{part.group}s")
    words = f"{' and '.join(pair)}; {part.name}, k = {shot}. Intervals are 95 % {over}."
    return compared(marks, series, told, words)

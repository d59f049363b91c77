"""Tables 1 to 3 beside the paper's figures, and what stands in none of them."""

import math
from collections.abc import Mapping, Sequence

from rareshot.evaluated import Evaluation
from rareshot.evaluation import DRAWS, QUERY, RUNS
from rareshot.experiments import WAY, Row, Table
from rareshot.paper_figures import compared
from rareshot.report import Section
from rareshot.report import Table as Drawn
from rareshot.reporting.lines import EPISODES, NOT_RUN, SMOKE, Line, Part
from rareshot.statistics import Interval, interval

NONE = "–"
"""A cell that has no meaning, or whose interval was not drawn; one that was not computed says so."""


def table_sections(part: Part) -> list[Section]:
    """Each table that stands for the part's data: at a glance, then at each k with intervals and seeds."""
    sections, shown = [], set()
    for table, papers in part.tables():
        rows = [(row, line) for row in table.rows for line in part.of(row.key) or (None,)]
        shown |= {row.key for row in table.rows}
        if any(line.at(shot, each) for _, line in rows if line for shot in table.shots for each in ("paper", "full")):
            sections.append(_glance(part, table, rows, papers))
        named = [(_name(row, line, table), line, row.paper if papers else {}) for row, line in rows if line]
        sections += _details(part, table.title.partition(":")[0], named, table.shots, _digits(table))
    rest = [(line.label, line) for line in part.lines if line.row not in shown]
    return sections + _details(part, "Other rows", [(label, line, {}) for label, line in rest], part.shots)


def interval_text(found: Interval | None) -> str:
    """In %, without its mean."""
    if found is None or math.isnan(found.low):
        return NONE
    text = f"{100 * found.low:z.1f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{100 * found.high:z.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def points(difference: float) -> str:
    """A difference of two figures in %, with its sign."""
    return f"{difference:+z.1f}".replace("-", "\N{MINUS SIGN}")


def seeds_text(found: Sequence[Evaluation]) -> str:
    """Mean AUC of each training seed, in %."""
    return ", ".join(f"{100 * each.auc.mean:.1f}" for each in found)


def saying(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Drawn:
    """A table without the columns in which no row has anything to say."""
    columns = list(zip(*rows, strict=True))
    kept = [i for i, column in enumerate(columns) if not i or set(column) - {NONE, NOT_RUN}]
    return Drawn(caption, tuple(header[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows))


def _over(found: Sequence[Evaluation]) -> str:
    """The interval of the mean, and over what: training seeds where there are several."""
    if len(found) == 1:
        auc = found[0].auc
        return f"{interval_text(auc)} {auc.kind.partition(' of ')[0]}"
    over = interval([each.auc.mean for each in found], "over seeds")
    return f"{interval_text(over)} over {len(found)} seeds"


def _name(row: Row, line: Line | None, table: Table) -> str:
    """With the backbone where the label alone would stand for two rows of the table."""
    several = sum(row.label == other.label for other in table.rows) > 1
    return f"{row.label}{f', {row.backbone}' if several else ''}{line.variant if line else ''}"


def _glance(part: Part, table: Table, rows: Sequence[tuple[Row, Line | None]], papers: bool) -> Section:
    header = ["Method", "Backbone"]
    for shot in table.shots:
        k = f"k\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{shot}"
        header += [f"{k}: paper", "ours (difference)"] if papers else [k]
    digits = _digits(table)
    drawn = []
    for row, line in rows:
        cells = [row.label + (line.variant if line else ""), row.backbone]
        for shot in table.shots:
            mean = line.mean(shot, "paper") if line else None
            paper = row.paper.get(shot)
            ours = NOT_RUN
            if line is not None and mean is not None:
                apart = [points(mean - paper)] if papers and paper is not None else []
                notes = "; ".join([*apart, *_short_of(line.at(shot, "paper"))])
                ours = f"{mean:.1f}{f' ({notes})' if notes else ''}"
            cells += [NONE if paper is None else f"{paper:.{digits}f}", ours] if papers else [ours]
        drawn.append(tuple(cells))
    if papers:
        words = "The paper's figures are means over 30 runs, given without an interval."
    elif part.scale == SMOKE:
        words = (
            "The smoke scale shows that everything runs. Its figures mean nothing, and none of the paper's stands here."
        )
    else:
        words = f"The paper's table is of {WAY}-way tasks on {table.data}: none of its figures stands here."
    text = f"""
    Mean AUC in % in the paper protocol: {part.way} rare classes, k support and {QUERY} query images of each, {DRAWS} draws of
    {RUNS} runs, no {part.group} on both sides; several training seeds are averaged. {words}
    Cells of fewer than {EPISODES} episodes say so. Rows without a figure of the paper's are not in its table.
    """
    caption = f"{table.title}. {part.name}; AUC in %, {part.way}-way, paper protocol"
    figures = []
    for shot in table.shots:
        marks = _marks(table, rows, shot, papers)
        if marks:
            told = f"AUC at k = {shot}, {part.name}"
            series = ("the paper", "ours, paper protocol", "ours, full protocol")
            words = f"{part.name}, k = {shot}. Ours of the lowest training seed; lines: 95 % over {part.group}s."
            figures.append(compared(marks, series, told, words))
    return Section(f"{table.title} ({part.name})", text, figures, Drawn(caption, tuple(header), tuple(drawn)))


def _digits(table: Table) -> int:
    """As many as the paper gives."""
    return max(len(str(each).partition(".")[2]) for row in table.rows for each in row.paper.values())


def _marks(
    table: Table, rows: Sequence[tuple[Row, Line | None]], shot: int, papers: bool
) -> dict[tuple[str, ...], dict[str, Interval]]:
    """Of the rows that were run."""
    marks: dict[tuple[str, ...], dict[str, Interval]] = {}
    for row, line in rows:
        cells = {}
        for protocol in ("paper", "full"):
            found = line.at(shot, protocol) if line else ()
            if found:
                cells[f"ours, {protocol} protocol"] = found[0].over_lesions or _bare(found[0].auc)
        if cells and papers and shot in row.paper:
            cells["the paper"] = Interval(row.paper[shot] / 100, math.nan, math.nan, RUNS, "over runs")
        if cells:
            marks[(_name(row, line, table),)] = cells
    return marks


def _bare(found: Interval) -> Interval:
    """Without its bounds: another kind of interval would be taken for one over lesions."""
    return Interval(found.mean, math.nan, math.nan, found.n, found.kind)


Labelled = tuple[str, Line, Mapping[int, float]]
"""Name, line, and the paper's figures by k."""


def _details(part: Part, name: str, lines: Sequence[Labelled], shots: Sequence[int], digits: int = 1) -> list[Section]:
    """A section for each k, with the lines that were run there; the paper's figures with so many digits."""
    sections = []
    for shot in shots:
        there = [each for each in lines if each[1].at(shot, "paper") or each[1].at(shot, "full")]
        if there:
            sections.append(_detail(part, name, there, shot, digits))
    return sections


def _detail(part: Part, name: str, lines: Sequence[Labelled], shot: int, digits: int) -> Section:
    header = ["Method", "the paper's figure"]
    for protocol in ("paper", "full"):
        header += [f"{protocol} protocol: mean", "less the paper's", "95 %", "each seed", f"95 % over {part.group}s"]
    drawn, over, first = [], set(), set()
    for label, line, papers in lines:
        paper = papers.get(shot)
        cells = [label, NONE if paper is None else f"{paper:.{digits}f}"]
        for protocol in ("paper", "full"):
            found, mean = line.at(shot, protocol), line.mean(shot, protocol)
            if mean is None:
                cells += [NOT_RUN, NONE, NONE, NONE, NONE]
                continue
            cells += [
                " ".join([f"{mean:.1f}", *(f"({note})" for note in _short_of(found))]),
                points(mean - paper) if paper is not None and protocol == "paper" else NONE,
                _over(found),
                seeds_text(found) if len(found) > 1 else NONE,
                interval_text(found[0].over_lesions),
            ]
            first.add(found[0].seed)
            if found[0].over_lesions is not None:
                over.add(found[0].over_lesions.n)
        drawn.append(tuple(cells))
    seed, full = ", ".join(map(str, sorted(first))), any(line.at(shot, "full") for _, line, _ in lines)
    groups = f"""The interval over {part.group}s ({", ".join(map(str, sorted(over)))} of them) is of training seed {seed} alone
    and says what other {part.group}s to be judged might give: not what others to learn from, nor another training, would."""
    text = f"""
    The mean is over training seeds, where several were run, and then its interval is over them: what another training would
    give. With one seed it is over draws of {RUNS} runs or over episodes, and says nothing of that. {groups if over else ""}
    {f"The full protocol takes one image of every remaining {part.group} as query." if full else ""} Rows that were not run at
    this k are left out.
    """
    caption = f"{name} at k = {shot}. {part.name}; AUC in %, {part.way}-way"
    heading = f"{name} at k = {shot} with intervals ({part.name})"
    return Section(heading, text, table=saying(caption, header, drawn))


def _short_of(found: Sequence[Evaluation]) -> list[str]:
    """What is to be said of evaluations with fewer episodes than a whole one has."""
    least = min(len(each.results) for each in found)
    return [f"{least} episodes"] if least < EPISODES else []

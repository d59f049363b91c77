"""What may flatter a learner: seeing the other query images, one lesion or patient on both sides, the camera of a site."""

from collections.abc import Iterator, Sequence

from rareshot.evaluated import Evaluation, same_episodes
from rareshot.experiments import TRANSDUCTIVE
from rareshot.paper_figures import compared
from rareshot.report import Section, Table
from rareshot.reporting.lines import Part
from rareshot.reporting.sites import site_section
from rareshot.reporting.tables import interval_text, points
from rareshot.statistics import Interval

Twins = tuple[str, int, Evaluation, Evaluation]
"""Label, k, and the two evaluations of one training seed."""


def twin_sections(part: Part) -> list[Section]:
    """The comparisons that the evaluations of a part allow."""
    sections = []
    transductive = list(_transductive(part))
    if transductive:
        text = """
        A transductive learner normalises each query image by the others, so that its answer depends on which were sent with it.
        The inductive one answers from that image and the support set alone, which is what a clinic has. Both were trained
        and judged in their own way; the difference is over the episodes that both met.
        """
        sections.append(_section(part, "Inductive or transductive", ("inductive", "transductive"), text, transductive))
    image_level = list(_by_image(part))
    if image_level and part.group != "image":
        text = f"""
        Drawn by image, a photograph of a query {part.group} may stand in the support set: the learner can then recognise the
        {part.group} instead of the disease. But {part.group}s with many photographs also count more, and those may be harder or
        easier than others. The episodes are not the same on both sides, so these are differences of means.
        """
        names = (f"by {part.group}", "by image")
        sections.append(_section(part, f"One {part.group} on both sides", names, text, image_level))
    sites = site_section(part)
    if sites is not None:
        sections.append(sites)
    return sections


def _transductive(part: Part) -> Iterator[Twins]:
    """Lines whose rows are named as twins, in the `full` protocol where both have it."""
    for line in part.lines:
        twins = [twin for twin in part.of(line.row + TRANSDUCTIVE) if twin.is_twin_of(line)]
        for twin, shot in ((twin, shot) for twin in twins for shot in part.shots):
            for protocol in ("full", "paper"):
                pair = _same_seed(line.at(shot, protocol), twin.at(shot, protocol))
                if pair and same_episodes(*pair):
                    yield (f"{line.label}, k = {shot}, {protocol}", shot, *pair)
                    break


def _by_image(part: Part) -> Iterator[Twins]:
    for line in part.lines:
        for shot in part.shots:
            pair = _same_seed(line.at(shot, "paper"), line.at(shot, "paper", by_image=True))
            if pair:
                yield (f"{line.label}, k = {shot}", shot, *pair)


def _same_seed(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation] | None:
    """Of the lowest training seed that both have."""
    seeds = {each.seed: each for each in second}
    return next(((each, seeds[each.seed]) for each in first if each.seed in seeds), None)


def _section(part: Part, heading: str, names: tuple[str, str], text: str, twins: Sequence[Twins]) -> Section:
    header = ("Method", names[0], "95 %", names[1], "95 %", "Difference", "Training seed")
    rows: list[tuple[str, ...]] = []
    marks: dict[tuple[str, ...], dict[str, Interval]] = {}
    for label, _, first, second in twins:
        one, other = _best_interval(first), _best_interval(second)
        marks[(label,)] = {names[0]: one, names[1]: other}
        common = min(len(first.results), len(second.results)) if same_episodes(first, second) else None
        apart = 100 * float(second.aucs[:common].mean() - first.aucs[:common].mean())
        cells = (f"{100 * one.mean:.1f}", interval_text(one), f"{100 * other.mean:.1f}", interval_text(other))
        rows.append((label, *cells, points(apart), str(first.seed)))
    kinds = sorted({each.kind for cells in marks.values() for each in cells.values()})
    kinds = [kind.replace("lesions", f"{part.group}s") for kind in kinds]
    words = f"{part.name}. Intervals are 95 % {' or '.join(kinds)}."
    drawn = compared(marks, names, f"{heading}: AUC, {part.name}", words)
    table = Table(
        f"{heading}. {part.name}; AUC in %, {part.way}-way. Intervals {' or '.join(kinds)}", header, tuple(rows)
    )
    return Section(f"{heading} ({part.name})", text, [drawn], table)


def _best_interval(evaluation: Evaluation) -> Interval:
    """Over lesions, where the summary has it."""
    return evaluation.over_lesions or evaluation.auc

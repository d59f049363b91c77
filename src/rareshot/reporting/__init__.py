"""The report: all that lies under a folder as one page, and its tables as Markdown and LaTeX (not in the paper's text).

It reads raw lines and logs, no image and no learner. Every heading and caption names the scale and the data set, so that no
figure can be taken for another's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rareshot.gathered import gather
from rareshot.report import Section, Table, page
from rareshot.reporting.differences import difference_sections
from rareshot.reporting.lines import SMOKE, Part, parts_of
from rareshot.reporting.making import making_section
from rareshot.reporting.tables import table_sections
from rareshot.reporting.training import fine_tuning_sections, loss_section, training_sections
from rareshot.reporting.twins import twin_sections
from rareshot.tables_text import latex, markdown

TITLE = "Rare diseases from a few images: the paper's tables, run again"


@dataclass(frozen=True)
class Report:
    """The texts of the three files."""

    html: str
    """One page that holds all it shows."""
    markdown: str
    """The page's tables."""
    latex: str
    """The same, for booktabs."""


def report(folder: Path) -> Report:
    """Draw the report of all results under a folder.

    Raises:
        FileNotFoundError: if it is not a folder.
        ValueError: if it holds no evaluation, or a damaged or contradictory file, which is named.
    """
    gathered = gather(folder)
    parts = parts_of(gathered)
    sections: list[Section] = []
    for part in parts:
        sections += [*table_sections(part), *difference_sections(part), *twin_sections(part), *training_sections(part)]
    sections += [loss_section(), *fine_tuning_sections(gathered.fine_tuning)]
    of_results = _tables(sections)  # how they were made is no table for a paper
    sections += [making_section(part, folder) for part in parts]
    lead = "\n\n".join([*map(_lead, parts), "For research use; not a medical device."])
    return Report(page(TITLE, lead, sections), markdown(TITLE, _tables(sections)), latex(TITLE, of_results))


def _tables(sections: Sequence[Section]) -> list[Table]:
    return [section.table for section in sections if section.table is not None]


def _lead(part: Part) -> str:
    """The part's main figures in a sentence or two; none of a scale whose figures mean nothing."""
    if part.scale == SMOKE:
        return f"{part.name}: this scale shows that everything runs; its figures mean nothing."
    protocol = "paper" if any(line.at(shot, "paper") for line in part.lines for shot in part.shots) else "full"
    shots = [shot for shot in part.shots if any(line.at(shot, protocol) for line in part.lines)]
    if not shots:
        only = "by image only" if any(each.by_image for each in part.evaluations) else "within single sites only"
        return f"{part.name}: evaluated {only}."
    shot = max(shots)
    there = [line for line in part.lines if line.at(shot, protocol)]
    done = [line for line in there if all(each.finished for each in line.at(shot, protocol))] or there
    found = {line.label: mean for line in done if (mean := line.mean(shot, protocol)) is not None}
    best = max(found, key=found.__getitem__)
    told = f"{part.name}: with {shot} images of each class the highest mean AUC, {found[best]:.1f} %, is that of {best}"
    daml = part.reference
    ours = daml.mean(shot, protocol) if daml is not None else None
    if daml is not None and ours is not None and daml.label != best:
        told += f"; {daml.label} has {ours:.1f} %"
    seeds = {each.seed for each in part.evaluations}
    trained = "one training seed" if len(seeds) == 1 else f"up to {len(seeds)} training seeds"
    return f"{told} ({protocol} protocol, {len(there)} method{'s' if len(there) > 1 else ''}, {trained})."

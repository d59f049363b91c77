"""The tables of README.md and docs/results.md, from the raw lines in results/.

    python experiments/tables.py --write

Each stands between `<!-- NAME -->` and `<!-- end -->`. Without `--write` it says which are not those of the lines.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tyro

from rareshot.evaluation import DRAWS, RUNS, by_pair
from rareshot.experiments import TABLES, Row
from rareshot.gathered import Evaluation, Record, gather
from rareshot.reporting.lines import NOT_RUN, WAY, Part, parts_of
from rareshot.statistics import Interval, interval

ROOT = Path(__file__).resolve().parents[1]
SEVERAL = 3
"""Training seeds from which an interval over them says something; two are given one by one."""


class Lines(NamedTuple):
    """What the tables are drawn from."""

    part: Part
    """The laptop scale's evaluations on ISIC 2018, 2-way, of what was trained there."""
    curves: Sequence[Record]
    """Lines of fig3.jsonl."""
    unseen: Sequence[Record]
    """Lines of unseen-disease.jsonl."""


def main(write: bool = False) -> None:
    """Check the tables, or write them.

    Args:
        write: put what the lines say in their place.
    """
    lines = laptop(ROOT / "results")
    for file in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        before = file.read_text()
        after = filled(before, lines)
        if before == after:
            continue
        print(
            f"{file.relative_to(ROOT)}: {'written' if write else 'its tables are not those of the raw lines; --write'}"
        )
        if write:
            file.write_text(after)


def laptop(results: Path) -> Lines:
    """The laptop scale's lines on ISIC 2018."""
    gathered, wanted = gather(results / "laptop"), ("isic2018", "isic2018", WAY)
    (part,) = (part for part in parts_of(gathered) if (part.data, part.trained_on, part.way) == wanted)
    curves = [line for line in gathered.fine_tuning if line["data"] == part.data]
    unseen = [json.loads(line) for line in (results / "unseen-disease.jsonl").read_text().splitlines()]
    return Lines(part, curves, unseen)


def filled(text: str, lines: Lines) -> str:
    """The text with every table between its marks drawn anew."""
    for name, draw in BLOCKS.items():
        start = f"<!-- {name} -->\n"
        if start in text:
            head, _, tail = text.partition(start)
            text = head + start + draw(lines) + "<!-- end -->" + tail.partition("<!-- end -->")[2]
    return text


def table(part: Part, key: str) -> str:
    """A table of the paper: rows by k, the paper's figure and ours."""
    shots = TABLES[key].shots
    lines = ["| method | backbone | " + " | ".join(f"k = {k}: paper | ours" for k in shots) + " |"]
    lines.append("|---" * (2 + 2 * len(shots)) + "|")
    for row in TABLES[key].rows:
        cells = [f"{row.paper[k]:.{2 if key == 'table1' else 1}f} | " if k in row.paper else "– | " for k in shots]
        ours = [cell + auc(part, row, k) for cell, k in zip(cells, shots, strict=True)]
        lines.append(f"| {row.label} | {row.backbone} | {' | '.join(ours)} |")
    return "\n".join(lines) + "\n"


def auc(part: Part, row: Row, shot: int, protocol: str = "paper") -> str:
    """AUC in %: the mean with its interval, over seeds where there are enough, else over draws or episodes of seed 0."""
    found = runs_of(part, row, shot, protocol)
    means = [each.auc.mean for each in found]
    if not found:
        return NOT_RUN
    short = min(len(each.results) for each in found)
    mark = f"; {short} episodes" if short < DRAWS * RUNS else ""
    if len(found) == 1:
        return spanned(found[0].auc, mark)
    if len(found) < SEVERAL:
        return f"{' and '.join(f'{100 * mean:.1f}' for mean in means)} (two seeds{mark})"
    return spanned(interval(means, "over training seeds"), f"; {len(found)} seeds{mark}")


def runs_of(part: Part, row: Row, shot: int, protocol: str) -> tuple[Evaluation, ...]:
    """One evaluation for each training seed.

    Raises:
        ValueError: if the row has variants, whose seeds must not be counted together.
    """
    lines = part.of(row.key)
    if len(lines) > 1:
        raise ValueError(
            f"{row.key} stands for {', '.join(line.label for line in lines)}; one of them belongs elsewhere"
        )
    return lines[0].at(shot, protocol) if lines else ()


def spanned(found: Interval, more: str = "") -> str:
    """In %: mean and interval."""
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f}{more})"


def seeds(part: Part) -> str:
    """The three methods of the paper's claim, seed by seed, k = 5."""
    rows = [row for row in TABLES["table1"].rows if row.key in ("maml", "task-sampling", "daml")]
    found = {row.key: {each.seed: each for each in runs_of(part, row, 5, "paper")} for row in rows}
    lines = ["| training seed | " + " | ".join(row.label for row in rows) + " | MAML less DAML |", "|---" * 5 + "|"]
    for seed in sorted({seed for each in found.values() for seed in each}):
        cells = [spanned(found[row.key][seed].auc) if seed in found[row.key] else NOT_RUN for row in rows]
        pair = [found[key].get(seed) for key in ("maml", "daml")]
        apart = NOT_RUN
        if pair[0] and pair[1]:
            apart = f"{100 * (pair[0].auc.mean - pair[1].auc.mean):+.1f}".replace("-", "\N{MINUS SIGN}")
        lines.append(f"| {seed} | {' | '.join(cells)} | {apart} |")
    return "\n".join(lines) + "\n"


def images(part: Part) -> str:
    """Lesions drawn beside images drawn, seed 0, k = 5."""
    lines = ["| method | backbone | lesions drawn | images drawn |", "|---" * 4 + "|"]
    for row in TABLES["table1"].rows:
        found = [line.at(5, "paper", by_image=True) for line in part.of(row.key)]
        if found and found[0]:
            lesions = runs_of(part, row, 5, "paper")[0]
            lines.append(f"| {row.label} | {row.backbone} | {spanned(lesions.auc)} | {spanned(found[0][0].auc)} |")
    return "\n".join(lines) + "\n"


def protocols(part: Part) -> str:
    """Seed 0 by both protocols, k = 5, with intervals over episodes or draws and over lesions."""
    lines = [
        "| method | `paper`: 20 draws of 30 runs | over lesions | `full`: 600 episodes | over lesions |",
        "|---" * 5 + "|",
    ]
    for row in TABLES["table1"].rows:
        cells, known = [row.label], False
        for protocol in ("paper", "full"):
            found = [each for each in runs_of(part, row, 5, protocol) if not each.seed]
            over = found[0].over_lesions if found else None
            cells += [
                spanned(found[0].auc) if found else NOT_RUN,
                spanned(over).partition(" ")[2].strip("()") if over else "",
            ]
            known = bool(found) if protocol == "full" else known
        if known:
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sites(part: Part) -> str:
    """Each pair of classes over all sites and within one, seed 0, k = 5."""
    rows = [row for row in TABLES["table1"].rows if row.key in ("maml", "daml", "logistic")]
    found = {row.label: by_pair(runs_of(part, row, 5, "site")[0].results) for row in rows}
    lines = ["| classes | site | " + " | ".join(found) + " |", "|---" * (2 + len(found)) + "|"]
    first = next(iter(found.values()))
    for site, classes in sorted(first, key=lambda key: (key[1], key[0])):
        named = " and ".join(classes) if not site else ""
        cells = [spanned(cells[site, classes]) for cells in found.values()]
        lines.append(f"| {named} | {site or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fig3(lines: Lines) -> str:
    """Loss on the k images, and AUC on others: before the first step, at the best one, and at the last."""
    drawn = [
        "| k | loss: first, after 5 steps, last | AUC: after 5 steps | at its best step | last |",
        "|---" * 5 + "|",
    ]
    for shot in sorted({line["shot"] for line in lines.curves}):
        curve = sorted((line["step"], line["loss"], line["auc"]) for line in lines.curves if line["shot"] == shot)
        best = max(curve, key=lambda point: point[2])
        losses = ", ".join(f"{curve[at][1]:.2f}" for at in (0, 1, -1))
        drawn.append(
            f"| {shot} | {losses} | {100 * curve[1][2]:.1f} | {100 * best[2]:.1f} ({best[0]}) | {100 * curve[-1][2]:.1f} |"
        )
    return "\n".join(drawn) + "\n"


def unseen(lines: Lines) -> str:
    """Relation Net over training, without one common disease."""
    drawn = ["| iterations | two diseases that it was trained on | the one left out, and another |", "|---" * 3 + "|"]
    for line in lines.unseen:
        if (line["method"], line["left_out"]) == ("relation", "bcc"):
            areas = [line[name] for name in ("auc_seen", "auc_unseen")]
            cells = [f"{100 * a['mean']:.1f} ({100 * a['low']:.1f} to {100 * a['high']:.1f})" for a in areas]
            drawn.append(f"| {line['iteration']} | {' | '.join(cells)} |")
    return "\n".join(drawn) + "\n"


BLOCKS: Mapping[str, Callable[[Lines], str]] = {
    "table1": lambda lines: table(lines.part, "table1"),
    "table2": lambda lines: table(lines.part, "table2"),
    "seeds": lambda lines: seeds(lines.part),
    "protocols": lambda lines: protocols(lines.part),
    "sites": lambda lines: sites(lines.part),
    "images": lambda lines: images(lines.part),
    "fig3": fig3,
    "unseen": unseen,
}
"""Mark → what stands there."""


if __name__ == "__main__":
    tyro.cli(main)

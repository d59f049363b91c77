"""How far apart are two trainings of one cell, on two machines? Beside each other, episode by episode.

A stranger trains cells anew, with `rareshot reproduce … --out STRANGERS`, and this puts them beside those of ours:

    python experiments/again.py --ours results/laptop --again STRANGERS/laptop --out results/again.jsonl

Adds a line a cell: the AUC of every episode in both, and by which versions each was judged and trained. A folder with both
trainings could not be reported on, since two files would hold one cell.
"""

import json
from pathlib import Path
from typing import Any

import tyro

from rareshot.atomic import write_atomically
from rareshot.evaluated import Evaluation, same_episodes
from rareshot.experiments import TABLES
from rareshot.gathered import gather
from rareshot.run_record import read_run

CELL = ("row", "protocol", "shot", "seed", "data", "by_image")
"""What names a cell of one scale."""


def main(ours: Path, again: Path, out: Path) -> None:
    """Write the cells that both have.

    Args:
        ours: results of `rareshot reproduce`.
        again: the same of another machine.
        out: the file of lines; those that are there stay.
    """
    first = {_cell(each): each for each in gather(ours).evaluations}
    there = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    lines = []
    for each in gather(again).evaluations:
        one = first.get(_cell(each))
        if one is None or not same_episodes(one, each):
            raise ValueError(f"{each.file}: {ours} has no such cell on the same episodes; leave it out")
        line = {**dict(zip(CELL, _cell(each), strict=True)), "ours": _told(one), "again": _told(each)}
        lines.append(json.dumps(line))
    new = [line for line in lines if line not in there]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, "".join(f"{line}\n" for line in [*there, *new]).encode())
    print(f"{out}: {len(new)} cells added, {len(there)} were there")


def _cell(evaluation: Evaluation) -> tuple[Any, ...]:
    return tuple(getattr(evaluation, name) for name in CELL)


def _told(evaluation: Evaluation) -> dict[str, Any]:
    return {"versions": evaluation.header["versions"], **_trained(evaluation), "aucs": evaluation.aucs.tolist()}


def _trained(evaluation: Evaluation) -> dict[str, Any]:
    """Versions that trained what was judged, perhaps on another day; nothing where its run is not there."""
    row = next(row for table in TABLES.values() for row in table.rows if row.key == evaluation.row)
    name, _, _ = row.fitted(evaluation.shot)
    file = evaluation.file.parents[2] / "runs" / f"{name}-seed{evaluation.seed}" / "run.json"
    return {"trained": dict(read_run(file.parent).versions)} if file.is_file() else {}


if __name__ == "__main__":
    tyro.cli(main)

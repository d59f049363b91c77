"""How the figures of a page came about, and which are missing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rareshot.evaluation import PROTOCOLS
from rareshot.experiments import ADAPTING
from rareshot.methods.supervised import Supervised
from rareshot.report import Section, Table
from rareshot.reporting.lines import EPISODES, Part
from rareshot.reporting.training import SAME


def making_section(part: Part, folder: Path) -> Section:
    """Versions, commit, data and seeds of every evaluation of a part, and its empty cells."""
    found = part.evaluations
    runs = [each.header["run"] for each in found]
    sizes = sorted({run["size"] for run in runs})
    rows = [
        ("Scale", part.scale),
        ("Rare classes", _listed(name for each in found for name in each.header["data"]["rare"])),
        ("Trained on", _listed(run["data"].get("name", "not recorded") for run in runs)),
        ("Common classes", _listed(name for run in runs for name in run["data"].get("common", ()))),
        ("Image size", ", ".join(f"{size} px" for size in sizes)),
        ("Fingerprint of the rare images", _listed(each.header["data"]["fingerprint"] for each in found)),
        ("Fingerprint of the common images", _listed(run["data"].get("fingerprint", "not recorded") for run in runs)),
        ("Training seeds", _listed(run["seed"] for run in runs)),
        ("Seed of the episodes", _listed(each.header["seed"] for each in found)),
        ("Trained with", _versions(_trained_with(part)) or "not recorded"),
        ("Evaluated with", _versions(each.header["versions"] for each in found)),
        ("Evaluations", f"{len(found)}, of {sum(len(each.results) for each in found)} episodes"),
        (
            "Transductive methods",
            "; ".join(line.label for line in part.lines if not line.evaluations[0].inductive) or "none",
        ),
    ]
    stopped = [each.file.relative_to(folder).as_posix() for each in found if not each.finished]
    if stopped:
        rows.append(("Without a summary of all their lines: running, or stopped", "; ".join(stopped)))
    begun = [each.file.relative_to(folder).as_posix() for line in part.lines for each in line.begun]
    if begun:
        rows.append(("With fewer episodes than another seed's, and so in no table yet", "; ".join(begun)))
    rows += [(f"Missing from {key}", words) for key, words in _missing(part)]
    text = f"""
    Drawn from the raw lines, one an episode, their summaries and the logs; a whole evaluation has {EPISODES} lines. No image, no
    learner was read.

    For research use; not a medical device. No figure here says how well a patient would be diagnosed.
    """
    return Section(f"How it was run ({part.name})", text, table=Table(f"{part.name}", ("What", "Which"), tuple(rows)))


def _trained_with(part: Part) -> Iterable[Mapping[str, Any]]:
    """From the headers, or else from run.json: `rareshot reproduce` keeps them there."""
    for each in part.evaluations:
        run = each.header["run"]
        if "versions" in run:
            yield run["versions"]
        for log in part.logs:
            if "iterations" in log.run["method"] and _trains(log.run) == _trains(run):
                yield log.run["versions"]


def _trains(run: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a training; rows that differ in what plain training does not see share one."""
    method = run["method"]
    if method.get("kind") == Supervised.__name__:
        method = {name: value for name, value in method.items() if name not in ADAPTING}
    return {**{name: run[name] for name in SAME}, "method": method}


def _asked(part: Part) -> tuple[str, ...]:
    """Protocols that the data allow, as far as their lines tell: `site` where anything was evaluated by it."""
    return tuple(each for each in PROTOCOLS if each != "site" or any(it.protocol == each for it in part.evaluations))


def _missing(part: Part) -> Iterable[tuple[str, str]]:
    for table in part.tables_begun():
        for protocol in _asked(part):
            cells = [(row, shot) for row in table.rows for shot in table.shots]
            empty: dict[str, list[str]] = {}
            for row, shot in cells:
                if not any(line.at(shot, protocol) for line in part.of(row.key)):
                    empty.setdefault(row.key, []).append(str(shot))
            count = sum(map(len, empty.values()))
            named = "; ".join(f"{key} (k = {', '.join(shots)})" for key, shots in empty.items())
            if count:
                yield f"{table.key}, {protocol} protocol", f"{count} of {len(cells)} cells: {named}"


def _versions(found: Iterable[Mapping[str, Any]]) -> str:
    """Each name once, with every version that had a part in it; `none` where some had none, as a GPU."""
    each_one = list(found)
    names = dict.fromkeys(name for each in each_one for name in each if each[name])
    return "; ".join(f"{name} {_listed(each.get(name) or 'none' for each in each_one)}" for name in names)


def _listed(values: Iterable[Any]) -> str:
    """Each once, in order of first appearance."""
    return ", ".join(dict.fromkeys(str(value) for value in values))

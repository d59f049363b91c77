"""Raw lines as `rareshot evaluate` and `reproduce` leave them, made from a seed."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rareshot.evaluation import METRICS, Query, RunResult, line_of
from rareshot.experiments import TABLES
from rareshot.metrics import all_metrics
from rareshot.results import header_of, summary_of
from rareshot.run_record import Run, write_run
from rareshot.scales import at_scale
from rareshot.types import Method

CLASSES = ("a", "b", "c")
ROWS = {row.key: row for table in TABLES.values() for row in table.rows}
VERSIONS = {"rareshot": "0", "commit": "abc"}


def made_run(
    method: Method,
    name: str = "maml",
    *,
    seed: int = 0,
    scale: str = "laptop",
    size: int = 64,
    data: str = "isic2018",
) -> Run:
    facts = {"name": data, "common": ["x", "y"], "fingerprint": "common"}
    return Run(method, name, seed, size, scale, facts, VERSIONS)


def write_evaluation(
    folder: Path,
    row: str,
    shift: float,
    *,
    plain: bool = False,
    method: Mapping[str, Any] | None = None,
    protocol: str = "paper",
    shot: int = 5,
    seed: int = 0,
    scale: str = "laptop",
    data: str = "isic2018",
    trained_on: str | None = None,
    fingerprint: str = "rare",
    inductive: bool = True,
    by_image: bool = False,
    episodes: int = 6,
    summary: bool = True,
    classes: tuple[str, ...] = CLASSES,
) -> Path:
    """The file of raw lines; `shift` is how far the classes' scores lie apart: larger means a larger AUC.

    Args:
        plain: as `rareshot evaluate` writes it, without a row.
        method: fields that differ from the row's method.
        trained_on: None: the same data.
    """
    fitted = (
        at_scale(replace(ROWS[row].at(shot), **(method or {})), scale)
        if row in ROWS
        else at_scale(ROWS["maml"].method, scale)
    )
    run = made_run(
        fitted, ROWS[row].command if row in ROWS else "maml", seed=seed, scale=scale, data=trained_on or data
    )
    card = SimpleNamespace(name=data)
    rare: Any = SimpleNamespace(card=card, classes=classes, fingerprint=lambda: fingerprint)
    fresh = row in ROWS and ROWS[row].untrained
    header = header_of(
        run, rare, inductive=inductive, protocol=protocol, way=2, shot=shot, seed=0, untrained=fresh, by_image=by_image
    )
    if not plain:
        header["run"].pop("versions")
        header["row"] = row
    results, queries = [], []
    pairs = list(itertools.combinations(classes, 2))
    for i in range(episodes):
        rng = np.random.default_rng((i, seed, int(10 * shift)))
        labels = np.repeat([0, 1], 6)
        scores = 1 / (1 + np.exp(-rng.normal(shift * labels)))
        metrics = all_metrics(np.stack([1 - scores, scores], 1), labels)
        site = ("", "north")[i % 2] if protocol == "site" else ""
        results.append(RunResult(protocol, i, pairs[i % len(pairs)], site, 12, 0.1, {m: metrics[m] for m in METRICS}))  # type: ignore[arg-type]
        queries.append(Query(scores.tolist(), labels.tolist(), list(range(12))))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{protocol}-2way-{shot}shot{'-by-image' if by_image else ''}.jsonl"
    lines = [{**header, "versions": VERSIONS}, *map(line_of, results)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    file.with_suffix(".queries.jsonl").write_text("".join(json.dumps(query._asdict()) + "\n" for query in queries))
    if summary:
        file.with_suffix(".summary.json").write_text(json.dumps(summary_of(header, results, queries)))
    return file


def write_log(
    folder: Path, row: str, *, seed: int = 0, shot: int = 5, first: int = 1, last: int = 20, data: str = "isic2018"
) -> None:
    """run.json and log.jsonl of a row's run at the laptop scale."""
    method = replace(at_scale(ROWS[row].at(shot), "laptop"), iterations=1000, warmup=500)
    write_run(folder, made_run(method, ROWS[row].command, seed=seed, data=data))
    records = [
        {"iteration": i, "loss": 1 / i, "tasks": [{"classes": ["x", "y"], "loss": 1 / i}]}
        | ({"validation_auc": 0.5 + i / 100} if i % 5 == 0 else {})
        for i in range(first, last + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

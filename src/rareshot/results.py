"""Evaluations on disk: one raw line an episode behind a header that says of what, and a summary drawn from them.

RUN/<evaluation>.jsonl            the header, then a line an episode
RUN/<evaluation>.queries.jsonl    what was said of every query image: needed for intervals over lesions
RUN/<evaluation>.summary.json     the header again, with means and intervals
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rareshot.checkpoint import Run, versions, write_atomically
from rareshot.data.collection import LabelledImages
from rareshot.evaluation import (
    METRICS,
    Plan,
    Query,
    RunResult,
    by_pair,
    evaluate,
    line_of,
    overall,
    query_scores,
    result_of,
)
from rareshot.statistics import bootstrap_over_groups
from rareshot.types import Learner

ObserveEpisode = Callable[[int, float], None]
"""Called after every episode with their number so far and the mean AUC; what it raises stops the evaluation, nothing lost."""


def name_of(protocol: str, way: int, shot: int, *, untrained: bool = False, by_image: bool = False) -> str:
    """What the files of an evaluation are called."""
    return f"{'untrained-' if untrained else ''}{protocol}-{way}way-{shot}shot{'-by-image' if by_image else ''}"


def header_of(
    run: Run,
    learner: Learner,
    rare: LabelledImages,
    *,
    protocol: str,
    way: int,
    shot: int,
    seed: int,
    untrained: bool = False,
    by_image: bool = False,
    episodes: int | None = None,
) -> dict[str, Any]:
    """The first line: what was evaluated, on what, how. Two evaluations whose lines may stand in one file have the same one.

    Args:
        episodes: how many of each pair at each site; None for the other protocols, whose lines can be added to.
    """
    return {
        "run": {**run.to_json(), "untrained": untrained},
        "inductive": learner.inductive,
        "protocol": protocol,
        "way": way,
        "shot": shot,
        "seed": seed,
        "by_image": by_image,
        "episodes": episodes,
        "data": {"name": rare.card.name, "rare": list(rare.classes), "fingerprint": rare.fingerprint()},
    }


def judge(
    folder: Path,
    name: str,
    header: Mapping[str, Any],
    plans: Sequence[Plan],
    learner: Learner,
    observe: ObserveEpisode,
) -> tuple[list[RunResult], dict[str, Any]]:
    """Results of all plans, those on disk and, appended one by one, those that were missing; and their summary.

    Raises:
        ValueError: if the file is damaged, or holds results of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, scores = folder / f"{name}.jsonl", folder / f"{name}.queries.jsonl"
    results, queries = _done(lines, scores, header)
    if not results:
        write_atomically(lines, (json.dumps({**header, "versions": versions()}) + "\n").encode())
        write_atomically(scores, b"")
    total = sum(each.metrics["auc"] for each in results)
    with lines.open("a") as out, scores.open("a") as out_scores:
        if results:
            observe(len(results), total / len(results))
        for result, query in evaluate(learner, plans[len(results) :], header["protocol"]):
            out_scores.write(json.dumps(query._asdict()) + "\n")
            out_scores.flush()
            out.write(json.dumps(line_of(result)) + "\n")
            out.flush()
            results.append(result)
            queries.append(query)
            total += result.metrics["auc"]
            observe(len(results), total / len(results))
    results, queries = results[: len(plans)], queries[: len(plans)]
    summary = summary_of(header, results, queries)
    write_atomically(folder / f"{name}.summary.json", json.dumps(summary, indent=1).encode())
    return results, summary


def summary_of(header: Mapping[str, Any], results: list[RunResult], queries: list[Query]) -> dict[str, Any]:
    """Means and intervals as plain JSON values."""
    summary: dict[str, Any] = {**header, "versions": versions()}
    if header["protocol"] != "site":
        summary["metrics"] = {metric: asdict(overall(results, metric)) for metric in METRICS}
        if header["way"] == 2:
            summary["auc_over_lesions"] = asdict(bootstrap_over_groups(query_scores(queries)))
    summary["pairs"] = [
        {"site": site, "classes": list(classes), "auc": asdict(cell)}
        for (site, classes), cell in by_pair(results).items()
    ]
    summary["seconds_per_episode"] = float(np.median([result.seconds for result in results]))
    return summary


def evaluations(folder: Path) -> dict[str, Path]:
    """Name → file of raw lines, of every evaluation in a folder.

    Raises:
        FileNotFoundError: if it is not a folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a run's folder with results of `rareshot evaluate`")
    return {file.stem: file for file in folder.glob("*-*way-*shot*.jsonl") if not file.name.endswith(".queries.jsonl")}


def read_lines(file: Path) -> tuple[dict[str, Any], list[RunResult]]:
    """Header and results of a file of raw lines.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        header, *lines = map(json.loads, file.read_text().splitlines())
        return dict(header), [result_of(line) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}); evaluate again") from error


def read_queries(file: Path) -> list[Query]:
    """What was said of the query images of a file of raw lines; empty where that was not kept."""
    scores = file.with_suffix(".queries.jsonl")
    return [Query(**json.loads(line)) for line in scores.read_text().splitlines()] if scores.exists() else []


def _done(lines: Path, scores: Path, header: Mapping[str, Any]) -> tuple[list[RunResult], list[Query]]:
    """What an earlier call with the same header left; nothing if it was another. Both files are cut to what both hold."""
    if not (lines.exists() and scores.exists()):
        return [], []
    written = [line for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    written_scores = [line for line in scores.read_text().splitlines(keepends=True) if line.endswith("\n")]
    try:
        before = json.loads(written[0])
        if {key: before.get(key) for key in header} != json.loads(json.dumps(header)):
            raise ValueError(
                f"{lines} holds results of another run, data set or seed; move it away, or choose another --out"
            )
        count = min(len(written) - 1, len(written_scores))
        results = [result_of(json.loads(line)) for line in written[1 : count + 1]]
        queries = [Query(**json.loads(line)) for line in written_scores[:count]]
    except (json.JSONDecodeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{lines} is damaged ({error}); move it away and evaluate again") from error
    write_atomically(lines, "".join(written[: count + 1]).encode())
    write_atomically(scores, "".join(written_scores[:count]).encode())
    return results, queries

"""Evaluations on disk: one raw line an episode behind a header that says of what, and a summary drawn from them.

RUN/<evaluation>.jsonl            the header, then a line an episode
RUN/<evaluation>.queries.jsonl    what was said of every query image: needed for intervals over lesions
RUN/<evaluation>.summary.json     the header again, with means and intervals
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rareshot.data.collection import LabelledImages
from rareshot.evaluation import (
    METRICS,
    SITE_EPISODES,
    Place,
    Query,
    RunResult,
    by_pair,
    overall,
    place_of,
    query_scores,
    result_of,
)
from rareshot.lesion_bootstrap import TooFewLesionsError, bootstrap_apart_over_groups, bootstrap_over_groups
from rareshot.raw_lines import finite, read_json, whole_lines
from rareshot.run_record import Run, versions


def name_of(protocol: str, way: int, shot: int, *, untrained: bool = False, by_image: bool = False) -> str:
    """What the files of an evaluation are called."""
    return f"{'untrained-' if untrained else ''}{protocol}-{way}way-{shot}shot{'-by-image' if by_image else ''}"


def header_of(
    run: Run,
    rare: LabelledImages,
    *,
    inductive: bool | None,
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
        inductive: does the learner answer on each image by itself?
        episodes: how many of each pair at each site; None for the other protocols, whose lines can be added to.
    """
    return {
        "run": {**run.to_json(), "untrained": untrained},
        "inductive": inductive,
        "protocol": protocol,
        "way": way,
        "shot": shot,
        "seed": seed,
        "by_image": by_image,
        "episodes": episodes,
        "data": {"name": rare.card.name, "rare": list(rare.classes), "fingerprint": rare.fingerprint()},
    }


def asked_of(header: Mapping[str, Any], name: str) -> Any:
    """A field of a header; the number of episodes that `site` has if not told otherwise is that number, told or not."""
    value = header.get(name)
    return SITE_EPISODES if name == "episodes" and header.get("protocol") == "site" and value is None else value


def summary_of(header: Mapping[str, Any], results: list[RunResult], queries: list[Query]) -> dict[str, Any]:
    """Means and intervals as plain JSON values."""
    summary: dict[str, Any] = {**header, "versions": versions()}
    if header["protocol"] != "site":
        summary["metrics"] = {metric: asdict(overall(results, metric)) for metric in METRICS}
        with suppress(TooFewLesionsError):
            if header["way"] == 2:
                summary["auc_over_lesions"] = asdict(bootstrap_over_groups(query_scores(queries)))
    places = _places(results, queries) if header["protocol"] == "site" else {}
    summary["pairs"] = [
        {"site": site, "classes": list(classes), "auc": asdict(cell), **places.get((site, classes), {})}
        for (site, classes), cell in by_pair(results).items()
    ]
    summary["seconds_per_episode"] = float(np.median([result.seconds for result in results]))
    return summary


def _places(results: Sequence[RunResult], queries: Sequence[Query]) -> dict[Place, dict[str, Any]]:
    """Lesions of each class at each place of the `site` protocol, the AUC over them, and how far it lies below all sites'."""
    found: dict[Place, list[Query]] = {}
    lesions: dict[Place, dict[str, set[int]]] = {}
    for result, query in zip(results, queries, strict=True):
        place = place_of(result)
        found.setdefault(place, []).append(query)
        of_classes = lesions.setdefault(place, {name: set() for name in place[1]})
        for label, group in zip(query.labels, query.groups, strict=True):
            of_classes[result.classes[label]].add(group)
    told: dict[Place, dict[str, Any]] = {}
    for place, own in found.items():
        scores = query_scores(own)
        told[place] = {"lesions": {name: len(groups) for name, groups in lesions[place].items()}}
        everywhere = found.get(("", place[1]), [])
        with suppress(TooFewLesionsError):
            told[place]["auc_over_lesions"] = asdict(bootstrap_over_groups(scores))
            if place[0] and everywhere:
                apart = bootstrap_apart_over_groups(scores, query_scores(everywhere))
                told[place]["less_all_sites_over_lesions"] = asdict(apart)
    return told


def evaluations(folder: Path) -> dict[str, Path]:
    """Name → file of raw lines, of every evaluation in a folder.

    Raises:
        FileNotFoundError: if it is not a folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a run's folder with results of `rareshot evaluate`")
    return {file.stem: file for file in folder.glob("*-*way-*shot*.jsonl") if not file.name.endswith(".queries.jsonl")}


def read_result(file: Path, number: int, text: str) -> RunResult:
    """One line of raw lines behind the first, whoever changed it since.

    Raises:
        ValueError: naming file and line, if it is no episode, or a figure of it is none.
    """
    try:
        result = result_of(read_json(file, number, text))
        sound = (
            type(result.episode) is int
            and isinstance(result.site, str)
            and all(isinstance(name, str) for name in result.classes)
            and all(finite(result.metrics[metric]) for metric in METRICS)
            and 0 <= result.metrics["auc"] <= 1
            and finite(result.seconds)
        )
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{file}, line {number}, is damaged ({error}); move the file away and evaluate again"
        ) from error
    if not sound:
        raise ValueError(f"{file}, line {number}, has figures that are none; move the file away and evaluate again")
    return result


def read_queries(file: Path) -> list[Query]:
    """What was said of the query images of a file of raw lines; empty where that was not kept.

    Raises:
        TypeError, ValueError: naming the line, if it is none.
    """
    scores = file.with_suffix(".queries.jsonl")
    if not scores.exists():
        return []
    queries = [Query(**json.loads(line)) for line in whole_lines(scores)]
    for number, query in enumerate(queries, 1):
        if not _are_answers(query):
            raise ValueError(f"line {number} is not a score, a label and a lesion for each image")
    return queries


def _are_answers(query: Query) -> bool:
    whole = all(isinstance(part, list) and len(part) == len(query.scores) for part in query)
    numbers = whole and all(type(each) is int and abs(each) < 2**63 for part in query[1:] for each in part)
    return numbers and all(finite(score) for score in query.scores)

"""Evaluations on disk: one raw line an episode behind a header that says of what, and a summary drawn from them.

RUN/<evaluation>.jsonl            the header, then a line an episode
RUN/<evaluation>.queries.jsonl    what was said of every query image: needed for intervals over lesions
RUN/<evaluation>.summary.json     the header again, with means and intervals
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rareshot.atomic import write_atomically
from rareshot.data.collection import LabelledImages
from rareshot.evaluation import (
    METRICS,
    Place,
    Plan,
    Query,
    RunResult,
    by_pair,
    evaluate,
    line_of,
    overall,
    place_of,
    query_scores,
    result_of,
)
from rareshot.lesion_bootstrap import TooFewLesionsError, bootstrap_apart_over_groups, bootstrap_over_groups
from rareshot.locks import HeldElsewhereError, hold
from rareshot.raw_lines import finite, whole_lines
from rareshot.run_record import Run, versions
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

    Lines that cannot be gone on with stay as they are, and that is said. What was said of an episode's images is written
    before its line, so that no stop leaves a line without it.

    Raises:
        ValueError: if the file is damaged, holds results of something else or other episodes than the plans', lacks what
            was said of its images.
        HeldElsewhereError: if another process is writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, scores = folder / f"{name}.jsonl", folder / f"{name}.queries.jsonl"
    with lines.open("a+", newline="\n") as out:
        if not hold(out.fileno(), wait=False):
            raise HeldElsewhereError(
                f"{lines} is being written by another process; wait for it, or choose another --out", folder.name
            )
        results = _done(lines, header, plans)
        queries = _queries(lines, scores)
        if len(queries) < len(results):
            return results[: len(plans)], _kept_summary(lines, results, len(plans))
        with scores.open("a+", newline="\n") as out_scores:
            _cut(out, lines, 1 + len(results))
            _cut(out_scores, scores, len(results))
            queries = queries[: len(results)]
            if not out.tell():
                out.write(json.dumps({**header, "versions": versions()}) + "\n")
                out.flush()
            total = sum(each.metrics["auc"] for each in results)
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


def _done(lines: Path, header: Mapping[str, Any], plans: Sequence[Plan]) -> list[RunResult]:
    """What an earlier call with the same header left."""
    try:
        written = _whole_lines(lines)
        if not written:
            return []
        before = json.loads(written[0])
        differing = list(_differing(before, json.loads(json.dumps(header))))
        if differing:
            raise ValueError(
                f"{lines} holds results of something else: its {', '.join(differing)} is not what is asked for now; move it "
                f"away, or choose another --out"
            )
        results = [result_of(json.loads(line)) for line in written[1:]]
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{lines} is damaged ({error}); move it away and evaluate again") from error
    for number, (result, plan) in enumerate(zip(results, plans, strict=False), 2):
        if (result.episode, result.site) != (plan.episode, plan.site):
            raise ValueError(
                f"{lines}, line {number}, is of episode {result.episode} and not of {plan.episode}; move the file away and "
                "evaluate again"
            )
        if not _is_sound(result):
            raise ValueError(
                f"{lines}, line {number}, has figures that are none; move the file away and evaluate again"
            )
    return results


def _are_answers(query: Query) -> bool:
    whole = all(isinstance(part, list) and len(part) == len(query.scores) for part in query)
    numbers = whole and all(type(each) is int and abs(each) < 2**63 for part in query[1:] for each in part)
    return numbers and all(finite(score) for score in query.scores)


def _is_sound(result: RunResult) -> bool:
    """Are its figures those that a summary is drawn from? A line may have been written by anybody."""
    figures = result.metrics
    whole = isinstance(figures, dict) and all(finite(figures.get(metric)) for metric in METRICS)
    named = all(isinstance(name, str) for name in result.classes)
    return whole and 0 <= figures["auc"] <= 1 and finite(result.seconds) and named


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Names of the fields that are not as before, those of the run and its method by themselves."""
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and name in ("run", "method"):
            yield from (f"{name}.{inner}" for inner in _differing(old, value))
        elif old != value:
            yield name


def _queries(lines: Path, scores: Path) -> list[Query]:
    """What was said of the images of an earlier call; nothing where that was not kept."""
    try:
        return read_queries(lines)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{scores} is damaged ({error}); move it and the lines beside it away") from error


def _kept_summary(lines: Path, results: Sequence[RunResult], count: int) -> dict[str, Any]:
    """The summary of raw lines whose answers were not kept: it cannot be drawn again, nor lines added."""
    file = lines.with_suffix(".summary.json")
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        summary: dict[str, Any] = json.loads(file.read_bytes())
        if sum(pair["auc"]["n"] for pair in summary["pairs"]) == count <= len(results):
            return summary
    raise ValueError(
        f"{lines} has {len(results)} episodes, and {lines.stem}.queries.jsonl has not the answers of them all: without those "
        f"{count} episodes cannot be summed up, nor others added; move the lines away, or choose another --out"
    )


def _whole_lines(file: Path) -> list[str]:
    """Without one that was being written when its process was killed."""
    return [line.decode() for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _cut(out: TextIO, file: Path, count: int) -> None:
    """Shorten a file that is open to append to so many whole lines."""
    out.truncate(sum(len(line.encode()) for line in _whole_lines(file)[:count]))
    out.seek(0, os.SEEK_END)

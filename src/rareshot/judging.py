"""Judging on disk: each missing episode is appended, those of several protocols beside each other; then they are summed up.

Stopped in any way, the same call goes on behind the last whole line.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rareshot.atomic import write_atomically
from rareshot.evaluation import Plan, Protocol, Query, RunResult, evaluate_together, line_of
from rareshot.locks import HeldElsewhereError, hold
from rareshot.raw_lines import read_json, text_of, whole_lines
from rareshot.results import asked_of, read_queries, read_result, summary_of
from rareshot.run_record import versions
from rareshot.types import Learner

Judged = tuple[list[RunResult], dict[str, Any]]
"""An evaluation's results and its summary."""
ObserveEpisode = Callable[[int, float], None]
"""Called after every episode with the lines so far and their mean AUC; what it raises stops the evaluation, nothing lost."""


class Asked(NamedTuple):
    """An evaluation that is to be on disk."""

    name: str
    """Of its files, see `results.name_of`."""
    header: Mapping[str, Any]
    """See `results.header_of`."""
    plans: Sequence[Plan]
    told: Mapping[str, Any] = {}
    """What its summary says besides."""


def judge(folder: Path, evaluations: Sequence[Asked], learner: Learner, observe: ObserveEpisode) -> list[Judged]:
    """Of each evaluation the results of all plans, those on disk and those that were missing; and their summary.

    Episode i of one is done beside episode i of the others, so that protocols with the same support sets share what adapting
    takes. Lines that cannot be gone on with stay as they are, and that is said. What was said of an episode's images is
    written before its line, so that no stop leaves a line without it.

    Args:
        evaluations: each of another protocol.

    Raises:
        ValueError: if a file is damaged, holds results of something else or other episodes than the plans', lacks what
            was said of its images.
        HeldElsewhereError: if another process is writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {asked.header["protocol"]: stack.enter_context(_opened(folder, asked)) for asked in evaluations}
        missing = _missing(files)

        def tell() -> None:
            kept = [result for lines in files.values() for result in lines.results[: len(lines.asked.plans)]]
            aucs = [result.metrics["auc"] for result in kept]
            if aucs:
                observe(len(aucs), sum(aucs) / len(aucs))

        tell()
        for answered in evaluate_together(learner, missing):
            for protocol, (result, query) in answered.items():
                files[protocol].append(result, query)
            tell()
        return [lines.summed_up() for lines in files.values()]


@dataclass
class _Lines:
    """One evaluation's files, open and held."""

    file: Path
    asked: Asked
    results: list[RunResult]
    queries: list[Query]
    out: TextIO
    out_queries: TextIO | None
    """None where the answers of what is there were not kept: then nothing can be added."""

    def append(self, result: RunResult, query: Query) -> None:
        assert self.out_queries is not None
        self.out_queries.write(json.dumps(query._asdict()) + "\n")
        self.out_queries.flush()
        os.fsync(self.out_queries.fileno())  # else a power cut could keep the line and lose the answers
        self.out.write(json.dumps(line_of(result)) + "\n")
        self.out.flush()
        self.results.append(result)
        self.queries.append(query)

    def summed_up(self) -> Judged:
        count = len(self.asked.plans)
        results, queries = self.results[:count], self.queries[:count]
        if self.out_queries is None:
            summary = _kept_summary(self.file, self.results, count)
        else:
            summary = summary_of(self.asked.header, results, queries)
        summary |= self.asked.told
        write_atomically(self.file.with_suffix(".summary.json"), json.dumps(summary, indent=1).encode())
        return results, summary


@contextmanager
def _opened(folder: Path, asked: Asked) -> Iterator[_Lines]:
    """What an earlier call left, checked, and ready to be gone on with."""
    lines, scores = folder / f"{asked.name}.jsonl", folder / f"{asked.name}.queries.jsonl"
    with lines.open("a+", newline="\n") as out:
        if not hold(out.fileno(), wait=False):
            raise HeldElsewhereError(
                f"{lines} is being written by another process; wait for it, or choose another --out", folder.name
            )
        results = _done(lines, asked.header, asked.plans)
        queries = _queries(lines, scores)
        if len(queries) < len(results):
            _kept_summary(lines, results, len(asked.plans))  # or an error: nothing more can be done with them
            yield _Lines(lines, asked, results, queries, out, None)
            return
        with scores.open("a+", newline="\n") as out_queries:
            _cut(out, lines, 1 + len(results))
            _cut(out_queries, scores, len(results))
            if not out.tell():
                out.write(json.dumps({**asked.header, "versions": versions()}) + "\n")
                out.flush()
            yield _Lines(lines, asked, results, queries[: len(results)], out, out_queries)


def _missing(files: Mapping[Protocol, _Lines]) -> list[dict[Protocol, Plan]]:
    """Place in the plans → those of the protocols that lack it; without places that none lacks."""
    longest = max(len(lines.asked.plans) for lines in files.values())
    places: list[dict[Protocol, Plan]] = [{} for _ in range(longest)]
    for protocol, lines in files.items():
        for place in range(len(lines.results), len(lines.asked.plans)):
            places[place][protocol] = lines.asked.plans[place]
    return [plans for plans in places if plans]


def _done(lines: Path, header: Mapping[str, Any], plans: Sequence[Plan]) -> list[RunResult]:
    """What an earlier call with the same header left."""
    try:
        written = whole_lines(lines)
        if not written:
            return []
        before = read_json(lines, 1, written[0])
        differing = list(_differing(before, json.loads(json.dumps(header))))
        if differing:
            raise ValueError(
                f"{lines} holds results of something else: its {', '.join(differing)} is not what is asked for now; move it "
                f"away, or choose another --out"
            )
    except AttributeError as error:
        raise ValueError(f"{lines} is damaged ({error}); move it away and evaluate again") from error
    results = [read_result(lines, number, line) for number, line in enumerate(written[1:], 2)]
    for number, (result, plan) in enumerate(zip(results, plans, strict=False), 2):
        if (result.episode, result.site) != (plan.episode, plan.site):
            raise ValueError(
                f"{lines}, line {number}, is of episode {result.episode} and not of {plan.episode}; move the file away and "
                "evaluate again"
            )
    return results


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Names of the fields that are not as before, those of the run and its method by themselves."""
    for name in now:
        value, old = asked_of(now, name), asked_of(before, name)
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
        summary: dict[str, Any] = read_json(file, 1, text_of(file))
        if sum(pair["auc"]["n"] for pair in summary["pairs"]) == count <= len(results):
            return summary
    raise ValueError(
        f"{lines} has {len(results)} episodes, and {lines.stem}.queries.jsonl has not the answers of them all: without those "
        f"{count} episodes cannot be summed up, nor others added; move the lines away, or choose another --out"
    )


def _cut(out: TextIO, file: Path, count: int) -> None:
    """Shorten a file that is open to append to so many whole lines, blank ones not counted, as `whole_lines` reads them."""
    end = 0
    for line in file.read_bytes().splitlines(keepends=True):
        if not count:
            break
        count -= bool(line.strip())
        end += len(line)
    out.truncate(end)
    out.seek(0, os.SEEK_END)

"""Every evaluation and training log under a folder, checked: all that a report is drawn from (not in the paper).

A file counts as an evaluation by its first line, wherever it lies, so that results may be moved and put together. What
cannot be trusted is refused with the file's name: a report drawn from half of the lines would look like a whole one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rareshot.evaluated import EPISODES, Evaluation, read_evaluation
from rareshot.raw_lines import check, finite, read_json, text_of, whole_lines

Record = Mapping[str, Any]
"""A line of a training log, or of fig3.jsonl."""

FINE_TUNING = "fig3.jsonl"
"""The file with the training of the fine-tuned network on the test tasks, Fig. 3."""
RUN: dict[str, type] = {
    "method": dict, "name": str, "seed": int, "size": int, "scale": str, "data": dict, "versions": dict,
    "method.shot": int, "method.warmup": int,
}  # fmt: skip
"""Name in run.json → its kind."""
OPTIONAL = ("method.shot", "method.warmup")
"""Names of RUN that may be missing: not every method has them."""


COUNTED = 2**53
"""No iteration, step or run has a number as large; a picture takes it for the next one."""


@dataclass(frozen=True, eq=False)
class Log:
    """How one run was trained."""

    folder: Path
    run: Mapping[str, Any]
    """run.json."""
    records: tuple[Record, ...]


@dataclass(frozen=True, eq=False)
class Gathered:
    """What lies under a folder."""

    folder: Path
    evaluations: tuple[Evaluation, ...]
    logs: tuple[Log, ...]
    fine_tuning: tuple[Record, ...]
    """Lines of FINE_TUNING: row, scale, data, shot, step, and mean loss and AUC over so many runs."""


def gather(folder: Path) -> Gathered:
    """Read all raw lines under a folder; a line that is still being written is left out.

    Raises:
        FileNotFoundError: if it is not a folder.
        ValueError: if no evaluation is there, a file is damaged, a summary is not of its lines, or two files hold the
            same evaluation.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one with results of `rareshot evaluate`")
    files = [file for file in sorted(folder.rglob("*.jsonl")) if not file.name.endswith(".queries.jsonl")]
    found = [read for file in files if (read := read_evaluation(file)) is not None]
    if not found:
        raise ValueError(
            f"{folder} holds no evaluation; run `rareshot evaluate`, or give the folder where its results lie"
        )
    seen: dict[str, Path] = {}
    for each in found:
        whole = json.dumps({name: each.header.get(name) for name in ("row", "run", *EPISODES)}, sort_keys=True)
        if whole in seen:
            raise ValueError(f"{seen[whole]} and {each.file} hold the same evaluation; move one of them away")
        seen[whole] = each.file
    logs = [_log(file) for file in sorted(folder.rglob("run.json")) if file.with_name("log.jsonl").is_file()]
    curves: dict[tuple[Any, ...], tuple[Path, Record]] = {}
    for file in (file for file in files if file.name == FINE_TUNING):
        for line in read_fine_tuning(file):
            point = tuple(line[name] for name in ("data", "scale", "row", "shot", "step"))
            if point in curves:
                raise ValueError(
                    f"{curves[point][0]} and {file} hold step {line['step']} of {line['row']} at k = {line['shot']} twice; "
                    "move one away"
                )
            curves[point] = file, line
    return Gathered(folder, tuple(found), tuple(logs), tuple(line for _, line in curves.values()))


def _log(file: Path) -> Log:
    run = read_json(file, 1, text_of(file))
    if not isinstance(run, dict):
        raise ValueError(f"{file} is damaged (it is not a JSON object); move its run away")
    check(file, run, RUN, optional=OPTIONAL)
    log = file.with_name("log.jsonl")
    records = [read_json(log, number, line) for number, line in enumerate(whole_lines(log), 1)]
    _check_lines(log, records, _is_record)
    return Log(file.parent, run, tuple(records))


def _is_record(line: Any) -> bool:
    tasks = line.get("tasks", [])
    return (
        type(line["iteration"]) is int
        and 0 < line["iteration"] < COUNTED
        and finite(line.get("validation_auc", 0))
        and isinstance(tasks, list)
        and all(finite(task.get("loss", 0)) for task in tasks)
        and all(_are_classes(task["classes"]) for task in tasks)
    )


def _are_classes(names: Any) -> bool:
    """Those of a task: two or more, as chance is log of their number."""
    return isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names)


def read_fine_tuning(file: Path) -> list[Record]:
    """The lines of Fig. 3's training, checked.

    Raises:
        ValueError: naming file and line.
    """
    lines = [read_json(file, number, line) for number, line in enumerate(whole_lines(file), 1)]
    _check_lines(file, lines, _is_step)
    return lines


def _is_step(line: Any) -> bool:
    whole = all(type(line[name]) is int and 0 <= line[name] < COUNTED for name in ("shot", "step", "runs"))
    named = all(isinstance(line[name], str) for name in ("row", "scale", "data"))
    return whole and named and finite(line["loss"]) and finite(line["auc"])


def _check_lines(file: Path, lines: Sequence[Any], sound: Callable[[Any], bool]) -> None:
    for number, line in enumerate(lines, 1):
        try:
            if sound(line):
                continue
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number}, is damaged ({error!r}); move the file away") from error
        raise ValueError(f"{file}, line {number}, is damaged (a value is not of its kind); move the file away")

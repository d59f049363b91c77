"""Every evaluation and training log under a folder, checked: all that a report is drawn from (not in the paper).

A file counts as an evaluation by its first line, wherever it lies, so that results may be moved and put together. What
cannot be trusted is refused with the file's name: a report drawn from half of the lines would look like a whole one.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rareshot.evaluation import METRICS, PROTOCOLS, Place, RunResult, by_pair, overall, result_of
from rareshot.methods.pretrained import Pretrained
from rareshot.results import evaluations as files_of_evaluations
from rareshot.statistics import Interval

Array = npt.NDArray[Any]
Record = Mapping[str, Any]
"""A line of a training log, or of fig3.jsonl."""

FINE_TUNING = "fig3.jsonl"
"""The file with the training of the fine-tuned network on the test tasks, Fig. 3."""
EPISODES = ("protocol", "way", "shot", "seed", "by_image", "episodes", "data")
"""What two headers must have in common for episode i of the one to be episode i of the other."""
HEADER: dict[str, type] = {
    "run": dict,
    "run.method": dict,
    "run.name": str,
    "run.seed": int,
    "run.size": int,
    "run.scale": str,
    "run.data": dict,
    "run.untrained": bool,
    "inductive": bool,
    "protocol": str,
    "way": int,
    "shot": int,
    "seed": int,
    "by_image": bool,
    "data": dict,
    "data.name": str,
    "data.rare": list,
    "data.fingerprint": str,
    "versions": dict,
}
"""Name in the header → its kind."""
RUN: dict[str, type] = {
    "method": dict, "name": str, "seed": int, "size": int, "scale": str, "data": dict, "versions": dict
}  # fmt: skip
"""The same for run.json."""


@dataclass(frozen=True)
class OverLesions:
    """What the summary says of one place of the `site` protocol."""

    lesions: Mapping[str, int]
    """Class → lesions that were asked about there."""
    auc: Interval
    """Over lesions."""
    apart: Interval | None
    """The same less that of all sites, over the lesions of both; None for all sites themselves."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One learner on the episodes of one protocol."""

    file: Path
    header: Mapping[str, Any]
    """What `results.header_of` gives, every name of HEADER in it."""
    results: tuple[RunResult, ...]
    over_lesions: Interval | None
    """AUC with its interval over lesions, from the summary; None if there is none, or of another number of episodes."""
    finished: bool
    """There is a summary of just these episodes."""
    places: Mapping[Place, OverLesions]
    """Of the `site` protocol; empty where the summary does not say."""

    @property
    def row(self) -> str:
        """The row of a table that it was computed for, or else the name of its method."""
        return str(self.header.get("row", self.header["run"]["name"]))

    @property
    def scale(self) -> str:
        """Image size and length of training by name: paper, laptop, demo or own."""
        return str(self.header["run"]["scale"])

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.header["data"]["name"])

    @property
    def protocol(self) -> str:
        """One of evaluation.PROTOCOLS."""
        return str(self.header["protocol"])

    @property
    def shot(self) -> int:
        """Support images a class."""
        return int(self.header["shot"])

    @property
    def seed(self) -> int:
        """Of the training; the header's own seed is that of the episodes."""
        return int(self.header["run"]["seed"])

    @property
    def inductive(self) -> bool:
        """One image's answer ignores the other query images."""
        return bool(self.header["inductive"])

    @property
    def by_image(self) -> bool:
        """Photographs of one lesion may stand on both sides."""
        return bool(self.header["by_image"])

    @property
    def of_every_seed(self) -> bool:
        """Nothing is trained, so that another training seed would give the same."""
        return self.method.get("kind") == Pretrained.__name__

    @property
    def untrained(self) -> bool:
        """Of the network before its first iteration."""
        return bool(self.header["run"]["untrained"])

    @property
    def method(self) -> Mapping[str, Any]:
        """Every hyperparameter by name."""
        found: Mapping[str, Any] = self.header["run"]["method"]
        return found

    @property
    def aucs(self) -> Array:
        """AUC of each episode."""
        return np.array([result.metrics["auc"] for result in self.results])

    @property
    def auc(self) -> Interval:
        """Mean AUC with its interval over episodes, or over draws of 30 runs."""
        return overall(self.results)


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
    found = [read for file in files if (read := _evaluation(file)) is not None]
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
    curves = [line for file in files if file.name == FINE_TUNING for line in _fine_tuning(file)]
    return Gathered(folder, tuple(found), tuple(logs), tuple(curves))


def same_episodes(first: Evaluation, second: Evaluation) -> bool:
    """Whether both met the same tasks, so that their difference can be taken episode by episode, as far as both go."""
    if any(first.header.get(name) != second.header.get(name) for name in EPISODES):
        return False
    told = ([(each.episode, each.site, each.classes) for each in one.results] for one in (first, second))
    return all(a == b for a, b in zip(*told, strict=False))


def _evaluation(file: Path) -> Evaluation | None:
    """None if the file holds something else."""
    named = file in files_of_evaluations(file.parent).values()
    lines = _whole_lines(file)
    if named and not lines:
        return None  # begun this moment
    header = _read(file, 1, lines[0]) if lines else None
    if not isinstance(header, dict) or not {"run", "protocol"} <= header.keys():
        if named:
            raise ValueError(f"{file} is damaged (its first line does not say of what it is); evaluate again")
        return None
    _check(file, header, HEADER)
    if header["protocol"] not in PROTOCOLS or header["way"] < 2 or header["shot"] < 1:
        raise ValueError(
            f"{file}: protocol={header['protocol']!r}, way={header['way']}, shot={header['shot']} is no evaluation; "
            "the file is damaged: evaluate again"
        )
    if not isinstance(header.get("row", ""), str):
        raise ValueError(f"{file}: row={header['row']!r} in its first line is not a name; evaluate again")
    results = tuple(_result(file, number, line, header) for number, line in enumerate(lines[1:], 2))
    if not results:
        return None
    summary = _summary(file, header, results)
    over_lesions = None
    if summary.get("auc_over_lesions") is not None:
        over_lesions = Interval(**summary["auc_over_lesions"])
    return Evaluation(file, header, results, over_lesions, bool(summary), _places(summary))


def _result(file: Path, number: int, line: str, header: Mapping[str, Any]) -> RunResult:
    values = _read(file, number, line)
    try:
        result = result_of(values)
        sound = (
            result.protocol == header["protocol"]
            and type(result.episode) is int
            and (result.episode == number - 2 or header["protocol"] == "site")
            and isinstance(result.site, str)
            and len(result.classes) == header["way"]
            and all(isinstance(name, str) for name in result.classes)
            and all(_finite(result.metrics[metric]) for metric in METRICS)
            and 0 <= result.metrics["auc"] <= 1
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"{file}, line {number}, is damaged ({error}); evaluate again") from error
    if not sound:
        raise ValueError(f"{file}, line {number}, is not an episode of what the first line says; evaluate again")
    return result


def _summary(file: Path, header: Mapping[str, Any], results: Sequence[RunResult]) -> dict[str, Any]:
    """The summary beside the raw lines; empty if there is none, or it was drawn when there were fewer.

    Raises:
        ValueError: if it is not of these lines.
    """
    beside = file.with_suffix(".summary.json")
    if not beside.is_file():
        return {}
    told = _read(beside, 1, beside.read_text())
    refused = f"{beside} is not a summary of {file.name}; remove it and evaluate again, which draws it anew"
    try:
        count = sum(int(pair["auc"]["n"]) for pair in told["pairs"])
        if any(told[name] != header[name] for name in header if name != "versions") or not 0 < count <= len(results):
            raise ValueError(refused)
        means = []
        if "metrics" in told:
            means.append((told["metrics"]["auc"], overall(results[:count]).mean))
        if "auc_over_lesions" in told:  # of all episodes, where `overall` leaves out what fills no draw of 30 runs
            every = float(np.mean([result.metrics["auc"] for result in results[:count]]))
            means.append((told["auc_over_lesions"], every))
        cells = by_pair(results[:count])
        means += [(asdict(over.auc), cells[place].mean) for place, over in _places(told).items()]
        if any(abs(Interval(**said).mean - mean) > 1e-6 for said, mean in means):
            raise ValueError(refused)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if str(error) == refused:
            raise
        raise ValueError(f"{beside} is damaged ({error}); remove it and evaluate again, which draws it anew") from error
    return dict(told) if count == len(results) else {}


def _places(told: Mapping[str, Any]) -> dict[Place, OverLesions]:
    """Of the pairs of a summary, those with an interval over lesions."""
    return {
        (str(pair["site"]), tuple(map(str, pair["classes"]))): OverLesions(
            {str(name): int(number) for name, number in pair["lesions"].items()},
            Interval(**pair["auc_over_lesions"]),
            Interval(**pair["less_all_sites_over_lesions"]) if "less_all_sites_over_lesions" in pair else None,
        )
        for pair in told.get("pairs", [])
        if "auc_over_lesions" in pair
    }


def _log(file: Path) -> Log:
    run = _read(file, 1, file.read_text())
    if not isinstance(run, dict):
        raise ValueError(f"{file} is damaged (it is not a JSON object); move its run away")
    _check(file, run, RUN)
    log = file.with_name("log.jsonl")
    records = [_read(log, number, line) for number, line in enumerate(_whole_lines(log), 1)]
    _check_lines(log, records, _is_record)
    return Log(file.parent, run, tuple(records))


def _is_record(line: Any) -> bool:
    tasks = line.get("tasks", [])
    return (
        type(line["iteration"]) is int
        and line["iteration"] > 0
        and _finite(line.get("validation_auc", 0))
        and isinstance(tasks, list)
        and all(_finite(task.get("loss", 0)) for task in tasks)
        and all(isinstance(name, str) for task in tasks for name in task["classes"])
    )


def _fine_tuning(file: Path) -> list[Record]:
    lines = [_read(file, number, line) for number, line in enumerate(_whole_lines(file), 1)]
    _check_lines(file, lines, _is_step)
    return lines


def _is_step(line: Any) -> bool:
    whole = all(type(line[name]) is int and line[name] >= 0 for name in ("shot", "step", "runs"))
    named = all(isinstance(line[name], str) for name in ("row", "scale", "data"))
    return whole and named and _finite(line["loss"]) and _finite(line["auc"])


def _check_lines(file: Path, lines: Sequence[Any], sound: Callable[[Any], bool]) -> None:
    for number, line in enumerate(lines, 1):
        try:
            if sound(line):
                continue
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number}, is damaged ({error!r}); move the file away") from error
        raise ValueError(f"{file}, line {number}, is damaged (a value is not of its kind); move the file away")


def _check(file: Path, found: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for name, kind in kinds.items():
        value: Any = found
        for part in name.split("."):
            value = value.get(part)
        if type(value) is not kind:
            raise ValueError(
                f"{file}: {name}={value!r} should be of kind {kind.__name__}; the file is damaged: make it again"
            )


def _whole_lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").split("\n")[:-1] if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged ({error}); move it away") from error


def _read(file: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}, line {number}, is damaged ({error}); move it away and make it again") from error


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)

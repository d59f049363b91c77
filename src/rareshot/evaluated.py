"""One learner on the episodes of one protocol, read back from its raw lines and their summary, and checked.

What cannot be trusted is refused with the file's name: figures drawn from half of the lines would look like whole ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rareshot.evaluation import PROTOCOLS, Place, RunResult, by_pair, overall, query_scores
from rareshot.lesion_bootstrap import QueryScores
from rareshot.raw_lines import check, finite, read_json, whole_lines
from rareshot.results import asked_of, evaluations, read_queries, read_result
from rareshot.statistics import Interval

Array = npt.NDArray[Any]
BOUND = 100
"""What no bound of an interval of an AUC comes near, however few the values."""
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
    "run.data.common": list,
    "run.versions": dict,
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
OPTIONAL = ("run.data.common", "run.versions")
"""Names of HEADER that may be missing: a learner may have been trained on nothing, and `reproduce` keeps versions in run.json."""


class SummaryError(ValueError):
    """A summary is damaged, or not of its lines: without it, it can be drawn again."""


@dataclass(frozen=True)
class OverLesions:
    """What the summary says of one place of the `site` protocol."""

    lesions: Mapping[str, int]
    """Class → lesions that were asked about there."""
    auc: Interval
    """Over lesions."""
    apart: Interval | None
    """The same less that of all sites, over the lesions and the episodes of both; None for all sites themselves."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One learner on the episodes of one protocol."""

    file: Path
    header: Mapping[str, Any]
    """What `results.header_of` gives, every name of HEADER in it but for the optional ones."""
    results: tuple[RunResult, ...]
    over_lesions: Interval | None
    """AUC with its interval over lesions, from the summary; None if there is none, or of another number of episodes."""
    summary: Mapping[str, Any]
    """Of the first episodes; empty if there is none."""
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
        """Image size and length of training by name: paper, laptop, smoke or own."""
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
        return "iterations" not in self.method

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


def same_episodes(first: Evaluation, second: Evaluation) -> bool:
    """Whether both met the same tasks, so that their difference can be taken episode by episode, as far as both go."""
    if any(asked_of(first.header, name) != asked_of(second.header, name) for name in EPISODES):
        return False
    told = ([(each.episode, each.site, each.classes) for each in one.results] for one in (first, second))
    return all(a == b for a, b in zip(*told, strict=False))


def scores_of(evaluation: Evaluation) -> list[QueryScores] | None:
    """What was said of the query images, an entry an episode; None where that was not kept of them all.

    Raises:
        ValueError: if the file is damaged, or not of these episodes.
    """
    file = evaluation.file.with_suffix(".queries.jsonl")
    try:
        queries = read_queries(evaluation.file)
        scores = query_scores(queries)
    except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}); move it away, or evaluate again") from error
    if len(scores) < len(evaluation.results):
        return None
    if any(len(query.labels) != result.queries for query, result in zip(queries, evaluation.results, strict=False)):
        raise ValueError(f"{file} is not of the episodes of {evaluation.file.name}; move it away, or evaluate again")
    return scores[: len(evaluation.results)]


def read_evaluation(file: Path) -> Evaluation | None:
    """One file of raw lines with its summary, checked; None if it holds something else, or no whole episode yet.

    Raises:
        ValueError: if it is damaged; `SummaryError` if its summary is.
    """
    named = file in evaluations(file.parent).values()
    lines = whole_lines(file)
    if named and not lines:
        return None  # begun this moment
    header = read_json(file, 1, lines[0]) if lines else None
    if not isinstance(header, dict) or not {"run", "protocol"} <= header.keys():
        if named:
            raise ValueError(f"{file} is damaged (its first line does not say of what it is); evaluate again")
        return None
    check(file, header, HEADER, optional=OPTIONAL)
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
    finished = bool(summary) and _count(summary) == len(results)
    over_lesions, places = None, {}
    if finished:
        over_lesions = _interval(summary["auc_over_lesions"]) if summary.get("auc_over_lesions") else None
        places = _places(summary, by_pair(results))
    return Evaluation(file, header, results, over_lesions, summary, finished, places)


def _result(file: Path, number: int, line: str, header: Mapping[str, Any]) -> RunResult:
    result = read_result(file, number, line)
    follows = result.episode == number - 2 or header["protocol"] == "site"
    if result.protocol != header["protocol"] or len(result.classes) != header["way"] or not follows:
        raise ValueError(
            f"{file}, line {number}, is not an episode of what the first line says; move the file away and evaluate again"
        )
    return result


def _summary(file: Path, header: Mapping[str, Any], results: Sequence[RunResult]) -> dict[str, Any]:
    """The summary beside the raw lines, perhaps drawn when there were fewer; empty if there is none.

    Raises:
        SummaryError: if it is not of these lines.
    """
    beside = file.with_suffix(".summary.json")
    if not beside.is_file():
        return {}
    refused = f"{beside} is not a summary of {file.name}; remove it and evaluate again, which draws it anew"
    try:
        told = read_json(beside, 1, beside.read_text(encoding="utf-8"))
        count = _count(told)
        if any(told[name] != header[name] for name in header if name != "versions") or not 0 < count <= len(results):
            raise SummaryError(refused)
        means = []
        if "metrics" in told:
            means.append((_interval(told["metrics"]["auc"]), overall(results[:count]).mean))
        if "auc_over_lesions" in told:  # of all episodes, where `overall` leaves out what fills no draw of 30 runs
            every = float(np.mean([result.metrics["auc"] for result in results[:count]]))
            means.append((_interval(told["auc_over_lesions"]), every))
        cells = by_pair(results[:count])
        means += [(over.auc, cells[place].mean) for place, over in _places(told, cells).items()]
        if any(not abs(said.mean - mean) <= 1e-6 for said, mean in means):
            raise SummaryError(refused)
    except SummaryError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise SummaryError(
            f"{beside} is damaged ({error}); remove it and evaluate again, which draws it anew"
        ) from error
    return dict(told)


def _count(summary: Mapping[str, Any]) -> int:
    """Episodes that it sums up."""
    return sum(int(pair["auc"]["n"]) for pair in summary["pairs"])


def _interval(said: Mapping[str, Any]) -> Interval:
    """With bounds that can be drawn: both, or none where a single value gives none."""
    found = Interval(**said)
    bounds = (found.low, found.high)
    drawn = all(finite(bound) and abs(bound) < BOUND for bound in bounds) and found.low <= found.high
    if not drawn and not all(type(bound) is float and math.isnan(bound) for bound in bounds):
        raise ValueError(f"{found.low!r} to {found.high!r} is no interval")
    if not finite(found.mean) or type(found.n) is not int or found.n < 1:
        raise ValueError(f"mean {found.mean!r} of {found.n!r} is none")
    return found


def _places(told: Mapping[str, Any], cells: Mapping[Place, Interval]) -> dict[Place, OverLesions]:
    """Of the pairs of a summary, those with an interval over lesions."""
    found = {}
    for pair in told.get("pairs", []):
        if "auc_over_lesions" not in pair:
            continue
        site, classes = str(pair["site"]), tuple(map(str, pair["classes"]))
        lesions = {str(name): int(number) for name, number in pair["lesions"].items()}
        apart = None
        if "less_all_sites_over_lesions" in pair:
            sides = [cells[place] for place in ((site, classes), ("", classes)) if place in cells]
            apart = _with_episodes(_interval(pair["less_all_sites_over_lesions"]), sides)
        found[site, classes] = OverLesions(lesions, _interval(pair["auc_over_lesions"]), apart)
    return found


def _with_episodes(apart: Interval, sides: Sequence[Interval]) -> Interval:
    """A difference of two sides whose episodes, and so their support sets, are others: both errors, as of independent ones.

    The bootstrap over lesions holds the episodes as they are.
    """
    halves = [(side.high - side.low) / 2 for side in sides]
    low, high = (math.hypot(apart.mean - bound, *halves) for bound in (apart.low, apart.high))
    return Interval(apart.mean, apart.mean - low, apart.mean + high, apart.n, f"{apart.kind} and episodes", apart.level)

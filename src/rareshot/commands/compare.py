"""`rareshot compare RUN RUN`: is one trained learner better than another beyond noise?"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE
from rareshot.evaluated import EPISODES, Evaluation, read_evaluation, same_episodes, scores_of
from rareshot.evaluation import LOWER_IS_BETTER, METRICS, place_of
from rareshot.lesion_bootstrap import TooFewLesionsError, bootstrap_pairs_over_groups
from rareshot.results import asked_of, evaluations
from rareshot.statistics import paired

SEEDS = (
    "This says whether these two trained networks differ on these lesions. Which method is better is asked of several training "
    "seeds (`fit --seed`): trained again, the order may turn."
)

ONE = "one episode so far: evaluate more"


@dataclass(frozen=True)
class Compare:
    """Compare two evaluated runs episode by episode, on every evaluation that both have.

    Both met the same episodes, so the differences are paired: mean, interval, p-value, and how many episodes it would take
    to settle it; of the `site` protocol at each place by itself. That is said of two trained networks; of two methods only
    several training seeds speak.

    Example: rareshot compare runs/daml runs/maml
    """

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run's folder with results of `rareshot evaluate`."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Another; differences are first - second."""
    metric: str = "auc"
    """auc, accuracy, balanced_accuracy, sensitivity_at_specificity, brier or ece; of the last two lower is better."""


def compare(args: Sequence[str]) -> None:
    """Parse and run `rareshot compare`."""
    options = parse(Compare, args, "rareshot compare")
    if options.metric not in METRICS:
        raise ValueError(f"--metric {options.metric} is not measured; choose from {', '.join(METRICS)}")
    found = [_read(options.first), _read(options.second)]
    both = sorted(found[0].keys() & found[1].keys())
    if not both:
        raise ValueError(
            f"{options.first} has {_names(found[0])} and {options.second} has {_names(found[1])}: nothing to compare; "
            f"run `rareshot evaluate` with the same options on both"
        )
    better = " (lower is better)" if options.metric in LOWER_IS_BETTER else ""
    table = Table(title=f"{options.first} - {options.second}, {options.metric}{better}", title_justify="left")
    for column in ("evaluation", "first", "second", "difference and what it means"):
        table.add_column(column)
    rows, refused = [], []
    for name in both:
        one, other = (where[name] for where in found)
        if reason := _unpaired(one, other):
            refused.append((name, "", "", f"not compared: {reason}"))
            continue
        count = min(len(one.results), len(other.results))
        for place, episodes in _places(one, count).items():
            found_there = _compared(one, other, options.metric, episodes) if len(episodes) > 1 else ("", "", ONE)
            rows.append((name + place, *found_there))
    if not rows:
        name, _, _, reason = refused[0]
        raise ValueError(f"{name} is {reason}")
    for row in (*rows, *refused):
        table.add_row(*row)
    CONSOLE.print(table)
    CONSOLE.print(SEEDS, soft_wrap=True)


def _unpaired(one: Evaluation, other: Evaluation) -> str:
    """Why two evaluations cannot be compared episode by episode; empty if they can."""
    for key in EPISODES:
        if asked_of(one.header, key) != asked_of(other.header, key):
            return f"the two differ in {key} ({asked_of(one.header, key)} and {asked_of(other.header, key)}), so nothing pairs"
    if not same_episodes(one, other):
        return "the two did not meet the same episodes in one order, so nothing pairs"
    if (count := min(len(one.results), len(other.results))) < 2:
        return f"a comparison needs 2 episodes of both; there is {count} so far: evaluate more"
    return ""


def _places(evaluation: Evaluation, count: int) -> dict[str, list[int]]:
    """Words for a place → its episodes among the first `count`; of the `site` protocol each by itself, else all together."""
    if evaluation.protocol != "site":
        return {"": list(range(count))}
    places: dict[str, list[int]] = {}
    for episode, result in enumerate(evaluation.results[:count]):
        site, classes = place_of(result)
        places.setdefault(f"\n{' and '.join(classes)}, {site or 'all sites'}", []).append(episode)
    return places


def _compared(one: Evaluation, other: Evaluation, metric: str, episodes: Sequence[int]) -> tuple[str, str, str]:
    """Both means over these episodes, and what the difference is worth."""
    values = [[each.results[episode].metrics[metric] for episode in episodes] for each in (one, other)]
    text = str(paired(values[0], values[1], kind="over episodes"))
    if one.inductive != other.inductive:
        seen = "first" if other.inductive else "second"
        text += f"\nOnly the {seen} sees the other query images beside the one that it answers."
    if metric == "auc" and one.header["way"] == 2:
        scores = [scores_of(each) for each in (one, other)]
        if scores[0] is not None and scores[1] is not None:
            these = [[of[episode] for episode in episodes] for of in (scores[0], scores[1])]
            with suppress(TooFewLesionsError):
                text += f"\n{bootstrap_pairs_over_groups(*these)}"
    first, second = (f"{sum(each) / len(each):.4f}" for each in values)
    return first, second, text


def _read(folder: Path) -> dict[str, Evaluation]:
    """Name → evaluation, of all that have a whole episode."""
    read = {name: read_evaluation(file) for name, file in evaluations(folder).items()}
    return {name: each for name, each in read.items() if each is not None}


def _names(found: Mapping[str, Evaluation]) -> str:
    return ", ".join(sorted(found)) or "no evaluation"

"""`rareshot compare RUN RUN`: is one trained learner better than another beyond noise?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE
from rareshot.evaluated import EPISODES, Evaluation, read_evaluation, same_episodes, scores_of
from rareshot.evaluation import METRICS
from rareshot.lesion_bootstrap import bootstrap_pairs_over_groups
from rareshot.results import evaluations
from rareshot.statistics import paired

SEEDS = (
    "This says whether these two trained networks differ on these lesions. Which method is better is asked of several training "
    "seeds (`fit --seed`): trained again, the order may turn."
)


@dataclass(frozen=True)
class Compare:
    """Compare two evaluated runs episode by episode, on every evaluation that both have.

    Both met the same episodes, so the differences are paired: mean, interval, p-value, and how many episodes it would take
    to settle it. That is said of two trained networks; of two methods only several training seeds speak.

    Example: rareshot compare runs/daml runs/maml
    """

    first: tyro.conf.Positional[Path]
    """A run's folder with results of `rareshot evaluate`."""
    second: tyro.conf.Positional[Path]
    """Another; differences are first - second."""
    metric: str = "auc"
    """auc, accuracy, balanced_accuracy, sensitivity_at_specificity, brier or ece."""


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
    table = Table(title=f"{options.first} - {options.second}, {options.metric}", title_justify="left")
    for column in ("evaluation", "first", "second", "difference and what it means"):
        table.add_column(column)
    for name in both:
        one, other = (where[name] for where in found)
        for key in EPISODES:
            if one.header.get(key) != other.header.get(key):
                raise ValueError(
                    f"{name}: the two differ in {key} ({one.header.get(key)} and {other.header.get(key)}), so nothing pairs"
                )
        if not same_episodes(one, other):
            raise ValueError(f"{name}: the two did not meet the same episodes in one order, so nothing pairs")
        count = min(len(one.results), len(other.results))
        if count < 2:
            raise ValueError(f"{name}: a comparison needs 2 episodes of both; there is {count} so far: evaluate more")
        values = [[result.metrics[options.metric] for result in each.results[:count]] for each in (one, other)]
        means = [f"{sum(each) / count:.4f}" for each in values]
        text = str(paired(values[0], values[1], kind="over episodes"))
        if one.inductive != other.inductive:
            seen = "first" if other.inductive else "second"
            text += f"\nOnly the {seen} sees the other query images beside the one that it answers."
        if options.metric == "auc" and one.header["way"] == 2 and one.protocol != "site":
            scores = [scores_of(each) for each in (one, other)]
            if scores[0] is not None and scores[1] is not None:
                text += f"\n{bootstrap_pairs_over_groups(scores[0][:count], scores[1][:count])}"
        table.add_row(name, *means, text)
    CONSOLE.print(table)
    CONSOLE.print(SEEDS, soft_wrap=True)


def _read(folder: Path) -> dict[str, Evaluation]:
    """Name → evaluation, of all that have a whole episode."""
    read = {name: read_evaluation(file) for name, file in evaluations(folder).items()}
    return {name: each for name, each in read.items() if each is not None}


def _names(found: Mapping[str, Evaluation]) -> str:
    return ", ".join(sorted(found)) or "no evaluation"

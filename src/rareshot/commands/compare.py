"""`rareshot compare RUN RUN`: is one learner better than another beyond noise?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE
from rareshot.evaluation import METRICS, query_scores
from rareshot.results import evaluations, read_lines, read_queries
from rareshot.statistics import bootstrap_pairs_over_groups, paired

SAME = ("protocol", "way", "shot", "seed", "by_image", "episodes", "data")


@dataclass(frozen=True)
class Compare:
    """Compare two evaluated runs episode by episode, on every evaluation that both have.

    Both met the same episodes, so the differences are paired: mean, interval, p-value, and how many episodes it would take
    to settle it.

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
    found = [evaluations(options.first), evaluations(options.second)]
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
        headers, results = zip(*(read_lines(where[name]) for where in found), strict=True)
        for key in SAME:
            if headers[0][key] != headers[1][key]:
                raise ValueError(
                    f"{name}: the two differ in {key} ({headers[0][key]} and {headers[1][key]}), so nothing pairs"
                )
        count = min(map(len, results))
        met = [[(each.episode, each.site, each.classes) for each in one[:count]] for one in results]
        if met[0] != met[1]:
            raise ValueError(f"{name}: the two did not meet the same episodes in one order, so nothing pairs")
        values = [[each.metrics[options.metric] for each in one[:count]] for one in results]
        means = [f"{sum(one) / count:.4f}" for one in values]
        text = str(paired(values[0], values[1], kind="over episodes"))
        if headers[0]["inductive"] != headers[1]["inductive"]:
            seen = "first" if headers[1]["inductive"] else "second"
            text += f"\nOnly the {seen} sees the other query images beside the one that it answers."
        queries = [read_queries(where[name])[:count] for where in found]
        if options.metric == "auc" and headers[0]["way"] == 2 and headers[0]["protocol"] != "site" and all(queries):
            text += f"\n{bootstrap_pairs_over_groups(query_scores(queries[0]), query_scores(queries[1]))}"
        table.add_row(name, *means, text)
    CONSOLE.print(table)


def _names(found: dict[str, Path]) -> str:
    return ", ".join(sorted(found)) or "no evaluation"

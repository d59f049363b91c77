"""`rareshot evaluate RUN`: how good is a learner on the rare diseases?"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.table import Table

from rareshot.checkpoint import load_learner, read_run, versions, write_atomically
from rareshot.commands.options import Machine, load_images, parse
from rareshot.commands.terminal import CONSOLE, progress, stoppable
from rareshot.data.collection import LabelledImages
from rareshot.evaluation import (
    METRICS,
    Plan,
    Protocol,
    Query,
    RunResult,
    by_pair,
    evaluate,
    line_of,
    overall,
    plan,
    query_scores,
    result_of,
)
from rareshot.methods import LABELS
from rareshot.methods.maml import EpisodicLearner
from rareshot.statistics import Interval, bootstrap_over_groups

NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity_at_specificity": "sensitivity at 90 % specificity",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
}


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on the rare diseases and write raw lines, one an episode.

    Every learner meets the same episodes. Stopped and started again with the same options, it goes on where it was.

    Example: rareshot evaluate runs/daml --data isic2018/ --protocol full
    """

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    data: Path
    """A data set: folder, table, .npz or store; see `rareshot data check`."""
    protocol: Protocol = "full"
    """paper: 15 queries a class, 20 draws of 30 runs. full: one image of every remaining lesion, 600 episodes. site: each pair
    within one acquisition site, beside the same pair over all sites."""
    shot: int | None = None
    """Support images a class; None: as in training."""
    way: int = 2
    """Classes of a task."""
    seed: int = 0
    """Of the episodes; methods are compared on one seed."""
    episodes: int | None = None
    """How many; None: the protocol's (600; site: 100 of each pair and site)."""
    test_steps: int | None = None
    """Steps of adaptation; None: the method's."""
    untrained: bool = False
    """Judge the run's random initialisation instead: what adapting reaches with nothing learnt."""
    by_image: bool = False
    """Let photographs of one lesion stand on both sides (paper protocol): shows what that flatters."""
    rare: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A class to evaluate on; say it once for each. None: as the data set's card says."""
    out: Path | None = None
    """Folder of the results; None: inside the run's folder."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def evaluate_command(args: Sequence[str]) -> None:
    """Parse and run `rareshot evaluate`."""
    options = parse(Evaluate, args, "rareshot evaluate")
    options.machine.start()
    run = read_run(options.run)
    images = load_images(options.data, run.size, options.rare)
    known = [name for name in run.data.get("common", ()) if name in images.card.rare]
    if known:
        raise ValueError(
            f"{options.run} was trained on {', '.join(known)}, which cannot be evaluated as unseen; "
            f"name the unseen classes with --rare (it was trained on {', '.join(run.data['common'])})"
        )
    learner = run.method.untrained(images.common(), seed=run.seed) if options.untrained else load_learner(options.run)
    if options.test_steps:
        learner = learner.with_test_steps(options.test_steps)
    shot = options.shot or run.method.shot
    rare = images.rare()
    plans = plan(
        rare,
        options.protocol,
        way=options.way,
        shot=shot,
        seed=options.seed,
        count=options.episodes,
        by_image=options.by_image,
    )
    name = f"{'untrained-' if options.untrained else ''}{options.protocol}-{options.way}way-{shot}shot"
    name += "-by-image" if options.by_image else ""
    folder = options.out or options.run
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "run": {**run.to_json(), "untrained": options.untrained, "test_steps": learner.method.test_steps},
        "inductive": learner.inductive,
        "protocol": options.protocol,
        "way": options.way,
        "shot": shot,
        "seed": options.seed,
        "by_image": options.by_image,
        "episodes": options.episodes if options.protocol == "site" else None,
        "data": {"name": images.card.name, "rare": list(rare.classes), "fingerprint": rare.fingerprint()},
    }
    results, queries = _go_on(folder, name, header, plans, learner)
    summary = _summary(header, results, queries)
    write_atomically(folder / f"{name}.summary.json", json.dumps(summary, indent=1).encode())
    label = f"{LABELS[run.name]}{' before training' if options.untrained else ''}"
    _show(f"{label}, {options.protocol} protocol, {options.way}-way {shot}-shot", results, summary, images)
    CONSOLE.print(f"raw lines: {folder / name}.jsonl")


def _go_on(
    folder: Path, name: str, header: dict[str, Any], plans: list[Plan], learner: EpisodicLearner
) -> tuple[list[RunResult], list[Query]]:
    """Results of all plans: those on disk and, appended one by one, those that were missing."""
    lines, scores = folder / f"{name}.jsonl", folder / f"{name}.queries.jsonl"
    results, queries = _done(lines, scores, header)
    if not results:
        write_atomically(lines, (json.dumps({**header, "versions": versions()}) + "\n").encode())
        write_atomically(scores, b"")
    title = f"evaluate {header['protocol']}"
    with (
        stoppable() as stop,
        progress(title, len(plans)) as show,
        lines.open("a") as out,
        scores.open("a") as out_scores,
    ):
        show(len(results))
        for result, query in evaluate(learner, plans[len(results) :], header["protocol"]):
            out_scores.write(json.dumps(query._asdict()) + "\n")
            out_scores.flush()
            out.write(json.dumps(line_of(result)) + "\n")
            out.flush()
            results.append(result)
            queries.append(query)
            show(len(results), note=f"AUC {np.mean([each.metrics['auc'] for each in results]):.3f}")
            stop.raise_if_asked()
    return results[: len(plans)], queries[: len(plans)]


def _done(lines: Path, scores: Path, header: dict[str, Any]) -> tuple[list[RunResult], list[Query]]:
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


def _summary(header: dict[str, Any], results: list[RunResult], queries: list[Query]) -> dict[str, Any]:
    summary: dict[str, Any] = {**header, "versions": versions()}
    if header["protocol"] != "site":
        summary["metrics"] = {metric: asdict(overall(results, metric)) for metric in METRICS}
        if header["way"] == 2:
            over_lesions = bootstrap_over_groups(query_scores(queries))
            summary["auc_over_lesions"] = asdict(over_lesions)
    summary["pairs"] = [
        {"site": site, "classes": list(classes), "auc": asdict(cell)}
        for (site, classes), cell in by_pair(results).items()
    ]
    summary["seconds_per_episode"] = float(np.median([result.seconds for result in results]))
    return summary


def _show(title: str, results: list[RunResult], summary: dict[str, Any], images: LabelledImages) -> None:
    if "metrics" in summary:
        table = Table(title=title, title_justify="left")
        table.add_column("measure")
        table.add_column("mean and 95 % interval")
        for metric in METRICS:
            table.add_row(NAMES[metric], str(overall(results, metric)))
        if "auc_over_lesions" in summary:
            table.add_row("AUC", str(Interval(**summary["auc_over_lesions"])))
        CONSOLE.print(table)
    pairs = Table(title=f"{title}: AUC by pair of classes", title_justify="left")
    for column in ("classes", "site", "AUC"):
        pairs.add_column(column)
    for (site, classes), cell in by_pair(results).items():
        pairs.add_row(" and ".join(images.card.classes.get(name, name) for name in classes), site or "all", str(cell))
    CONSOLE.print(pairs)

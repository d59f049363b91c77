"""`rareshot evaluate RUN`: how good is a learner on the rare diseases?"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from rareshot.checkpoint import load_learner
from rareshot.commands.options import Machine, load_images, parse
from rareshot.commands.terminal import CONSOLE, progress, stoppable
from rareshot.data.collection import LabelledImages
from rareshot.data.files import shown
from rareshot.evaluation import METRICS, Protocol, RunResult, by_pair, overall, plan
from rareshot.judging import Asked, judge
from rareshot.methods import LABELS
from rareshot.results import header_of, name_of
from rareshot.run_record import Run, read_run, refuse_seed
from rareshot.statistics import Interval
from rareshot.types import Method

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

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
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
    """Judge what the run began with instead, mostly random weights: what adapting reaches with nothing learnt."""
    by_image: bool = False
    """Draw single images, so that photographs of one lesion may stand on both sides (paper protocol); not for reporting."""
    rare: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A class to evaluate on; say it once for each. None: as the data set's card says."""
    out: Path | None = None
    """Folder of the results; None: inside the run's folder."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def evaluate_command(args: Sequence[str]) -> None:
    """Parse and run `rareshot evaluate`."""
    options = parse(Evaluate, args, "rareshot evaluate")
    refuse_seed(options.seed)
    options.machine.start()
    run = read_run(options.run)
    images = load_images(options.data, run.size, options.rare)
    known = [name for name in run.data.get("common", ()) if name in images.card.rare]
    if known:
        raise ValueError(
            f"{options.run} was trained on {', '.join(known)}, which cannot be evaluated as unseen; "
            f"name the unseen classes with --rare (it was trained on {', '.join(run.data['common'])})"
        )
    if not images.card.rare:
        raise ValueError(
            f"no class of {options.data} is rare, so there is nothing unseen to judge by: name the classes that the run was not "
            f"trained on with --rare (it was trained on {', '.join(run.data.get('common', ()))})"
        )
    method = run.method
    if options.test_steps is not None:
        method = _with_test_steps(run, options.test_steps)
    fresh = options.untrained
    learner = method.untrained(images.common(), seed=run.seed) if fresh else load_learner(options.run, method)
    shot = method.shot if options.shot is None else options.shot
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
    name = name_of(options.protocol, options.way, shot, untrained=options.untrained, by_image=options.by_image)
    folder = options.out or options.run
    header = header_of(
        replace(run, method=method),
        rare,
        inductive=learner.inductive,
        protocol=options.protocol,
        way=options.way,
        shot=shot,
        seed=options.seed,
        untrained=options.untrained,
        by_image=options.by_image,
        episodes=options.episodes if options.protocol == "site" else None,
    )
    with stoppable() as stop, progress(f"evaluate {options.protocol}", len(plans)) as show:

        def observe(done: int, auc: float) -> None:
            show(done, note=f"AUC {auc:.3f}")
            stop.raise_if_asked()

        [(results, summary)] = judge(folder, [Asked(name, header, plans)], learner, observe)
    label = f"{LABELS.get(run.name, shown(run.name))}{' before training' if options.untrained else ''}"
    _show(f"{label}, {options.protocol} protocol, {options.way}-way {shot}-shot", results, summary, images)
    CONSOLE.print(f"raw lines: {folder / name}.jsonl", soft_wrap=True)


def _with_test_steps(run: Run, steps: int) -> Method:
    has_steps = "test_steps" in {field.name for field in fields(run.method)}
    if not has_steps or getattr(run.method, "classifier", "finetune") != "finetune":
        raise ValueError(
            f"--test-steps {steps}: {LABELS.get(run.name, run.name)} does not adapt by steps; leave the option out"
        )
    return replace(run.method, test_steps=steps)


def _show(title: str, results: list[RunResult], summary: dict[str, Any], images: LabelledImages) -> None:
    if "metrics" in summary:
        table = Table(title=title, title_justify="left")
        table.add_column("measure")
        table.add_column("mean and 95 % interval")
        for metric in METRICS:
            table.add_row(NAMES[metric], str(overall(results, metric)))
        if "auc_over_lesions" in summary:
            table.add_row("AUC, over lesions", str(Interval(**summary["auc_over_lesions"])))
        CONSOLE.print(table)
    pairs = Table(title=f"{title}: AUC by pair of classes", title_justify="left")
    for column in ("classes", "site", "AUC"):
        pairs.add_column(column)
    for (site, classes), cell in by_pair(results).items():
        words = " and ".join(shown(images.card.classes.get(name, name)) for name in classes)
        pairs.add_row(words, shown(site) or "all", str(cell))
    CONSOLE.print(pairs)

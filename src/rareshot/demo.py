"""`rareshot demo`: the whole way on synthetic dermoscopy in a few minutes, and a page to read (not in the paper).

Draw lesions, meta-train DAML on the common classes, judge it on the rare ones beside its own random start, write
`demo.html`. Nothing is downloaded, and no picture shows a patient.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rareshot import figures
from rareshot.atomic import write_atomically
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import synthetic
from rareshot.evaluation import Plan, Protocol, Query, RunResult, by_pair, evaluate, plan, query_scores
from rareshot.lesion_bootstrap import bootstrap_over_groups
from rareshot.losses import DifficultyAware
from rareshot.methods.maml import MAML
from rareshot.report import Figure, Section, Table, page
from rareshot.run_record import versions
from rareshot.statistics import Interval, Paired, interval, paired
from rareshot.types import Learner, Progress

ObserveStage = Callable[[str, int, int], None]
"""Called with the name of the stage, the steps done and their number."""

DEMO = MAML(
    meta_loss=DifficultyAware(),
    width=32,
    inner_lr=0.01,
    meta_lr=3e-3,
    iterations=240,
    warmup=180,
    validate_every=30,
)
"""DAML for two cores and a minute or two. Validation AUC: 0.90; 0.85 with inner_lr 0.05; 0.59 with that and group norm."""
SIZE = 32
LESIONS = 120
"""Of each class: enough for validation episodes from the fifth that is held out."""
EPISODES = 90
SITE_EPISODES = 15
"""Of each pair at each site."""
PICTURES = 2
"""Episodes shown: the first ones, not chosen ones."""
TRAINED, UNTRAINED = "meta-trained", "random start"

ROWS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity_at_specificity": "Sensitivity at 90 % specificity",
    "brier": "Brier score (lower is better)",
    "ece": "Calibration error, ECE (lower is better)",
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    page: Path
    trained: Interval
    """AUC on the rare classes."""
    untrained: Interval
    """AUC of the same network before its first iteration, on the same episodes."""
    difference: Paired
    seconds: float


def silent(stage: str, done: int, total: int) -> None:
    """An observer that does nothing."""


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    observe: ObserveStage = silent,
    method: MAML = DEMO,
    size: int = SIZE,
    lesions: int = LESIONS,
    episodes: int = EPISODES,
    site_episodes: int = SITE_EPISODES,
) -> DemoResult:
    """Train, judge, and write `out/demo.html`.

    Args:
        seed: of the network and its training tasks; lesions and evaluation stay the same.
        observe: called as each stage goes on.

    Raises:
        ValueError: if `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; give a folder, for demo.html to be written in")
    begun = time.perf_counter()
    observe("drawing synthetic lesions", 0, 1)
    images = synthetic(size, lesions=lesions)
    observe("drawing synthetic lesions", 1, 1)
    rare = images.rare()
    plans = plan(rare, "paper", shot=method.shot, count=episodes)
    site_plans = plan(rare, "site", shot=method.shot, count=site_episodes)

    records: list[Mapping[str, Any]] = []

    def learnt(progress: Progress) -> None:
        records.append(progress.record)
        observe("meta-training on common classes", progress.iteration, progress.iterations)

    learner = method.fit(images.common(), seed=seed, observe=learnt)
    before = method.untrained(images.common(), seed=seed)
    stage = "adapting to rare classes"
    total = 2 * len(plans) + len(site_plans)
    trained = _judge(learner, plans, "paper", lambda done: observe(stage, done, total))
    untrained = _judge(before, plans, "paper", lambda done: observe(stage, len(plans) + done, total))
    sites = _judge(learner, site_plans, "site", lambda done: observe(stage, 2 * len(plans) + done, total))

    observe("writing the page", 0, 1)
    scores, scores_before = trained.values("auc"), untrained.values("auc")
    result = DemoResult(
        page=out / "demo.html",
        trained=interval(scores, "over episodes"),
        untrained=interval(scores_before, "over episodes"),
        difference=paired(scores, scores_before, "over episodes"),
        seconds=time.perf_counter() - begun,
    )
    sections = [
        _tasks(learner, plans, method),
        _answers(trained, untrained, result),
        _training(records, method),
        _sites(sites),
        _making(images, method, result, seed),
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = page("Rare classes from a few images: a demo on synthetic lesions", _lead(images, method, result), sections)
    write_atomically(result.page, text.encode())
    observe("writing the page", 1, 1)
    return replace(result, seconds=time.perf_counter() - begun)


@dataclass(frozen=True)
class _Judged:
    results: list[RunResult]
    queries: list[Query]

    def values(self, metric: str) -> list[float]:
        return [result.metrics[metric] for result in self.results]


def _judge(learner: Learner, plans: Sequence[Plan], protocol: Protocol, done: Callable[[int], None]) -> _Judged:
    judged = _Judged([], [])
    for number, (result, query) in enumerate(evaluate(learner, plans, protocol), 1):
        judged.results.append(result)
        judged.queries.append(query)
        done(number)
    return judged


def _lead(images: LabelledImages, method: MAML, result: DemoResult) -> str:
    return f"""
    Everything here is synthetic: the lesions are drawn by a program, the classes are invented, and no number says
    anything about skin.

    Meta-trained on {len(images.card.common)} common classes, DAML was shown {method.shot} images of each of two classes
    that it had never met, and told them apart on other lesions with AUC {_short(result.trained)}. The same network,
    adapted in the same way from random weights, reached {_short(result.untrained)}. Intervals are 95 %
    over {result.trained.n} episodes.
    """


def _tasks(learner: Learner, plans: Sequence[Plan], method: MAML) -> Section:
    pictures = []
    for item in plans[:PICTURES]:
        episode = item.episodes[item.episode]
        probabilities = learner.adapt(episode.support, seed=item.episode)(episode.query_x)
        caption = f"Synthetic. Episode {item.episode + 1}: the class that the learner gives, and its probability."
        pictures.append(figures.episode_picture(episode, probabilities, caption))
    text = f"""
    An episode is one small task. The learner adapts to {method.shot} labelled images of each class, the support, in
    {method.test_steps} gradient steps. It then names the class of query images, one at a time: no answer depends on the
    other queries, and no lesion stands on both sides. These are the first {PICTURES} episodes of the evaluation, not
    chosen ones.
    """
    return Section("The task", text, pictures)


def _answers(trained: _Judged, untrained: _Judged, result: DemoResult) -> Section:
    learners = {TRAINED: trained, UNTRAINED: untrained}
    over = [bootstrap_over_groups(query_scores(judged.queries)) for judged in learners.values()]
    rows = [
        ("AUC", _short(result.trained), _short(result.untrained)),
        (f"AUC, interval over {over[0].n} lesions instead", *map(_short, over)),
    ]
    for metric, name in ROWS.items():
        rows.append((name, *(_short(interval(judged.values(metric), "over episodes")) for judged in learners.values())))
    table = Table(
        f"Synthetic rare classes, 2-way; mean and 95 % interval over {result.trained.n} episodes",
        ("Measure", TRAINED.capitalize(), UNTRAINED.capitalize()),
        tuple(rows),
    )
    mean = result.difference.interval
    cells, before = by_pair(trained.results), by_pair(untrained.results)
    gains = {" and ".join(pair): 100 * (cells["", pair].mean - before["", pair].mean) for _, pair in cells}
    most, least = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    text = f"""
    Both learners met the same {mean.n} episodes, so their difference can be taken episode by episode: meta-training is
    worth {100 * mean.mean:.1f} points of AUC here ({100 * mean.low:.1f} to {100 * mean.high:.1f}). The gain depends on
    the pair: {gains[most]:+z.1f} points for {most}, {gains[least]:+z.1f} for {least}.

    The interval over episodes says what other draws from these lesions would give; the one over lesions, what other
    lesions to be judged would.
    """
    drawn: list[Figure] = [
        figures.roc_curves(
            {name: judged.queries for name, judged in learners.items()},
            "Synthetic. Mean over episodes, with a 95 % band at each false positive rate.",
        ),
        figures.pair_bars(
            {TRAINED: cells, UNTRAINED: before},
            "Synthetic. Each pair of rare classes, with 95 % intervals over episodes.",
        ),
    ]
    return Section("How good the answers are", text, drawn, table)


def _training(records: Sequence[Mapping[str, Any]], method: MAML) -> Section:
    text = f"""
    Each of {method.iterations} iterations draws {method.tasks} tasks from pairs of common classes, adapts to each, and
    moves the initial weights so that the loss after adaptation falls. The first {method.warmup} minimise the mean of
    the tasks' losses, as MAML does. From then on Eq. (3) of the DAML paper weighs them: easy tasks fade, hard ones
    count. The map shows what there is to weigh: which pairs stay hard when others have become easy.
    """
    drawn = [
        figures.learning_curve(
            records, method.warmup, "Synthetic. The validation lesions are of the common classes, and never trained on."
        ),
        figures.difficulty_over_time(
            records,
            method.warmup,
            "Synthetic. Mean query loss of each pair, hardest on top. Dark is hard; chance is 0.69.",
        ),
    ]
    return Section("How it learnt", text, drawn)


def _sites(sites: _Judged) -> Section:
    text = """
    In these lesions, as in real collections, class goes with the site: one camera is warmer and less sharp, and it saw
    more of some classes. A learner can then score by recognising the camera. The same pairs, with every image from one
    site, leave it only the lesion: marks well below those of all sites would give it away.
    """
    caption = "Synthetic. All remaining lesions as queries, with 95 % intervals over episodes."
    return Section("Lesion or camera?", text, [figures.site_bars(by_pair(sites.results), caption)])


def _making(images: LabelledImages, method: MAML, result: DemoResult, seed: int) -> Section:
    counts = images.counts()

    def classes(names: Sequence[str]) -> str:
        return "; ".join(f"{name} ({images.card.classes[name].removeprefix('synthetic: ')})" for name in names)

    told = versions()
    lesions = sum(groups for _, groups in counts.values())
    rows = (
        (
            "Data",
            f"{images.card.title}: {len(images)} images of {lesions} lesions, {images.size} px",
        ),
        ("Common classes", classes(images.card.common)),
        ("Rare classes", classes(images.card.rare)),
        ("Network", f"{method.backbone}, {method.width} filters, {method.norm} norm, {method.head} head"),
        ("Adaptation", f"{method.steps} steps in training, {method.test_steps} afterwards, rate {method.inner_lr:g}"),
        ("Training", f"{method.iterations} iterations of {method.tasks} tasks, rate {method.meta_lr:g}, seed {seed}"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in told.items() if number)),
        ("Time", f"{result.seconds:.0f} s up to here"),
    )
    text = "Inner rate and norm were chosen by validation AUC on held-out lesions of the common classes, without the rare ones."
    return Section("How this page was made", text, table=Table("Configuration", ("Setting", "Value"), rows))


def _short(found: Interval) -> str:
    return f"{found.mean:.3f} ({found.low:.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{found.high:.3f})"

"""Filling the cells of a table on disk: each run fitted once, each evaluation done once, and only what is missing.

OUT/<scale>/<data>/runs/<run>/     a run's folder, as `rareshot fit` leaves it; several cells may share it
OUT/<scale>/<data>/cells/<cell>/   the evaluations of a cell, as `rareshot evaluate` leaves them; the header says the row

Stopped in any way, the same call goes on: runs from their last checkpoint, evaluations behind their last line. Runs that differ
in the outer loss alone branch from one warm-up. Several processes may fill one table: each takes what no other is at.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rareshot.backbones.efficientnet import NoWeightsError
from rareshot.checkpoint import last_training_state, load_state, warmup_state
from rareshot.evaluated import Evaluation, SummaryError, read_evaluation
from rareshot.evaluation import Protocol
from rareshot.experiments import Cell, Row
from rareshot.judging import Asked, judge
from rareshot.locks import HeldElsewhereError, alone
from rareshot.run_record import Run, read_run, write_run
from rareshot.runs import fit_held, held_elsewhere, share_a_warmup
from rareshot.scales import at_scale
from rareshot.setting import Setting, refuse_other_run
from rareshot.statistics import Interval, interval
from rareshot.training import TrainingDivergedError
from rareshot.types import Learner, Progress, TrainingState

LOOK_AGAIN_S = 2.0
"""Between two looks, where other processes are at all that is left."""


class Step(NamedTuple):
    """What `fill` says of itself after an iteration or an episode."""

    part: str
    """The run that is fitted, the cell and the protocols that it is evaluated by, or whom it waits for."""
    done: int
    total: int
    """Iterations or episodes."""
    record: Mapping[str, Any]
    """The line for the training log; or mean AUC so far."""
    parts_done: int
    parts: int
    """Runs to fit and evaluations to do, all together; those of protocols that are judged beside each other count as one."""


Tell = Callable[[str, int, int, Mapping[str, Any]], None]
"""Part, done, total, and the line for the training log or the mean AUC so far."""


class Todo(NamedTuple):
    """A cell with what it lacks."""

    cell: Cell
    run: str
    """The run whose learner it judges; empty: a random start."""
    fit: bool
    """Must the run be fitted, and by no earlier cell?"""
    begins: str
    """Where the fit begins: `start`, `checkpoint` or the name of the run whose warm-up it shares."""
    protocols: tuple[Protocol, ...]
    """Evaluations that are missing."""


def survey(setting: Setting, cells: Sequence[Cell], protocols: Sequence[Protocol]) -> list[Todo]:
    """What each cell lacks, in the order of the cells; reads headers, loads no learner.

    Raises:
        ValueError: if a folder holds another run, or another evaluation.
    """
    todos: list[Todo] = []
    planned: dict[str, Run] = {}
    for cell in cells:
        missing = tuple(protocol for protocol in protocols if not _is_done(setting, cell, protocol))
        name, run = ("", None) if cell.row.untrained else setting.run_of(cell)
        fit, begins = False, ""
        if run is not None and missing:
            refuse_other_run(setting.run_folder(name), run)
            fit = name not in planned and not (setting.run_folder(name) / "learner.safetensors").exists()
            if fit:
                begins = _begins(setting, name, run, planned)
                planned[name] = run
        todos.append(Todo(cell, name, fit, begins, missing))
    return todos


def fill(
    setting: Setting,
    cells: Sequence[Cell],
    protocols: Sequence[Protocol],
    *,
    observe: Callable[[Step], None] = lambda step: None,
    asked: Callable[[], bool] = lambda: False,
) -> dict[str, Exception]:
    """Fit and evaluate what is missing; name of a cell → why it stays empty, for those that cannot be filled.

    A run that diverged and an extra that is not installed leave their cells empty; the others are filled all the same. What
    another process is at is left to it; the call returns when that is done too.

    Args:
        observe: called when an iteration or an episode is on disk, and now and then while it waits; what it raises stops the
            work, nothing lost.
        asked: was a stop asked for? Then a checkpoint is written before `observe` is called.

    Raises:
        ValueError: if a folder holds another run, or another evaluation.
    """
    todos = [todo for todo in survey(setting, cells, protocols) if todo.protocols]
    missing = {part for todo in todos for part in _parts(todo)}
    filled: set[str] = set()
    empty: dict[str, Exception] = {}
    diverged: dict[str, TrainingDivergedError] = {}

    def tell(part: str, done: int, total: int, record: Mapping[str, Any]) -> None:
        observe(Step(part, done, total, record, len(filled), len(missing)))

    while todos:
        held = []
        for todo in todos:
            try:
                if todo.run in diverged:
                    raise diverged[todo.run]
                for part in _fill_one(setting, todo, tell, asked):
                    filled.add(part)
            except HeldElsewhereError as error:
                held.append(todo)
                where = error.name
            except (TrainingDivergedError, NoWeightsError) as error:
                if isinstance(error, TrainingDivergedError):
                    diverged[todo.run] = error
                empty[todo.cell.name] = error
                missing -= set(_parts(todo))
        if len(held) == len(todos):
            tell(f"another process is at {where}", 0, 1, {})
            time.sleep(LOOK_AGAIN_S)
        todos = held
    return empty


def _parts(todo: Todo) -> list[str]:
    """The run to fit and the evaluations that a cell lacks, by name."""
    return [todo.run] * todo.fit + [_part(todo.cell, together) for together in _together(todo.protocols)]


def _part(cell: Cell, protocols: Sequence[Protocol]) -> str:
    return f"{cell.name}, {' and '.join(protocols)}"


def _fill_one(setting: Setting, todo: Todo, tell: Tell, asked: Callable[[], bool]) -> Iterator[str]:
    """Fit and evaluate what a cell still lacks; each part that is there now, whoever made it."""
    # Another process may have been here since the survey.
    if all(_is_done(setting, todo.cell, protocol) for protocol in todo.protocols):
        yield from _parts(todo)
        return
    learner = learner_of(setting, todo.cell, tell, asked)
    yield from [todo.run] * todo.fit
    for together in _together(todo.protocols):
        missing = [protocol for protocol in together if not _is_done(setting, todo.cell, protocol)]
        if missing:
            _evaluate(setting, todo.cell, missing, learner, tell)
        yield _part(todo.cell, together)


def _together(protocols: Sequence[Protocol]) -> list[list[Protocol]]:
    """Those whose episodes have their support sets in common, which `judge` adapts to once; `site` has its own."""
    apart: list[list[Protocol]] = [["paper", "full"], ["site"]]
    parts = [[protocol for protocol in part if protocol in protocols] for part in apart]
    return [part for part in parts if part]


def learner_of(setting: Setting, cell: Cell, tell: Tell, asked: Callable[[], bool]) -> Learner:
    """The learner that a cell judges; its run is fitted, or gone on with, where that is missing.

    Args:
        tell: called after every iteration with the part, those done, their number and the line for the log.
        asked: see `fill`.

    Raises:
        HeldElsewhereError: if another process is at the run, or at the warm-up that it shares.
    """
    method = at_scale(cell.row.at(cell.shot), setting.scale)
    if cell.row.untrained:
        return method.untrained(setting.common, seed=cell.seed)
    name, run = setting.run_of(cell)
    folder = setting.run_folder(name)
    refuse_other_run(folder, run)
    file = folder / "learner.safetensors"
    if not file.exists():

        def observe(now: Progress) -> None:
            tell(f"fit {name}", now.iteration, now.iterations, now.record)

        with _taken(setting, name, run) as (run, resume):
            fit_held(folder, run, setting.common, resume=resume, observe=observe, asked=asked)
    return method.blank(run.size).with_state(load_state(file)[0])


@contextmanager
def _taken(setting: Setting, name: str, run: Run) -> Iterator[tuple[Run, TrainingState | None]]:
    """Hold the folder of a run while open; the run as it was begun, and where it goes on.

    One process at a time looks and takes, so that none begins a warm-up that another has just begun.

    Raises:
        HeldElsewhereError: if another process is at it, or at the warm-up that it shares.
    """
    folder = setting.run_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with alone(folder.parent, wait=True):
            branch = _warmup_of(setting, run)
            if branch is None and not any(folder.glob("checkpoint-*.safetensors")):
                _leave_a_warmup_to_others(setting, run)
            folder.mkdir(exist_ok=True)
            if not stack.enter_context(alone(folder, wait=False)):
                raise held_elsewhere(folder)
            if (folder / "run.json").exists():
                run = replace(run, versions=read_run(folder).versions)
            write_run(folder, run)
            resume = last_training_state(folder)
        if resume is None and branch is not None:
            resume = warmup_state(branch)
        yield run, resume


def found(setting: Setting, row: Row, shot: int, protocol: Protocol, seeds: int) -> Interval | None:
    """AUC of a row at one k from what is done: over training seeds if there are several; None if there is none.

    Raises:
        ValueError: if raw lines are damaged.
    """
    kept = [_kept(setting, Cell(row, shot, seed), protocol) for seed in range(seeds)]
    cells = [Interval(**each.summary["metrics"]["auc"]) for each in kept if each and "metrics" in each.summary]
    if len(cells) < 2:
        return cells[0] if cells else None
    return interval([cell.mean for cell in cells], "over training seeds")


def _evaluate(setting: Setting, cell: Cell, protocols: Sequence[Protocol], learner: Learner, tell: Tell) -> None:
    evaluations = [
        Asked(
            setting.evaluation_name(protocol, cell.shot),
            setting.header(cell, protocol, learner.inductive),
            setting.plans(cell, protocol),
            {} if (count := setting.count(cell.row, protocol)) is None else {"first_episodes": count},
        )
        for protocol in protocols
    ]
    total = sum(len(asked.plans) for asked in evaluations)

    def observe(done: int, auc: float) -> None:
        tell(_part(cell, protocols), done, total, {"auc": auc})

    judge(setting.cell_folder(cell), evaluations, learner, observe)


def _is_done(setting: Setting, cell: Cell, protocol: Protocol) -> bool:
    """Do raw lines of just this evaluation lie there, with their summary?

    Raises:
        ValueError: if the lines are damaged, or of something else.
    """
    header: Mapping[str, Any] = json.loads(json.dumps(setting.header(cell, protocol)))
    lines = _lines(setting, cell, protocol)
    there = _first_line(lines)
    differing = [key for key, value in header.items() if there and there.get(key) != value]
    if differing:
        raise ValueError(
            f"{lines} holds results of something else: its {', '.join(differing)} is not that of {cell.name} now; "
            f"move it away, or choose another --out"
        )
    kept = _kept(setting, cell, protocol)
    return kept is not None and kept.summary.get("first_episodes") == setting.count(cell.row, protocol)


def _kept(setting: Setting, cell: Cell, protocol: Protocol) -> Evaluation | None:
    """What was evaluated and summed up; None where a summary is missing or damaged: it can be drawn again from the lines."""
    lines = _lines(setting, cell, protocol)
    stamps = [file.stat().st_mtime_ns if file.is_file() else 0 for file in (lines, lines.with_suffix(".summary.json"))]
    with suppress(SummaryError):
        kept = _read(lines, *stamps) if all(stamps) else None
        return kept if kept and kept.summary else None
    return None


@lru_cache(maxsize=1024)
def _read(lines: Path, written: int, summed_up: int) -> Evaluation | None:
    """Once for each time that the lines or their summary were written: who waits for others looks again and again."""
    return read_evaluation(lines)


def _lines(setting: Setting, cell: Cell, protocol: Protocol) -> Path:
    return setting.cell_folder(cell) / f"{setting.evaluation_name(protocol, cell.shot)}.jsonl"


def _first_line(file: Path) -> dict[str, Any]:
    """The header of raw lines; empty where there is none that is whole."""
    damaged = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
    with suppress(FileNotFoundError, *damaged), file.open(encoding="utf-8") as lines:
        header = json.loads(next(lines, "{}"))
        return dict(header) if isinstance(header, dict) else {}
    return {}


def _begins(setting: Setting, name: str, run: Run, planned: Mapping[str, Run]) -> str:
    if any(setting.run_folder(name).glob("checkpoint-*.safetensors")):
        return "checkpoint"
    branch = _warmup_of(setting, run)
    if branch is not None:
        return branch.name
    return next((other for other, its in planned.items() if _same_until_warmup_ends(run, its)), "start")


def _warmup_of(setting: Setting, run: Run) -> Path | None:
    """The folder of a run that has reached the end of a warm-up that is this run's too."""
    folders = sorted(file.parent for file in setting.run_folder("").glob("*/warmup.safetensors"))
    return next((folder for folder in folders if _same_until_warmup_ends(run, read_run(folder))), None)


def _leave_a_warmup_to_others(setting: Setting, run: Run) -> None:
    """Raise `HeldElsewhereError` if another process is at a run whose warm-up, once it is there, is this run's too."""
    for file in sorted(setting.run_folder("").glob("*/run.json")):
        with alone(file.parent, wait=False) as free:
            if not free and _same_until_warmup_ends(run, read_run(file.parent)):
                raise held_elsewhere(file.parent)


def _same_until_warmup_ends(one: Run, other: Run) -> bool:
    same = (one.seed, one.size, one.data) == (other.seed, other.size, other.data)
    return same and share_a_warmup(one.method, other.method)

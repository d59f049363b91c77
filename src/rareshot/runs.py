"""Fitting on disk: a log line and, now and then, a checkpoint after an iteration, so that a run goes on after any stop."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rareshot.atomic import write_atomically
from rareshot.checkpoint import last_training_state, save_learner, save_training_state, save_warmup_state
from rareshot.data.collection import LabelledImages
from rareshot.locks import HeldElsewhereError, alone
from rareshot.methods.maml import MAML
from rareshot.run_record import Run, write_run
from rareshot.types import Learner, Method, Observe, Progress, TrainingState

CHECKPOINT_EVERY = 20
"""Iterations between two checkpoints."""


def fit_run(
    folder: Path,
    run: Run,
    common: LabelledImages,
    *,
    resume: TrainingState | None,
    observe: Observe,
    asked: Callable[[], bool] = lambda: False,
) -> Learner:
    """Fit the run's method in its folder: run.json, log.jsonl, the last checkpoints, and at the end learner.safetensors.

    Args:
        resume: the checkpoint to go on from, this run's own or the end of a warm-up that it shares.
        observe: called when an iteration is on disk; what it raises stops the run, nothing lost.
        asked: was a stop asked for? Then a checkpoint is written before `observe` is called.

    Raises:
        HeldElsewhereError: if another process is fitting there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, wait=False) as held:
        if not held:
            raise held_elsewhere(folder)
        begun = (folder / "run.json").exists()
        write_run(folder, run)
        try:
            return fit_held(folder, run, common, resume=resume, observe=observe, asked=asked)
        except ValueError:
            if not begun and last_training_state(folder) is None:  # refused: a run that never was is not to be resumed
                (folder / "run.json").unlink()
                log = folder / "log.jsonl"
                if log.exists() and not log.stat().st_size:
                    log.unlink()
            raise


def held_elsewhere(folder: Path) -> HeldElsewhereError:
    """What to raise where another process is fitting."""
    return HeldElsewhereError(
        f"{folder} is being fitted by another process; wait for it, or choose another --out", folder.name
    )


def fit_held(
    folder: Path,
    run: Run,
    common: LabelledImages,
    *,
    resume: TrainingState | None,
    observe: Observe,
    asked: Callable[[], bool],
) -> Learner:
    """As `fit_run`, by whoever holds the folder (`rareshot.locks.alone`) already and has written its run.json."""
    log_file = folder / "log.jsonl"
    trim_log(log_file, resume.iteration if resume else 0)
    warmup = run.method.warmup if isinstance(run.method, MAML) else None
    with log_file.open("a") as log:

        def keep(now: Progress) -> None:
            log.write(json.dumps(now.record) + "\n")
            log.flush()
            due = asked() or now.iteration == now.iterations or now.iteration % CHECKPOINT_EVERY == 0
            if due or now.iteration == warmup:
                os.fsync(log.fileno())  # a power cut must not leave a state ahead of its log, see `trim_log`
            if due:
                save_training_state(folder, now.training_state)
            if now.iteration == warmup:
                save_warmup_state(folder, now.training_state)
            observe(now)

        learner = run.method.fit(common, seed=run.seed, resume=resume, observe=keep)
    save_learner(folder, learner)
    return learner


def share_a_warmup(one: Method, other: Method) -> bool:
    """Do two methods train alike until the warm-up ends? They may differ in the outer loss and the decay, used after it."""
    if not (isinstance(one, MAML) and isinstance(other, MAML)):
        return False
    return replace(one, meta_loss=other.meta_loss, decay=other.decay) == other


def trim_log(file: Path, iteration: int) -> None:
    """Drop the lines behind the state that training goes on from: they will be written again.

    Those of a start that was given up before that state was reached, as when it is another run's warm-up, would leave a gap.
    """
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    try:
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}); move it away, and training goes on with a new one") from error
    if kept and json.loads(kept[-1])["iteration"] != iteration:
        kept = []
    write_atomically(file, "".join(kept).encode())

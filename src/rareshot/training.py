"""The outer loop of Algorithm 1 (§2.2): tasks, their gradients, the outer loss, Adam. It knows no method by name.

On a CPU each task runs on one thread (`in_threads`), so the answer does not depend on how many threads there are. Whatever an
iteration uses is a pure function of (seed, iteration), but for the weights, Adam's moments, the list of skipped tasks and what a
curriculum has learnt: these are the `TrainingState`, and training resumed from one goes on bit-identically.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from rareshot import optimiser
from rareshot.gradients import TaskGradient
from rareshot.losses import MetaLoss, difficulty_weight
from rareshot.metrics import auc
from rareshot.policies import Curriculum
from rareshot.types import Observe, Progress, State, TrainingState

SKIPPED_LIMIT = 5
SKIPPED_WINDOW = 100


@runtime_checkable
class Trainable(Protocol):
    """A network whose weights are learnt; an `nn.Module`."""

    def learnt(self) -> dict[str, nn.Parameter]:
        """Name → weight, of all that training moves."""
        ...


@runtime_checkable
class Judged(Protocol):
    """What the outer loop asks of a task."""

    @property
    def query_y(self) -> Int[Tensor, " q"]:
        """Labels of its query images."""
        ...

    @property
    def way(self) -> int:
        """How many classes it has."""
        ...


N = TypeVar("N", bound=Trainable)
T = TypeVar("T", bound=Judged)


class TrainingDivergedError(RuntimeError):
    """Too many tasks in a row were not finite; the last checkpoint is good."""


@dataclass(frozen=True)
class Outer:
    """How the outer loop runs."""

    iterations: int
    tasks: int
    """Tasks of one iteration, the meta-batch."""
    meta_loss: Callable[[int], MetaLoss]
    """Iteration → outer loss: the mean during the warm-up, then the method's own."""
    meta_lr: Callable[[int], float]
    """Iteration → α of Eq. (4)."""
    clip: float
    """Largest norm of one task's weighted gradient."""


@contextmanager
def in_threads(
    net: N, gradient_of: Callable[[N, Mapping[str, Tensor], T], TaskGradient], tasks: int
) -> Iterator[Callable[[Mapping[str, Tensor], Sequence[T]], list[TaskGradient]]]:
    """While open: what computes the gradients of up to `tasks` tasks beside each other, each on one thread of torch's.

    Args:
        gradient_of: a task's loss and gradient at given weights, on a copy of the network of its own.
    """
    copies = [copy.deepcopy(net) for _ in range(tasks)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(min(threads, tasks), initializer=lambda: torch.set_num_threads(1))
    try:
        yield lambda weights, drawn: list(pool.map(gradient_of, copies, [weights] * len(drawn), drawn))
    finally:
        pool.shutdown()
        torch.set_num_threads(threads)


def train_episodic(
    net: Trainable,
    task_of: Callable[[int, tuple[int, ...] | None], tuple[T, Sequence[str]]],
    gradients_of: Callable[[Mapping[str, Tensor], Sequence[T]], list[TaskGradient]],
    outer: Outer,
    *,
    resume: TrainingState | None,
    observe: Observe,
    validate: Callable[[int, State], dict[str, float]],
    policy: Curriculum | None = None,
) -> State:
    """Meta-train the weights of `net`; returns them, and leaves `net` as it was.

    Args:
        task_of: number of a task, counted through, and its classes (None: any) → the task and the names of its classes.
        gradients_of: weights and the tasks of an iteration → loss and gradient of each, on the CPU: `in_threads`, for one.
        validate: (iterations done, weights) → figures for the log; a pure function.
        resume: where an earlier run of the same stood.
        policy: chooses each task's classes; None: they are drawn at random.

    Raises:
        TrainingDivergedError: if more than 5 of the last 100 tasks were not finite.
    """
    weights = {name: value.detach().clone() for name, value in net.learnt().items()}
    adam = optimiser.adam(weights.values(), lr=1.0)
    skipped: list[int] = []
    first = 0
    if resume is not None:
        first, skipped = resume.iteration, list(resume.skipped)
        restore(weights, adam, resume)
        if policy is not None and first:
            policy.restore(resume.policy)
    for iteration in range(first, outer.iterations):
        begun = time.perf_counter()
        numbers = range(iteration * outer.tasks, (iteration + 1) * outer.tasks)
        chosen = [policy.choose(number) if policy else None for number in numbers]
        drawn = [task_of(number, classes) for number, classes in zip(numbers, chosen, strict=True)]
        data_seconds = time.perf_counter() - begun
        results = gradients_of(weights, [task for task, _ in drawn])
        losses = torch.tensor([result.loss for result in results], dtype=torch.float64)
        slopes = difficulty_weight(outer.meta_loss(iteration), losses, drawn[0][0].way).tolist()
        finite = [_is_finite(result) and math.isfinite(slope) for result, slope in zip(results, slopes, strict=True)]
        skipped += [number for number, good in zip(numbers, finite, strict=True) if not good]
        _stop_if_diverged(skipped, iteration, outer.tasks)
        used = [index for index, good in enumerate(finite) if good]
        norms = [_norm(results[index].gradient) if finite[index] else float("nan") for index in range(outer.tasks)]
        if used:
            gradient = _combine(
                [results[i] for i in used], [slopes[i] for i in used], [norms[i] for i in used], outer.clip
            )
            for name, value in weights.items():
                value.grad = torch.empty_like(value).copy_(gradient[name])  # in memory as the weight, for `adam`
            adam.param_groups[0]["lr"] = outer.meta_lr(iteration)
            adam.step()
        record = {
            "iteration": iteration + 1,
            "loss": sum(results[i].loss for i in used) / len(used) if used else None,
            "meta_lr": outer.meta_lr(iteration),
            "seconds": 0.0,
            "data_seconds": data_seconds,
            "skipped": len(skipped),
            "tasks": [
                _task_record(result, task, classes, slope, norm)
                if good
                else {"classes": list(classes), "skipped": True}
                for result, (task, classes), slope, norm, good in zip(
                    results, drawn, slopes, norms, finite, strict=True
                )
            ],
        }
        record["seconds"] = time.perf_counter() - begun
        if policy is not None:
            for index in used:
                policy.observe(chosen[index] or (), _auc(results[index], drawn[index][0]))
        record |= validate(iteration + 1, weights)
        state = snapshot(iteration + 1, weights, adam, tuple(skipped), policy.state() if policy else {})
        observe(Progress(iteration + 1, outer.iterations, record, state))
    return weights


def _combine(results: list[TaskGradient], slopes: list[float], norms: list[float], clip: float) -> dict[str, Tensor]:
    """1/tasks Σ_i clip(weight_i ∇L_i): the gradient of the outer loss, each task's part no longer than `clip`."""
    factors = [
        slope * min(1.0, clip / max(abs(slope) * norm, 1e-30)) / len(results)
        for slope, norm in zip(slopes, norms, strict=True)
    ]
    total = {name: torch.zeros_like(value) for name, value in results[0].gradient.items()}
    for factor, result in zip(factors, results, strict=True):
        for name, value in result.gradient.items():
            total[name].add_(value, alpha=factor)
    return total


def _task_record(
    result: TaskGradient, task: Judged, classes: Sequence[str], slope: float, norm: float
) -> dict[str, float | list[str]]:
    return {
        "classes": list(classes),
        "loss": result.loss,
        "auc": _auc(result, task),
        "weight": slope,
        "gradient_norm": norm,
    }


def _auc(result: TaskGradient, task: Judged) -> float:
    return auc(result.logits.softmax(1), task.query_y)


def _norm(gradient: Mapping[str, Tensor]) -> float:
    return float(torch.stack([value.norm() for value in gradient.values()]).norm())


def _is_finite(result: TaskGradient) -> bool:
    return bool(torch.tensor(result.loss).isfinite()) and all(
        value.isfinite().all() for value in result.gradient.values()
    )


def _stop_if_diverged(skipped: list[int], iteration: int, tasks: int) -> None:
    recent = [number for number in skipped if number >= (iteration + 1) * tasks - SKIPPED_WINDOW]
    if len(recent) > SKIPPED_LIMIT:
        raise TrainingDivergedError(
            f"training diverged: {len(recent)} of the last {SKIPPED_WINDOW} tasks were not finite (numbers {recent}) at "
            f"iteration {iteration + 1}; the last checkpoint is good: try a smaller inner_lr or meta_lr"
        )


def snapshot(
    iteration: int, weights: State, adam: torch.optim.Adam, skipped: tuple[int, ...], policy: State
) -> TrainingState:
    """A copy taken now, where the weights are: what is asked for later is still the state of this iteration."""
    moments = {
        f"{name}.{key}": adam.state[value][key].detach().clone()
        for name, value in weights.items()
        if value in adam.state
        for key in ("exp_avg", "exp_avg_sq", "step")
    }
    copies = {name: value.detach().clone() for name, value in weights.items()}
    return TrainingState(iteration, copies, moments, skipped, policy)


def restore(weights: State, adam: torch.optim.Adam, resume: TrainingState) -> None:
    """Put a state's weights and moments where they belong.

    Raises:
        ValueError: if it is of another network.
    """
    shapes = {name: value.shape for name, value in weights.items()}
    if {name: value.shape for name, value in resume.weights.items()} != shapes:
        raise ValueError("the state to resume from is of another network: its weights have other names or shapes")
    for name, value in resume.optimiser.items():
        owner, _, kind = name.rpartition(".")
        if owner not in shapes or value.shape != (torch.Size() if kind == "step" else shapes[owner]):
            raise ValueError(f"the state to resume from is of another network: {name} does not fit")
    for name, value in weights.items():
        value.copy_(resume.weights[name])
        if f"{name}.step" in resume.optimiser:
            moments = {key: resume.optimiser[f"{name}.{key}"].detach() for key in ("step", "exp_avg", "exp_avg_sq")}
            adam.state[value] = {  # laid out in memory as the weight is; the count of steps is the CPU's
                key: moment.cpu().clone() if key == "step" else torch.empty_like(value.detach()).copy_(moment)
                for key, moment in moments.items()
            }

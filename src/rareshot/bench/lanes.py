"""Lanes: processes of our own in which designs run, so that none can hold another up or leave anything behind.

One wide lane has all threads; one narrow lane a core has one each. Both set the allocator to keep its memory; lanes that
do not, and lanes that have seen nothing yet, are opened for those designs that ask for them.
"""

import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rareshot.bench.designs import Arrangement, Design
from rareshot.bench.problem import Problem, Step
from rareshot.machine import keep_memory

Array = npt.NDArray[Any]
Groups = tuple[tuple[int, ...], ...]
"""Numbers of tasks: a group runs one after the other, groups beside each other."""
P = ParamSpec("P")
R = TypeVar("R")


class FailedError(RuntimeError):
    """What a design raised in its lane, in one line."""


class Lanes:
    """The processes of one bench.

    Args:
        threads: cores to use.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._open = ExitStack()
        self._wide: dict[bool, ProcessPoolExecutor] = {}
        self._narrow: list[ProcessPoolExecutor] = []

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def wide(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` gives in the wide lane."""
        return self._answer(self._wide_lane(keep=True).submit(function, *args, **kwargs))

    def step(self, design: Design, problem: Problem, arrangement: Arrangement) -> tuple[float, Array]:
        """Seconds of a step, from asking to the summed answer, and the answer.

        Raises:
            FailedError: if the design raised anything, or its process died.
        """
        shares = self._shares(design, problem, arrangement)
        begun = time.perf_counter()
        futures = [lane.submit(run_step, design, problem, groups, threads) for lane, groups, threads in shares]
        answers = [self._answer(future) for future in futures]
        return time.perf_counter() - begun, np.sum(answers, axis=0)

    def prepare(self, design: Design, problem: Problem, arrangement: Arrangement) -> None:
        """Make what a step needs, so that the next one does nothing else."""
        for lane, groups, _ in self._shares(design, problem, arrangement):
            self._answer(lane.submit(make_ready, design, problem, groups))

    def _shares(
        self, design: Design, problem: Problem, arrangement: Arrangement
    ) -> list[tuple[ProcessPoolExecutor, Groups, int]]:
        """Which lane computes which tasks on how many threads."""
        numbers = tuple(range(problem.tasks))
        if arrangement == "processes":
            count = min(self.threads, problem.tasks)
            return [(lane, (numbers[first::count],), 1) for first, lane in enumerate(self._narrow_lanes(count))]
        groups = tuple((n,) for n in numbers) if arrangement == "threads" else (numbers,)
        return [(self._wide_lane(design.keep_memory), groups, self.threads)]

    def _answer(self, future: "Future[R]") -> R:
        if isinstance(future.exception(), BrokenExecutor):  # killed, perhaps for memory: the next design gets new lanes
            self._wide, self._narrow = {}, []
        return _answer(future)

    def _wide_lane(self, keep: bool) -> ProcessPoolExecutor:
        if keep not in self._wide:
            self._wide[keep] = self._open.enter_context(lane(self.threads, keep=keep))
        return self._wide[keep]

    def _narrow_lanes(self, count: int) -> list[ProcessPoolExecutor]:
        while len(self._narrow) < count:
            self._narrow.append(self._open.enter_context(lane(1, keep=True)))
        return self._narrow[:count]


def lane(threads: int, *, keep: bool) -> ProcessPoolExecutor:
    """A process that has done nothing yet but import torch: where the system can, forked from one that does nothing else."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(1, context, initializer=_begin, initargs=(threads, keep))


def memory_growth(design: Design, problem: Problem) -> int:
    """Bytes by which a fresh process grows at its peak while it computes one task on one thread.

    A design that maps over tasks computes all of them, which is what it is for.
    """
    numbers = tuple(range(problem.tasks)) if design.maps_tasks else (0,)
    with lane(1, keep=design.keep_memory) as fresh:
        return _answer(fresh.submit(_growth, design, problem, numbers))


def run_step(design: Design, problem: Problem, groups: Groups, threads: int) -> Array:
    """A step in this process: all numbers of the answer, in the order of their names."""
    if len(groups) == 1:
        torch.set_num_threads(threads)
        answers = [prepared(design, problem, groups[0])()]
    else:
        torch.set_num_threads(1)
        steps = [prepared(design, problem, group) for group in groups]
        answers = list(_pool(threads).map(lambda step: step(), steps))
    return np.asarray(np.sum([flat(answer) for answer in answers], axis=0))


def flat(answer: Mapping[str, Tensor]) -> Array:
    """All numbers of an answer, in the order of their names."""
    return np.asarray(torch.cat([answer[name].detach().flatten() for name in sorted(answer)]).cpu().numpy())


def make_ready(design: Design, problem: Problem, groups: Groups) -> None:
    """Prepare a step in this process."""
    for group in groups:
        prepared(design, problem, group)


@cache
def prepared(design: Design, problem: Problem, numbers: tuple[int, ...]) -> Step:
    """A design with its network and tasks, made once in a process."""
    return design.prepare(problem, [problem.task(number) for number in numbers])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1))


def _begin(threads: int, keep: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends the lanes
    warnings.simplefilter("ignore")
    if keep:
        keep_memory()
    torch.set_num_threads(threads)


def _growth(design: Design, problem: Problem, numbers: tuple[int, ...]) -> int:
    step = prepared(design, problem, numbers)
    before = _peak()
    step()
    return _peak() - before


def _peak() -> int:
    """Most bytes that this process has held in memory.

    Not `ru_maxrss` where Linux tells better: a child inherits that figure from the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _answer(future: "Future[R]") -> R:
    error = future.exception()
    if isinstance(error, Exception):
        raise FailedError(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]) from error
    return future.result()

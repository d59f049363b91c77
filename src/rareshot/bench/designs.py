"""The designs: ours and every peer, as values that a lane can be sent."""

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from rareshot import explicit
from rareshot.bench import peers
from rareshot.bench.problem import Problem, Step
from rareshot.gradients import Task, meta_gradient
from rareshot.inner import adapt_to_support, query_logits

Arrangement = Literal["intra-op", "threads", "processes"]
"""One task at a time on all threads; tasks in Python threads of one torch thread each; the same in processes."""


@dataclass(frozen=True)
class Design:
    """One way to compute a step, and the ways in which it may run; the bench times it in the fastest of these."""

    name: str
    prepare: Callable[[Problem, Sequence[Task]], Step]
    """(problem, tasks) → what is gated and then timed."""
    package: str = ""
    """Must be installed; empty: needs nothing but torch."""
    arrangements: tuple[Arrangement, ...] = ("intra-op", "processes")
    layouts: tuple[bool, ...] = (True, False)
    """Channels last, or not."""
    orders: tuple[bool, ...] = (True, False)
    """Second order, first order."""
    keep_memory: bool = True
    """With the allocator setting of `rareshot.machine`."""

    maps_tasks: bool = False
    """It computes several tasks at once."""

    @property
    def installed(self) -> bool:
        """Is its package here?"""
        return not self.package or importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Of its package; empty if it needs none."""
        return version(self.package) if self.package and self.installed else ""


def ours(problem: Problem, tasks: Sequence[Task], *, fast: bool = True) -> Step:
    """`rareshot.gradients.meta_gradient`, as training calls it."""
    net = problem.network()
    params = {name: value.detach() for name, value in net.named_parameters()}

    def step() -> dict[str, Tensor]:
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        for task in tasks:
            result = meta_gradient(
                net,
                params,
                task,
                steps=problem.steps,
                lr=problem.lr,
                adapted="all",
                second_order=problem.second_order,
                fast=fast,
            )
            for name, value in result.gradient.items():
                total[name] += value
        return total

    return step


def ours_plain(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The same through autograd."""
    return ours(problem, tasks, fast=False)


def ours_recomputed(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The explicit path that keeps no activations of the inner steps."""
    params = {name: value.detach() for name, value in problem.network().named_parameters()}

    def step() -> dict[str, Tensor]:
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        for task in tasks:
            result = explicit.meta_gradient(
                params,
                *task[:4],
                steps=problem.steps,
                lr=problem.lr,
                norm=problem.norm,
                second_order=problem.second_order,
                recompute=True,
            )
            for name, value in result.gradient.items():
                total[name] += value
        return total

    return step


def our_answers(problem: Problem, tasks: Sequence[Task], *, fast: bool = True) -> Step:
    """Meta-test: `adapt_to_support`, then `query_logits`, as a learner and its classifier call them."""
    net = problem.network()
    params = {name: value.detach() for name, value in net.named_parameters()}

    def answer(task: Task) -> Tensor:
        moved, moments = adapt_to_support(
            copy.deepcopy(net),
            params,
            task.support_x,
            task.support_y,
            steps=problem.steps,
            lr=problem.lr,
            adapted="all",
            fast=fast,
        )
        with torch.no_grad():
            return query_logits(net, moved, task.query_x, moments)

    return lambda: {"logits": torch.stack([answer(task) for task in tasks]).sum(0)}


def our_plain_answers(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The same through autograd."""
    return our_answers(problem, tasks, fast=False)


OURS = Design("ours", ours, arrangements=("threads",), layouts=(True,))
"""What every ratio is to; runs as training runs it."""
PLAIN = Design("ours, plain", ours_plain, arrangements=("threads",), layouts=(True,))
RECOMPUTED = Design("ours, recomputed", ours_recomputed, arrangements=("threads",), layouts=(True,), orders=(True,))
TEXTBOOK = Design("functional loop", peers.functional)
"""What the gate compares with."""
DESIGNS = (
    OURS,
    PLAIN,
    RECOMPUTED,
    Design("learn2learn", peers.learn2learn, "learn2learn"),
    Design("higher", peers.higher, "higher"),
    Design("torchopt", peers.torchopt, "torchopt", orders=(True,)),
    TEXTBOOK,
    Design("torch.func vmap", peers.vmapped, arrangements=("intra-op",), maps_tasks=True),
    Design(
        "learn2learn, as people run it",
        peers.learn2learn,
        "learn2learn",
        arrangements=("intra-op",),
        layouts=(False,),
        keep_memory=False,
    ),
)

OUR_ANSWERS = Design("ours", our_answers, arrangements=("threads",), layouts=(True,))
PLAIN_ANSWERS = Design("ours, plain", our_plain_answers, arrangements=("threads",), layouts=(True,))
TEXTBOOK_ANSWERS = Design("functional loop", peers.functional_answers)
META_TEST = (
    OUR_ANSWERS,
    PLAIN_ANSWERS,
    Design("learn2learn", peers.learn2learn_answers, "learn2learn"),
    TEXTBOOK_ANSWERS,
)
"""Designs that answer instead."""

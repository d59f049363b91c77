"""The designs: ours and every peer, as values that a lane can be sent."""

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from rareshot import explicit
from rareshot.bench import peers
from rareshot.bench.problem import Problem, Step
from rareshot.gradients import Task, meta_gradient
from rareshot.graphs import Replayed, as_it_is
from rareshot.inner import adapt_to_support, query_logits

EXACT = 1e-10
"""Largest relative distance from the textbook gradient in float64."""
BFLOAT16 = 2e-2
"""The same for a Hessian whose convolutions multiply in bfloat16, 8 bits of mantissa."""
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
    tolerance: float = EXACT
    """What the gate lets pass."""

    @property
    def exact(self) -> bool:
        """Is its gradient the textbook's, but for rounding?"""
        return self.tolerance <= EXACT

    @property
    def installed(self) -> bool:
        """Is its package here?"""
        return not self.package or importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Of its package; empty if it needs none."""
        return version(self.package) if self.package and self.installed else ""


def ours(problem: Problem, tasks: Sequence[Task], *, fast: bool = True, hessian: torch.dtype | None = None) -> Step:
    """`rareshot.gradients.meta_gradient`, as training on a CPU calls it."""
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
                hessian=hessian,
            )
            for name, value in result.gradient.items():
                total[name] += value
        return total

    return step


def ours_bfloat16(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The Hessian's convolutions multiply in bfloat16."""
    return ours(problem, tasks, hessian=torch.bfloat16)


def side_by_side(
    problem: Problem, tasks: Sequence[Task], *, recorded: bool = True, hessian: torch.dtype | None = None
) -> Step:
    """`explicit.batched`, on a GPU recorded as one CUDA graph, as training calls it there."""
    params = {name: value.detach() for name, value in problem.network().named_parameters()}
    stacked = [torch.stack(parts) for parts in list(zip(*tasks, strict=True))[:4]]
    names = ("support_x", "support_y", "query_x", "query_y")

    def compute(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answer = explicit.batched.meta_gradients(
            {name: given[name] for name in params},
            *(given[name] for name in names),
            steps=problem.steps,
            lr=problem.lr,
            norm=problem.norm,
            second_order=problem.second_order,
            hessian=hessian,
        )
        return {name: value.sum(0) for name, value in answer.gradient.items()}

    replayed = Replayed(compute, torch.device(problem.device), None if recorded else as_it_is)

    def step() -> dict[str, Tensor]:
        answer = replayed({**params, **dict(zip(names, stacked, strict=True))})
        if replayed.failed:
            raise RuntimeError(f"no CUDA graph: {replayed.failed}")
        return answer

    return step


def not_recorded(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The same, one operation after the other."""
    return side_by_side(problem, tasks, recorded=False)


def side_by_side_bfloat16(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The same, recorded, with the Hessian's convolutions in bfloat16."""
    return side_by_side(problem, tasks, hessian=torch.bfloat16)


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
BFLOAT16_HESSIAN = Design(
    "ours, bfloat16 Hessian",
    ours_bfloat16,
    arrangements=("threads",),
    layouts=(True,),
    orders=(True,),
    tolerance=BFLOAT16,
)
SIDE_BY_SIDE = Design("ours, side by side", side_by_side, arrangements=("intra-op",), layouts=(True,), maps_tasks=True)
TEXTBOOK = Design("functional loop", peers.functional)
"""What the gate compares with."""
LEARN2LEARN = Design("learn2learn", peers.learn2learn, "learn2learn")
HIGHER = Design("higher", peers.higher, "higher")
VMAP = Design("torch.func vmap", peers.vmapped, arrangements=("intra-op",), maps_tasks=True)
DESIGNS = (
    OURS,
    PLAIN,
    RECOMPUTED,
    SIDE_BY_SIDE,
    BFLOAT16_HESSIAN,
    LEARN2LEARN,
    HIGHER,
    Design("torchopt", peers.torchopt, "torchopt", orders=(True,)),
    TEXTBOOK,
    VMAP,
    Design("learn2learn, its own layout", peers.learn2learn, "learn2learn", layouts=(False,)),
    Design(
        "learn2learn, as people run it",
        peers.learn2learn,
        "learn2learn",
        arrangements=("intra-op",),
        layouts=(False,),
        keep_memory=False,
    ),
)

ON_A_GPU = (
    SIDE_BY_SIDE,
    replace(SIDE_BY_SIDE, name="ours, side by side, not recorded", prepare=not_recorded),
    replace(
        SIDE_BY_SIDE,
        name="ours, side by side, bfloat16 Hessian",
        prepare=side_by_side_bfloat16,
        orders=(True,),
        tolerance=BFLOAT16,
    ),
    PLAIN,
    LEARN2LEARN,
    HIGHER,
    TEXTBOOK,
    VMAP,
)
"""Designs for a problem whose `device` is one; the first is what ratios are to."""

OUR_ANSWERS = Design("ours", our_answers, arrangements=("threads",), layouts=(True,))
PLAIN_ANSWERS = Design("ours, plain", our_plain_answers, arrangements=("threads",), layouts=(True,))
TEXTBOOK_ANSWERS = Design("functional loop", peers.functional_answers)
META_TEST = (
    OUR_ANSWERS,
    PLAIN_ANSWERS,
    Design("learn2learn", peers.learn2learn_answers, "learn2learn"),
    Design("learn2learn, its own layout", peers.learn2learn_answers, "learn2learn", layouts=(False,)),
    TEXTBOOK_ANSWERS,
)
"""Designs that answer instead."""

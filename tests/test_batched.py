"""Several tasks side by side, against one after the other through autograd: in float64 the same. And bfloat16, which is not."""

import statistics
from typing import Any

import pytest
import torch
from tiny import random_network, random_task, relative_distance, weights_of

from rareshot import explicit
from rareshot.backbones import HeadMode, Network, NormMode
from rareshot.bench.problem import Problem
from rareshot.explicit import TaskGradient, batched
from rareshot.gradients import Task, plain
from rareshot.inner import adapt, adapted_names

HOW: dict[str, Any] = {"steps": 2, "lr": 0.05}
NORMS: list[NormMode] = ["support", "group", "transductive"]


def made(norm: NormMode, head: HeadMode, *, way: int = 2, tasks: int = 3) -> tuple[Network, list[Task]]:
    return random_network(norm, head=head, width=16, way=way), [random_task(way=way, seed=i) for i in range(tasks)]


def together(net: Network, tasks: list[Task], norm: NormMode, **how: Any) -> TaskGradient:
    start = net.begin(weights_of(net), tasks[0].way)
    stacked = [torch.stack(parts) for parts in list(zip(*tasks, strict=True))[:4]]
    return batched.meta_gradients(start, *stacked, **HOW, norm=norm, **how)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize(("way", "tasks"), [(2, 3), (3, 1)])
@pytest.mark.parametrize("head", ["full", "shared"])
@pytest.mark.parametrize("norm", NORMS)
def test_tasks_side_by_side_have_the_gradients_of_autograd(
    norm: NormMode, head: HeadMode, way: int, tasks: int, second_order: bool
) -> None:
    net, drawn = made(norm, head, way=way, tasks=tasks)
    ours = together(net, drawn, norm, second_order=second_order)
    for i, task in enumerate(drawn):
        theirs = plain(net, weights_of(net), task, **HOW, adapted="all", second_order=second_order)
        own = {name: ours.gradient[name][i] for name in theirs.gradient}
        assert ours.loss[i].item() == pytest.approx(theirs.loss, rel=1e-10)
        assert relative_distance(own, theirs.gradient) < 1e-10
        torch.testing.assert_close(ours.logits[i], theirs.logits, rtol=1e-9, atol=1e-10)
        assert all(own[name].shape == value.shape for name, value in theirs.gradient.items())


@pytest.mark.parametrize("norm", NORMS)
def test_no_task_sees_the_one_beside_it(norm: NormMode) -> None:
    net, drawn = made(norm, "full")
    broken = drawn[1]._replace(support_x=torch.full_like(drawn[1].support_x, float("nan")))
    whole, others = (together(net, [drawn[0], task, drawn[2]], norm) for task in (drawn[1], broken))
    assert others.loss[1].isnan()
    for i in (0, 2):
        assert others.loss[i] == whole.loss[i]
        assert all(torch.equal(others.gradient[name][i], value[i]) for name, value in whole.gradient.items())


@pytest.mark.parametrize("norm", NORMS)
def test_adapted_side_by_side_is_adapted_alone(norm: NormMode) -> None:
    net, drawn = made(norm, "shared")
    start = net.begin(weights_of(net), 2)
    x, y = (torch.stack([getattr(task, name) for task in drawn]) for name in ("support_x", "support_y"))
    ours = batched.adapt(start, x, y, **HOW, norm=norm)
    for i, task in enumerate(drawn):
        theirs = adapt(net, start, task.support_x, task.support_y, **HOW, names=adapted_names(start))
        own = {name: ours[name][i] for name in theirs}
        assert relative_distance(own, {name: value.detach() for name, value in theirs.items()}) < 1e-10
        alone = explicit.adapt(start, task.support_x, task.support_y, **HOW, norm=norm)
        assert relative_distance(own, alone) < 1e-12


def test_apart_undoes_side_by_side() -> None:
    params = weights_of(random_network("group", head="full"))
    for name, value in batched.apart(batched.side_by_side(params, 3), 3).items():
        assert value.shape == (3, *params[name].shape)
        assert all(torch.equal(each, params[name]) for each in value)


def errors(side_by_side: bool) -> list[float]:
    """Relative error of the meta-gradient with the Hessian's convolutions in bfloat16, of six tasks."""
    found = []
    problem = Problem(size=32, shot=3, steps=3, query=5, tasks=1, width=16, lr=0.05)
    params = {name: value.detach() for name, value in problem.network().named_parameters()}
    for number in range(6):
        task: Any = problem.task(number)[:4]
        how: dict[str, Any] = {"steps": 3, "lr": 0.05, "norm": problem.norm}
        exact = explicit.meta_gradient(params, *task, **how).gradient
        if side_by_side:
            stacked = batched.meta_gradients(params, *(part[None] for part in task), **how, hessian=torch.bfloat16)
            ours = {name: value[0] for name, value in stacked.gradient.items()}
        else:
            ours = explicit.meta_gradient(params, *task, **how, hessian=torch.bfloat16).gradient
        found.append(relative_distance(ours, exact))
    return found


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_hessian_in_bfloat16_moves_the_gradient_by_less_than_two_percent(side_by_side: bool) -> None:
    found = errors(side_by_side)
    assert 1e-5 < statistics.median(found) < 2e-2


def test_a_hessian_in_its_own_numbers_changes_no_bit() -> None:
    net, (task, *_) = made("support", "full")
    answers = [
        explicit.meta_gradient(net.begin(weights_of(net), 2), *task[:4], **HOW, norm="support", hessian=kind).gradient
        for kind in (None, torch.float64)
    ]
    assert all(torch.equal(answers[1][name], value) for name, value in answers[0].items())

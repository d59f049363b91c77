"""The peers: the same gradient by other libraries, each as its own documentation writes the loop.

All of them take the textbook network: conv4 with `nn.BatchNorm2d` that keeps no running statistics, that is, transductive.
"""

import contextlib
import importlib
import io
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rareshot.backbones import Network
from rareshot.bench.problem import Problem, Step
from rareshot.gradients import Task


def functional(problem: Problem, tasks: Sequence[Task]) -> Step:
    """The loop as everyone writes it by hand: functions, `F.batch_norm`, `torch.autograd.grad`."""
    leaves = _leaves(problem)

    def step() -> dict[str, Tensor]:
        total = {name: torch.zeros_like(value) for name, value in leaves.items()}
        for task in tasks:
            loss = F.cross_entropy(conv4(_adapted(leaves, task, problem), task.query_x), task.query_y)
            for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                total[name] += gradient
        return total

    return step


def functional_answers(problem: Problem, tasks: Sequence[Task]) -> Step:
    """Meta-test: the same loop, then the queries without a graph."""
    leaves = _leaves(problem)

    @torch.no_grad()
    def answer(task: Task) -> Tensor:
        with torch.enable_grad():
            params = _adapted(leaves, task, problem)
        return conv4(params, task.query_x)

    return lambda: {"logits": torch.stack([answer(task) for task in tasks]).sum(0)}


def vmapped(problem: Problem, tasks: Sequence[Task]) -> Step:
    """`torch.func`: gradient of a function that takes gradients, mapped over as many tasks as memory holds."""
    params = {name: value.detach() for name, value in _leaves(problem).items()}
    stacked = [torch.stack(parts) for parts in list(zip(*tasks, strict=True))[:4]]

    def query_loss(params: dict[str, Tensor], sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(conv4(params, x), y)

        for _ in range(problem.steps):
            gradients = torch.func.grad(loss)(params, sx, sy)
            if not problem.second_order:
                gradients = {name: value.detach() for name, value in gradients.items()}
            params = {name: value - problem.lr * gradients[name] for name, value in params.items()}
        return loss(params, qx, qy)

    mapped = torch.func.vmap(
        torch.func.grad(query_loss), in_dims=(None, 0, 0, 0, 0), chunk_size=tasks_at_once(problem, len(tasks))
    )

    def step() -> dict[str, Tensor]:
        return {name: value.sum(0) for name, value in mapped(params, *stacked).items()}

    return step


def tasks_at_once(problem: Problem, tasks: int) -> int:
    """How many tasks `vmapped` can hold in half of the memory: it needs some 22 times the maps of all its passes."""
    maps = sum(problem.width * (problem.size >> i) ** 2 for i in range(4))
    images = problem.steps * problem.support_images + problem.query_images
    bytes_of_task = 22 * 4 * maps * images
    memory: int = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 * 2**30
    return max(1, min(tasks, memory // 2 // bytes_of_task))


def learn2learn(problem: Problem, tasks: Sequence[Task]) -> Step:
    """`l2l.algorithms.MAML`: clone, adapt, backward."""
    net = textbook(problem)
    maml = package("learn2learn").algorithms.MAML(net, lr=problem.lr, first_order=not problem.second_order)

    def step() -> dict[str, Tensor]:
        maml.zero_grad()
        for task in tasks:
            learner = maml.clone()
            for _ in range(problem.steps):
                learner.adapt(F.cross_entropy(learner(task.support_x), task.support_y))
            torch.autograd.backward(F.cross_entropy(learner(task.query_x), task.query_y))
        return _gradients(net)

    return step


def learn2learn_answers(problem: Problem, tasks: Sequence[Task]) -> Step:
    """Meta-test: adapt without a graph through the steps, then answer the queries."""
    maml = package("learn2learn").algorithms.MAML(textbook(problem), lr=problem.lr, first_order=True)

    def answer(task: Task) -> Tensor:
        learner = maml.clone()
        for _ in range(problem.steps):
            learner.adapt(F.cross_entropy(learner(task.support_x), task.support_y))
        with torch.no_grad():
            logits: Tensor = learner(task.query_x)
        return logits

    return lambda: {"logits": torch.stack([answer(task) for task in tasks]).sum(0)}


def higher(problem: Problem, tasks: Sequence[Task]) -> Step:
    """`higher.innerloop_ctx` around SGD; in first order the gradient at the adapted weights."""
    net, module = textbook(problem), package("higher")
    optimiser = torch.optim.SGD(net.parameters(), lr=problem.lr)

    def step() -> dict[str, Tensor]:
        net.zero_grad()
        for task in tasks:
            with module.innerloop_ctx(
                net, optimiser, copy_initial_weights=False, track_higher_grads=problem.second_order
            ) as (learner, inner):
                for _ in range(problem.steps):
                    inner.step(F.cross_entropy(learner(task.support_x), task.support_y))
                loss = F.cross_entropy(learner(task.query_x), task.query_y)
                if problem.second_order:
                    torch.autograd.backward(loss)
                else:
                    gradients = torch.autograd.grad(loss, list(learner.parameters()))
                    for value, gradient in zip(net.parameters(), gradients, strict=True):
                        value.grad = gradient if value.grad is None else value.grad + gradient
        return _gradients(net)

    return step


def torchopt(problem: Problem, tasks: Sequence[Task]) -> Step:
    """`torchopt.MetaSGD`: the module's weights move and are put back. It has no first order."""
    net, module = textbook(problem), package("torchopt")
    leaves = dict(net.named_parameters())
    inner = module.MetaSGD(net, lr=problem.lr)
    start = [module.extract_state_dict(each, by="reference") for each in (net, inner)]

    def step() -> dict[str, Tensor]:
        for value in leaves.values():
            value.grad = None
        for task in tasks:
            for _ in range(problem.steps):
                inner.step(F.cross_entropy(net(task.support_x), task.support_y))
            torch.autograd.backward(F.cross_entropy(net(task.query_x), task.query_y))
            for each, state in zip((net, inner), start, strict=True):
                module.recover_state_dict(each, state)
        return {name: value.grad for name, value in leaves.items() if value.grad is not None}

    return step


def conv4(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network as a function."""
    for i in range(4):
        kernel, scale, shift = (params[f"backbone.blocks.{i}.{p}"] for p in ("conv.weight", "norm.weight", "norm.bias"))
        x = F.batch_norm(F.conv2d(x, kernel, padding=1), None, None, scale, shift, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


def textbook(problem: Problem) -> Network:
    """The network as a module of torch's own layers."""
    net = problem.network()
    kind = torch.float64 if problem.double else torch.float32
    blocks: Any = net.backbone.blocks
    for block in blocks:
        norm = nn.BatchNorm2d(problem.width, track_running_stats=False, dtype=kind)
        norm.load_state_dict({"weight": block.norm.weight, "bias": block.norm.bias})
        block.norm = norm
    return net.to(problem.device)


def package(name: str) -> Any:
    """A library, imported without what it says to standard error."""
    with contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module(name)


def _leaves(problem: Problem) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_() for name, value in problem.network().named_parameters()}


def _adapted(params: dict[str, Tensor], task: Task, problem: Problem) -> dict[str, Tensor]:
    for _ in range(problem.steps):
        loss = F.cross_entropy(conv4(params, task.support_x), task.support_y)
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=problem.second_order)
        params = {
            name: value - problem.lr * gradient
            for (name, value), gradient in zip(params.items(), gradients, strict=True)
        }
    return params


def _gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}

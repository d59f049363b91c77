"""All tasks of an iteration on a device: weights and draws go there, losses, gradients and answers come back to the CPU.

The outer loop keeps weights, Adam's moments and its checks on the CPU, whatever computes the gradients; so states and
checkpoints are the same kind of thing, and a run says the same of itself.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from rareshot import explicit
from rareshot.backbones import Network
from rareshot.explicit import batched
from rareshot.gradients import Task, TaskGradient
from rareshot.graphs import Function, Record, Replayed
from rareshot.inner import norm_of
from rareshot.resident import DrawnTask, Resident


@runtime_checkable
class Movable(Protocol):
    """A network whose weights are learnt, on any device; an `nn.Module`."""

    def learnt(self) -> dict[str, nn.Parameter]:
        """Name → weight, of all that training moves."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """The same, there."""
        ...


N = TypeVar("N", bound=Movable)
Gradients = Callable[[Mapping[str, Tensor], Sequence[DrawnTask]], list[TaskGradient]]
"""(weights, tasks) → what each task says, all on the CPU."""


def on_device(device: torch.device) -> bool:
    """Does this device take all tasks of an iteration at once, instead of one a thread?"""
    return device.type != "cpu"


def side_by_side(
    net: Network,
    images: Resident,
    device: torch.device,
    *,
    way: int,
    steps: int,
    lr: float,
    second_order: bool,
    hessian: torch.dtype | None = None,
    record: Record | None = None,
) -> Gradients:
    """By `explicit.batched`: pictures and gradients of all tasks as one recorded computation.

    Args:
        net: the structure, one that `inner.explicit_applies` to.
        way: classes of every task.
        hessian: see `rareshot.explicit.meta_gradient`.
        record: see `rareshot.graphs`.
    """
    names = list(net.learnt())

    def compute(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {name: given[name] for name in names}
        x = images(given["indices"], given.get("maps")).to(weights[names[0]].dtype)
        support = given["support_y"].shape[1]
        result = batched.meta_gradients(
            net.begin(weights, way),
            x[:, :support],
            given["support_y"],
            x[:, support:],
            given["query_y"],
            steps=steps,
            lr=lr,
            norm=norm_of(net),
            second_order=second_order,
            hessian=hessian,
        )
        parts = [result.loss[:, None], result.logits, *(result.gradient[name] for name in names)]
        return {"numbers": torch.cat([part.flatten(1) for part in parts], 1)}  # one thing to carry back

    return _recorded(compute, device, record)


def one_by_one(
    net: N,
    differentiate: Callable[[N, Mapping[str, Tensor], Task], explicit.TaskGradient],
    images: Resident,
    device: torch.device,
    *,
    way: int,
    record: Record | None = None,
) -> Gradients:
    """Any network, task after task through autograd, as one recorded computation too.

    Args:
        differentiate: network, weights and a task → what it says, the loss as a tensor; nothing in it may wait for a number.
        net, way, record: see `side_by_side`; any network.
    """
    names = list(net.learnt())
    own: N = copy.deepcopy(net).to(device)

    def compute(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {name: given[name] for name in names}
        support = given["support_y"].shape[1]
        rows = []
        for number, pictures in enumerate(images(given["indices"], given.get("maps"))):
            x = pictures.to(weights[names[0]].dtype).contiguous(memory_format=torch.channels_last)
            task = Task(x[:support], given["support_y"][number], x[support:], given["query_y"][number], way)
            with torch.enable_grad():
                result = differentiate(own, weights, task)
            parts = [result.loss, result.logits, *(result.gradient[name] for name in names)]
            rows.append(torch.cat([part.flatten() for part in parts]))
        return {"numbers": torch.stack(rows)}

    return _recorded(compute, device, record)


def _recorded(compute: Function, device: torch.device, record: Record | None) -> Gradients:
    replayed = Replayed(compute, device, record)

    def gradients(weights: Mapping[str, Tensor], tasks: Sequence[DrawnTask]) -> list[TaskGradient]:
        rows = replayed({**weights, **_stacked(tasks)})["numbers"].cpu()
        return [_read(row, weights, task) for row, task in zip(rows, tasks, strict=True)]

    return gradients


def _stacked(tasks: Sequence[DrawnTask]) -> dict[str, Tensor]:
    given = {name: torch.stack([getattr(task, name) for task in tasks]) for name in ("indices", "support_y", "query_y")}
    maps = [task.maps for task in tasks if task.maps is not None]
    return {**given, "maps": torch.stack(maps)} if maps else given


def _read(row: Tensor, weights: Mapping[str, Tensor], task: DrawnTask) -> TaskGradient:
    """A row of loss, logits and gradients, taken apart; a copy of its own."""
    sizes = [1, len(task.query_y) * task.way, *(value.numel() for value in weights.values())]
    loss, logits, *parts = torch.split(row.clone(), sizes)
    gradient = {name: part.view(value.shape) for (name, value), part in zip(weights.items(), parts, strict=True)}
    return TaskGradient(loss.item(), gradient, logits.view(-1, task.way))

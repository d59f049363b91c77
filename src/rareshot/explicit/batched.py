"""Several tasks side by side, for a machine on which few large operations beat many small ones: a GPU.

A block's channels do not know each other but through its convolution. So the tasks' channels stand in one map, (n, tasks · c,
h, w), in the order of the tasks, and a convolution has a group for each task; the passes of `blocks` are the same. The head
has the tasks in front, (tasks, way, f). On a CPU this is slower than one task after the other: its caches are too small.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.explicit import task
from rareshot.explicit.network import Params
from rareshot.explicit.task import TaskGradient


def meta_gradients(
    params: Params,
    support_x: Float[Tensor, "tasks s 3 h w"],
    support_y: Int[Tensor, "tasks s"],
    query_x: Float[Tensor, "tasks q 3 h w"],
    query_y: Int[Tensor, "tasks q"],
    *,
    steps: int,
    lr: float,
    norm: str,
    second_order: bool = True,
    hessian: torch.dtype | None = None,
) -> TaskGradient:
    """`task.meta_gradient` of several tasks at the same parameters: losses (tasks,), gradients (tasks, …), logits.

    Nothing in here waits for a number, so that a GPU can record the whole.
    """
    tasks = len(support_x)
    result = task.meta_gradient(
        side_by_side(params, tasks),
        support_x,
        support_y,
        query_x,
        query_y,
        steps=steps,
        lr=lr,
        norm=norm,
        second_order=second_order,
        hessian=hessian,
    )
    return TaskGradient(result.loss, apart(result.gradient, tasks), result.logits)


def adapt(
    params: Params,
    x: Float[Tensor, "tasks s 3 h w"],
    y: Int[Tensor, "tasks s"],
    *,
    steps: int,
    lr: float,
    norm: str,
) -> dict[str, Tensor]:
    """`task.adapt` of several tasks from the same parameters: each parameter with the tasks in front."""
    return apart(task.adapt(side_by_side(params, len(x)), x, y, steps=steps, lr=lr, norm=norm), len(x))


def side_by_side(params: Params, tasks: int) -> dict[str, Tensor]:
    """The parameters of one task, for several: heads in front of each other, all else channel behind channel."""

    def laid(name: str, value: Tensor) -> Tensor:
        copies = value.detach().expand(tasks, *value.shape)
        return copies.contiguous() if name.startswith("head.") else copies.flatten(0, 1)

    return {name: laid(name, value) for name, value in params.items()}


def apart(params: Params, tasks: int) -> dict[str, Tensor]:
    """What `side_by_side` laid, a task each in front."""

    def taken(name: str, value: Tensor) -> Tensor:
        return value if name.startswith("head.") else value.view(tasks, -1, *value.shape[1:])

    return {name: taken(name, value) for name, value in params.items()}

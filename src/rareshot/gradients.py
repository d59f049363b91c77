"""The meta-gradient of one task: how the query loss after adaptation changes with the initial weights, Eqs. (2) to (4).

The outer loss is a function of the tasks' losses alone, so each task's gradient can be had by itself: Σ_i weight_i ∇L_i.
That is what lets a task be clipped, skipped or computed beside another, and what the two paths share: `plain` through
autograd for any network, and the explicit one of `rareshot.explicit` where it applies, which gives the same.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot import explicit
from rareshot.backbones import Network
from rareshot.inner import adapt, adapted_names, explicit_applies, norm_of, query_logits, support_moments
from rareshot.losses import task_loss


class Task(NamedTuple):
    """The tensors of an episode, standardised."""

    support_x: Float[Tensor, "s c h w"]
    support_y: Int[Tensor, " s"]
    query_x: Float[Tensor, "q c h w"]
    query_y: Int[Tensor, " q"]
    way: int


class TaskGradient(NamedTuple):
    """What one task says to the outer loop."""

    loss: float
    """L_i, Eq. (1), on the query images after adaptation."""
    gradient: dict[str, Tensor]
    """∇L_i in the initial weights, by name."""
    logits: Float[Tensor, "q way"]


def plain(
    net: Network, params: Mapping[str, Tensor], task: Task, *, steps: int, lr: float, adapted: str, second_order: bool
) -> TaskGradient:
    """The functional loop through autograd: for any backbone and norm mode, and the reference for anything faster.

    Args:
        net: the structure; its norm layers hold state during the call, so each thread needs a copy of its own.
        params: initial weights by name.
        steps: inner steps.
        lr: inner rate γ.
        adapted: `all` or `head`, see `rareshot.inner.adapted_names`.
        second_order: through the inner steps; first order takes their gradients as constants.
    """
    result = differentiate(net, params, task, steps=steps, lr=lr, adapted=adapted, second_order=second_order)
    return TaskGradient(result.loss.item(), result.gradient, result.logits)


def differentiate(
    net: Network, params: Mapping[str, Tensor], task: Task, *, steps: int, lr: float, adapted: str, second_order: bool
) -> explicit.TaskGradient:
    """`plain`, with the loss as a tensor: nothing in here waits for a number, so that a GPU can record the whole."""
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    start = net.begin(leaves, task.way)
    moved = adapt(
        net,
        start,
        task.support_x,
        task.support_y,
        steps=steps,
        lr=lr,
        names=adapted_names(start, adapted),
        second_order=second_order,
    )
    logits = query_logits(net, moved, task.query_x, support_moments(net, moved, task.support_x))
    loss = task_loss(logits, task.query_y)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return explicit.TaskGradient(loss.detach(), dict(zip(leaves, gradients, strict=True)), logits.detach())


def meta_gradient(
    net: Network,
    params: Mapping[str, Tensor],
    task: Task,
    *,
    steps: int,
    lr: float,
    adapted: str,
    second_order: bool,
    fast: bool = True,
    hessian: torch.dtype | None = None,
) -> TaskGradient:
    """`plain`, or with `fast` the explicit path where that applies, on a CPU: the same numbers, sooner.

    On a GPU `rareshot.meta_batch` takes all tasks of an iteration at once, by either path.

    Args:
        hessian: of the explicit path alone, see `rareshot.explicit.meta_gradient`; bfloat16 is not exact.
    """
    if not (fast and task.support_x.device.type == "cpu" and explicit_applies(net, adapted)):
        return plain(net, params, task, steps=steps, lr=lr, adapted=adapted, second_order=second_order)
    start = {name: value.detach() for name, value in net.begin(params, task.way).items()}
    result = explicit.meta_gradient(
        start,
        task.support_x,
        task.support_y,
        task.query_x,
        task.query_y,
        steps=steps,
        lr=lr,
        norm=norm_of(net),
        second_order=second_order,
        hessian=hessian,
    )
    return TaskGradient(result.loss.item(), {name: result.gradient[name] for name in params}, result.logits)

"""The meta-gradient of one task: through the query loss, the moments and every inner step."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.explicit.blocks import Images
from rareshot.explicit.network import (
    Params,
    Pass,
    descend,
    hessian_product,
    loss_gradient,
    moments_gradient,
    moments_of,
    norm_of,
    trace_blocks,
)


@dataclass(frozen=True)
class TaskGradient:
    """What one task says to the meta-optimiser."""

    loss: Float[Tensor, ""]
    """Query loss after adaptation."""
    gradient: dict[str, Tensor]
    """Its gradient with respect to the initial parameters."""
    logits: Float[Tensor, "q way"]
    """Logits of the query images after adaptation."""


@torch.no_grad()
def meta_gradient(
    params: Params,
    support_x: Float[Tensor, "s c h w"],
    support_y: Int[Tensor, " s"],
    query_x: Float[Tensor, "q c h w"],
    query_y: Int[Tensor, " q"],
    *,
    steps: int,
    lr: float,
    norm: str,
    second_order: bool = True,
    recompute: bool = False,
) -> TaskGradient:
    """Query loss after `steps` of adaptation, and its exact gradient with respect to the initial parameters.

    Args:
        params: of conv4 with a linear head, by the names that `supports` knows.
        norm: `transductive`, `support` or `group`.
        second_order: through the inner steps; otherwise the gradient at the adapted parameters.
        recompute: keep only the parameters of each step, and go forward and backward again when they are needed: memory flat
            in `steps`, about a third more time.
    """
    means = norm_of(norm)
    images = Images(support_x, means)
    adapted = dict(params)
    before: list[dict[str, Tensor]] = []
    passes: list[Pass] = []
    for _ in range(steps):
        _, _, gradient, state = loss_gradient(adapted, images, support_y, means)
        if second_order:
            before.append(adapted)
            if not recompute:
                passes.append(state)
        adapted = descend(adapted, gradient, lr)

    if norm == "support":
        traces = trace_blocks(adapted, images, means)
        loss, scores, v, query = loss_gradient(adapted, query_x, query_y, means, moments_of(traces))
        through = moments_gradient(traces, query)
        v |= {name: v[name] + more for name, more in through.items()}
        del traces, query
    else:
        loss, scores, v, _ = loss_gradient(adapted, query_x, query_y, means)

    while before:
        at = before.pop()
        state = passes.pop() if passes else loss_gradient(at, images, support_y, means)[3]
        v = descend(v, hessian_product(state, v), lr)
    return TaskGradient(loss, v, scores)

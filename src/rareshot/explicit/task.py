"""One task: adaptation, answers, and the meta-gradient through the query loss, the moments and every inner step.

`adapt`, `moments` and `meta_gradient` also take several tasks side by side, as `batched` lays them out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.explicit.network import (
    Params,
    Pass,
    descend,
    hessian_product,
    images_of,
    lay_out,
    loss_gradient,
    moments_gradient,
    moments_of,
    norm_of,
    trace_blocks,
)


@dataclass(frozen=True)
class TaskGradient:
    """What one task says to the meta-optimiser, or several with a dimension more."""

    loss: Float[Tensor, "*tasks"]
    """Query loss after adaptation."""
    gradient: dict[str, Tensor]
    """Its gradient with respect to the initial parameters."""
    logits: Float[Tensor, "*tasks q way"]
    """Logits of the query images after adaptation."""


@torch.no_grad()
def adapt(
    params: Params, x: Float[Tensor, "*tasks s 3 h w"], y: Int[Tensor, "*tasks s"], *, steps: int, lr: float, norm: str
) -> dict[str, Tensor]:
    """The parameters after `steps` of gradient descent on the support loss; `params` stay as they were."""
    means = norm_of(norm, x)
    images = images_of(params, x, means)
    adapted = lay_out(params, torch.channels_last)
    for _ in range(steps):
        adapted = descend(adapted, loss_gradient(adapted, images, y, means)[2], lr)
    return lay_out(adapted, torch.contiguous_format)


@torch.no_grad()
def moments(
    params: Params, x: Float[Tensor, "*tasks s 3 h w"]
) -> list[tuple[Float[Tensor, " c"], Float[Tensor, " c"]]]:
    """Mean and biased variance of every block over the batch `x`: what normalises the query in mode `support`."""
    laid, means = lay_out(params, torch.channels_last), norm_of("support", x)
    return moments_of(trace_blocks(laid, images_of(laid, x, means), means))


@torch.no_grad()
def meta_gradient(
    params: Params,
    support_x: Float[Tensor, "*tasks s 3 h w"],
    support_y: Int[Tensor, "*tasks s"],
    query_x: Float[Tensor, "*tasks q 3 h w"],
    query_y: Int[Tensor, "*tasks q"],
    *,
    steps: int,
    lr: float,
    norm: str,
    second_order: bool = True,
    recompute: bool = False,
    hessian: torch.dtype | None = None,
) -> TaskGradient:
    """Query loss after `steps` of adaptation, and its exact gradient with respect to the initial parameters.

    Args:
        params: of conv4 with a linear head, by the names that `supports` knows.
        steps: of gradient descent on the mean cross-entropy of the support images.
        lr: rate of these steps, γ.
        norm: `transductive`, `support` or `group`.
        second_order: through the inner steps; otherwise the gradient at the adapted parameters.
        recompute: keep only the parameters of each step, and go forward and backward again when they are needed: memory
            flat in `steps`, about a third more time.
        hessian: numbers that the convolutions of the Hessian's products multiply; None: those of the parameters. bfloat16 is
            sooner and not exact.
    """
    means = norm_of(norm, support_x)
    images = images_of(params, support_x, means)
    adapted = lay_out(params, torch.channels_last)
    before: list[dict[str, Tensor]] = []
    passes: list[Pass] = []
    for _ in range(steps):
        _, _, gradient, state = loss_gradient(adapted, images, support_y, means)
        if second_order:
            before.append(adapted)
            if not recompute:
                passes.append(state)
        adapted = descend(adapted, gradient, lr)
        del state

    queries = images_of(params, query_x, means)
    if norm == "support":
        traces = trace_blocks(adapted, images, means)
        loss, scores, v, query = loss_gradient(adapted, queries, query_y, means, moments_of(traces))
        through = moments_gradient(traces, query)
        v |= {name: v[name] + more for name, more in through.items()}
        del traces, query
    else:
        loss, scores, v = loss_gradient(adapted, queries, query_y, means)[:3]
    del queries

    while before:
        at = before.pop()
        state = passes.pop() if passes else loss_gradient(at, images, support_y, means)[3]
        v = descend(v, hessian_product(state, v, hessian), lr)
    return TaskGradient(loss, lay_out(v, torch.contiguous_format), scores)

"""conv4 from its parameters: the whole network's passes, built from those of `blocks`, and adaptation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.explicit.blocks import (
    Block,
    Cotangent,
    Images,
    Map,
    Norm,
    Stat,
    Trace,
    backward,
    backward_along,
    fold,
    forward,
    forward_along,
    moment_gradients,
    sign_of,
)

Params = Mapping[str, Tensor]
Moments = Sequence[tuple[Float[Tensor, " c"], Float[Tensor, " c"]]]
NormName = Literal["transductive", "support", "group"]

DEPTH = 4
GROUPS = 8
NORMS = ("transductive", "support", "group")
_PARTS = ("conv.weight", "norm.weight", "norm.bias")
_NAMES = {f"backbone.blocks.{i}.{part}" for i in range(DEPTH) for part in _PARTS} | {"head.weight", "head.bias"}


def supports(names: Iterable[str], norm: str) -> bool:
    """Are these the parameters of conv4 with a linear head, and is the norm mode one that is known here?"""
    return set(names) == _NAMES and norm in NORMS


@dataclass
class Pass:
    """What a forward and a backward pass of the whole network leave behind."""

    traces: list[Trace]
    cotangents: list[Cotangent]
    features: Float[Tensor, "n f"]
    probabilities: Float[Tensor, "n way"]
    dlogits: Float[Tensor, "n way"]
    head: Tensor


def norm_of(name: str) -> Norm:
    """How a norm mode takes its means."""
    return Norm(GROUPS if name == "group" else 0)


def block_of(params: Params, i: int, sign: Stat) -> Block:
    """Block i of the parameters, or of a direction in them, with the sign folded in."""
    kernel, scale, shift = (params[f"backbone.blocks.{i}.{part}"] for part in _PARTS)
    return fold(kernel, scale, shift, sign)


def _unfolded(i: int, gradient: Block, sign: Stat) -> dict[str, Tensor]:
    kernel, scale, shift = gradient
    parts = ((kernel * sign.view(-1, 1, 1, 1)).contiguous(), (scale * sign).flatten(), shift.flatten())
    return {f"backbone.blocks.{i}.{name}": part for name, part in zip(_PARTS, parts, strict=True)}


def trace_blocks(params: Params, x: Map | Images, norm: Norm, moments: Moments | None = None) -> list[Trace]:
    """Forward through the four blocks."""
    images = x if isinstance(x, Images) else None
    a = x.x if isinstance(x, Images) else x.contiguous(memory_format=torch.channels_last)
    traces = []
    for i in range(DEPTH):
        sign = sign_of(params[f"backbone.blocks.{i}.norm.weight"])
        frozen = None
        if moments is not None:
            mean, var = (moment.view(1, -1, 1, 1) for moment in moments[i])
            frozen = mean * sign, var
        first = images if i == 0 else None
        traces.append(forward(a, block_of(params, i, sign), sign, norm, images=first, moments=frozen))
        a = traces[-1].a
    return traces


def moments_of(traces: Sequence[Trace]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of each block, of one batch."""
    return [((t.mean * t.sign).flatten(), t.variance.flatten()) for t in traces]


def _head(params: Params, features: Tensor) -> Tensor:
    return torch.addmm(params["head.bias"], features, params["head.weight"].T)


def loss_gradient(
    params: Params, x: Map | Images, y: Int[Tensor, " n"], norm: Norm, moments: Moments | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor], Pass]:
    """Mean cross-entropy, logits, gradient, and what was computed on the way."""
    traces = trace_blocks(params, x, norm, moments)
    features = traces[-1].a.flatten(1)
    scores = _head(params, features)
    log_p = scores.log_softmax(1)
    loss = -log_p.gather(1, y[:, None]).mean()
    p = log_p.exp()
    dscores = p.clone()
    dscores.scatter_add_(1, y[:, None], torch.full_like(p[:, :1], -1)).div_(len(y))
    gradient = {"head.weight": dscores.T @ features, "head.bias": dscores.sum(0)}
    da = _map_like(dscores @ params["head.weight"], traces[-1].a)
    cotangents: list[Cotangent] = []
    for i in reversed(range(DEPTH)):
        block, da, cotangent = backward(traces[i], da, to_x=i > 0)
        gradient |= _unfolded(i, block, traces[i].sign)
        cotangents.insert(0, cotangent)
    return loss, scores, gradient, Pass(traces, cotangents, features, p, dscores, params["head.weight"])


def moments_gradient(traces: Sequence[Trace], query: Pass) -> dict[str, Tensor]:
    """Gradient of the query loss through the support moments that normalised it.

    Args:
        traces: forward pass of the support images through the adapted weights.
        query: the query pass, normalised with the moments of `traces`.
    """
    gradient: dict[str, Tensor] = {}
    da = None
    for i in reversed(range(DEPTH)):
        pulled = moment_gradients(query.traces[i], query.cotangents[i])
        block, da, _ = backward(traces[i], da, to_x=i > 0, moments=pulled)
        gradient |= _unfolded(i, block, traces[i].sign)
    return gradient


def hessian_product(state: Pass, v: Params) -> dict[str, Tensor]:
    """H v, where H is the Hessian of the loss whose pass `state` is."""
    tangents, a = [], None
    for i, trace in enumerate(state.traces):
        a, tangent = forward_along(trace, a, block_of(v, i, trace.sign))
        tangents.append(tangent)
    assert a is not None
    features, p = a.flatten(1), state.probabilities
    scores = _head(v, state.features).addmm_(features, state.head.T)
    dscores = p * (scores - (p * scores).sum(1, keepdim=True)) / len(p)
    product = {"head.weight": dscores.T @ state.features + state.dlogits.T @ features, "head.bias": dscores.sum(0)}
    da = _map_like(dscores @ state.head + state.dlogits @ v["head.weight"], a)
    for i in reversed(range(DEPTH)):
        trace = state.traces[i]
        block, da = backward_along(trace, state.cotangents[i], tangents[i], da, to_x=i > 0)
        product |= _unfolded(i, block, trace.sign)
    return product


def _map_like(features: Tensor, like: Map) -> Map:
    return features.view(like.shape).contiguous(memory_format=torch.channels_last)


def descend(params: Params, gradient: Params, lr: float) -> dict[str, Tensor]:
    """One step of gradient descent."""
    return {name: torch.add(value, gradient[name], alpha=-lr) for name, value in params.items()}


@torch.no_grad()
def adapt(
    params: Params, x: Float[Tensor, "s c h w"], y: Int[Tensor, " s"], *, steps: int, lr: float, norm: str
) -> dict[str, Tensor]:
    """The parameters after `steps` of gradient descent on the support loss; `params` stay as they were."""
    way = norm_of(norm)
    images = Images(x, way)
    adapted = dict(params)
    for _ in range(steps):
        adapted = descend(adapted, loss_gradient(adapted, images, y, way)[2], lr)
    return adapted


@torch.no_grad()
def moments(params: Params, x: Float[Tensor, "s c h w"]) -> list[tuple[Float[Tensor, " c"], Float[Tensor, " c"]]]:
    """Mean and biased variance of every block over the batch `x`: what normalises the query in mode `support`."""
    return moments_of(trace_blocks(params, x, Norm()))


@torch.no_grad()
def logits(
    params: Params, x: Float[Tensor, "n c h w"], *, norm: str, moments: Moments | None = None
) -> Float[Tensor, "n way"]:
    """Logits of the images.

    Args:
        norm: `transductive` (by the statistics of `x`), `support` (by `moments`) or `group`.
        moments: from `moments`, for mode `support` alone.

    Raises:
        ValueError: if mode `support` is without moments, or another mode has some.
    """
    if (norm == "support") != (moments is not None):
        raise ValueError(f"logits: moments are for norm='support', and only for it; got norm={norm!r} and moments={moments}")
    return _head(params, trace_blocks(params, x, norm_of(norm), moments)[-1].a.flatten(1))

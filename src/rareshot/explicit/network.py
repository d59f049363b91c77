"""conv4 from its parameters: the passes of the whole network, built from those of its blocks.

The parameters are those of one task; or of several side by side (see `batched`), which the head's third dimension tells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.explicit import blocks, first
from rareshot.explicit.blocks import Block, Cotangent, Scaling, Tangent, Trace, fold, moment_gradients, sign_of
from rareshot.explicit.first import AnyCotangent, AnyImages, AnyTrace, Images
from rareshot.explicit.norms import Map, Norm, Stat

Params = Mapping[str, Tensor]
Moments = Sequence[tuple[Float[Tensor, " c"], Float[Tensor, " c"]]]

DEPTH = 4
GROUPS = 8
NORMS = ("transductive", "support", "group")
_PARTS = ("conv.weight", "norm.weight", "norm.bias")
_NAMES = {f"backbone.blocks.{i}.{part}" for i in range(DEPTH) for part in _PARTS} | {"head.weight", "head.bias"}


def supports(names: Iterable[str], norm: str) -> bool:
    """Are these the parameters of conv4 with a linear head, and is the norm mode one that is known here?"""
    return set(names) == _NAMES and norm in NORMS


@dataclass
class Traces:
    """What a forward pass through the blocks leaves behind."""

    first: AnyTrace
    rest: list[Trace]

    @property
    def scalings(self) -> list[Scaling]:
        """How each block normalised."""
        return [self.first.how, *(trace.how for trace in self.rest)]


@dataclass
class Pass:
    """What a forward and a backward pass of the whole network leave behind."""

    traces: Traces
    first: AnyCotangent
    rest: list[Cotangent]
    features: Float[Tensor, "*tasks n f"]
    probabilities: Float[Tensor, "*tasks n way"]
    dlogits: Float[Tensor, "*tasks n way"]
    head: Tensor


def norm_of(name: str, x: Float[Tensor, "*tasks n 3 h w"]) -> Norm:
    """How a norm mode takes its means over the maps of `x`."""
    tasks = len(x) if x.ndim == 5 else 1
    return Norm(GROUPS * tasks if name == "group" else 0, side_by_side=x.ndim == 5)


def images_of(params: Params, x: Float[Tensor, "*tasks n 3 h w"], norm: Norm) -> AnyImages:
    """Images for the first block of `params`."""
    if x.ndim == 5:
        return x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return Images(x, norm, len(params["backbone.blocks.0.conv.weight"]))


def lay_out(params: Params, layout: torch.memory_format) -> dict[str, Tensor]:
    """The parameters with their kernels in a memory layout: channels last to compute, contiguous to give back."""
    return {n: value.contiguous(memory_format=layout) if value.ndim == 4 else value for n, value in params.items()}


def _block_of(params: Params, i: int, sign: Stat) -> Block:
    kernel, scale, shift = (params[f"backbone.blocks.{i}.{part}"] for part in _PARTS)
    return fold(kernel, scale, shift, sign)


def _named(i: int, gradient: Block, sign: Stat) -> dict[str, Tensor]:
    kernel, scale, shift = gradient
    parts = kernel * sign.view(-1, 1, 1, 1), (scale * sign).flatten(), shift.flatten()
    return {f"backbone.blocks.{i}.{name}": part for name, part in zip(_PARTS, parts, strict=True)}


def trace_blocks(params: Params, images: AnyImages, norm: Norm, moments: Moments | None = None) -> Traces:
    """Forward through the four blocks."""
    signs = [sign_of(params[f"backbone.blocks.{i}.norm.weight"]) for i in range(DEPTH)]
    frozen: list[tuple[Stat, Stat] | None] = [None] * DEPTH
    if moments is not None:
        shaped = [(mean.view(1, -1, 1, 1), variance.view(1, -1, 1, 1)) for mean, variance in moments]
        frozen = [(mean * sign, variance) for (mean, variance), sign in zip(shaped, signs, strict=True)]
    start = first.forward(images, _block_of(params, 0, signs[0]), signs[0], norm, frozen[0])
    a, rest = start.a, []
    for i in range(1, DEPTH):
        rest.append(blocks.forward(a, _block_of(params, i, signs[i]), signs[i], norm, frozen[i]))
        a = rest[-1].a
    return Traces(start, rest)


def moments_of(traces: Traces) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of each block, of one batch."""
    return [((how.mean * how.sign).flatten(), how.variance.flatten()) for how in traces.scalings]


def features_of(params: Params, traces: Traces) -> Float[Tensor, "*tasks n f"]:
    """The last block's output, flat."""
    return _as_features(traces.rest[-1].a, params["head.weight"])


def scores_of(params: Params, features: Float[Tensor, "*tasks n f"]) -> Float[Tensor, "*tasks n way"]:
    """Logits from features."""
    head, bias = params["head.weight"], params["head.bias"]
    if head.ndim == 3:
        return torch.baddbmm(bias.unsqueeze(1), features, head.mT)
    return torch.addmm(bias, features, head.T)


def loss_gradient(
    params: Params, images: AnyImages, y: Int[Tensor, "*tasks n"], norm: Norm, moments: Moments | None = None
) -> tuple[Float[Tensor, "*tasks"], Float[Tensor, "*tasks n way"], dict[str, Tensor], Pass]:
    """Mean cross-entropy of each task, logits, gradient, and what was computed on the way."""
    traces = trace_blocks(params, images, norm, moments)
    features = features_of(params, traces)
    scores = scores_of(params, features)
    log_p, own = scores.log_softmax(-1), y.unsqueeze(-1)
    loss = -log_p.gather(-1, own).mean((-2, -1))
    p = log_p.exp()
    dscores = p.scatter_add(-1, own, torch.full_like(p[..., :1], -1)).div_(y.shape[-1])
    gradient = {"head.weight": dscores.mT @ features, "head.bias": dscores.sum(-2)}
    da = _as_map(dscores @ params["head.weight"], traces.rest[-1].a)
    cotangents: list[Cotangent] = []
    for i in reversed(range(1, DEPTH)):
        trace = traces.rest[i - 1]
        block, da, cotangent = blocks.backward(trace, da)
        gradient |= _named(i, block, trace.how.sign)
        cotangents.insert(0, cotangent)
    block, start = first.backward(traces.first, da)
    gradient |= _named(0, block, traces.first.how.sign)
    return loss, scores, gradient, Pass(traces, start, cotangents, features, p, dscores, params["head.weight"])


def moments_gradient(traces: Traces, query: Pass) -> dict[str, Tensor]:
    """Gradient of the query loss through the support moments that normalised it.

    Args:
        traces: forward pass of the support images through the adapted weights.
        query: the query pass, normalised with the moments of `traces`.
    """
    pulls = [query.first.pulled, *(cotangent.pulled for cotangent in query.rest)]
    pulled = [moment_gradients(how, pull) for how, pull in zip(query.traces.scalings, pulls, strict=True)]
    gradient: dict[str, Tensor] = {}
    da = torch.zeros_like(traces.rest[-1].a)
    for i in reversed(range(1, DEPTH)):
        trace = traces.rest[i - 1]
        block, da, _ = blocks.backward(trace, da, pulled[i])
        gradient |= _named(i, block, trace.how.sign)
    block, _ = first.backward(traces.first, da, pulled[0])
    return gradient | _named(0, block, traces.first.how.sign)


def hessian_product(state: Pass, v: Params, kind: torch.dtype | None = None) -> dict[str, Tensor]:
    """H v, where H is the Hessian of the loss whose pass `state` is; `kind` as in `blocks.forward_along`."""
    traces = state.traces
    a, start = first.forward_along(traces.first, _block_of(v, 0, traces.first.how.sign), kind)
    tangents: list[Tangent] = []
    for i, trace in enumerate(traces.rest, 1):
        a, tangent = blocks.forward_along(trace, a, _block_of(v, i, trace.how.sign), kind)
        tangents.append(tangent)
    features, p = _as_features(a, state.head), state.probabilities
    scores = scores_of(v, state.features)
    scores = scores.baddbmm_(features, state.head.mT) if features.ndim == 3 else scores.addmm_(features, state.head.T)
    dscores = p * (scores - (p * scores).sum(-1, keepdim=True)) / p.shape[-2]
    product = {"head.weight": dscores.mT @ state.features + state.dlogits.mT @ features, "head.bias": dscores.sum(-2)}
    da = _as_map(dscores @ state.head + state.dlogits @ v["head.weight"], a)
    for i in reversed(range(1, DEPTH)):
        trace = traces.rest[i - 1]
        block, da = blocks.backward_along(trace, state.rest[i - 1], tangents[i - 1], da, kind)
        product |= _named(i, block, trace.how.sign)
    block = first.backward_along(traces.first, state.first, start, da, kind)
    return product | _named(0, block, traces.first.how.sign)


def descend(params: Params, gradient: Params, lr: float) -> dict[str, Tensor]:
    """One step of gradient descent."""
    return {name: torch.add(value, gradient[name], alpha=-lr) for name, value in params.items()}


def _as_features(maps: Map, head: Tensor) -> Float[Tensor, "*tasks n f"]:
    if head.ndim == 3:
        return maps.flatten(1).view(len(maps), len(head), -1).transpose(0, 1)
    return maps.flatten(1)


def _as_map(features: Float[Tensor, "*tasks n f"], like: Map) -> Map:
    if features.ndim == 3:
        features = features.transpose(0, 1).contiguous()
    return features.view(like.shape).contiguous(memory_format=torch.channels_last)

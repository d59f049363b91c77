"""The inner loop: k images in, adapted weights out, Eq. (2). One function for training, evaluation and prediction (§2.2).

| symbol | here | meaning |
|---|---|---|
| φ | `params` | initial weights |
| φ'_i | what `adapt` returns | weights of task i after adaptation |
| γ | `lr` | size of a step |
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from rareshot import explicit
from rareshot.backbones import Network
from rareshot.backbones.conv4 import Conv4
from rareshot.backbones.norms import Moments, frozen_by, needs_moments, norms_of, recording
from rareshot.losses import task_loss
from rareshot.recorded import recorded_adaptation


def adapted_names(params: Mapping[str, Tensor], adapted: str = "all") -> tuple[str, ...]:
    """The weights that the inner loop moves.

    Args:
        adapted: `all` (MAML) or `head` (ANIL, Raghu et al. 2020). TaskNorm's blending weights are learnt, never adapted.
    """
    if adapted not in ("all", "head"):
        raise ValueError(f"adapted={adapted!r} is neither all nor head")
    start = "head." if adapted == "head" else ""
    return tuple(name for name in params if name.startswith(start) and ".blend_" not in name)


def adapt(
    net: Network,
    params: Mapping[str, Tensor],
    x: Float[Tensor, "s c h w"],
    y: Int[Tensor, " s"],
    *,
    steps: int,
    lr: float,
    names: Collection[str],
    second_order: bool = False,
) -> dict[str, Tensor]:
    """Eq. (2), `steps` times: φ ← φ - γ ∇ L(φ; support), on the weights called `names`.

    Pure: `net` gives the structure, `params` the weights, and neither is changed. The answer is differentiable in `params`.

    Args:
        second_order: keep the graph of each gradient, so that the meta-gradient holds the Hessian's part. Without it the
            gradients are constants, which is first-order MAML, and all that evaluation needs.
    """
    # What carries no graph becomes a leaf of its own: gradients are asked for at every step.
    params = {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in params.items()}
    logits_of = _logits_of(net, params, x, names, second_order)
    for _ in range(steps):
        moved = {name: params[name] for name in names}
        loss = task_loss(logits_of(params), y)
        gradients = torch.autograd.grad(loss, list(moved.values()), create_graph=second_order)
        for (name, value), gradient in zip(moved.items(), gradients, strict=True):
            params[name] = value - lr * gradient
    return params


def support_moments(net: Network, params: Mapping[str, Tensor], x: Float[Tensor, "s c h w"]) -> list[Moments] | None:
    """Statistics that the adapted weights see on the support images, one a norm layer; None where the mode needs none."""
    if not any(needs_moments(layer.mode) for layer in norms_of(net)):
        return None
    with recording(net) as layers:
        functional_call(net, dict(params), (x,))
        recorded = [layer.recorded for layer in layers]
    return [moments for moments in recorded if moments is not None]


def query_logits(
    net: Network, params: Mapping[str, Tensor], x: Float[Tensor, "q c h w"], moments: list[Moments] | None
) -> Float[Tensor, "q way"]:
    """Logits of query images under adapted weights and the support set's frozen statistics."""
    if moments is None:
        logits: Tensor = functional_call(net, dict(params), (x,))
        return logits
    with frozen_by(net, moments):
        logits = functional_call(net, dict(params), (x,))
    return logits


def query_features(
    net: Network, params: Mapping[str, Tensor], x: Float[Tensor, "n c h w"], moments: list[Moments] | None
) -> Float[Tensor, "n features"]:
    """What the head is given of images: the backbone's features. Without `moments` by the images' own statistics."""
    start = "backbone."
    weights = {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}
    with nullcontext() if moments is None else frozen_by(net, moments):
        features: Tensor = functional_call(net.backbone, weights, (x,))
    return features


def norm_of(net: Network) -> str:
    """The norm mode of the network's layers; empty if it has none."""
    return next((layer.mode for layer in norms_of(net)), "")


def explicit_applies(net: Network, adapted: str) -> bool:
    """Can `rareshot.explicit` stand in for autograd here? It knows conv4, all of it adapted."""
    return (
        isinstance(net.backbone, Conv4)
        and adapted == "all"
        and explicit.supports((name for name, _ in net.named_parameters()), norm_of(net))
    )


def adapt_to_support(
    net: Network,
    params: Mapping[str, Tensor],
    x: Float[Tensor, "s c h w"],
    y: Int[Tensor, " s"],
    *,
    steps: int,
    lr: float,
    adapted: str,
    fast: bool = True,
) -> tuple[dict[str, Tensor], list[Moments] | None]:
    """Adapted weights and the frozen statistics that go with them, for evaluation and prediction: nothing to differentiate.

    Args:
        fast: take the explicit path where it applies; the same numbers, sooner.
    """
    if fast and explicit_applies(net, adapted):
        if x.device.type != "cpu":
            return recorded_adaptation(x.device, steps, lr, norm_of(net))(params, x, y)
        moved = explicit.adapt(params, x, y, steps=steps, lr=lr, norm=norm_of(net))
    else:
        moved = adapt(net, params, x, y, steps=steps, lr=lr, names=adapted_names(params, adapted))
        moved = {name: value.detach() for name, value in moved.items()}
    with torch.no_grad():
        return moved, support_moments(net, moved, x)


def _logits_of(
    net: Network, params: Mapping[str, Tensor], x: Tensor, names: Collection[str], second_order: bool
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Weights → logits of `x`. Where the head alone moves, the backbone sees the images once, not at every step."""
    if not all(name.startswith("head.") for name in names):
        return lambda params: functional_call(net, dict(params), (x,))
    with torch.set_grad_enabled(second_order):
        features = query_features(net, params, x, None)
    return lambda params: F.linear(features, params["head.weight"], params["head.bias"])

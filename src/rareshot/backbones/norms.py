"""`EpisodicNorm`: which images a normalised activation may depend on.

MAML with batch norm, as everyone publishes it, normalises the query images by their own batch: one patient's probability
then depends on which other images were sent (Bronskill et al., TaskNorm, ICML 2020). So the mode is part of the method:

- `transductive`: statistics of whatever batch passes, the query batch included. For the paper's tables only.
- `support`: statistics of the support images at each inner step; then one more pass of them through the adapted weights
  freezes the statistics that every query image uses. Inductive.
- `tasknorm`: TaskNorm-I, support statistics blended with the image's own by a meta-learnt weight. Inductive.
- `group`: 8 groups of channels, each image by itself. Inductive.

Supervised networks have no support set while they train: theirs is plain batch norm, `running`, frozen afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NormMode = Literal["transductive", "support", "tasknorm", "group"]
NORM_MODES: tuple[NormMode, ...] = get_args(NormMode)
AnyNorm = NormMode | Literal["running"]
"""A norm of ours, or batch norm with running statistics."""

GROUPS = 8
EPS = 1e-5


class Moments(NamedTuple):
    """Per-channel statistics of a batch, and how many images it had."""

    mean: Float[Tensor, " c"]
    var: Float[Tensor, " c"]
    images: int


class EpisodicNorm(nn.Module):
    """Normalises (n, c, h, w) by the statistics that `mode` allows, then scales and shifts each channel.

    A query passes inside `frozen_by`, which sets `frozen`; any other pass is one of support images (or, when
    transductive, of the query batch), and uses its own statistics.

    Args:
        features: channels c; for `group` divisible by the number of groups, 8.
        mode: one of `NORM_MODES`.
    """

    def __init__(self, features: int, mode: NormMode) -> None:
        super().__init__()
        if mode not in NORM_MODES:
            raise ValueError(f"norm={mode!r} is not a norm mode; choose from {', '.join(NORM_MODES)}")
        if mode == "group" and features % GROUPS:
            raise ValueError(f"norm='group' needs channels in multiples of {GROUPS}; got {features}")
        self.mode = mode
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        if mode == "tasknorm":
            # alpha = sigmoid(scale * |support| + offset): at first 1/2 for any support size.
            self.blend_scale = nn.Parameter(torch.zeros(()))
            self.blend_offset = nn.Parameter(torch.zeros(()))
        self.frozen: Moments | None = None
        self.recorded: Moments | None = None
        self.recording = False

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Each channel normalised, scaled and shifted."""
        if self.mode == "group":
            return F.group_norm(x, GROUPS, self.weight, self.bias, EPS)
        moments = self.frozen or _moments(x)
        if self.recording:
            self.recorded = moments
        if self.mode == "tasknorm":
            return self._blend(x, moments)
        # Written out: F.batch_norm gives no gradient through statistics that are handed to it, and its second
        # derivative is slow on a CPU with channels last (docs/architecture.md).
        scale = self.weight * (moments.var + EPS).rsqrt()
        return x * _channels(scale) + _channels(self.bias - moments.mean * scale)

    def _blend(self, x: Tensor, task: Moments) -> Tensor:
        """TaskNorm-I: moments of the mixture of the support batch and the image itself (their Eqs. 9 to 11)."""
        alpha = torch.sigmoid(self.blend_scale * task.images + self.blend_offset)
        own_var, own_mean = torch.var_mean(x, (2, 3), unbiased=False, keepdim=True)
        task_mean, task_var = _channels(task.mean), _channels(task.var)
        mean = alpha * task_mean + (1 - alpha) * own_mean
        var = alpha * (task_var + (task_mean - mean) ** 2) + (1 - alpha) * (own_var + (own_mean - mean) ** 2)
        return (x - mean) * (var + EPS).rsqrt() * _channels(self.weight) + _channels(self.bias)


def norm_layer(features: int, mode: AnyNorm) -> nn.Module:
    """The norm layer of a mode; `running` is PyTorch's own batch norm."""
    return nn.BatchNorm2d(features) if mode == "running" else EpisodicNorm(features, mode)


def inductive(mode: NormMode) -> bool:
    """Does one image's answer ignore the other images that are sent with it?"""
    return mode != "transductive"


def needs_moments(mode: NormMode) -> bool:
    """Does a query need statistics of the support images?"""
    return mode in ("support", "tasknorm")


def norms_of(net: nn.Module) -> list[EpisodicNorm]:
    """The norm layers, in the order of the modules."""
    return [module for module in net.modules() if isinstance(module, EpisodicNorm)]


@contextmanager
def recording(net: nn.Module) -> Iterator[list[EpisodicNorm]]:
    """While open, every norm layer keeps the statistics of what passes, in `recorded`."""
    layers = norms_of(net)
    for layer in layers:
        layer.recording = True
    try:
        yield layers
    finally:
        for layer in layers:
            layer.recording, layer.recorded = False, None


@contextmanager
def frozen_by(net: nn.Module, moments: list[Moments]) -> Iterator[None]:
    """While open, every norm layer uses the statistics in `moments` (one each, in the order of `norms_of`)."""
    layers = norms_of(net)
    for layer, frozen in zip(layers, moments, strict=True):
        layer.frozen = frozen
    try:
        yield
    finally:
        for layer in layers:
            layer.frozen = None


def _moments(x: Tensor) -> Moments:
    """Mean and biased variance. On a CPU with channels last torch.var_mean takes 30 times as long as either of these."""
    if x.device.type == "cpu" and not (torch.is_grad_enabled() and x.requires_grad):
        return Moments(*torch.batch_norm_update_stats(x, None, None, 0.0), len(x))
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    mean = pixels.mean(0)
    return Moments(mean, (pixels - mean).square().mean(0), len(x))


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)

"""One block of conv4, differentiated by hand: forward, backward, and both once more along a direction.

A block is convolution, normalisation, ReLU, 2 × 2 max-pool. Here the pool comes first, so that all that follows works on
a quarter of the pixels. Two facts make that the same function:

- max-pool and ReLU commute, and so do max-pool and z ↦ γ z + β as long as γ ≥ 0;
- a negative γ is γ = sign · |γ|, and the sign goes into the convolution: `fold` multiplies the kernel and γ by it.

| symbol | is |
|---|---|
| u = conv(x, w) | full size; w is the folded kernel |
| m, κ | mean of u, 1 / sqrt(variance + ε): over the batch, or over an image and a group of channels |
| z = κ (u − m) | normalised; kept only where the pool took its maximum |
| a = relu(γ z + β) | what the next block sees |
| g | ∂loss/∂(γ z + β), on the pooled grid |
| S₀ = Σ g, S₁ = Σ g z | per channel; they are ∂loss/∂β and ∂loss/∂γ |
| A = E[γ S₁], B = E[γ S₀] | their averages over what shares a mean |

    ∂loss/∂u = κ (scatter(γ g) − B − z A) = scatter(κ γ g) + slope (u − m) + level

with slope = −κ² A and level = −κ B. A dot marks the derivative along a direction (ẇ, γ̇, β̇). With ρ = κ E[z u̇]: κ̇ = −ρ κ
and ż = κ (u̇ − ṁ) − ρ z. The first block does the same by other means: see `first`.

Everything here is a channel's own affair, or that of a group of channels. So several tasks may stand side by side: their
channels in one map, (n, tasks · c, h, w), and their kernels as the groups of one convolution; see `batched`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import conv2d

from rareshot.explicit.norms import Map, Norm, Stat

EPS = 1e-5

Index = Int[Tensor, "_n _pooled _c"]


class Block(NamedTuple):
    """Parameters of a block, or a direction in them, with the sign of γ folded in."""

    kernel: Float[Tensor, "c in 3 3"]
    """`in` is that of one task; c counts the filters of all."""
    scale: Stat
    shift: Stat


def sign_of(scale: Float[Tensor, " c"]) -> Stat:
    """+1 or −1 a channel."""
    return torch.where(scale < 0, -1.0, 1.0).to(scale.dtype).view(1, -1, 1, 1)


def fold(kernel: Tensor, scale: Tensor, shift: Tensor, sign: Stat) -> Block:
    """The block with its sign folded in."""
    return Block(kernel * sign.view(-1, 1, 1, 1), scale.view(1, -1, 1, 1) * sign, shift.view(1, -1, 1, 1))


@dataclass
class Scaling:
    """How a block normalises, whatever its images: enough to turn sums over them into ∂loss/∂u."""

    norm: Norm
    sign: Stat
    scale: Stat
    mean: Stat
    variance: Stat
    count: int
    frozen: bool

    def __post_init__(self) -> None:
        self.kappa = (self.variance + EPS).rsqrt()


@dataclass
class Pull:
    """What the loss does to u: S₀, S₁, A, B, and the affine part of ∂loss/∂u."""

    s0: Stat
    s1: Stat
    a: Stat
    b: Stat
    slope: Stat
    level: Stat


def pull(how: Scaling, s0: Stat, s1: Stat, moments: tuple[Stat, Stat] | None = None) -> Pull:
    """The affine part of ∂loss/∂u from S₀ and S₁.

    Args:
        moments: ∂loss/∂(mean, variance) from whoever was normalised with this block's frozen moments.
    """
    kappa = how.kappa
    a = how.norm.average(how.scale * s1 / how.count)
    b = how.norm.average(how.scale * s0 / how.count, how.sign)
    slope, level = -kappa.square() * a, -kappa * b
    if moments is not None:
        slope, level = slope + moments[1] * (2 / how.count), level + moments[0] / how.count
    return Pull(s0, s1, a, b, slope, level)


def moment_gradients(how: Scaling, pulled: Pull) -> tuple[Stat, Stat]:
    """∂loss/∂(mean, variance) of a block that was normalised with frozen moments."""
    weight = how.kappa * how.scale
    return -weight * pulled.s0, -0.5 * how.kappa * weight * pulled.s1


@dataclass
class Drift:
    """Along a direction: ṁ, ρ, γ̇, β̇, and what they make of (γ z + β)˙ = on_u u̇ + on_z z + constant."""

    mean: Stat
    rho: Stat
    scale: Stat
    on_u: Stat
    on_z: Stat
    constant: Stat


def drift(how: Scaling, mean: Stat, covariance: Stat, scale: Stat, shift: Stat) -> Drift:
    """From the mean of u̇ and E[(u − m) u̇], both a channel."""
    mean = how.norm.average(mean, how.sign)
    rho = how.kappa.square() * how.norm.average(covariance)
    on_u = how.scale * how.kappa
    return Drift(mean, rho, scale, on_u, scale - rho * how.scale, shift - on_u * mean)


@dataclass
class PullAlong:
    """∂S₁ and the affine part of (∂loss/∂u)˙ = scatter(…) + slope_along (u̇ − ṁ) + slope (u − m) + level."""

    s1: Stat
    slope_along: Stat
    slope: Stat
    level: Stat


def pull_along(how: Scaling, pulled: Pull, along: Drift, s0: Stat, gz: Stat, gu: Stat) -> PullAlong:
    """From Ṡ₀ = Σ ġ, Σ ġ z and Σ g u̇."""
    kappa, rho = how.kappa, along.rho
    s1 = gz + kappa * (gu - along.mean * pulled.s0) - rho * pulled.s1
    a = how.norm.average((along.scale * pulled.s1 + how.scale * s1) / how.count)
    b = how.norm.average((along.scale * pulled.s0 + how.scale * s0) / how.count, how.sign)
    square = kappa.square()
    return PullAlong(s1, -square * pulled.a, square * (2 * rho * pulled.a - a), kappa * (rho * pulled.b - b))


def gradient_block(kernel: Tensor, s0: Stat, s1: Stat) -> Block:
    """Gradients of kernel, γ and β."""
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return Block(kernel, s1.sum(0, keepdim=True), s0.sum(0, keepdim=True))


@dataclass
class Trace:
    """What the forward pass of a block leaves for the passes after it."""

    x: Map
    u: Map
    index: Index
    z: Map
    a: Map
    kernel: Tensor
    how: Scaling
    images: bool
    """Is x images? Then it has no gradient and does not move."""


@dataclass
class Cotangent:
    """What the backward pass of a block leaves for the second-order pass."""

    g: Map
    du: Map
    pulled: Pull


@dataclass
class Tangent:
    """What the forward pass along a direction leaves for the backward pass along it."""

    x: Map | None
    """None where the input is images."""
    u: Map
    pooled: Map
    kernel: Tensor
    along: Drift


def forward(
    x: Map, block: Block, sign: Stat, norm: Norm, moments: tuple[Stat, Stat] | None = None, *, images: bool = False
) -> Trace:
    """A block's output `.a` and what its backward pass needs.

    Args:
        moments: frozen mean and variance, with the sign folded in; without them those of `x` itself.
        images: as in `Trace`.
    """
    u = _conv(x, block.kernel)
    mean, variance = moments or norm.statistics(u, sign)
    how = Scaling(norm, sign, block.scale, mean, variance, norm.pixels(u.shape), moments is not None)
    pooled, index = pool(u)
    z = torch.addcmul(-mean * how.kappa, pooled, how.kappa, out=pooled)
    a = torch.addcmul(block.shift, z, block.scale).relu_()
    return Trace(x, u, index, z, a, block.kernel, how, images)


def backward(trace: Trace, da: Map, moments: tuple[Stat, Stat] | None = None) -> tuple[Block, Map, Cotangent]:
    """Gradients of a block's parameters and input (empty for images), and what the second order needs of them.

    Args:
        da: ∂loss/∂a.
        moments: as in `pull`.
    """
    how = trace.how
    g = torch.ops.aten.threshold_backward(da, trace.a, 0)
    pulled = pull(how, how.norm.sums(g), how.norm.sums(g * trace.z), moments)
    constant = pulled.level - pulled.slope * how.mean
    du = torch.zeros_like(trace.u) if how.frozen else torch.addcmul(constant, trace.u, pulled.slope)
    scatter(du, trace.index, g * (how.kappa * how.scale))
    dx, kernel = _conv_back(du, trace.x, trace.kernel, images=trace.images)
    return gradient_block(kernel, pulled.s0, pulled.s1), dx, Cotangent(g, du, pulled)


def forward_along(trace: Trace, x: Map | None, block: Block, kind: torch.dtype | None = None) -> tuple[Map, Tangent]:
    """Derivative of a block's output along a direction: `x` in its input (None: it stays), `block` in its parameters.

    Args:
        kind: of the numbers that the convolutions multiply; None: as they come. All else is as it comes.
    """
    how = trace.how
    u = _conv(trace.x, block.kernel, kind)
    if x is not None:
        u.add_(_conv(x, trace.kernel, kind))
    mean = how.norm.sums(u) / how.count
    covariance = how.norm.sums(u * trace.u) / how.count - how.mean * mean
    along = drift(how, mean, covariance, block.scale, block.shift)
    pooled = gather(u, trace.index, trace.z)
    y = torch.addcmul(along.constant, trace.z, along.on_z).addcmul_(pooled, along.on_u)
    a = torch.ops.aten.threshold_backward(y, trace.a, 0)
    return a, Tangent(x, u, pooled, block.kernel, along)


def backward_along(
    trace: Trace, cotangent: Cotangent, tangent: Tangent, da: Map, kind: torch.dtype | None = None
) -> tuple[Block, Map]:
    """Derivatives along a direction of what `backward` gives; `da` is that of ∂loss/∂a, `kind` as in `forward_along`."""
    how, along = trace.how, tangent.along
    g = torch.ops.aten.threshold_backward(da, trace.a, 0)
    s0, gz, gu = how.norm.sums(g), how.norm.sums(g * trace.z), how.norm.sums(cotangent.g * tangent.pooled)
    more = pull_along(how, cotangent.pulled, along, s0, gz, gu)
    q = g.mul_(along.on_u).addcmul_(cotangent.g, how.kappa * along.on_z)
    du = torch.addcmul(more.level - more.slope * how.mean - more.slope_along * along.mean, trace.u, more.slope)
    scatter(du.addcmul_(tangent.u, more.slope_along), trace.index, q)
    dx, kernel = _conv_back(du, trace.x, trace.kernel, kind, images=trace.images)
    if tangent.x is None:
        return gradient_block(kernel, s0, more.s1), dx
    dx_more, kernel_more = _conv_back(cotangent.du, tangent.x, tangent.kernel, kind)
    return gradient_block(kernel.add_(kernel_more), s0, more.s1), dx.add_(dx_more)


def pool(u: Map) -> tuple[Map, Index]:
    """Maxima of 2 × 2 windows, and at which pixel of u they are."""
    pooled, place = torch.ops.aten.max_pool2d_with_indices(u, [2, 2])
    return pooled, _pixels(place)


def gather(u: Map, index: Index, like: Map) -> Map:
    """u where the pool took its maximum."""
    n, c, h, w = like.shape
    return _pixels(u).gather(1, index).view(n, h, w, c).permute(0, 3, 1, 2)


def scatter(onto: Map, index: Index, values: Map) -> None:
    """Adds values where the pool took its maximum."""
    _pixels(onto).scatter_add_(1, index, _pixels(values))


def _pixels(t: Tensor) -> Tensor:
    n, c, h, w = t.shape
    return t.permute(0, 2, 3, 1).view(n, h * w, c)


def _conv(x: Map, kernel: Tensor, kind: torch.dtype | None = None) -> Map:
    few = kind or x.dtype
    u = conv2d(x.to(few), kernel.to(few), None, 1, 1, groups=_tasks(x, kernel))
    return u.to(x.dtype).contiguous(memory_format=torch.channels_last)


def _conv_back(
    du: Map, x: Map, kernel: Tensor, kind: torch.dtype | None = None, *, images: bool = False
) -> tuple[Map, Tensor]:
    one, wanted, few = [1, 1], [not images, True, False], kind or x.dtype
    dx, dkernel, _ = torch.ops.aten.convolution_backward(
        du.to(few), x.to(few), kernel.to(few), None, one, one, one, False, [0, 0], _tasks(x, kernel), wanted
    )
    dkernel = dkernel.to(x.dtype)
    return x[:0] if images else dx.to(x.dtype).contiguous(memory_format=torch.channels_last), dkernel


def _tasks(x: Map, kernel: Tensor) -> int:
    return x.shape[1] // kernel.shape[1]

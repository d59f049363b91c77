"""One block of conv4, differentiated by hand: forward, backward, and both once more along a direction.

A block is convolution, normalisation, ReLU, 2 × 2 max-pool. Here the pool comes first, so that all that follows works on a
quarter of the pixels. Two facts make that the same function:

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

    ∂loss/∂u = κ (scatter(γ g) − B − z A) = scatter(κ γ g) + c₂ u + c₀

with c₂ and c₀ constant over what shares a mean. A dot marks the derivative along a direction (ẇ, γ̇, β̇). With ρ = κ E[z u̇]:
κ̇ = −ρ κ and ż = κ (u̇ − ṁ) − ρ z.

The first block needs u only where the pool took its maximum: `Images` holds the mean and covariance of the 3 × 3 patches of the
images, which do not change from step to step, and everything else about u follows from them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-5

Stat = Float[Tensor, "rows c 1 1"]
"""A number a channel: of the batch (one row), or of each image (a row each)."""
Map = Float[Tensor, "n c h w"]


class Block(NamedTuple):
    """Parameters of a block, or a direction in them, with the sign of γ folded in."""

    kernel: Float[Tensor, "c in 3 3"]
    scale: Stat
    shift: Stat


def sign_of(scale: Float[Tensor, " c"]) -> Stat:
    """+1 or −1 a channel."""
    return torch.where(scale < 0, -1.0, 1.0).to(scale.dtype).view(1, -1, 1, 1)


def fold(kernel: Tensor, scale: Tensor, shift: Tensor, sign: Stat) -> Block:
    """The block with its sign folded in; its own inverse."""
    folded = (kernel * sign.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
    return Block(folded, scale.view(1, -1, 1, 1) * sign, shift.view(1, -1, 1, 1))


@dataclass(frozen=True)
class Norm:
    """Over what a mean is taken: the batch (`groups` = 0), or an image's group of channels."""

    groups: int = 0

    def sums(self, t: Map) -> Stat:
        """Sum over the pixels of a row."""
        n, c = t.shape[:2]
        rows = n if self.groups else 1
        return t.permute(0, 2, 3, 1).reshape(rows, -1, c).sum(1).view(rows, c, 1, 1)

    def pixels(self, shape: torch.Size) -> int:
        """How many pixels a row has."""
        n, _, h, w = shape
        return h * w if self.groups else n * h * w

    def average(self, t: Stat, sign: Stat | None = None) -> Stat:
        """Average over the channels that share a mean; `sign` for what changes sign with the kernel."""
        if not self.groups:
            return t
        if sign is not None:
            return sign * self.average(sign * t)
        rows, c = t.shape[:2]
        mean = t.view(rows, self.groups, -1).mean(2, keepdim=True)
        return mean.expand(rows, self.groups, c // self.groups).reshape(rows, c, 1, 1)

    def statistics(self, u: Map, sign: Stat) -> tuple[Stat, Stat]:
        """Mean and biased variance."""
        parts = u.split(1) if self.groups else (u,)
        both = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in parts]
        mean, var = (torch.stack(kind)[:, :, None, None] for kind in zip(*both, strict=True))
        return self.combine(mean, var, sign)

    def combine(self, mean: Stat, var: Stat, sign: Stat) -> tuple[Stat, Stat]:
        """Mean and variance of what shares a mean, from those of its channels."""
        if not self.groups:
            return mean, var
        shared = self.average(mean, sign)
        return shared, self.average(var + (mean - shared).square())


class Images:
    """Images as the first block meets them at every step: with the mean and covariance of their 3 × 3 patches.

    In float64: neighbouring pixels are so alike that a kernel that takes differences would lose its variance in float32.
    """

    def __init__(self, x: Map, norm: Norm) -> None:
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.norm = norm
        rows = len(x) if norm.groups else 1
        moments = []
        for image in x.split(1):
            patches = F.unfold(image, 3, padding=1)[0].double()
            moments.append((patches.sum(1), patches @ patches.T))
        total, sum_of = (torch.stack(kind) for kind in zip(*moments, strict=True))
        self.count = norm.pixels(x.shape)
        self.mean = total.view(rows, -1, total.shape[1]).sum(1) / self.count
        second = sum_of.view(rows, -1, *sum_of.shape[1:]).sum(1) / self.count
        self.covariance = second - self.mean[:, :, None] * self.mean[:, None, :]

    def mean_along(self, kernel: Tensor) -> Stat:
        """Mean of conv(x, kernel) over each row."""
        return (self.mean @ _rows(kernel).T)[:, :, None, None].to(kernel.dtype)

    def covariance_along(self, kernel: Tensor, other: Tensor) -> Stat:
        """Covariance of conv(x, kernel) with conv(x, other) over each row."""
        return ((_rows(kernel) @ self.covariance) * _rows(other)).sum(2)[:, :, None, None].to(kernel.dtype)

    def kernel_gradient(self, kernel: Tensor, mean: Stat, slope: Stat, level: Stat) -> Tensor:
        """Kernel gradient for ∂loss/∂u = slope (conv(x, kernel) − mean) + level."""
        off = _rows(kernel) @ self.mean.T - mean[:, :, 0, 0].T
        spread = _rows(kernel) @ self.covariance + off.T[:, :, None] * self.mean[:, None, :]
        gradient = (slope[:, :, 0] * spread + level[:, :, 0] * self.mean[:, None, :]).sum(0) * self.count
        return gradient.view(kernel.shape).to(kernel.dtype)


@dataclass
class Trace:
    """What the forward pass of a block leaves for the passes after it."""

    x: Map
    u: Map | None
    index: Int[Tensor, " pooled"]
    z: Map
    a: Map
    mean: Stat
    variance: Stat
    kappa: Stat
    block: Block
    sign: Stat
    norm: Norm
    images: Images | None
    full: torch.Size
    frozen: bool


@dataclass
class Cotangent:
    """What the backward pass of a block leaves for the second-order pass."""

    g: Map
    s0: Stat
    s1: Stat
    a: Stat
    b: Stat
    du: Map


@dataclass
class Tangent:
    """What the forward pass along a direction leaves for the backward pass along it."""

    x: Map | None
    u: Map
    z: Map
    mean: Stat
    rho: Stat
    block: Block


def conv(x: Map, kernel: Tensor) -> Map:
    """3 × 3 convolution, padding 1."""
    return F.conv2d(x, kernel, None, 1, 1).contiguous(memory_format=torch.channels_last)


def conv_back(du: Map, x: Map, kernel: Tensor, *, to_x: bool, to_kernel: bool) -> tuple[Map, Tensor]:
    """Gradients of `conv` for its input and its kernel; those not asked for are empty."""
    one = [1, 1]
    wanted = [to_x, to_kernel, False]
    gradients = torch.ops.aten.convolution_backward(du, x, kernel, None, one, one, one, False, [0, 0], 1, wanted)
    return gradients[0], gradients[1]


def _rows(kernel: Tensor) -> Tensor:
    return kernel.flatten(1).double()


def _flat(t: Map) -> Float[Tensor, " all"]:
    return t.permute(0, 2, 3, 1).view(-1)


def _pool(u: Map) -> tuple[Map, Int[Tensor, " pooled"]]:
    """Maxima of 2 × 2 windows, and where they lie in the memory of u."""
    n, c, h, w = u.shape
    pooled, place = torch.ops.aten.max_pool2d_with_indices(u, [2, 2])
    images = torch.arange(n, device=u.device).mul_(h * w * c).view(n, 1, 1, 1)
    offsets = images + torch.arange(c, device=u.device)
    index = place.permute(0, 2, 3, 1).mul_(c).add_(offsets).view(-1)
    return pooled, index if u.numel() >= 2**31 else index.int()


def _gather(u: Map, index: Int[Tensor, " pooled"], like: Map) -> Map:
    n, c, h, w = like.shape
    return _flat(u).index_select(0, index).view(n, h, w, c).permute(0, 3, 1, 2)


def _scatter(onto: Map, index: Int[Tensor, " pooled"], values: Map) -> Map:
    _flat(onto).index_add_(0, index, _flat(values))
    return onto


def forward(
    x: Map, block: Block, sign: Stat, norm: Norm, *, images: Images | None = None, moments: tuple[Stat, Stat] | None = None
) -> Trace:
    """A block's output `.a` and what its backward pass needs.

    Args:
        images: for the first block, the images that `x` is, when they go through it many times.
        moments: frozen mean and variance, with the sign folded in; without them those of `x` itself.
    """
    u = conv(x, block.kernel)
    if moments is not None:
        mean, var = moments
    elif images is not None:
        own = images.mean_along(block.kernel), images.covariance_along(block.kernel, block.kernel)
        mean, var = norm.combine(*own, sign)
    else:
        mean, var = norm.statistics(u, sign)
    kappa = (var + EPS).rsqrt()
    pooled, index = _pool(u)
    z = pooled.sub_(mean).mul_(kappa)
    a = torch.addcmul(block.shift, z, block.scale).relu_()
    kept = u if images is None else None
    return Trace(x, kept, index, z, a, mean, var, kappa, block, sign, norm, images, u.shape, moments is not None)


def backward(
    trace: Trace, da: Map | None, *, to_x: bool, moments: tuple[Stat, Stat] | None = None
) -> tuple[Block, Map, Cotangent]:
    """Gradients of a block's parameters and input, and what the second order needs of them.

    Args:
        da: ∂loss/∂a; None when only the moments of this block carry a gradient.
        to_x: is the gradient of the input wanted?
        moments: ∂loss/∂(mean, variance) from whoever was normalised with this block's frozen moments.
    """
    block, norm, kappa = trace.block, trace.norm, trace.kappa
    g = torch.zeros_like(trace.a) if da is None else torch.ops.aten.threshold_backward(da, trace.a, 0)
    s0, s1 = norm.sums(g), norm.sums(g * trace.z)
    count = norm.pixels(trace.full)
    average_a = norm.average(block.scale * s1 / count)
    average_b = norm.average(block.scale * s0 / count, trace.sign)
    slope, level = -kappa.square() * average_a, -kappa * average_b
    if moments is not None:
        level = level + moments[0] / count
        slope = slope + moments[1] * (2 / count)
    du = _scatter(_affine(trace, slope, level), trace.index, g * (kappa * block.scale))
    dx, kernel = conv_back(du, trace.x, block.kernel, to_x=to_x, to_kernel=True)
    if trace.images is not None:
        kernel = kernel + trace.images.kernel_gradient(block.kernel, trace.mean, slope, level)
    gradient = Block(kernel, s1.sum(0, keepdim=True), s0.sum(0, keepdim=True))
    return gradient, dx, Cotangent(g, s0, s1, average_a, average_b, du)


def moment_gradients(trace: Trace, cotangent: Cotangent) -> tuple[Stat, Stat]:
    """∂loss/∂(mean, variance) of a block that was normalised with frozen moments."""
    pull = trace.kappa * trace.block.scale
    return -pull * cotangent.s0, -0.5 * trace.kappa * pull * cotangent.s1


def forward_along(trace: Trace, x: Map | None, block: Block) -> tuple[Map, Tangent]:
    """Derivative of a block's output along a direction.

    Args:
        x: derivative of its input; None for the first block, whose input is fixed.
        block: the direction in its parameters.
    """
    norm, kappa, kernel = trace.norm, trace.kappa, trace.block.kernel
    u = conv(trace.x, block.kernel)
    if x is not None:
        u.add_(conv(x, kernel))
    if trace.images is not None:
        mean = trace.images.mean_along(block.kernel)
        product = trace.images.covariance_along(kernel, block.kernel)
        product = product + (trace.images.mean_along(kernel) - trace.mean) * mean
    else:
        assert trace.u is not None
        count = norm.pixels(trace.full)
        mean = norm.sums(u) / count
        product = norm.sums(u * trace.u) / count - trace.mean * mean
    mean = norm.average(mean, trace.sign)
    rho = kappa.square() * norm.average(product)
    z = _gather(u, trace.index, trace.z).sub_(mean).mul_(kappa).addcmul_(trace.z, rho, value=-1)
    y = torch.addcmul(block.shift, trace.z, block.scale).addcmul_(z, trace.block.scale)
    return torch.ops.aten.threshold_backward(y, trace.a, 0), Tangent(x, u, z, mean, rho, block)


def backward_along(
    trace: Trace, cotangent: Cotangent, tangent: Tangent, da: Map, *, to_x: bool
) -> tuple[Block, Map]:
    """Derivatives along a direction of what `backward` gives; `da` is that of ∂loss/∂a."""
    block, along, norm, kappa, rho = trace.block, tangent.block, trace.norm, trace.kappa, tangent.rho
    g = torch.ops.aten.threshold_backward(da, trace.a, 0)
    s0 = norm.sums(g)
    s1 = norm.sums((g * trace.z).addcmul_(cotangent.g, tangent.z))
    count = norm.pixels(trace.full)
    average_a = norm.average((along.scale * cotangent.s1 + block.scale * s1) / count)
    average_b = norm.average((along.scale * cotangent.s0 + block.scale * s0) / count, trace.sign)
    square = kappa.square()
    slope_along, slope = -square * cotangent.a, square * (2 * rho * cotangent.a - average_a)
    level = kappa * (rho * cotangent.b - average_b)
    q = g.mul_(kappa * block.scale).addcmul_(cotangent.g, kappa * (along.scale - rho * block.scale))
    du = _affine(trace, slope, level - slope_along * tangent.mean)
    if trace.images is None:
        du.addcmul_(tangent.u, slope_along)
    dx, kernel = conv_back(_scatter(du, trace.index, q), trace.x, block.kernel, to_x=to_x, to_kernel=True)
    if tangent.x is not None:
        dx_more, kernel_more = conv_back(cotangent.du, tangent.x, along.kernel, to_x=to_x, to_kernel=True)
        kernel = kernel + kernel_more
        if to_x:
            dx = dx.add_(dx_more)
    if trace.images is not None:
        kernel = kernel + trace.images.kernel_gradient(block.kernel, trace.mean, slope, level)
        nothing = torch.zeros_like(level)
        kernel = kernel + trace.images.kernel_gradient(along.kernel, tangent.mean, slope_along, nothing)
    return Block(kernel, s1.sum(0, keepdim=True), s0.sum(0, keepdim=True)), dx


def _affine(trace: Trace, slope: Stat, level: Stat) -> Map:
    """slope (u − m) + level at full size; for the first block, and with frozen moments, zeros."""
    if trace.u is None or trace.frozen:
        n, c, h, w = trace.full
        return trace.a.new_zeros(n, h, w, c).permute(0, 3, 1, 2)
    return torch.addcmul(level - slope * trace.mean, trace.u, slope)

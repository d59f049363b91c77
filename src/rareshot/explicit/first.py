"""The first block of conv4: the same passes as in `blocks`, a few images at a time.

Its maps are the largest of the network and its images never change. So the patches of the images, with their mean and
covariance, are made once a task. Mean and variance of u = conv(x, w), and the affine part of ∂loss/∂u, follow from those
without looking at u again; what is left needs u only where the pool took its maximum. So nothing of full size is kept, and
what a few images at a time need stays in the cache.

That is for one task on a CPU. Where tasks stand side by side, the images come as one map, and the block is as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import unfold

from rareshot.explicit import blocks
from rareshot.explicit.blocks import (
    Block,
    Cotangent,
    Drift,
    Index,
    Pull,
    Scaling,
    Tangent,
    Trace,
    drift,
    gather,
    gradient_block,
    pool,
    pull,
    pull_along,
    scatter,
)
from rareshot.explicit.norms import Map, Norm, Stat

CACHE = 2**20
"""Numbers that a map of a few images may have for each thread: 4 MB in float32."""


class Images:
    """Images as the first block meets them at every step: as 3 × 3 patches."""

    def __init__(self, x: Map, norm: Norm, width: int) -> None:
        self.norm = norm
        self.shape = torch.Size((len(x), width, *x.shape[2:]))
        few = max(1, CACHE * torch.get_num_threads() // self.shape[1:].numel())
        self.parts = [slice(start, min(start + few, len(x))) for start in range(0, len(x), few)]
        self.patches = [unfold(x[part], 3, padding=1).transpose(0, 1).flatten(1) for part in self.parts]
        """One (in · 9, pixels) matrix for each part."""

    @cached_property
    def moments(self) -> tuple[Float[Tensor, "rows patch"], Float[Tensor, "rows patch patch"]]:
        """Mean and covariance of the patches of each row.

        In float64: neighbouring pixels are so alike that a kernel of differences would lose its variance in float32.
        """
        first, second = [], []
        for part, patches in zip(self.parts, self.patches, strict=True):
            images = patches.double().view(len(patches), part.stop - part.start, -1).unbind(1)
            first += [image.sum(1) for image in images]
            second += [image @ image.T for image in images]
        rows, count = self.norm.rows(self.shape[0]), self.norm.pixels(self.shape)
        mean = torch.stack(first).view(rows, -1, len(first[0])).sum(1) / count
        square = torch.stack(second).view(rows, -1, *second[0].shape).sum(1) / count
        return mean, square - mean[:, :, None] * mean[:, None, :]

    def mean(self, kernel: Tensor) -> Stat:
        """Mean of conv(x, kernel)."""
        return (self.moments[0] @ _matrix(kernel).T)[:, :, None, None].to(kernel.dtype)

    def covariance(self, kernel: Tensor, other: Tensor) -> Stat:
        """Covariance of conv(x, kernel) with conv(x, other)."""
        rows = (_matrix(kernel) @ self.moments[1]) * _matrix(other)
        return rows.sum(2)[:, :, None, None].to(kernel.dtype)

    def kernel_gradient(self, kernel: Tensor, mean: Stat, slope: Stat, level: Stat) -> Tensor:
        """Kernel gradient for ∂loss/∂u = slope (conv(x, kernel) − mean) + level."""
        patch, covariance = self.moments
        matrix = _matrix(kernel)
        level = level[:, :, 0] + slope[:, :, 0] * ((patch @ matrix.T)[:, :, None] - mean[:, :, 0])
        rows = slope[:, :, 0] * (matrix @ covariance) + level * patch[:, None, :]
        return (rows.sum(0) * self.norm.pixels(self.shape)).view(kernel.shape).to(kernel.dtype)

    def canvas(self) -> Float[Tensor, "pixels width"]:
        """Memory for u of the largest part; every part overwrites it."""
        rows = max(patches.shape[1] for patches in self.patches)
        return self.patches[0].new_empty(rows, self.shape[1])

    def on(self, canvas: Tensor, i: int) -> Map:
        """The canvas as a map of part i."""
        n = self.parts[i].stop - self.parts[i].start
        return canvas[: self.patches[i].shape[1]].view(n, *self.shape[2:], -1).permute(0, 3, 1, 2)

    def conv(self, i: int, kernel: Tensor, canvas: Tensor) -> Map:
        """conv(x, kernel) of part i, on the canvas."""
        torch.mm(self.patches[i].T, kernel.flatten(1).T, out=canvas[: self.patches[i].shape[1]])
        return self.on(canvas, i)

    def row(self, stat: Stat, i: int) -> Stat:
        """The rows of part i."""
        return stat[self.parts[i]] if self.norm.groups else stat

    def total(self, sums: Sequence[Stat]) -> Stat:
        """Sums of the rows from those of the parts."""
        return torch.cat(list(sums)) if self.norm.groups else torch.stack(list(sums)).sum(0)


@dataclass
class FirstTrace:
    """As `Trace`; index and z part by part."""

    images: Images
    index: list[Index]
    z: list[Map]
    a: Map
    kernel: Tensor
    how: Scaling


@dataclass
class FirstCotangent:
    """As `Cotangent`."""

    g: list[Map]
    pulled: Pull


@dataclass
class FirstTangent:
    """As `Tangent`."""

    pooled: list[Map]
    kernel: Tensor
    along: Drift


AnyImages = Images | Map
AnyTrace = FirstTrace | Trace
AnyCotangent = FirstCotangent | Cotangent
AnyTangent = FirstTangent | Tangent


def forward(
    images: AnyImages, block: Block, sign: Stat, norm: Norm, moments: tuple[Stat, Stat] | None = None
) -> AnyTrace:
    """As `blocks.forward`."""
    if isinstance(images, Tensor):
        return blocks.forward(images, block, sign, norm, moments, images=True)
    mean, variance = moments or norm.combine(
        images.mean(block.kernel), images.covariance(block.kernel, block.kernel), sign
    )
    how = Scaling(norm, sign, block.scale, mean, variance, norm.pixels(images.shape), moments is not None)
    offset = -mean * how.kappa
    canvas, a = images.canvas(), _pooled_map(images)
    indices, zs = [], []
    for i, part in enumerate(images.parts):
        pooled, index = pool(images.conv(i, block.kernel, canvas))
        z = torch.addcmul(images.row(offset, i), pooled, images.row(how.kappa, i), out=pooled)
        torch.addcmul(block.shift, z, block.scale, out=a[part]).relu_()
        indices.append(index)
        zs.append(z)
    return FirstTrace(images, indices, zs, a, block.kernel, how)


def backward(trace: AnyTrace, da: Map, moments: tuple[Stat, Stat] | None = None) -> tuple[Block, AnyCotangent]:
    """As `blocks.backward`; images have no gradient."""
    if isinstance(trace, Trace):
        gradients, _, cotangent = blocks.backward(trace, da, moments)
        return gradients, cotangent
    images, how = trace.images, trace.how
    weight = how.kappa * how.scale
    canvas, kernel = images.canvas(), _no_matrix(trace.kernel)
    gs, s0, s1 = [], [], []
    for i, part in enumerate(images.parts):
        g = torch.ops.aten.threshold_backward(da[part], trace.a[part], 0)
        s0.append(how.norm.sums(g))
        s1.append(how.norm.sums(g * trace.z[i]))
        _add_kernel_gradient(kernel, images, canvas, i, trace.index[i], g * images.row(weight, i))
        gs.append(g)
    pulled = pull(how, images.total(s0), images.total(s1), moments)
    gradient = kernel.T.reshape(trace.kernel.shape)
    if not how.frozen:
        gradient = gradient + images.kernel_gradient(trace.kernel, how.mean, pulled.slope, pulled.level)
    return gradient_block(gradient, pulled.s0, pulled.s1), FirstCotangent(gs, pulled)


def forward_along(trace: AnyTrace, block: Block, kind: torch.dtype | None = None) -> tuple[Map, AnyTangent]:
    """As `blocks.forward_along`; images do not move. On patches there is little to multiply, and `kind` does not count."""
    if isinstance(trace, Trace):
        return blocks.forward_along(trace, None, block, kind)
    images, how = trace.images, trace.how
    mean = images.mean(block.kernel)
    covariance = images.covariance(trace.kernel, block.kernel)
    if how.norm.groups:
        covariance = covariance + (images.mean(trace.kernel) - how.mean) * mean
    along = drift(how, mean, covariance, block.scale, block.shift)
    canvas, a = images.canvas(), _pooled_map(images)
    moved = []
    for i, part in enumerate(images.parts):
        z = trace.z[i]
        pooled = gather(images.conv(i, block.kernel, canvas), trace.index[i], z)
        y = torch.addcmul(images.row(along.constant, i), z, images.row(along.on_z, i))
        y.addcmul_(pooled, images.row(along.on_u, i))
        torch.ops.aten.threshold_backward.grad_input(y, trace.a[part], 0, grad_input=a[part])
        moved.append(pooled)
    return a, FirstTangent(moved, block.kernel, along)


def backward_along(
    trace: AnyTrace, cotangent: AnyCotangent, tangent: AnyTangent, da: Map, kind: torch.dtype | None = None
) -> Block:
    """As `blocks.backward_along`; `kind` as in `forward_along`."""
    if isinstance(trace, Trace):
        return blocks.backward_along(trace, cast(Cotangent, cotangent), cast(Tangent, tangent), da, kind)[0]
    cotangent, tangent = cast(FirstCotangent, cotangent), cast(FirstTangent, tangent)
    images, how, along = trace.images, trace.how, tangent.along
    on_g = how.kappa * along.on_z
    canvas, kernel = images.canvas(), _no_matrix(trace.kernel)
    s0, gz, gu = [], [], []
    for i, part in enumerate(images.parts):
        g, before = torch.ops.aten.threshold_backward(da[part], trace.a[part], 0), cotangent.g[i]
        s0.append(how.norm.sums(g))
        gz.append(how.norm.sums(g * trace.z[i]))
        gu.append(how.norm.sums(before * tangent.pooled[i]))
        q = g.mul_(images.row(along.on_u, i)).addcmul_(before, images.row(on_g, i))
        _add_kernel_gradient(kernel, images, canvas, i, trace.index[i], q)
    total = images.total(s0)
    more = pull_along(how, cotangent.pulled, along, total, images.total(gz), images.total(gu))
    gradient = kernel.T.reshape(trace.kernel.shape)
    gradient = gradient + images.kernel_gradient(trace.kernel, how.mean, more.slope, more.level)
    still = torch.zeros_like(more.level)
    gradient += images.kernel_gradient(tangent.kernel, along.mean, more.slope_along, still)
    return gradient_block(gradient, total, more.s1)


def _matrix(kernel: Tensor) -> Float[Tensor, "c patch"]:
    return kernel.flatten(1).double()


def _no_matrix(kernel: Tensor) -> Float[Tensor, "patch c"]:
    return kernel.new_zeros(kernel[0].numel(), len(kernel))


def _pooled_map(images: Images) -> Map:
    n, c, h, w = images.shape
    return images.patches[0].new_empty(n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def _add_kernel_gradient(kernel: Tensor, images: Images, canvas: Tensor, i: int, index: Index, q: Map) -> None:
    du = canvas[: images.patches[i].shape[1]].zero_()
    scatter(images.on(canvas, i), index, q)
    kernel.addmm_(images.patches[i], du)

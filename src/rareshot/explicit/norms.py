"""Over what a mean is taken: the batch, or an image's group of channels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Stat = Float[Tensor, "_rows _c 1 1"]
"""A number a channel: of the batch (one row), or of each image (a row each)."""
Map = Float[Tensor, "_n _c _h _w"]
"""Maps of images; a function may see several, of different sizes."""


@dataclass(frozen=True)
class Norm:
    """Batch norm (`groups` = 0) or group norm."""

    groups: int = 0
    """Of channels; those of all tasks together."""
    side_by_side: bool = False
    """Do the channels of several tasks pass?"""

    def rows(self, n: int) -> int:
        """How many rows of statistics n images have."""
        return n if self.groups else 1

    def pixels(self, shape: torch.Size) -> int:
        """How many pixels a row has."""
        n, _, h, w = shape
        return h * w if self.groups else n * h * w

    def sums(self, t: Map) -> Stat:
        """Sum over the pixels of a row."""
        n, c = t.shape[:2]
        return t.permute(0, 2, 3, 1).reshape(self.rows(n), -1, c).sum(1)[:, :, None, None]

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
        if self.side_by_side:
            variance, mean = torch.var_mean(u, (2, 3) if self.groups else (0, 2, 3), correction=0, keepdim=True)
            return self.combine(mean, variance, sign)
        parts = torch.split(u, 1) if self.groups else (u,)
        # The kernel of running statistics reads channels-last memory at full speed; torch.var_mean is 20 times slower.
        both = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in parts]
        mean, variance = (torch.stack(kind)[:, :, None, None] for kind in zip(*both, strict=True))
        return self.combine(mean, variance, sign)

    def combine(self, mean: Stat, variance: Stat, sign: Stat) -> tuple[Stat, Stat]:
        """Mean and variance of what shares a mean, from those of its channels."""
        if not self.groups:
            return mean, variance
        shared = self.average(mean, sign)
        return shared, self.average(variance + (mean - shared).square())

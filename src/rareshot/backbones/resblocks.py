"""`resblocks`: four residual blocks of 32 filters, the other backbone of Table 2."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rareshot.backbones.norms import AnyNorm, norm_layer

BLOCKS = 4


class ResBlocks(nn.Module):
    """(n, 3, size, size) → (n, features), with features = width * (size // 16)**2.

    A block is two 3x3 convolutions with norms beside a 1x1 convolution, added, ReLU, 2x2 max-pool. The paper gives the
    filters (32) and no more.

    Args:
        size: image height and width, at least 16.
        width: filters of each block.
        norm: see `rareshot.backbones.norms`.
    """

    def __init__(self, size: int, *, width: int = 32, norm: AnyNorm = "support") -> None:
        super().__init__()
        if size < 2**BLOCKS:
            raise ValueError(f"resblocks halves an image four times, so its smallest size is {2**BLOCKS}; got {size}")
        self.blocks = nn.Sequential(*(_ResBlock(3 if i == 0 else width, width, norm) for i in range(BLOCKS)))
        self.features = width * (size // 2**BLOCKS) ** 2

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features of each image."""
        maps: Tensor = self.blocks(x)
        return maps.flatten(1)


class _ResBlock(nn.Module):
    def __init__(self, channels: int, width: int, norm: AnyNorm) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 3)
        self.norm1 = norm_layer(width, norm)
        self.conv2 = _conv(width, width, 3)
        self.norm2 = norm_layer(width, norm)
        self.shortcut = _conv(channels, width, 1)
        self.norm_shortcut = norm_layer(width, norm)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        inner = self.norm2(self.conv2(inner)) + self.norm_shortcut(self.shortcut(x))
        return torch.max_pool2d(torch.relu(inner), 2)


def _conv(channels: int, width: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv

"""The paper's backbone: four blocks of 3x3 convolution, norm, ReLU, 2x2 max-pool (§3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rareshot.backbones.norms import AnyNorm, norm_layer

BLOCKS = 4


class Conv4(nn.Module):
    """(n, 3, size, size) → (n, features), with features = width * (size // 16)**2.

    The convolutions have no bias: the norm behind each takes it away again.

    Args:
        size: image height and width, at least 16.
        width: filters of each block; 64 in the paper.
        norm: see `rareshot.backbones.norms`.
    """

    def __init__(self, size: int, *, width: int = 64, norm: AnyNorm = "support") -> None:
        super().__init__()
        if size < 2**BLOCKS:
            raise ValueError(f"conv4 halves an image four times, so its smallest size is {2**BLOCKS}; got {size}")
        self.blocks = nn.Sequential(*(_Block(3 if i == 0 else width, width, norm) for i in range(BLOCKS)))
        self.features = width * (size // 2**BLOCKS) ** 2

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features of each image."""
        maps: Tensor = self.blocks(x)
        return maps.flatten(1)


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, norm: AnyNorm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = norm_layer(width, norm)

    def forward(self, x: Tensor) -> Tensor:
        return torch.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)

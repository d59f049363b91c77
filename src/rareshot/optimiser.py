"""Adam, with square roots that are the same on every CPU."""

from collections.abc import Iterable

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
"""How much of the moments of the gradient and of its square is kept at each step."""


def adam(parameters: Iterable[Tensor], *, lr: float, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam; its weight decay is decoupled from the gradient (AdamW).

    On a CPU in one loop over a weight (`fused`), where a square root is the nearest number: the usual loops take MKL's, which
    begins from the CPU's estimate of 1/√x, and Intel's estimates are not AMD's. A gradient must lie in memory as its weight does.
    """
    weights = list(parameters)
    fused = all(weight.device.type == "cpu" for weight in weights)
    return torch.optim.AdamW(weights, lr=lr, betas=BETAS, weight_decay=weight_decay, fused=fused)

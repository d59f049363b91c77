"""Augmentation: any rotation, scale 0.8 to 1.2 with crop, both flips, drawn for every image by itself (§3).

One affine map an image, applied to the whole batch at once. The draws come from a numpy generator that the caller makes of
(seed, iteration, task), so that a resumed run sees the same pictures; kornia and torchvision draw from the global state.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SCALE = (0.8, 1.2)


def affine(x: Float[Tensor, "n 3 h w"], rng: np.random.Generator) -> Float[Tensor, "n 3 h w"]:
    """Each image turned, scaled and flipped by draws of its own; what comes in from outside is the image's reflection.

    Args:
        x: in [0, 1]; the answer is too.
    """
    return transformed(x, draws(len(x), rng).to(x.device))


def draws(n: int, rng: np.random.Generator) -> Float[Tensor, "n 2 3"]:
    """An affine map for each of n images: where in the image a pixel of the answer comes from."""
    angle = rng.uniform(0, 2 * math.pi, n)
    zoom = 1 / rng.uniform(*SCALE, n)  # the grid says where a pixel comes from: a large scale reads a small part
    flip = rng.choice((-1.0, 1.0), (2, n))
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    zero = np.zeros(n)
    maps = np.stack([np.stack([cos * flip[0], -sin, zero], 1), np.stack([sin * flip[0], cos * flip[1], zero], 1)], 1)
    maps[:, 0, 1] *= flip[1]
    return torch.from_numpy(maps).float()


def transformed(x: Float[Tensor, "n 3 h w"], maps: Float[Tensor, "n 2 3"]) -> Float[Tensor, "n 3 h w"]:
    """Each image by its own map, on the device of both."""
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def unchanged(x: Float[Tensor, "n 3 h w"], rng: np.random.Generator) -> Float[Tensor, "n 3 h w"]:
    """No augmentation, as in two rows of Table 2."""
    return x

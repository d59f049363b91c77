"""Training images that stay on a device as bytes: there they are gathered, made float, transformed and standardised.

A task then comes as numbers alone: which images, and an affine map for each, drawn on the CPU by the same generator as ever. So
a run on a GPU sees the same pictures as one on a CPU.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.data.augment import transformed
from rareshot.data.collection import LabelledImages
from rareshot.pixels import Pixels


class DrawnTask(NamedTuple):
    """A task whose pictures are still to be made."""

    indices: Int[Tensor, " n"]
    """Of the images: support, then query."""
    maps: Float[Tensor, "n 2 3"] | None
    """See `rareshot.data.augment.draws`; None: the images as they are."""
    support_y: Int[Tensor, " s"]
    query_y: Int[Tensor, " q"]
    way: int


class Resident:
    """Images on a device.

    Args:
        images: all that tasks are drawn from; 3 bytes a pixel of them must fit there.
        pixels: how the learner standardises.
    """

    def __init__(self, images: LabelledImages, pixels: Pixels, device: torch.device) -> None:
        self._bytes = torch.from_numpy(np.array(images.pixels)).to(device)
        self._pixels = pixels.on(device)

    def __call__(
        self, indices: Int[Tensor, "*tasks n"], maps: Float[Tensor, "*tasks n 2 3"] | None
    ) -> Float[Tensor, "*tasks n 3 h w"]:
        """The pictures, standardised."""
        x = self._bytes[indices.flatten()].permute(0, 3, 1, 2).float().div_(255)
        if maps is not None:
            x = transformed(x, maps.reshape(-1, 2, 3))
        x = self._pixels.standardised(x)
        return x.reshape(*indices.shape, *x.shape[1:])

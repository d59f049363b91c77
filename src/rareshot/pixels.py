"""`Pixels`: what a learner knows of the images that it takes: their size, and the common diseases' colours (§2.1)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.types import State


@dataclass(frozen=True, eq=False)
class Pixels:
    """Float RGB in [0, 1] → mean 0 and deviation 1 in each colour, by the statistics of the common diseases."""

    size: int
    """Height and width of an image."""
    mean: Float[Tensor, " 3"]
    std: Float[Tensor, " 3"]

    @classmethod
    def of(cls, images: LabelledImages) -> "Pixels":
        """Those of a data set: mean and deviation of each colour over all its images.

        Raises:
            ValueError: if it has no image.
        """
        if not len(images):
            raise ValueError(
                f"{images.card.name} has no image of a common class, and a network begins with the mean and deviation of their "
                "colours: name all rare classes with --rare, so that the others are common, or give data with common classes"
            )
        total, squares, n = np.zeros(3), np.zeros(3), 0
        for first in range(0, len(images), 256):
            block = images.pixels[first : first + 256].reshape(-1, 3).astype(np.float64) / 255
            total, squares, n = total + block.sum(0), squares + (block**2).sum(0), n + len(block)
        mean = total / n
        std = np.sqrt(np.maximum(squares / n - mean**2, 1e-12))
        return cls(images.size, torch.from_numpy(mean).float(), torch.from_numpy(std).float())

    @classmethod
    def blank(cls, size: int) -> "Pixels":
        """Of the right shapes, to load a state into."""
        return cls(size, torch.zeros(3), torch.ones(3))

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Standardised, channels last in memory.

        Raises:
            ValueError: if the images have another size, or leave [0, 1].
        """
        if images.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"this learner takes RGB images of {self.size} pixels; got shape {tuple(images.shape[1:])}"
            )
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError("images must lie in [0, 1]; divide bytes by 255")
        return self.standardised(images).contiguous(memory_format=torch.channels_last)

    def standardised(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The same unchecked, on the device of the statistics, in any layout."""
        return (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)

    def on(self, device: torch.device) -> "Pixels":
        """With the statistics on a device."""
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))

    def state(self) -> State:
        """The statistics by name, as a learner's state carries them."""
        return {"pixels.mean": self.mean, "pixels.std": self.std}

    def with_state(self, state: State) -> "Pixels":
        """With the statistics of a learner's state."""
        return replace(self, mean=state["pixels.mean"].clone(), std=state["pixels.std"].clone())

"""Why an answer, as pictures: what spoke for it, and which photographs look most like the image (`rareshot.explain`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from rareshot.data.decode import decode
from rareshot.explain import attribution, nearest_support
from rareshot.predict import Predictor
from rareshot.support_set import as_float
from rareshot.web.intake import picture

SIZE = 144
"""Height and width of a map on the page."""
FOR, AGAINST = (0, 150, 100), (235, 90, 0)
"""Colours, told apart by those who see no red and green alike: one is also darker."""
STRONGEST = 0.65
"""Share of the colour where the map is strongest."""


@dataclass(frozen=True)
class Neighbour:
    """A photograph that looks like the image to the classifier."""

    condition: str
    name: str
    similarity: float
    picture: str


@dataclass(frozen=True)
class Why:
    """What stands below an answer."""

    map: str
    """The image with the parts coloured that speak for the answer, or against it; a data address."""
    nearest: tuple[Neighbour, ...]


def why(predictor: Predictor, file: Path, predicted: str) -> Why:
    """The pictures for one answer that was given."""
    pixels = torch.from_numpy(decode(file, predictor.size)).permute(2, 0, 1).contiguous()
    image, support = as_float(pixels), predictor.bundle.support
    found = attribution(predictor, image, predictor.classes.index(predicted))
    nearest = tuple(
        Neighbour(
            predictor.classes[int(support.labels[one.position])],
            support.names[one.position],
            one.similarity,
            picture(support.images[one.position].permute(1, 2, 0).numpy()),
        )
        for one in nearest_support(predictor, image)
    )
    return Why(picture(coloured(decode(file, SIZE), found)), nearest)


def coloured(pixels: UInt8[np.ndarray, "size size 3"], found: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "size size 3"]:
    """The image under its map: FOR where it is positive, AGAINST where it is negative, clear where it is 0."""
    strongest = float(found.abs().max()) or 1.0
    wide = F.interpolate(found[None, None] / strongest, pixels.shape[:2], mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    colour = np.where(wide[..., None] > 0, np.array(FOR), np.array(AGAINST))
    share = STRONGEST * np.abs(wide)[..., None]
    return np.asarray(np.rint((1 - share) * pixels + share * colour), dtype=np.uint8)

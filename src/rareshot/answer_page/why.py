"""Why an answer, as pictures: what spoke for it, and which support images look most like the image (`rareshot.explain`)."""

from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor

from rareshot.answer_page.words import named
from rareshot.explain import attribution, nearest_support
from rareshot.pictures import map_picture, picture
from rareshot.predict import Predictor
from rareshot.support_set import as_float

FAINT = 1.0
"""Log odds that have the full colour at least: a map on which nothing matters stays pale."""
THUMBNAIL = 64
"""Pixels across of the nearest support images."""


@dataclass(frozen=True)
class Neighbour:
    """A support image that looks most alike."""

    image: str
    name: str
    label: str
    similarity: str


@dataclass(frozen=True)
class Why:
    """What stands beside an answer."""

    found: Float[Tensor, "h w"]
    """What each part of the image adds to the log odds of the answer."""
    map: str
    """The image with the parts coloured that speak for the answer, or against it; a data address."""
    nearest: tuple[Neighbour, ...]


def why(predictor: Predictor, pixels: UInt8[Tensor, "3 h w"], predicted: str) -> Why:
    """The pictures for one answer that was given.

    Args:
        pixels: of the image, in the learner's size.
        predicted: a class of the predictor.
    """
    image, support = as_float(pixels), predictor.bundle.support
    found = attribution(predictor, image, predictor.classes.index(predicted))
    nearest = tuple(
        Neighbour(
            picture(support.images[one.position], THUMBNAIL),
            named(support.names[one.position]),
            named(support.classes[int(support.labels[one.position])]),
            f"{one.similarity:.2f}",
        )
        for one in nearest_support(predictor, image)
    )
    return Why(found, map_picture(pixels, found, max(FAINT, float(found.abs().max()))), nearest)

"""Why an answer, as pictures: what spoke for it, and which photographs look most like the image (`rareshot.explain`)."""

from dataclasses import dataclass
from pathlib import Path

import torch

from rareshot.answer_page.cards import FAINT
from rareshot.data.decode import decode
from rareshot.explain import attribution, nearest_support
from rareshot.pictures import map_picture, picture
from rareshot.predict import Predictor
from rareshot.support_set import as_float


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
            picture(support.images[one.position]),
        )
        for one in nearest_support(predictor, image)
    )
    return Why(map_picture(pixels, found, max(FAINT, float(found.abs().max()))), nearest)

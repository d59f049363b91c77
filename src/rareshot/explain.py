"""Why this answer: which part of an image speaks for a class, and which support images look most like it (not in the paper).

Both ask the classifier alone, so they are the same for every learner, and both change when the image, the support images or
the weights do. Neither says that the learner is right.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rareshot.equal_parts import Evenly
from rareshot.predict import Predictor
from rareshot.trust.left_out import class_log_odds
from rareshot.types import Classifier

GRID = 8
"""Steps across an image; what is covered at a time is two steps wide: 49 to 121 answers a map, by how well 8 divides the size."""
THUMBNAIL = 16
"""Pixels across of what stands for an image where a classifier embeds none."""

FURTHEST = 100.0
"""Log odds beyond which single precision knows no more."""


@runtime_checkable
class Embeds(Protocol):
    """A classifier that shows what it sees in an image: all that learners come with do."""

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """What it decides by, each image by itself."""
        ...


@dataclass(frozen=True)
class Nearest:
    """A support image that looks like another image to the learner."""

    position: int
    """Of the support image, in `bundle.support`."""
    similarity: float
    """Cosine of their embeddings: 1 for the same picture."""


def attribution(predictor: Predictor, image: Float[Tensor, "3 h w"], label: int) -> Float[Tensor, "h w"]:
    """How much each part of an image speaks for a class (positive) or against it (negative).

    Occlusion (Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014; captum): a square of a
    quarter of the width is covered by what the support images show there on average, classes counted alike, and moved by
    half of its own width. A pixel's value is the mean fall of the class's log odds over the squares that cover it. It takes
    no gradient, so it can be had of any classifier; one answer a square, 49 to 121 in all.

    The cover was chosen on common lesions (docs/predict.md): it favours no class, and its edges mislead less than a colour's.

    Args:
        image: in [0, 1], of the learner's size.
        label: number of the class in `predictor.classes`.

    Raises:
        ValueError: if there is no such class, or the image has another size.
    """
    from captum.attr import Occlusion  # here: it brings matplotlib along, a second that only reports need

    if not 0 <= label < len(predictor.classes):
        raise ValueError(
            f"label={label}: the classes are numbered 0 to {len(predictor.classes) - 1} ({', '.join(predictor.classes)})"
        )
    if image.shape != (3, predictor.size, predictor.size):
        raise ValueError(f"the learner takes RGB images of {predictor.size} pixels; got shape {tuple(image.shape)}")
    stride = max(1, predictor.size // GRID)
    support = predictor.bundle.support.support
    classes = [support.images[support.labels == each].mean(0) for each in range(support.way)]
    found: Tensor = Occlusion(lambda images: _log_odds(predictor, images, label)).attribute(
        image[None],
        sliding_window_shapes=(3, min(2 * stride, predictor.size), min(2 * stride, predictor.size)),
        strides=(3, stride, stride),
        baselines=torch.stack(classes).mean(0, keepdim=True),
    )
    return found[0, 0].float()


def nearest_support(predictor: Predictor, image: Float[Tensor, "3 h w"], count: int = 3) -> list[Nearest]:
    """The support images that look most like an image to the adapted learner, the most alike first.

    By the cosine of what the classifier decides by: for MAML and its kin, and after fine-tuning, the features under the
    adapted weights; for Prototypical and Relation Networks the embedding that is compared; for classifiers on features these
    features. A classifier of your own that has no `embed` is served by small copies of the pixels: alike in colour
    and layout.

    Args:
        image: in [0, 1], of the learner's size.
        count: at most so many.

    Raises:
        ValueError: if `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: ask for at least 1")
    support = _embedded(predictor.classifier, predictor.bundle.support.support.images)
    similarity = F.cosine_similarity(support, _embedded(predictor.classifier, image[None])).clamp(-1, 1)
    order = similarity.argsort(descending=True, stable=True)[:count]
    return [Nearest(int(at), float(similarity[at])) for at in order]


def _log_odds(predictor: Predictor, images: Float[Tensor, "n 3 h w"], label: int) -> Float[Tensor, " n"]:
    # A probability that single precision has rounded to 0 would look like a step of hundreds.
    return class_log_odds(predictor(images))[:, label].clamp(-FURTHEST, FURTHEST)


def _embedded(classifier: Classifier, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
    if isinstance(classifier, Evenly):  # side by side, so that a cosine is the mean of the parts' cosines
        return torch.cat([F.normalize(_embedded(part, images), dim=1) for part in classifier.parts], 1)
    if isinstance(classifier, Embeds):
        return classifier.embed(images.contiguous()).double()
    small = F.interpolate(images, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return small.flatten(1).double()

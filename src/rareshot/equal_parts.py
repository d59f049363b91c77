"""Unequal numbers of images a class: the mean over parts that have as many of each (not in the paper).

A classifier adapted to five images of one condition and one of another calls nearly everything the first, even if it weighs the
classes alike: an image lies further from one noisy image than from the mean of five. Parts of one image of each have no such
lean, and the mean of their log probabilities loses no image. Measured: docs/trust.md, "Unequal numbers".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.methods.memory import in_one_order
from rareshot.methods.probabilities import TINY
from rareshot.types import Classifier, Learner, Support

MOST_PARTS = 20
"""Each is an adaptation. A class with more than 20 times the images of the smallest has some in no part."""


@dataclass(frozen=True)
class Evenly:
    """One task, adapted to part by part."""

    parts: tuple[Classifier, ...]

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n way"]:
        """Probabilities: the softmax of the parts' mean log probabilities."""
        found = torch.stack([classify(images) for classify in self.parts])
        return found.double().clamp_min(TINY).log().mean(0).softmax(1).to(found.dtype)


def adapt_evenly(learner: Learner, support: Support, *, seed: int = 0) -> Classifier:
    """A classifier for `support` that leans to no class for its number of images; with equal numbers, the learner's own."""
    parts = tuple(learner.adapt(part, seed=seed) for part in equal_parts(support))
    return parts[0] if len(parts) == 1 else Evenly(parts)


def how_many(numbers: Sequence[int]) -> int:
    """Parts of so many images of each class, so many adaptations."""
    return min(-(-max(numbers) // min(numbers)), MOST_PARTS)


def equal_parts(support: Support) -> Iterator[Support]:
    """As few parts as hold every image, 20 at most, each with as many images of every class as the smallest class has.

    Classes go round: part r has the images r·m to r·m + m - 1, m of the smallest. With equal numbers there is one part, the whole
    as it is; otherwise the parts depend on the images alone and not on their order.
    """
    numbers = support.numbers
    if len(set(numbers)) == 1:
        yield support
        return
    support, m = in_one_order(support), min(numbers)
    places = [(support.labels == label).nonzero()[:, 0] for label in range(support.way)]
    for part in range(how_many(numbers)):
        kept = torch.cat([at[(part * m + torch.arange(m)) % len(at)] for at in places])
        yield Support(support.images[kept], support.labels[kept], support.classes)

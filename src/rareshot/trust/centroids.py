"""How well an image fits a class, with no adaptation: its features against the mean of the class's other images.

Prototypical Networks' rule (Snell, Swersky, Zemel, NeurIPS 2017) on the learner's features before it adapts, each of length 1.
Suspects and prediction sets rest on it. It takes a pass of the images or four; to leave each of 10 out by adapting takes 10
adaptations, and on common diseases finds planted wrong labels no more often (docs/trust.md).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.trust.left_out import refuse_transductive
from rareshot.types import Learner

SHARPNESS = 5.0
"""Of the softmax over minus the squared distances: it makes held-out labels of common diseases most likely. It changes no order
of two classes."""


def features_of(learner: Learner, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """The learner's features, each divided by its length, in double precision.

    Raises:
        ValueError: if the learner is not inductive, or its features are not finite.
    """
    refuse_transductive(learner)
    features = torch.as_tensor(learner.features(images)).double()
    if not features.isfinite().all():
        raise ValueError("the learner's features hold NaN or infinity: its weights have diverged")
    return F.normalize(features, dim=1)


def features_over_flips(learner: Learner, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """The same, the mean over an image and its three mirror images: a little steadier, four times the cost.

    Raises:
        ValueError: as `features_of`.
    """
    views = [images, images.flip(3), images.flip(2), images.flip(2, 3)]
    parts = features_of(learner, torch.cat(views)).chunk(len(views))
    return F.normalize(torch.stack(parts).mean(0), dim=1)


def own_log_odds(
    features: Float[Tensor, "s d"], labels: Int[Tensor, " s"], way: int, *, evenly: bool = False
) -> Float[Tensor, " s"]:
    """Log odds of each image's own label, by the nearest class mean, its own class's taken without it.

    Args:
        evenly: as though every class had as many images as the smallest. An image lies further from the mean of few by chance
            alone, and those of the smallest class would seem out of place. Changes nothing where the numbers are equal.
    """
    belongs = F.one_hot(labels, way).to(features)
    number = belongs.sum(0)
    lengths = features.square().sum(1)
    sums, squares = belongs.T @ features, belongs.T @ lengths
    own_sums, own_number = sums[labels] - features, number[labels] - 1
    to_means = (features[:, None] - sums / number[:, None]).square().sum(2)
    to_own = (features - own_sums / own_number[:, None]).square().sum(1)
    if evenly:
        fewest = number.min()
        to_means = to_means + _further(sums, squares, number, fewest)
        to_own = to_own + _further(own_sums, squares[labels] - lengths, own_number, fewest - 1)
    others = (-SHARPNESS * to_means).masked_fill(belongs.bool(), -torch.inf)
    return -SHARPNESS * to_own - others.logsumexp(1)


def _further(
    sums: Float[Tensor, "n d"], squares: Float[Tensor, " n"], number: Float[Tensor, " n"], drawn: Tensor
) -> Float[Tensor, " n"]:
    """How much greater the squared distance to the mean of `drawn` of `number` images is than to that of all, in expectation."""
    variance = (squares - sums.square().sum(1) / number) / (number - 1).clamp_min(1)
    return variance * (1 / drawn - 1 / number)

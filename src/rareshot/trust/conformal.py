"""Prediction sets that hold the true class as often as promised, from k images a class.

Full conformal prediction, class by class (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005; Vovk,
Conditional validity of inductive conformal predictors, ACML 2012). A new image is put among the images of a class as if it
were one of them, and each of these n + 1 is scored by the n others and by the other classes (`rareshot.trust.centroids`). The
scoring treats all alike, so if the class is right the new image is as likely as any other to fit worst. The class is left
out of the set when the new image fits it worse than nearly all of the class's own do.

For a new image of class c, exchangeable with the k of class c, the set holds c with probability at least 1 - error,
whatever the learner and the images' distribution; and, but for ties and the steps of 1 / (k + 1), no more often than that.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rareshot.trust.centroids import features_of, own_log_odds
from rareshot.trust.left_out import refuse_single
from rareshot.types import Learner, Support


def smallest_error(n: int) -> float:
    """1 / (n + 1): the smallest error rate that n support images of a class allow, short of naming every class.

    A new image that fits worse than all n happens once in n + 1 times by chance alone: 1/6 at k = 5, 1/20 needs k = 19.

    Raises:
        ValueError: if n is below 2, as then nothing can be left out.
    """
    if n < 2:
        raise ValueError(f"a prediction set needs at least 2 support images of each class; got {n}")
    return 1 / (n + 1)


def prediction_sets(
    learner: Learner, support: Support, images: Float[Tensor, "n 3 h w"], *, error: float | None = None
) -> Bool[Tensor, "n way"]:
    """Which classes each image may be of, each image by itself. An empty row: it fits none as the support images fit theirs.

    Args:
        error: of each class's images, at most this share have a set without their class; None: the smallest that the
            smallest class allows. A rate between two multiples of 1 / (n + 1) is as the lower one.

    Raises:
        ValueError: if the learner is not inductive, a class has a single image, or `error` is smaller than the smallest
            class allows, or not below 1.
    """
    refuse_single(support)
    smallest, name = min(zip(support.numbers, support.classes, strict=True))
    least = smallest_error(smallest)
    error = least if error is None else error
    if not error < 1 or error < least - 1e-9:
        raise ValueError(
            f"error={error:g}: the {smallest} support images of {name} allow no error rate below "
            f"1 / ({smallest} + 1) = {least:.3f}; ask for {math.ceil(1000 * least) / 1000:g} or more (below 1)"
            + (f", or give at least {math.ceil(1 / error - 1 - 1e-9)} images a class" if 0 < error < 1 else "")
        )
    sets = torch.zeros(len(images), support.way, dtype=torch.bool)
    for row, image in enumerate(images):
        # Together, and anew for each image: features may depend on the whole batch, and all n + 1 must be treated alike.
        features = features_of(learner, torch.cat([support.images, image[None]]))
        for label in range(support.way):
            labels = torch.cat([support.labels, torch.tensor([label])])
            odds = own_log_odds(features, labels, support.way)[labels == label]
            no_better = (odds <= odds[-1]).sum()  # itself included
            sets[row, label] = no_better > error * len(odds) + 1e-9
    return sets

"""Prediction sets that hold the true class as often as promised, from k images a class.

Barber, Candès, Ramdas, Tibshirani: Predictive inference with the jackknife+, Annals of Statistics 49, 2021, arXiv
1905.02928: their jackknife-minmax, for each class by itself (Vovk, Conditional validity of inductive conformal
predictors, ACML 2012). Each support image is scored by the classifier that has not seen it; a new image is scored, for each
class, by all the classifiers that left out an image of that class, and the most favourable score counts. A class is left
out of the set when the new image fits it worse than nearly all of its own k images did.

For a new image of class c, exchangeable with the k of class c, the set holds c with probability at least 1 - error,
whatever the learner and the images' distribution. Plain jackknife+ would promise 1 - 2 · error only.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rareshot.trust.left_out import LeftOut, class_log_odds, counts


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
    left_out: LeftOut, answers: Float[Tensor, "s n way"], *, error: float | None = None
) -> Bool[Tensor, "n way"]:
    """Which classes each image may be of. An empty row: it fits none as the support images fit theirs.

    Args:
        answers: `left_out.answers(images)`. Temperature and prevalence change nothing here for two classes.
        error: of each class's images, at most this share have a set without their class; None: the smallest that the
            smallest class allows. A rate between two multiples of 1 / (n + 1) is as the lower one.

    Raises:
        ValueError: if `error` is smaller than the smallest class allows, or not below 1; or `answers` has another shape.
    """
    support = left_out.support
    if answers.ndim != 3 or (answers.shape[0], answers.shape[2]) != (len(support.labels), support.way):
        raise ValueError(
            f"answers must be those of left_out.answers(images), of shape ({len(support.labels)}, n, {support.way}); "
            f"got {tuple(answers.shape)}"
        )
    smallest, name = min(zip(counts(support), support.classes, strict=True))
    least = smallest_error(smallest)
    error = least if error is None else error
    if not error < 1 or error < least - 1e-9:
        raise ValueError(
            f"error={error:g}: the {smallest} support images of {name} allow no error rate below "
            f"1 / ({smallest} + 1) = {least:.3f}; ask for {math.ceil(1000 * least) / 1000:g} or more (below 1)"
            + (f", or give at least {math.ceil(1 / error - 1 - 1e-9)} images a class" if 0 < error < 1 else "")
        )
    own, others = class_log_odds(left_out.probabilities), class_log_odds(answers)
    sets = torch.zeros(answers.shape[1:], dtype=torch.bool)
    for label in range(support.way):
        of_class = support.labels == label
        known = own[of_class, label]
        best = others[of_class, :, label].amax(0)
        worse_or_equal = (known[:, None] <= best).sum(0)  # how many of the class's own fit no better
        sets[:, label] = 1 + worse_or_equal > error * (len(known) + 1) + 1e-9
    return sets

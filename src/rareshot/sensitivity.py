"""What would change an answer: other support images, another turn of the camera, another seed (not in the paper).

The same learner is adapted again without each support image, with turned ones, and, where its adaptation draws at random, with
other seeds. Each of these views answers on the same image; the lowest and highest answer make a range. It is no interval
that holds the truth with a known probability.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.data.augment import affine
from rareshot.data.files import Observe, ignore, shown
from rareshot.equal_parts import adapt_evenly, how_many
from rareshot.predict import Predictor, one_by_one
from rareshot.trust import leave_one_out, spread
from rareshot.types import Classifier, Learner, Support

DRAWS = 3
"""Adaptations to turned support images, and to other seeds."""
MOST_LEFT_OUT = 60
"""Adaptations without one of the support images; more would take minutes. 30 images in equal numbers take so many."""


@dataclass(frozen=True, eq=False)
class Views:
    """Classifiers of one task that should all say the same."""

    predictor: Predictor
    left_out: tuple[Classifier, ...]
    """Adapted without support image i; none where `why_not` says why."""
    turned: tuple[Classifier, ...]
    """Adapted to support images that are turned, scaled and flipped; each turns what it judges too."""
    seeded: tuple[Classifier, ...]
    """Adapted with other seeds; none where the seed changes nothing."""
    why_not: str = ""
    """Why no support image is left out."""


@dataclass(frozen=True)
class Sensitivity:
    """How the answer on one image moves."""

    low: tuple[float, ...]
    """Lowest probability of each class over all views and the answer itself."""
    high: tuple[float, ...]
    left_out: tuple[float, float] | None
    """Lowest and highest probability of the predicted class without one of the support images."""
    turned: tuple[float, float]
    seeded: tuple[float, float] | None
    pivotal: int | None
    """Position of the support image without which the predicted class moves furthest."""
    without: float
    """Its probability then."""
    flips: tuple[int, ...]
    """Positions of the support images without which another class would be predicted."""
    turned_flips: int
    """Turned adaptations that predict another class."""

    @property
    def is_stable(self) -> bool:
        """Does every view predict the same class? Seeds are counted by the range alone."""
        return not self.flips and not self.turned_flips


def views_of(predictor: Predictor, *, draws: int = DRAWS, observe: Observe = ignore) -> Views:
    """Adapt again, otherwise: once a support image, `draws` times turned, and where seeds matter as often with others.

    Args:
        observe: called with (done, all) of these three kinds.

    Raises:
        ValueError: if `draws` is below 1.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: at least 1 is needed")
    learner, support, seed = predictor.learner, predictor.bundle.support.support, predictor.bundle.seed
    why_not = _why_not(predictor)
    left_out = () if why_not else leave_one_out(learner, support, seed=seed).classifiers
    observe(1, 3)
    turned = tuple(_turned(learner, support, draw, seed) for draw in range(draws))
    observe(2, 3)
    seeded: tuple[Classifier, ...] = ()
    other = adapt_evenly(learner, support, seed=_seed(seed, 1))
    if not torch.equal(other(support.images), predictor.classifier(support.images)):
        seeded = (other, *(adapt_evenly(learner, support, seed=_seed(seed, draw)) for draw in range(2, draws + 1)))
    observe(3, 3)
    return Views(predictor, left_out, turned, seeded, why_not)


def sensitivity(views: Views, image: Float[Tensor, "3 h w"]) -> Sensitivity:
    """How the answer on an image moves from view to view; it depends on no other image."""
    predictor = views.predictor
    answer = predictor(image[None])
    label = int(answer[0].argmax())

    def told(classifiers: tuple[Classifier, ...]) -> Float[Tensor, "views 1 way"]:
        found = [_calibrated(predictor, classify, image) for classify in classifiers]
        return torch.stack(found) if found else answer.new_empty((0, *answer.shape))

    left_out, turned, seeded = told(views.left_out), told(views.turned), told(views.seeded)
    low, high = spread(torch.cat([answer[None], left_out, turned, seeded]))
    own = left_out[:, 0, label]
    pivotal = int((own - answer[0, label]).abs().argmax()) if len(own) else None
    return Sensitivity(
        low=tuple(low[0].tolist()),
        high=tuple(high[0].tolist()),
        left_out=_range(left_out, label),
        turned=(float(turned[:, 0, label].min()), float(turned[:, 0, label].max())),
        seeded=_range(seeded, label),
        pivotal=pivotal,
        without=float(own[pivotal]) if pivotal is not None else float("nan"),
        flips=tuple((left_out[:, 0].argmax(1) != label).nonzero()[:, 0].tolist()),
        turned_flips=int((turned[:, 0].argmax(1) != label).sum()),
    )


def _why_not(predictor: Predictor) -> str:
    counts: Mapping[str, int] = predictor.bundle.support.counts
    single = [shown(name) for name, count in counts.items() if count < 2]
    if single:
        return f"there is only one image of {', '.join(single)}"
    numbers = list(counts.values())
    without = ([n - (one == other) for other, n in enumerate(numbers)] for one in range(len(numbers)))
    needed = sum(n * how_many(rest) for n, rest in zip(numbers, without, strict=True))
    if needed > MOST_LEFT_OUT:
        return f"with {sum(numbers)} support images it would take {needed} adaptations, more than {MOST_LEFT_OUT}"
    return ""


def _turned(learner: Learner, support: Support, draw: int, seed: int) -> Classifier:
    images = affine(support.images, np.random.default_rng((seed, draw))).clamp(0, 1)
    adapted = adapt_evenly(learner, Support(images, support.labels, support.classes), seed=seed)
    turn: Callable[[Tensor], Tensor] = lambda image: affine(image, np.random.default_rng((seed, draw, 1))).clamp(0, 1)  # noqa: E731
    return lambda images: one_by_one(lambda image: adapted(turn(image)), images)


def _seed(seed: int, draw: int) -> int:
    return (seed + draw) % 2**63


def _calibrated(predictor: Predictor, classify: Classifier, image: Tensor) -> Float[Tensor, "1 way"]:
    return predictor.calibrated(classify(image[None].contiguous()))


def _range(views: Float[Tensor, "views 1 way"], label: int) -> tuple[float, float] | None:
    own = views[:, 0, label]
    return (float(own.min()), float(own.max())) if len(own) else None

"""Leave-one-out: the learner adapted without each support image in turn. A task's own temperature and the spread rest on it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.equal_parts import adapt_evenly
from rareshot.methods.probabilities import TINY
from rareshot.types import Classifier, Learner, Support


@dataclass(frozen=True)
class LeftOut:
    """One classifier a support image, adapted to all the others."""

    support: Support
    classifiers: tuple[Classifier, ...]
    """In the order of the support images."""
    probabilities: Float[Tensor, "s way"]
    """Row i: what is said of image i by the classifier that has not seen it."""

    def answers(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "s n way"]:
        """What each of the classifiers says of other images."""
        return torch.stack([classify(images) for classify in self.classifiers])


def leave_one_out(learner: Learner, support: Support, *, seed: int = 0) -> LeftOut:
    """Adapt for each support image without it, evenly, as the numbers are then unequal.

    Where they were equal, it takes two adaptations an image.

    Raises:
        ValueError: if the learner is not inductive, or a class has a single image and would be left empty.
    """
    refuse_transductive(learner)
    refuse_single(support)
    classifiers, own = [], []
    for i in range(len(support.labels)):
        others = [j for j in range(len(support.labels)) if j != i]
        rest = Support(support.images[others], support.labels[others], support.classes)
        classify = adapt_evenly(learner, rest, seed=seed)
        classifiers.append(classify)
        own.append(classify(support.images[i : i + 1])[0])
    return LeftOut(support, tuple(classifiers), torch.stack(own))


def refuse_single(support: Support) -> None:
    """Refuse a class that would be empty without one of its images.

    Raises:
        ValueError: naming the classes.
    """
    single = [name for name, n in zip(support.classes, support.numbers, strict=True) if n < 2]
    if single:
        raise ValueError(
            f"to leave one image out, every class needs at least 2; there is a single one of {', '.join(single)}: "
            "give more images, or do without what is learnt from leaving out"
        )


def class_log_odds(probabilities: Float[Tensor, "*rows way"]) -> Float[Tensor, "*rows way"]:
    """log p_c - log Σ of the other classes: p_c's order, without its rounding to 1."""
    logs = probabilities.double().clamp_min(TINY).log()
    way = logs.shape[-1]
    others = [logs[..., [d for d in range(way) if d != c]].logsumexp(-1) for c in range(way)]
    return logs - torch.stack(others, -1)


def refuse_transductive(learner: Learner, name: str = "this learner") -> None:
    """Refuse a learner whose answer on one patient depends on the others'.

    Raises:
        ValueError: if it is not inductive.
    """
    if not learner.inductive:
        raise ValueError(
            f"{name} is transductive: its answer on an image depends on the images that are sent with it, so it cannot judge "
            f"one patient; fit a learner with --norm support"
        )

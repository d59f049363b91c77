"""None of these: is an image at all like those that the learner knows? A phone photograph sent to a dermoscopy learner is not.

Mahalanobis distance to the training images of the common diseases (Lee et al., A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018, here without classes), with a shrunk covariance (Ledoit,
Wolf 2004). What stands for an image: 22 numbers of colour and sharpness (at 64 pixels), which need no network; and for conv4,
mean and deviation of the maps of its third block at the learner's own weights, normalised by the reference images' moments,
not by the support's.

Where images of another kind are at hand (phone photographs, for a dermoscopy learner), one direction counts more: Fisher's,
which tells them from the common diseases best. Few images show it, and it finds their like far more often than distance alone.
"""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from sklearn.covariance import LedoitWolf
from torch import Tensor

from rareshot.backbones.conv4 import Conv4
from rareshot.backbones.norms import Moments, frozen_by, needs_moments, norms_of, recording
from rareshot.data.collection import LabelledImages
from rareshot.trust.left_out import refuse_transductive
from rareshot.types import Learner, State, Support

Array = npt.NDArray[Any]
BLOCK = 3
"""conv4's block whose maps are described: chosen on one half of the phone photographs, judged on the other."""
PER_CLASS = 400
"""Most training images of a class that the reference is made of."""
WEIGHT = 100.0
"""Of the direction towards images of another kind, in squared deviations of the common ones. Chosen by one half of the phone
photographs' patients, halved again."""
LEVELS = 1001
"""Quantiles of the distance that are kept."""
BATCH = 200


class Typicality(NamedTuple):
    """How usual images are."""

    distance: Float[Tensor, " n"]
    """Squared Mahalanobis distance: to the common diseases, or to a class of the support set that is nearer."""
    share: Float[Tensor, " n"]
    """Share of held-out common lesions, classes counted alike, that lie as far out or further."""
    is_unusual: Bool[Tensor, " n"]
    """Is `share` below the false-alarm rate?"""


@dataclass(frozen=True, eq=False)
class Reference:
    """What the common diseases look like to a learner: small, and stored beside it."""

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    precision: Float[Tensor, "d d"]
    """Inverse of the shrunk correlation matrix."""
    quantiles: Float[Tensor, " levels"]
    """Of the distance over held-out lesions, at 0, 0.001, …, 1."""
    moments: tuple[Moments, ...] = ()
    """Of the network's norm layers over reference images; empty where it needs none."""

    @classmethod
    def of(
        cls,
        learner: Learner,
        train: LabelledImages,
        held: LabelledImages,
        *,
        others: Float[Tensor, "n 3 h w"] | None = None,
        seed: int = 0,
    ) -> "Reference":
        """Summary of common diseases: moments from `train`, quantiles from one image of each lesion of `held`.

        Classes count alike in both. The two come from `validation.held_out`.

        Args:
            others: images that the learner is not for, whose like are to be found; None: none are known.

        Raises:
            ValueError: if the learner is not inductive, or either part has too few images.
        """
        refuse_transductive(learner)
        rng = np.random.default_rng(seed)
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(train.labels == c))[:PER_CLASS] for c in range(len(train.classes))]
        )
        judged = rng.permutation(len(held))
        judged = judged[np.unique(held.groups[judged], return_index=True)[1]]
        if min(len(chosen), len(judged)) < 20:
            raise ValueError(
                f"a reference needs at least 20 training images and 20 held-out lesions; got {len(chosen)} and {len(judged)}"
            )
        chosen = rng.permutation(chosen)
        moments = _moments(learner, train.images(chosen[: 2 * BATCH]))
        described = _described(learner, train, chosen, moments)
        mean, std = described.mean(0), np.maximum(described.std(0), 1e-6)
        fitted = LedoitWolf().fit((described - mean) / std)
        precision = fitted.precision_
        if others is not None:
            far = (_described_all(learner, others, moments) - mean) / std
            towards = np.linalg.solve(fitted.covariance_ + LedoitWolf().fit(far).covariance_, far.mean(0))
            precision = precision + WEIGHT * np.outer(towards, towards) / (towards @ fitted.covariance_ @ towards)
        blank = cls(_float(mean), _float(std), _float(precision), torch.zeros(LEVELS), moments)
        distances = blank._distances(_described(learner, held, judged, moments))
        labels = held.labels[judged]
        quantiles = _quantiles(distances, 1 / np.bincount(labels)[labels])
        return cls(blank.mean, blank.std, blank.precision, _float(quantiles), moments)

    def typicality(
        self,
        learner: Learner,
        images: Float[Tensor, "n 3 h w"],
        *,
        support: Support | None = None,
        false_alarms: float = 0.05,
    ) -> Typicality:
        """How usual each image is, by itself.

        Args:
            learner: the one that the reference was made with.
            support: images that are known to belong here. An image that is near a class of them is as usual as one near the
                common diseases; so it can only take warnings back.
            false_alarms: share of common lesions, classes counted alike, that would be called unusual.

        Raises:
            ValueError: if `false_alarms` is not between 0 and 1, or the reference is of another learner.
        """
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms={false_alarms} must be between 0 and 1")
        described = _described_all(learner, images, self.moments)
        if described.shape[1] != len(self.mean):
            raise ValueError(
                f"this reference describes an image by {len(self.mean)} numbers, the learner by {described.shape[1]}: "
                "it was made with another learner; make it anew"
            )
        distances = self._distances(described)
        if support is not None:
            known = _described_all(learner, support.images, self.moments)
            for label in range(support.way):
                own = known[support.labels.numpy() == label]
                # The mean of n images is uncertain itself: (n + 1) / n times the variance of one.
                near = self._distances(described - own.mean(0) + self.mean.double().numpy()) * len(own) / (len(own) + 1)
                distances = np.minimum(distances, near)
        # The first quantile that is at least the distance: 1 - its level is the share beyond.
        at = np.searchsorted(self.quantiles.double().numpy(), distances)
        share = np.clip(1 - at / (LEVELS - 1), 0, 1)
        return Typicality(_float(distances), _float(share), torch.from_numpy(share < false_alarms))

    def state(self) -> State:
        """Name → tensor, to be stored as safetensors."""
        state = {"mean": self.mean, "std": self.std, "precision": self.precision, "quantiles": self.quantiles}
        for i, each in enumerate(self.moments):
            state |= {f"moments.{i}.mean": each.mean, f"moments.{i}.var": each.var}
            state[f"moments.{i}.images"] = torch.tensor(each.images)
        return state

    @classmethod
    def from_state(cls, state: State) -> "Reference":
        """The reference that `state` wrote down.

        Raises:
            ValueError: if a part is missing, not finite, of another shape, or no number of images where that is asked for.
        """
        layers = sum(name.endswith(".images") for name in state)
        try:
            moments = tuple(
                Moments(state[f"moments.{i}.mean"], state[f"moments.{i}.var"], _count(state[f"moments.{i}.images"]))
                for i in range(layers)
            )
            found = cls(state["mean"], state["std"], state["precision"], state["quantiles"], moments)
        except KeyError as error:
            raise ValueError(f"the reference lacks {error}; make it anew") from error
        d = len(found.mean)
        fits = found.std.shape == (d,) and found.precision.shape == (d, d) and found.quantiles.shape == (LEVELS,)
        if not fits or not all(value.isfinite().all() for value in state.values()):
            raise ValueError("the reference is damaged: its parts do not fit, or are not finite; make it anew")
        return found

    def _distances(self, described: Array) -> Array:
        z = (described - self.mean.double().numpy()) / self.std.double().numpy()
        return np.asarray(np.einsum("nd,de,ne->n", z, self.precision.double().numpy(), z, optimize=True))


def describe(learner: Learner, images: Float[Tensor, "n 3 h w"], moments: Sequence[Moments] = ()) -> Array:
    """(n, d) what stands for an image: `statistics`, and for conv4 mean and log deviation of its third block's maps."""
    numbers = [statistics(images)]
    if _has_conv4(learner):
        backbone = copy.deepcopy(learner.net.backbone)  # type: ignore[attr-defined]
        asked = [len(layer.weight) for layer in norms_of(backbone) if needs_moments(layer.mode)]
        if asked != [len(each.mean) for each in moments]:
            raise ValueError("this reference was made with another learner, of other norm layers; make it anew")
        x = learner.pixels(images)  # type: ignore[attr-defined]
        with torch.no_grad(), frozen_by(backbone, list(moments)) if moments else nullcontext():
            for block in backbone.blocks[:BLOCK]:
                x = block(x)
        numbers.append(torch.cat([x.mean((2, 3)), (x.std((2, 3)) + 0.01).log()], 1))
    return np.asarray(torch.cat([part.double() for part in numbers], 1).numpy())


def statistics(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """Colour and sharpness: no network, no other image.

    Mean and log deviation of each colour; mean and log deviation of red - green and green - blue; for each octave down to
    8 pixels the log deviation of each colour's detail.
    """
    x = images.double()

    def log_deviation(part: Tensor) -> Tensor:
        return (part.std((-2, -1), correction=0) + 1e-3).log()

    differences = x[:, :2] - x[:, 1:]
    numbers = [x.mean((2, 3)), log_deviation(x), differences.mean((2, 3)), log_deviation(differences)]
    while min(x.shape[2:]) >= 8:
        low = F.avg_pool2d(x, 2)
        numbers.append(log_deviation(x - F.interpolate(low, size=x.shape[2:], mode="nearest")))
        x = low
    return torch.cat(numbers, 1)


def _count(images: Tensor) -> int:
    if images.dtype != torch.int64 or images.ndim or images < 1:
        raise ValueError("the reference is damaged: its moments are of no whole number of images; make it anew")
    return int(images)


def _has_conv4(learner: Learner) -> bool:
    return isinstance(getattr(getattr(learner, "net", None), "backbone", None), Conv4) and hasattr(learner, "pixels")


def _moments(learner: Learner, images: Float[Tensor, "n 3 h w"]) -> tuple[Moments, ...]:
    """What the norm layers see of reference images at the learner's own weights; empty for norms that ask for none."""
    if not _has_conv4(learner):
        return ()
    backbone = copy.deepcopy(learner.net.backbone)  # type: ignore[attr-defined]
    with torch.no_grad(), recording(backbone) as layers:
        backbone(learner.pixels(images))  # type: ignore[attr-defined]
        return tuple(layer.recorded for layer in layers if layer.recorded is not None)


def _described_all(learner: Learner, images: Float[Tensor, "n 3 h w"], moments: Sequence[Moments]) -> Array:
    return np.concatenate([describe(learner, part, moments) for part in torch.split(images, BATCH)])


def _described(learner: Learner, images: LabelledImages, indices: Array, moments: Sequence[Moments]) -> Array:
    parts = np.array_split(indices, math.ceil(len(indices) / BATCH))
    return np.concatenate([describe(learner, images.images(part), moments) for part in parts])


def _quantiles(values: Array, weights: Array) -> Array:
    """The smallest value at which the weights up to it reach each level."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    at = np.searchsorted(reached, np.linspace(0, 1, LEVELS) - 1e-12)
    return np.asarray(values[order][np.minimum(at, len(values) - 1)])


def _float(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float()

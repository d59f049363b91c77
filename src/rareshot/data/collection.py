"""`LabelledImages`: pixels, labels, groups. The only data type past loading (§2.1)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.data.cards import DataCard

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images of one size with a label and a group each.

    Args:
        pixels: (n, h, w, 3) uint8 RGB, in memory or memory-mapped.
        labels: (n,) integers, an index into `classes`.
        classes: class names, in the order of the labels.
        groups: (n,) integers; images of one lesion (or patient) share one, and no group stands on both sides of an episode.
        ids: (n,) image names, unique.
        columns: extra columns by name, (n,) each, for instance the acquisition site.
        card: facts of the data set, among them which classes are common and which rare.
        sources: (n,) SHA-256 of the file that each image was decoded from; None where pixels came as they are.

    Raises:
        ValueError: if the lengths differ, a label is outside the classes, or an id stands twice.
    """

    pixels: Array
    labels: Array
    classes: tuple[str, ...]
    groups: Array
    ids: Array
    card: DataCard
    columns: Mapping[str, Array] = field(default_factory=dict)
    sources: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.pixels)
        if self.pixels.ndim != 4 or self.pixels.shape[3] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (n, h, w, 3) uint8; got {self.pixels.shape} {self.pixels.dtype}")
        lengths = {"labels": len(self.labels), "groups": len(self.groups), "ids": len(self.ids)}
        lengths |= {} if self.sources is None else {"sources": len(self.sources)}
        lengths |= {f"column {name!r}": len(values) for name, values in self.columns.items()}
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            raise ValueError(f"{n} images, but {wrong}: every image needs one entry in each")
        if n and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            raise ValueError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, with {len(self.classes)} classes"
            )
        if len(np.unique(self.ids)) != n:
            raise ValueError("image ids must be unique; some stand twice")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> int:
        """Height in pixels (images are square)."""
        return int(self.pixels.shape[1])

    def take(self, indices: Array) -> "LabelledImages":
        """The images at `indices`, with the same classes; pixels are copied into memory."""
        indices = np.asarray(indices)
        return replace(
            self,
            pixels=np.ascontiguousarray(self.pixels[indices]),
            labels=self.labels[indices],
            groups=self.groups[indices],
            ids=self.ids[indices],
            columns={name: values[indices] for name, values in self.columns.items()},
            sources=None if self.sources is None else self.sources[indices],
        )

    def of(self, classes: Sequence[str]) -> "LabelledImages":
        """Only the images of `classes`, labelled in that order.

        Raises:
            ValueError: if a class is not in the data.
        """
        unknown = [name for name in classes if name not in self.classes]
        if unknown:
            raise ValueError(f"no class {', '.join(map(repr, unknown))} here; there are {', '.join(self.classes)}")
        new_label = np.full(len(self.classes), -1)
        for label, name in enumerate(classes):
            new_label[self.classes.index(name)] = label
        kept = np.flatnonzero(new_label[self.labels] >= 0)
        return replace(self.take(kept), labels=new_label[self.labels[kept]], classes=tuple(classes))

    def common(self) -> "LabelledImages":
        """The diseases to meta-train on, as the card says, but for groups that a rare one is in too: its patients stay unseen."""
        crossing = self._crossing()
        return (self.take(np.flatnonzero(~crossing)) if crossing.any() else self).of(self.card.common)

    def left_out(self) -> int:
        """Images of common diseases that `common` leaves out, as a rare one is in their group."""
        return int(self._crossing().sum())

    def _crossing(self) -> Array:
        common, rare = (
            np.isin(self.labels, [label for label, name in enumerate(self.classes) if name in names])
            for names in (self.card.common, self.card.rare)
        )
        crossing: Array = common & np.isin(self.groups, self.groups[rare])
        return crossing

    def rare(self) -> "LabelledImages":
        """The diseases that stay unseen until `adapt`, as the card says."""
        return self.of(self.card.rare)

    def images(self, indices: Array) -> Float[Tensor, "n 3 h w"]:
        """The images at `indices` as float RGB in [0, 1], channels last in memory."""
        return torch.from_numpy(np.ascontiguousarray(self.pixels[indices])).permute(0, 3, 1, 2).float().div_(255)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Class name → (images, groups)."""
        return {
            name: (int((self.labels == label).sum()), len(np.unique(self.groups[self.labels == label])))
            for label, name in enumerate(self.classes)
        }

    def fingerprint(self) -> str:
        """SHA-256, 16 hexadecimal digits, over size, ids, labels, groups and images: equal ones saw the same data.

        An image counts as its file's bytes where it was decoded from one: decoders of two machines may round a pixel
        differently, and a run must be known again on the other.
        """
        digest = hashlib.sha256(repr((self.classes, self.pixels.shape)).encode())
        digest.update("\n".join(map(str, self.ids)).encode())
        for array in (self.labels.astype("<i8"), self.groups.astype("<i8")):
            digest.update(np.ascontiguousarray(array).data)
        if self.sources is None:
            digest.update(np.ascontiguousarray(self.pixels).data)
        else:
            digest.update("\n".join(map(str, self.sources)).encode())
        return digest.hexdigest()[:16]


def number_groups(names: Sequence[str]) -> Array:
    """Group names → integers, in order of first appearance."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(name, len(first)) for name in names], dtype=np.int64)


def split_groups(images: LabelledImages, *, fraction: float, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Two parts by group: the rest, and about `fraction` of every class's groups. No group is in both.

    Args:
        fraction: between 0 and 1, the share of groups of each class that goes to the second part.
        seed: fixes the draw; the same for every method, so that all are tuned on the same held-out lesions.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1; got {fraction}")
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for label in range(len(images.classes)):
        groups = np.unique(images.groups[images.labels == label])
        held |= set(rng.permutation(groups)[: round(fraction * len(groups))].tolist())
    is_held = np.isin(images.groups, list(held))
    return images.take(np.flatnonzero(~is_held)), images.take(np.flatnonzero(is_held))

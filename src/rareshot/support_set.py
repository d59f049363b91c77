"""The k photographs of each class as they come from a user: read, decoded, checked, and what to be careful about."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from rareshot.data.decode import decode
from rareshot.data.files import BadFileError, Observe, ignore, shown
from rareshot.data.folders import read_folder_a_class, scan
from rareshot.data.listing import Listing, refuse
from rareshot.data.parallel import each
from rareshot.data.readers import read_listing
from rareshot.data.tables import Problem
from rareshot.equal_parts import MOST_PARTS
from rareshot.types import Support

MOST_IMAGES = 1000
MOST_PIXELS = 2**26
"""Of all images together: 1,000 of 256 px."""
COLUMNS = ("path", "predicted", "warnings")
"""Columns of predictions.csv besides one a class: no class may be called so."""


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Labelled photographs, decoded to one size, with the names of their files.

    Raises:
        ValueError: if there are fewer than two classes or a class has no image, more than 1,000 images, or one picture in two
            classes.
    """

    images: UInt8[Tensor, "s 3 h w"]
    labels: Int[Tensor, " s"]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Base names of the files; with their folders, where several of a class have one base name."""
    left_out: tuple[str, ...] = ()
    """Files that lay there and were not used, with the reason."""

    def __post_init__(self) -> None:
        _refuse_classes(self.classes)
        refuse_too_many(len(self.images), self.size)
        if len(self.names) != len(self.images):
            raise ValueError(f"support: {len(self.images)} images but {len(self.names)} names; give one name an image")
        _ = self.support  # which refuses labels that do not fit
        for first, other in self._twins():
            if self.labels[first] != self.labels[other]:
                one, two = (self.classes[int(self.labels[at])] for at in (first, other))
                raise ValueError(
                    f"support: {shown(self.names[first])} of class {one!r} and {shown(self.names[other])} of class {two!r} "
                    f"are the same picture; one of the labels is wrong: remove one of them"
                )

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.images.shape[-1]

    @property
    def support(self) -> Support:
        """As a learner takes it: float RGB in [0, 1]."""
        return Support(as_float(self.images), self.labels, self.classes)

    @property
    def counts(self) -> Mapping[str, int]:
        """Class → number of its images."""
        found = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def cautions(self) -> list[str]:
        """What makes the answers less sure than they look; nothing that forbids them."""
        told = [f"left out: {reason}" for reason in self.left_out]
        alone = [shown(name) for name, count in self.counts.items() if count == 1]
        if alone:
            told.append(
                f"one image only of {', '.join(alone)}: the answers then hang on that one photograph; 3 to 5 are better"
            )
        fewest = min(self.counts.values())
        if len(set(self.counts.values())) > 1:
            told.append(
                f"classes have unequal numbers of images: so that answers lean to none, each is the mean over parts with "
                f"{fewest} of each, and little surer than with {fewest} of each; more of the smallest class would help most"
            )
            most = MOST_PARTS * fewest
            told += [
                f"{count - most} of the {count} images of {shown(name)} are in no part: at most {MOST_PARTS} are made"
                for name, count in self.counts.items()
                if count > most
            ]
        told += [
            f"{shown(self.names[first])} and {shown(self.names[other])} are the same picture: it counts twice and adds nothing"
            for first, other in self._twins()
        ]
        return told

    def position_of(self, image: UInt8[Tensor, "3 h w"]) -> int | None:
        """Where this very picture stands in the support set, or None."""
        found = (self.images == image).flatten(1).all(1).nonzero()
        return int(found[0]) if len(found) else None

    def _twins(self) -> list[tuple[int, int]]:
        first: dict[bytes, int] = {}
        keys = [image.numpy().tobytes() for image in self.images]
        return [(first[key], at) for at, key in enumerate(keys) if first.setdefault(key, at) != at]


def read_support(path: str | Path, size: int, *, observe: Observe = ignore) -> SupportSet:
    """The support images at `path`, decoded to `size` by the rules of docs/data.md.

    Args:
        path: a folder with a folder of images for each class, or a table with columns path and label.
        observe: called with (done, all) after each image.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: naming every image that cannot be read (the first three), a class without any, and as `SupportSet`.
    """
    path = Path(path)
    listing = _listing(path)
    refuse(path, listing.problems)
    classes = tuple(name for name in listing.classes if name in set(listing.labels))
    _refuse_classes(classes)
    refuse_too_many(len(listing), size)
    pixels, bad = _decoded(listing, size, observe)
    refuse(path, bad, of="unreadable image")
    return SupportSet(
        torch.from_numpy(np.stack([pixels[at] for at in range(len(listing))])).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([classes.index(label) for label in listing.labels]),
        classes,
        _names(listing),
        tuple(map(str, listing.left_out)),
    )


def _names(listing: Listing) -> tuple[str, ...]:
    """Names by which a photograph of a class can be found."""
    base = [(label, Path(file).name) for label, file in zip(listing.labels, listing.files, strict=True)]
    count = Counter(base)
    return tuple(
        name if count[label, name] == 1 else file.removeprefix(f"{label}/")
        for (label, name), file in zip(base, listing.files, strict=True)
    )


def support_from(path: str | Path, size: int) -> Support:
    """The same as a learner takes it: `rareshot.load("isic2018-transfer").adapt(rareshot.support_from("photographs/", 64))`."""
    return read_support(path, size).support


def as_float(images: UInt8[Tensor, "n 3 h w"]) -> Tensor:
    """Bytes → float in [0, 1]."""
    return images.float().div_(255)


def refuse_too_many(images: int, size: int) -> None:
    """Refuse a support set that is none: few-shot learners take few.

    Raises:
        ValueError: if there are more than 1,000 images, or they have more than 2^26 pixels together.
    """
    if images > MOST_IMAGES or images * size * size > MOST_PIXELS:
        raise ValueError(
            f"support: {images} images of {size} pixels; at most {MOST_IMAGES} images and {MOST_PIXELS} pixels together are "
            f"taken: choose some of each class, or train on all of them with `rareshot fit`"
        )


def _refuse_classes(classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"support: {len(classes)} class ({', '.join(map(shown, classes))}); a classifier needs at least 2: "
            f"a folder of images, or a label in the table, for each"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"support: a class is named twice in {', '.join(map(shown, classes))}")
    taken = [name for name in classes if name in COLUMNS or not name]
    if taken:
        raise ValueError(f"support: {taken[0]!r} cannot be a class's name: predictions.csv has that column; rename it")


def _listing(path: Path) -> Listing:
    """As `read_listing`, but every folder in a folder is a class, and no card of a known data set decides what is rare."""
    if not path.is_dir() or any((path / name).is_file() for name in ("labels.csv", "labels.tsv")):
        listing = read_listing(path, known=())
        if listing.pixels is not None:
            raise ValueError(f"{path}: support images come as files: give a folder a class, or a table of path,label")
        return listing
    names = scan(path)
    found = read_folder_a_class(path, names, (), known=())
    empty = set(names.folders) - set(found.labels if found else ())
    if found is None or not found.labels:
        raise ValueError(
            f"{path}: no folder in it holds an image; make a folder for each class, named after it, with its images"
        )
    if empty:
        raise ValueError(
            f"{path}: no image in {', '.join(map(shown, sorted(empty)))}; put some in, or remove the folder"
        )
    return found


def _decoded(
    listing: Listing, size: int, observe: Observe
) -> tuple[Mapping[int, npt.NDArray[Any]], tuple[Problem, ...]]:
    pixels: dict[int, npt.NDArray[Any]] = {}
    bad: dict[int, Problem] = {}

    def one(file: str) -> npt.NDArray[Any] | Problem:
        try:
            return decode(listing.root / file, size)
        except BadFileError as error:
            return Problem(file, error.reason)

    for done, (at, result) in enumerate(each(one, listing.files), 1):
        if isinstance(result, Problem):
            bad[at] = result
        else:
            pixels[at] = result
        observe(done, len(listing))
    return pixels, tuple(bad[at] for at in sorted(bad))

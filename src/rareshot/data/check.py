"""A data set looked over before it is used: what is in it, what is wrong, which tasks it can carry."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rareshot.data.decode import MAX_BYTES, decode_bytes, square
from rareshot.data.duplicates import THUMBNAIL, near_duplicates
from rareshot.data.files import BadFileError, Observe, ignore, read_file, shown
from rareshot.data.listing import Listing
from rareshot.data.parallel import each
from rareshot.data.readers import read_listing
from rareshot.data.tables import Problem

Array = npt.NDArray[Any]

WAY = 2
"""Classes of the tasks that the report speaks of, as in the paper."""
HELD_OUT = 0.2
"""Share of the common lesions that methods keep from training unless told otherwise."""
MOST_PAIRS = 1000
"""Near duplicates that are named; looking for more would take long where all images are alike."""


@dataclass(frozen=True)
class ClassCount:
    """How much there is of a class."""

    name: str
    images: int
    groups: int
    role: str
    """common, rare, or neither."""


@dataclass(frozen=True)
class Duplicates:
    """Images that are the same, or look it."""

    images: tuple[str, ...]
    across_groups: bool
    """They count as different lesions or patients: one of them can leak the answer for another."""
    across_classes: bool
    """They have different labels: one of the labels is wrong."""


@dataclass(frozen=True)
class TaskCount:
    """Which classes have enough groups for a task: shot to adapt to and query to be judged on, one image a group."""

    way: int
    shot: int
    query: int
    enough: tuple[str, ...]
    too_small: tuple[str, ...]

    @property
    def need(self) -> int:
        """Groups that a class needs."""
        return self.shot + self.query

    @property
    def to_train(self) -> int:
        """Groups that a common class needs, if a fifth is held out that must hold more than a support set."""
        return next(n for n in count() if n - round(HELD_OUT * n) >= self.need and round(HELD_OUT * n) > self.shot)


@dataclass(frozen=True)
class Report:
    """What `check` found; plain values throughout."""

    path: str
    layout: str
    card: str
    images: int
    groups: int
    classes: tuple[ClassCount, ...]
    columns: Mapping[str, int]
    """Extra column → how many different values it has."""
    sizes: Mapping[str, int]
    """"width x height" → images, most frequent first; of the images that can be read."""
    exact: tuple[Duplicates, ...]
    """Files that are equal byte for byte."""
    near: tuple[Duplicates, ...]
    """Pairs that look the same, exact ones left out; the first 1,000."""
    bad: tuple[Problem, ...]
    """Everything that keeps the set from being loaded, by name and reason."""
    left_out: tuple[Problem, ...]
    """Files that are there and not used."""
    mixed_groups: int
    """Groups with images of more than one class: fine for patients, not for lesions."""
    tasks: tuple[TaskCount, ...]

    @property
    def ok(self) -> bool:
        """Can the set be loaded?"""
        return not self.bad

    def lines(self, most: int = 20) -> list[str]:
        """The report in plain words, at most `most` lines a list except for `bad`, which is whole."""
        text = [
            f"{shown(self.path)}: {self.images} images, {self.groups} groups, {len(self.classes)} classes",
            f"layout: {self.layout or 'not recognised'}",
            f"card: {shown(self.card)}",
        ]
        text += [f"  {shown(c.name)}: {c.images} images, {c.groups} groups, {c.role}" for c in self.classes]
        if self.columns:
            text.append("columns: " + ", ".join(f"{shown(name)} ({count})" for name, count in self.columns.items()))
        sizes = [f"{size} ({count})" for size, count in self.sizes.items()]
        text.append("sizes: " + (", ".join(_first(sizes, 8)) or "none could be read"))
        text.append(f"groups with more than one class: {self.mixed_groups}")
        text += _titled("exact duplicates", [_line(one) for one in self.exact], most)
        text += _titled("near duplicates", [_line(one) for one in self.near], most)
        groups = {one.name: one.groups for one in self.classes}
        for task in self.tasks:
            small = tuple(f"{name} ({groups[name]})" for name in task.too_small)
            text.append(
                f"{task.way}-way, {task.shot} shot + {task.query} query = {task.need} groups a class: "
                f"enough in {_names(task.enough)}; too few in {_names(small)}; to train on such tasks and hold a fifth out, "
                f"{task.to_train} of each common class"
            )
        text += _titled("left out", [str(one) for one in self.left_out], most)
        text += _titled("bad", [str(one) for one in self.bad], len(self.bad))
        if not self.ok:
            return [*text, f"{len(self.bad)} to be corrected before the set can be used"]
        return [*text, "ready to use" if len(self.classes) >= WAY else f"of no use: a task takes {WAY} classes"]


def check(
    path: str | Path,
    rare: Sequence[str] = (),
    shot: int = 5,
    query: int = 15,
    observe: Observe = ignore,
) -> Report:
    """Looks at every file of a data set and reports; nothing in the set makes it fail.

    Args:
        path: a data set in one of the layouts of `readers`.
        rare: the rare classes; empty for those of a known data set.
        shot: images a class to adapt to, at least 1; the report counts for 1, 3 and this.
        query: images a class to be judged on, at least 1.
        observe: told (images looked at, of how many).

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if shot or query is below 1.
    """
    if shot < 1 or query < 1:
        raise ValueError(f"shot and query must be at least 1; got {shot} and {query}")
    try:
        listing = read_listing(path, rare)
    except FileNotFoundError:
        raise
    except ValueError as error:
        reason = error.reason if isinstance(error, BadFileError) else str(error)
        return _empty(str(path), Problem(str(path), reason))
    seen, bad = _look_at_all(listing, observe)
    positions = sorted(seen)
    same_bytes: dict[str, list[int]] = {}
    for i in positions:
        same_bytes.setdefault(seen[i].sha256, []).append(i)
    firsts = [members[0] for members in same_bytes.values()]
    pairs = near_duplicates(np.stack([seen[i].thumbnail for i in firsts]), most=MOST_PAIRS) if firsts else []
    sizes = Counter(seen[i].size for i in positions)
    counts = _counts(listing)
    labels_of: dict[str, set[str]] = {}
    for group, label in zip(listing.groups, listing.labels, strict=True):
        labels_of.setdefault(group, set()).add(label)
    return Report(
        path=str(path),
        layout=listing.layout,
        card=listing.card.title,
        images=len(listing),
        groups=len(labels_of),
        classes=counts,
        columns={name: len(set(values)) for name, values in listing.columns.items()},
        sizes={f"{width} x {height}": count for (width, height), count in sizes.most_common()},
        exact=tuple(_duplicates(listing, members) for members in same_bytes.values() if len(members) > 1),
        near=tuple(_duplicates(listing, [firsts[i], firsts[j]]) for i, j in pairs),
        bad=(*listing.problems, *bad),
        left_out=listing.left_out,
        mixed_groups=sum(len(labels) > 1 for labels in labels_of.values()),
        tasks=tuple(_task(counts, one, query) for one in sorted({1, 3, shot})),
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    sha256: str
    size: tuple[int, int]
    thumbnail: Array


def _look_at_all(listing: Listing, observe: Observe) -> tuple[dict[int, _Seen], list[Problem]]:
    seen: dict[int, _Seen] = {}
    bad: list[Problem] = []
    total = len(listing)

    def look(i: int) -> _Seen | Problem:
        if listing.pixels is not None:
            pixels = listing.pixels[i]
            thumbnail = square(Image.fromarray(pixels), THUMBNAIL)
            return _Seen(hashlib.sha256(pixels.tobytes()).hexdigest(), (pixels.shape[1], pixels.shape[0]), thumbnail)
        file = listing.files[i]
        try:
            data = read_file(listing.root / file, limit=MAX_BYTES)
            decoded = decode_bytes(data, THUMBNAIL, name=file)
        except BadFileError as error:
            return Problem(file, error.reason)
        return _Seen(hashlib.sha256(data).hexdigest(), (decoded.width, decoded.height), decoded.pixels)

    observe(0, total)
    for done, (i, result) in enumerate(each(look, range(total)), start=1):
        if isinstance(result, Problem):
            bad.append(result)
        else:
            seen[i] = result
        observe(done, total)
    return seen, sorted(bad, key=lambda problem: problem.name)


def _counts(listing: Listing) -> tuple[ClassCount, ...]:
    images = Counter(listing.labels)
    groups: dict[str, set[str]] = {}
    for label, group in zip(listing.labels, listing.groups, strict=True):
        groups.setdefault(label, set()).add(group)
    card = listing.card
    roles = dict.fromkeys(card.common, "common") | dict.fromkeys(card.rare, "rare")
    return tuple(
        ClassCount(name, images[name], len(groups.get(name, ())), roles.get(name, "neither common nor rare"))
        for name in listing.classes
    )


def _task(counts: Sequence[ClassCount], shot: int, query: int) -> TaskCount:
    enough = tuple(one.name for one in counts if one.groups >= shot + query)
    return TaskCount(WAY, shot, query, enough, tuple(one.name for one in counts if one.groups < shot + query))


def _duplicates(listing: Listing, members: Sequence[int]) -> Duplicates:
    return Duplicates(
        images=tuple(listing.ids[i] for i in members),
        across_groups=len({listing.groups[i] for i in members}) > 1,
        across_classes=len({listing.labels[i] for i in members}) > 1,
    )


def _empty(path: str, problem: Problem) -> Report:
    return Report(path, "", "none", 0, 0, (), {}, {}, (), (), (problem,), (), 0, ())


def _line(one: Duplicates) -> str:
    where = (
        "in different classes" if one.across_classes else "in different groups" if one.across_groups else "in one group"
    )
    return f"{' = '.join(map(shown, _first(one.images, 6)))}, {where}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names)) or "none"


def _first(items: Sequence[str], most: int) -> list[str]:
    return [*items[:most], *([f"… and {len(items) - most} more"] if len(items) > most else [])]


def _titled(title: str, items: Sequence[str], most: int) -> list[str]:
    return [f"{title}: {len(items)}", *(f"  {item}" for item in _first(items, most))]

"""Episodes: which images are support, which query. Episode i is a pure function of (labels, groups, spec, seed, i) (§2.1)."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.types import Episode

Array = npt.NDArray[Any]
Augment = Callable[[Float[Tensor, "n 3 h w"], np.random.Generator], Float[Tensor, "n 3 h w"]]


@dataclass(frozen=True)
class EpisodeSpec:
    """How large a task is."""

    way: int = 2
    """Classes; the paper has 2."""
    shot: int = 5
    """Support images a class, k; the paper has 1, 3 and 5."""
    query: int | None = 15
    """Query images a class; None: one image of every group that is not support."""

    def __post_init__(self) -> None:
        if self.way < 2:
            raise ValueError(f"way={self.way}: a task needs at least 2 classes")
        if self.shot < 1:
            raise ValueError(f"shot={self.shot}: a task needs at least 1 support image a class")
        if self.query is not None and self.query < 1:
            raise ValueError(
                f"query={self.query}: a task needs at least 1 query image a class, or None for all that are left"
            )


class Drawn(NamedTuple):
    """An episode as indices into the images: cheap, and all that its pictures follow from."""

    classes: Array
    """(way,) labels of the data set; position in here is the label in the task."""
    support: Array
    """(way, shot)"""
    query: list[Array]
    """One array a class."""


class Episodes:
    """An endless sequence: `episodes[i]` is the same for every method, in any order of access, in any process.

    No group (lesion, patient) is on both sides of an episode, and every image in it comes from another group.

    Args:
        images: the classes to draw from are those that have images here.
        spec: way, shot and query.
        seed: of the whole sequence.
        by_image: draw single images and let a lesion stand on both sides, as the paper seems to do; for comparison
            alone.

    Raises:
        ValueError: if a class has too few groups; the class and both counts are named.
    """

    def __init__(self, images: LabelledImages, spec: EpisodeSpec, *, seed: int, by_image: bool = False) -> None:
        self.images, self.spec, self.seed, self.by_image = images, spec, seed, by_image
        self._groups = np.arange(len(images)) if by_image else images.groups
        self._pools = [self._pool(label) for label in range(len(images.classes))]
        if seed < 0:
            raise ValueError(f"seed={seed} must be 0 or more")
        self._refuse_small_classes()

    def draw(self, i: int, classes: Sequence[int] | None = None) -> Drawn:
        """Episode i as indices; `classes` (labels) fixes the classes, in the order given."""
        rng = np.random.default_rng((self.seed, i))
        order = rng.permutation(len(self.images.classes))[: self.spec.way]
        chosen = order if classes is None else np.asarray(classes)
        if len(set(chosen.tolist())) != self.spec.way:
            raise ValueError(f"classes={list(map(int, chosen))}: {self.spec.way} different classes are needed")
        shot, query = self.spec.shot, self.spec.query
        taken: set[int] = set()  # a group may hold images of two classes
        support = np.empty((len(chosen), shot), dtype=np.int64)
        orders = [rng.permutation(len(self._pools[label].groups)) for label in chosen]
        places = [0] * len(chosen)
        for row, label in enumerate(chosen):
            places[row], support[row] = self._fill(rng, int(label), orders[row], 0, shot, taken)
        queries: list[list[int]] = [[] for _ in chosen]
        # In turns, so that a group that holds images of several classes does not always go to the first of them.
        for _ in range(query or max(map(len, orders))):
            for row, label in enumerate(chosen):
                places[row], found = self._fill(rng, int(label), orders[row], places[row], 1, taken)
                queries[row] += found
        return Drawn(chosen, support, [np.array(found, dtype=np.int64) for found in queries])

    def __getitem__(self, i: int) -> Episode:
        return self.episode(self.draw(i))

    def episode(self, drawn: Drawn) -> Episode:
        """The pictures of a drawn episode."""
        support, query = drawn.support.reshape(-1), np.concatenate(drawn.query)
        support_y, query_y = self.labels(drawn)
        return Episode(
            support_x=self.images.images(support),
            support_y=support_y,
            query_x=self.images.images(query),
            query_y=query_y,
            classes=tuple(self.images.classes[label] for label in drawn.classes),
            support_ids=tuple(map(str, self.images.ids[support])),
            query_ids=tuple(map(str, self.images.ids[query])),
        )

    def labels(self, drawn: Drawn) -> tuple[Int[Tensor, " s"], Int[Tensor, " q"]]:
        """Labels of the support and the query images of a drawn episode."""
        support = torch.arange(len(drawn.classes)).repeat_interleave(self.spec.shot)
        return support, torch.from_numpy(np.repeat(np.arange(len(drawn.classes)), [len(part) for part in drawn.query]))

    def augmented(self, drawn: Drawn, augment: Augment, rng: np.random.Generator) -> Episode:
        """The pictures of a drawn episode, support and query each transformed by draws from `rng`."""
        episode = self.episode(drawn)
        x = augment(torch.cat([episode.support_x, episode.query_x]), rng)
        s = len(episode.support_x)
        return Episode(**{**vars(episode), "support_x": x[:s], "query_x": x[s:]})

    def _fill(
        self, rng: np.random.Generator, label: int, order: Array, place: int, wanted: int, taken: set[int]
    ) -> tuple[int, list[int]]:
        """Up to `wanted` images of free groups, one each, going on in `order` from `place`."""
        pool = self._pools[label]
        found: list[int] = []
        while place < len(order) and len(found) < wanted:
            at = order[place]
            place += 1
            group = int(pool.groups[at])
            if pool.shared[at]:
                if group in taken:
                    continue
                taken.add(group)
            first, last = pool.starts[at], pool.starts[at + 1]
            found.append(int(pool.members[first if last - first == 1 else rng.integers(first, last)]))
        return place, found

    def _pool(self, label: int) -> "_Pool":
        members = np.flatnonzero(self.images.labels == label)
        members = members[np.argsort(self._groups[members], kind="stable")]
        groups, starts = np.unique(self._groups[members], return_index=True)
        others = self._groups[self.images.labels != label]
        return _Pool(groups, np.append(starts, len(members)), members, np.isin(groups, others))

    def _refuse_small_classes(self) -> None:
        spec = self.spec
        if len(self._pools) < spec.way:
            names = ", ".join(self.images.classes)
            raise ValueError(
                f"way={spec.way} needs {spec.way} classes, and here there are {len(self._pools)}: {names or 'none'}; to train "
                "keep fewer classes unseen, to evaluate keep more unseen, or lower way"
            )
        query = spec.query or 1
        need = spec.shot + query
        short = []
        for name, pool in zip(self.images.classes, self._pools, strict=True):
            # Groups that hold another class too may be used up by it: count on the rest only, as far as it could take.
            lost = min(int(pool.shared.sum()), (spec.way - 1) * need)
            if len(pool.groups) - lost < need:
                less = f" ({lost} of them hold another class as well)" if lost else ""
                short.append(f"{name!r} has {len(pool.groups)}{less}")
        if short:
            kind = "images" if self.by_image else "groups (lesions, patients)"
            raise ValueError(
                f"each class needs shot + query = {spec.shot} + {query} = {need} {kind}, and {'; '.join(short)}: "
                f"ask for a smaller shot or query, or leave the class out"
            )


def within(images: LabelledImages, spec: EpisodeSpec) -> EpisodeSpec:
    """The same with as many query images, at most, as the smallest class can give.

    Raises:
        ValueError: if a class has too few groups for one query image.
    """
    smallest = min(groups for _, groups in images.counts().values())
    for query in range(min(spec.query or smallest, smallest - spec.shot), 1, -1):
        with suppress(ValueError):  # patients with several diseases may be used up by another class
            return Episodes(images, EpisodeSpec(spec.way, spec.shot, query), seed=0).spec
    return Episodes(images, EpisodeSpec(spec.way, spec.shot, 1), seed=0).spec


class _Pool(NamedTuple):
    groups: Array
    starts: Array
    members: Array
    shared: Array

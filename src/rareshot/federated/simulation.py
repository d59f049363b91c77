"""Hospitals on one machine, one after the other: what sharing the training costs, measured before anyone shares anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from rareshot.data.collection import LabelledImages
from rareshot.federated import Episodic
from rareshot.federated.client import Introduction, Update, client_seed, enough, introduce, is_a_name, train_round
from rareshot.training import TrainingDivergedError
from rareshot.types import Progress, State


@dataclass(frozen=True)
class Simulated:
    """The clients of `rareshot.federated.server`, in this process."""

    method: Episodic
    images: Mapping[str, LabelledImages]
    """Client → what it trains on: `enough` of it."""
    folder: Path
    """Where each client has its memory."""
    seed: int
    observe: Callable[[str, Progress], None] = lambda client, now: None
    """Called after every iteration of a client."""
    open: ClassVar[bool] = False
    """They are the same in every round."""

    @cached_property
    def _introductions(self) -> dict[str, Introduction]:
        return {name: introduce(self.method, images) for name, images in self.images.items()}

    def introductions(self) -> dict[str, Introduction]:
        """Client → what it has."""
        return self._introductions

    def train(self, state: State, first: int, until: int, numbers: Mapping[str, int]) -> dict[str, Update | str]:
        """Client → its update.

        Raises:
            TrainingDivergedError: if one's training does; again it would end the same way.
        """
        answers: dict[str, Update | str] = {}
        for name, images in self.images.items():
            try:
                answers[name] = train_round(
                    self.method,
                    images,
                    state,
                    self.folder / name,
                    seed=client_seed(self.seed, numbers[name]),
                    first=first,
                    until=until,
                    observe=lambda now, name=name: self.observe(name, now),  # type: ignore[misc]
                )
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"client {name}: {error}") from error
        return answers


def split_by(method: Episodic, common: LabelledImages, column: str) -> tuple[dict[str, LabelledImages], dict[str, str]]:
    """Value of a column → its images, one client each; and of the values that are no client, why.

    Raises:
        ValueError: if the data have no such column, or no value has enough lesions.
    """
    if column not in common.columns:
        told = ", ".join(sorted(common.columns)) or "none"
        raise ValueError(
            f"the data have no column {column!r} to tell hospitals apart by; there are: {told} (ISIC 2018 as published does not "
            f"say its sites; HAM10000 in its Dataverse edition does: docs/data.md)"
        )
    values = np.array([str(value) for value in common.columns[column]])
    clients: dict[str, LabelledImages] = {}
    left_out: dict[str, str] = {}
    for value in sorted(set(values)):
        if not is_a_name(value):
            left_out[value] = "not a name: letters, digits, - and _ are, up to 64 of them"
            continue
        try:
            clients[value] = enough(method, common.take(np.flatnonzero(values == value)))
        except ValueError as error:
            left_out[value] = str(error)
    if not clients:
        told = "; ".join(f"{value}: {why}" for value, why in left_out.items())
        raise ValueError(f"no value of {column} can be a client ({told})")
    return clients, left_out

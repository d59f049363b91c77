"""Which classes next? `Curriculum` is the task sampling that the paper compares with (§3, Table 1).

Maicas, Bradley, Nascimento, Reid, Carneiro: Training Medical Image Analysis Systems like Radiologists, MICCAI 2018,
arXiv 1805.10884: a teacher chooses the tasks on which the student makes the most progress, or loses the most. The arms are
the sets of classes that a task may have. The reward of an arm is how much its AUC after adaptation changed since the arm
was last drawn, kept in a buffer of the last ten. For each task one reward is drawn at random from each arm's buffer, and the
arm with the largest absolute one is taken; now and then any arm is. What their text leaves open is in docs/paper.md.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from rareshot.types import State

BUFFER = 10
"""Rewards that an arm remembers."""
EXPLORE = 0.1
"""How often an arm is drawn with no regard to rewards."""


class Curriculum:
    """Chooses the classes of each task from the progress made so far.

    All it knows is in `state`, so that a run resumes bit-identically; a draw depends on that, the seed and the task's number.

    Args:
        classes: how many there are to choose from.
        way: classes of a task.
        seed: of the draws.
    """

    def __init__(self, classes: int, way: int, *, seed: int) -> None:
        self.arms = list(itertools.combinations(range(classes), way))
        self.seed = seed
        self._rewards = torch.full((len(self.arms), BUFFER), torch.nan, dtype=torch.float64)
        self._last = torch.full((len(self.arms),), torch.nan, dtype=torch.float64)
        self._drawn = torch.zeros(len(self.arms), dtype=torch.int64)

    def choose(self, number: int) -> tuple[int, ...]:
        """The classes of a task, in random order."""
        rng = np.random.default_rng((self.seed, number, 2))
        arm = int(rng.integers(len(self.arms))) if rng.random() < EXPLORE else self._most_progress(rng)
        return tuple(int(label) for label in rng.permutation(self.arms[arm]))

    def observe(self, classes: tuple[int, ...], auc: float) -> None:
        """Take note of the AUC that a task with these classes reached after adaptation."""
        arm = self.arms.index(tuple(sorted(classes)))
        if not self._last[arm].isnan():
            place = int(self._drawn[arm] - 1) % BUFFER
            self._rewards[arm, place] = auc - self._last[arm]
        self._last[arm] = auc
        self._drawn[arm] += 1

    def state(self) -> State:
        """All that it has learnt; NaN where nothing was seen yet becomes a mask, so that a state is always finite."""
        known: dict[str, Tensor] = {"drawn": self._drawn.clone()}
        for name, value in (("rewards", self._rewards), ("last", self._last)):
            known[name] = value.nan_to_num(0.0)
            known[f"{name}_known"] = (~value.isnan()).to(torch.int64)
        return known

    def restore(self, state: State) -> None:
        """Go on from a state.

        Raises:
            ValueError: if it is of another number of arms.
        """
        own = self.state()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
            raise ValueError("the state to resume from is of another curriculum: its classes or way differ")
        for name, value in (("rewards", self._rewards), ("last", self._last)):
            value.copy_(torch.where(state[f"{name}_known"].bool(), state[name], torch.nan))
        self._drawn.copy_(state["drawn"])

    def _most_progress(self, rng: np.random.Generator) -> int:
        """The arm with the largest absolute reward of a random one from each buffer; one with no reward yet goes first."""
        values = np.empty(len(self.arms))
        for arm, rewards in enumerate(self._rewards):
            seen = rewards[~rewards.isnan()].numpy()
            values[arm] = abs(rng.choice(seen)) if len(seen) else np.inf
        best = np.flatnonzero(values == values.max())
        return int(rng.choice(best))

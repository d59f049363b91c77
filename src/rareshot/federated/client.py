"""What a hospital does: say once what it has, then train some iterations a round. No image and no label leaves it."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rareshot.checkpoint import last_training_state, save_training_state
from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec, within
from rareshot.federated import Episodic
from rareshot.locks import HeldElsewhereError, alone
from rareshot.methods.maml import MAML
from rareshot.pixels import Pixels
from rareshot.policies import Curriculum
from rareshot.types import Observe, Progress, State, TrainingState, ignore
from rareshot.validation import held_out

CLASSES = 1000
"""Most classes that a client may have."""


@dataclass(frozen=True)
class Introduction:
    """What a client says of its images before training: counts and mean colours."""

    classes: Mapping[str, int]
    """Common class → lesions (or patients), those held out for validation among them."""
    mean: tuple[float, ...]
    """Mean red, green and blue of the images to train on, in [0, 1]."""
    std: tuple[float, ...]
    """Their deviations."""
    fingerprint: str
    """Of the images, 16 hexadecimal digits."""

    def __post_init__(self) -> None:
        counts = list(self.classes.values())
        if not 2 <= len(counts) <= CLASSES or not all(type(n) is int and 0 < n < 2**31 for n in counts):
            raise ValueError(f"classes must be 2 to {CLASSES}, each with a whole number of lesions above 0")
        if not all(isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() for name in self.classes):
            raise ValueError("a class needs a name of up to 100 printable characters")
        for name, values, low in (("mean", self.mean, 0.0), ("std", self.std, 5e-7)):
            if len(values) != 3 or not all(type(value) is float and low <= value <= 1 for value in values):
                raise ValueError(f"{name} must be 3 numbers between {low:g} and 1")
        if not (isinstance(self.fingerprint, str) and re.fullmatch("[0-9a-f]{16}", self.fingerprint)):
            raise ValueError("fingerprint must be 16 hexadecimal digits")

    def to_json(self) -> str:
        """As text, to send."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Introduction":
        """What a client sent.

        Raises:
            ValueError: if it is none, or says what cannot be.
        """
        try:
            values = json.loads(text)
            return cls(values["classes"], tuple(values["mean"]), tuple(values["std"]), values["fingerprint"])
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no introduction ({error!r})") from error


def enough(method: Episodic, common: LabelledImages) -> LabelledImages:
    """The images of the classes of which tasks can be made; a client trains on these, and the other images stay unused.

    Raises:
        ValueError: if fewer classes are left than a task has.
    """
    need = method.shot + method.query
    train, held = held_out(common, method.held_out)
    spare = held.counts() if held else {}
    kept = [
        name
        for name, (_, lesions) in train.counts().items()
        if lesions >= need and (not spare or spare[name][1] > method.shot)
    ]
    if len(kept) < method.way:
        told = ", ".join(f"{name} {lesions}" for name, (_, lesions) in common.counts().items())
        raise ValueError(
            f"a client needs {method.way} common classes with shot + query = {method.shot} + {method.query} = {need} lesions "
            f"left to train on, and more than {method.shot} held out (held_out={method.held_out}); here are {told or 'none'}"
        )
    part = common if len(kept) == len(common.classes) else common.of(kept)
    _refuse_tasks(method, part)
    return part


def _refuse_tasks(method: Episodic, part: LabelledImages) -> None:
    """Refuse classes of which training would draw no tasks, as where too many patients have two of the diseases."""
    train, held = held_out(part, method.held_out)
    spec = EpisodeSpec(method.way, method.shot, method.query)
    Episodes(train, spec, seed=0)
    if held is not None:
        within(held, spec)


def introduce(method: Episodic, common: LabelledImages) -> Introduction:
    """What a client with these images says of them."""
    pixels = Pixels.of(held_out(common, method.held_out)[0])
    counts = {name: lesions for name, (_, lesions) in common.counts().items()}
    return Introduction(counts, tuple(pixels.mean.tolist()), tuple(pixels.std.tolist()), common.fingerprint())


@dataclass(frozen=True)
class Update:
    """What a client sends back after a round."""

    state: State
    """As a learner's."""
    record: Mapping[str, Any]
    """What it says of the round: mean `loss` of its iterations (None: no task was finite), tasks `skipped` so far, and the
    last `validation_auc` of the round, if there was one, of its own weights."""


class _RoundDone(Exception):  # noqa: N818
    """Raised after the round's last iteration: `fit` knows no rounds."""


def train_round(
    method: Episodic,
    common: LabelledImages,
    state: State,
    memory: Path,
    *,
    seed: int,
    first: int,
    until: int,
    observe: Observe = ignore,
) -> Update:
    """Go on from the server's state, by Algorithm 1 on the client's own images.

    Adam's moments, and what the choice of tasks has learnt, are the client's own and stay in its memory. A round that was cut
    off is done again, with the same answer.

    Args:
        state: the server's, as a learner's.
        memory: a folder of this client and this training alone.
        seed: of the tasks.
        first: iterations done when the round begins. A client that missed rounds takes its moments from before them.
        until: iterations done when it ends, at most the method's.

    Raises:
        ValueError: if the state does not fit the method.
        HeldElsewhereError: if another process is at a round of this client.
        TrainingDivergedError: if too many tasks were not finite.
    """
    last: list[TrainingState] = []
    losses: list[float] = []
    record: dict[str, Any] = {}

    def watch(now: Progress) -> None:
        observe(now)
        losses.extend([] if now.record["loss"] is None else [now.record["loss"]])
        record.update({name: now.record[name] for name in ("skipped", "validation_auc") if name in now.record})
        if now.iteration == until:
            last.append(now.training_state)
            raise _RoundDone

    memory.mkdir(parents=True, exist_ok=True)
    with alone(memory, wait=False) as held:
        if not held:
            raise HeldElsewhereError(
                f"{memory} is in use by another process: a client does one round at a time", memory.name
            )
        resume = _resumed(method, common, state, memory, seed, first)
        with suppress(_RoundDone):
            method.fit(common, seed=seed, start=state, resume=resume, observe=watch)
        save_training_state(memory, last[0])  # before another process may begin the next round from it
    loss = sum(losses) / len(losses) if losses else None
    return Update({**state, **last[0].weights}, {"loss": loss, **record})


def _resumed(
    method: Episodic, common: LabelledImages, state: State, memory: Path, seed: int, first: int
) -> TrainingState:
    """The server's weights, and the client's own moments as they were at the end of its last round."""
    weights = {name: value for name, value in state.items() if not name.startswith("pixels.")}
    own = last_training_state(memory, until=first) if first else None
    if own is not None:
        return TrainingState(first, weights, own.optimiser, own.skipped, own.policy)
    # The beginning, or a client that comes later: its choice of tasks has learnt nothing yet.
    curriculum = isinstance(method, MAML) and method.sampling == "curriculum"
    policy = Curriculum(len(common.classes), method.way, seed=seed).state() if curriculum else {}
    return TrainingState(first, weights, {}, (), policy)


def client_seed(seed: int, number: int) -> int:
    """The seed of a client's tasks: the run's for the first, and another for each other, else all would draw alike."""
    return seed + 1000 * number


def is_a_name(value: str) -> bool:
    """A client's name is that of its folder."""
    return 0 < len(value) <= 64 and value.isascii() and value.replace("-", "a").replace("_", "a").isalnum()

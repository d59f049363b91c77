"""What a hospital does: say once what it has, then train some iterations a round. No image and no label leaves it."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rareshot.checkpoint import last_training_state, load_training_state, save_training_state
from rareshot.data.collection import LabelledImages
from rareshot.federated import Episodic
from rareshot.methods.maml import MAML
from rareshot.policies import Curriculum
from rareshot.types import Observe, Progress, State, TrainingState, ignore

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
        if not 2 <= len(counts) <= CLASSES or not all(type(n) is int and n > 0 for n in counts):
            raise ValueError(f"classes must be 2 to {CLASSES}, each with a whole number of lesions above 0")
        if not all(isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() for name in self.classes):
            raise ValueError("a class needs a name of up to 100 printable characters")
        for name, values, low in (("mean", self.mean, 0.0), ("std", self.std, 1e-6)):
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

    def suffices(lesions: int) -> bool:
        held = round(method.held_out * lesions)
        return lesions - held >= need and (not method.held_out or held > method.shot)

    counts = {name: lesions for name, (_, lesions) in common.counts().items()}
    kept = [name for name, lesions in counts.items() if suffices(lesions)]
    if len(kept) < method.way:
        told = ", ".join(f"{name} {lesions}" for name, lesions in counts.items())
        raise ValueError(
            f"a client needs {method.way} common classes with shot + query = {method.shot} + {method.query} = {need} lesions "
            f"left to train on, and more than {method.shot} held out (held_out={method.held_out}); here are {told or 'none'}"
        )
    return common if len(kept) == len(common.classes) else common.of(kept)


def introduce(method: Episodic, common: LabelledImages) -> Introduction:
    """What a client with these images says of them."""
    pixels = method.untrained(common, seed=0).pixels
    counts = {name: lesions for name, (_, lesions) in common.counts().items()}
    return Introduction(counts, tuple(pixels.mean.tolist()), tuple(pixels.std.tolist()), common.fingerprint())


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
) -> Progress:
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
        TrainingDivergedError: if too many tasks were not finite.
    """
    last: list[Progress] = []

    def watch(now: Progress) -> None:
        observe(now)
        if now.iteration == until:
            last.append(now)
            raise _RoundDone

    curriculum = isinstance(method, MAML) and method.sampling == "curriculum"
    fresh = Curriculum(len(common.classes), method.way, seed=seed).state() if curriculum else {}
    resume = _resumed(memory, first, state, fresh)
    with suppress(_RoundDone):
        method.fit(common, seed=seed, start=state, resume=resume, observe=watch)
    memory.mkdir(parents=True, exist_ok=True)
    save_training_state(memory, last[0].training_state)
    return last[0]


def _resumed(memory: Path, first: int, state: State, fresh: State) -> TrainingState:
    """The server's weights, and the client's own moments as they were at the end of its last round.

    Args:
        fresh: what the choice of tasks knows at the beginning.
    """
    weights = {name: value for name, value in state.items() if not name.startswith("pixels.")}
    exact = memory / f"checkpoint-{first:06d}.safetensors"
    own = load_training_state(exact) if exact.is_file() else last_training_state(memory)
    if first == 0 or own is None or own.iteration > first:  # the beginning, or a client that comes later
        return TrainingState(first, weights, {}, (), fresh)
    return TrainingState(first, weights, own.optimiser, own.skipped, own.policy)


def learning_rates(method: Episodic, first: int, until: int) -> list[float]:
    """Adam's rate at each iteration of a round, Eq. (4)."""
    return [method.meta_lr * (1 if i < method.warmup else method.decay) for i in range(first, until)]


def record_of(now: Progress) -> dict[str, Any]:
    """What a client says of a round beside its weights: mean loss, tasks skipped so far, and its validation AUC if it has one."""
    said = {"loss": now.record["loss"], "skipped": now.record["skipped"]}
    return said | {name: now.record[name] for name in ("validation_auc",) if name in now.record}


def client_seed(seed: int, number: int) -> int:
    """The seed of a client's tasks: the run's for the first, and another for each other, else all would draw alike."""
    return seed + 1000 * number


def is_a_name(value: str) -> bool:
    """A client's name is that of its folder."""
    return 0 < len(value) <= 64 and value.isascii() and value.replace("-", "a").replace("_", "a").isalnum()

"""The words every room shares: episode, support, state, and the three nouns Method, Learner, Classifier (§2.1).

A few-shot learner is a function from a support set to a classifier:

    Method --fit(common diseases)--> Learner --adapt(k images per rare disease)--> Classifier --(images)--> probabilities

Letters of shapes, fixed in the whole project: `s` support images, `q` query images, `n` images, `c h w`, `way`, `tasks`.
Images between rooms are float, RGB, in [0, 1]; a learner normalises them itself, with what it stored when it was fitted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:  # types stands below the rooms whose words it uses
    from rareshot.data.collection import LabelledImages

State = Mapping[str, Tensor]
"""Name → tensor: all that a learner is. Checkpoints and sharing need nothing else."""


@dataclass(frozen=True)
class Support:
    """The k labelled images of each class that a learner adapts to.

    Classes may have unequal numbers of images; every class has at least one.

    Raises:
        ValueError: if images and labels differ in number, or a class has no image.
    """

    images: Float[Tensor, "s c h w"]
    labels: Int[Tensor, " s"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"support: {len(self.images)} images but {len(self.labels)} labels; give one label an image"
            )
        present = set(self.labels.tolist())
        missing = [name for label, name in enumerate(self.classes) if label not in present]
        if missing:
            raise ValueError(f"support: every class needs at least one image; none for {', '.join(missing)}")
        if not present <= set(range(len(self.classes))):
            raise ValueError(f"support: labels must be 0 to {len(self.classes) - 1}; got {sorted(present)}")

    @property
    def way(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def numbers(self) -> list[int]:
        """Images of each class."""
        return [int(n) for n in self.labels.bincount(minlength=self.way)]


@dataclass(frozen=True)
class Episode:
    """One task: support images to adapt to, query images to be judged on; labels 0 to way - 1 name `classes`."""

    support_x: Float[Tensor, "s c h w"]
    support_y: Int[Tensor, " s"]
    query_x: Float[Tensor, "q c h w"]
    query_y: Int[Tensor, " q"]
    classes: tuple[str, ...]
    support_ids: tuple[str, ...]
    query_ids: tuple[str, ...]

    @property
    def support(self) -> Support:
        """The part that a learner may see with labels."""
        return Support(self.support_x, self.support_y, self.classes)


@runtime_checkable
class Classifier(Protocol):
    """One adapted task."""

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n way"]:
        """Probabilities; each row sums to 1."""
        ...


@runtime_checkable
class Learner(Protocol):
    """What `fit` returns: the weights. Adapting never changes it."""

    @property
    def inductive(self) -> bool:
        """Does one image's answer ignore the other images that are sent with it?"""
        ...

    @property
    def size(self) -> int:
        """Height and width of the images that it takes."""
        ...

    def adapt(self, support: Support, *, seed: int = 0) -> Classifier:
        """A classifier for the classes of `support`; the learner stays as it was."""
        ...

    def features(self, images: Float[Tensor, "n c h w"]) -> Any:
        """(n, features), numbers of a Tensor or an array: what each image is to the learner before it adapts.

        The order of the images permutes the rows. They may depend on which images are sent together, as with `norm=support`.
        """
        ...

    def state(self) -> State:
        """Everything that `fit` learnt."""
        ...

    def with_state(self, state: State) -> "Learner":
        """A learner with this state instead.

        Raises:
            ValueError: if a weight is missing, superfluous, not finite, or has another shape.
        """
        ...


@dataclass(frozen=True)
class TrainingState:
    """A point of training from which it goes on bit-identically; all else is a pure function of (seed, iteration)."""

    iteration: int
    """Iterations done."""
    weights: State
    optimiser: State
    """Adam's moments and step counts, under the names of the weights with `.exp_avg`, `.exp_avg_sq` and `.step`."""
    skipped: tuple[int, ...] = ()
    """Numbers of the tasks, counted through, that were skipped because they were not finite."""
    policy: State = field(default_factory=dict)
    """What the choice of tasks has learnt; empty where they are drawn at random."""


@dataclass(frozen=True)
class Progress:
    """What training says of itself after an iteration."""

    iteration: int
    """Iterations done."""
    iterations: int
    record: Mapping[str, Any]
    """The line for the log: loss, learning rate, each task's classes, loss, AUC and weight; plain JSON values."""
    training_state: TrainingState
    """All that a bit-identical resume needs, a copy."""


Observe = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """An observer that does nothing."""


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass of hyperparameters; `fit` turns common diseases into a learner."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def shot(self) -> int:
        """Support images a class that training or its validation counts on, k."""
        ...

    @property
    def iterations(self) -> int:
        """Steps of training; 0 where nothing is trained."""
        ...

    def fit(
        self,
        common: "LabelledImages",
        *,
        seed: int,
        start: State | None = None,
        resume: TrainingState | None = None,
        observe: Observe = ignore,
    ) -> Learner:
        """Meta-train on the common diseases.

        Args:
            seed: of the weights, the episodes and the augmentation.
            start: weights to begin with, instead of random ones.
            resume: a point of an earlier run with the same method, data and seed, to go on from bit-identically.
            observe: called after every iteration.
        """
        ...

    def untrained(self, common: "LabelledImages", *, seed: int) -> Learner:
        """What `fit` begins with."""
        ...

    def blank(self, size: int) -> Learner:
        """A learner of the right shapes for images of `size`, to load a state into."""
        ...

"""From a learner's name and a few photographs to answers on new images, each judged by itself.

    load("isic2018-transfer").adapt(support_from("photographs/", 64))(images)   # the three nouns, by hand
    adapted = adapt_to("isic2018-transfer", "photographs/")                     # with names, cautions and a file to save
    answer(adapted, "new.jpg")

An answer depends on the classifier and on that one image, to the last bit, however many images are asked about.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rareshot.bundle import Bundle, load_bundle, refuse_steps
from rareshot.checkpoint import load_learner
from rareshot.data.decode import decode
from rareshot.data.files import BadFileError, Observe, ignore, shown
from rareshot.data.folders import is_image
from rareshot.equal_parts import adapt_evenly
from rareshot.methods import METHODS
from rareshot.methods.pretrained import SIZE
from rareshot.run_record import Run, read_run, versions
from rareshot.support_set import SupportSet, as_float, read_support
from rareshot.trust import (
    Suspects,
    prediction_sets,
    smallest_error,
    suspects,
    with_prevalence,
    with_temperature,
)
from rareshot.trust.left_out import refuse_transductive
from rareshot.trust_file import Trust, load_trust, refuse_misfit
from rareshot.types import Classifier, Learner

PACKAGED = Path(__file__).parent / "learners"
WORDS = ("isic2018-transfer", "isic2018", "pretrained")
"""Learners that need no run: two that come with rareshot, and the ImageNet network of the extra `pretrained`."""
UNUSUAL = 0.05
"""Share of common lesions, classes counted alike, that are called unlike the others."""
MANY_UNUSUAL = 0.25
"""Share of the support images from which on the warning says only that the conditions themselves look different."""


def load(name: str | Path) -> Learner:
    """The learner called `name`, ready for `adapt`.

    Args:
        name: a run's folder, or one of `WORDS`; a run's folder of that name comes before a word.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the run is damaged, the learner is transductive, or the extra `pretrained` is missing.
    """
    return find_learner(name)[1]


def find_learner(name: str | Path) -> tuple[Run, Learner]:
    """The same, with the run that it comes from."""
    folder = _folder_of(name)
    if not folder.is_dir() and str(name) == "pretrained":
        method = METHODS["pretrained"]
        return Run(method, "pretrained", 0, SIZE, "own", {}, versions()), method.blank(SIZE)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no learner {str(name)!r}: give a run's folder (rareshot fit makes one) or one of {', '.join(WORDS)}"
        )
    run, learner = read_run(folder), load_learner(folder)
    refuse_transductive(learner, str(name))
    return run, learner


def calibration_of(name: str | Path, learner: Learner) -> Trust | None:
    """What `rareshot calibrate` measured of the learner called `name`; None where it was not called.

    Raises:
        ValueError: naming the file, if it is damaged or of another learner.
    """
    return load_trust(_folder_of(name), learner)


@dataclass(frozen=True, eq=False)
class Predictor:
    """An adapted classifier that judges one image at a time: the bits of an answer depend on that image alone."""

    bundle: Bundle
    classifier: Classifier
    """As the method made it: without temperature and prevalence."""
    prevalence: Mapping[str, float] = field(default_factory=dict)
    """Share of each class among the patients; empty: classes are equally frequent."""
    sets: bool = False
    """Make prediction sets too? Each takes one more pass of the support images."""

    def __post_init__(self) -> None:
        if self.prevalence:
            with_prevalence(torch.full((1, len(self.classes)), 1 / len(self.classes)), self.classes, self.prevalence)
        if self.sets:
            smallest_error(self.bundle.shot)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of probabilities."""
        return self.bundle.classes

    @property
    def size(self) -> int:
        """Height and width of the images that it takes."""
        return self.bundle.run.size

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Probabilities, calibrated where the learner was; each row sums to 1."""
        return one_by_one(lambda image: self.calibrated(self.classifier(image)), images)

    def warnings(self, image: UInt8[Tensor, "3 h w"], probabilities: Float[Tensor, " way"]) -> list[str]:
        """What is to be said of one answer: the one place for it, and the last column of predictions.csv."""
        told = []
        if self._is_unusual(image):
            told.append(
                f"unlike the images this learner was fitted on (at most 1 in {round(1 / UNUSUAL)} of those is called so), and "
                f"the support images"
            )
        same = self.bundle.support.position_of(image)
        if same is not None:
            label = int(self.bundle.support.labels[same])
            told.append(
                f"is a support image of class {self.classes[label]!r}, {self.bundle.support.names[same]}: this is no test"
            )
        if int((probabilities == probabilities.max()).sum()) > 1:
            told.append("no class is more probable than all others")
        return told

    def suspects(self) -> Suspects:
        """The support images by suspicion; a warning only where a threshold was measured for so many classes."""
        trust = self.bundle.trust
        found = trust.threshold(len(self.classes), self.bundle.shot) if trust else None
        return suspects(self.learner, self.bundle.support.support, found and found[1])

    def set_of(self, image: Float[Tensor, "3 h w"]) -> tuple[str, ...]:
        """Names of the classes that an image may be of: the prediction set that `promise` speaks of."""
        among = prediction_sets(self.learner, self.bundle.support.support, image[None])[0]
        return tuple(name for name, inside in zip(self.classes, among.tolist(), strict=True) if inside)

    def promise(self) -> str:
        """What holds for the sets, and what k allows at best."""
        k = self.bundle.shot
        share = math.floor(100 * (1 - smallest_error(k)))
        return (
            f"a set holds the right class in at least {share} % of images like the support images, at k = {k}; "
            f"the smallest error that {k} images a class allow is 1 in {k + 1}"
        )

    def cautions(self) -> list[str]:
        """What makes all answers less sure than they might be, or all warnings of single images worth little."""
        images = self.bundle.support.images
        unusual = sum(self._is_unusual(image, alone=True) for image in images)
        told = self.bundle.cautions()
        if unusual < MANY_UNUSUAL * len(images):
            return told
        return [
            *told,
            f"{unusual} of the {len(images)} support images are themselves unlike the images that the learner was fitted on: "
            f"here that warning only says whether an image is unlike them too",
        ]

    @cached_property
    def learner(self) -> Learner:
        """The one that was adapted."""
        return self.bundle.fitted()

    def calibrated(self, probabilities: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
        """Answers of `classifier`, or of the same learner adapted otherwise, with temperature and prevalence."""
        temperature = self.bundle.temperature
        if temperature != 1:
            probabilities = with_temperature(probabilities, temperature).float()
        if self.prevalence:
            probabilities = with_prevalence(probabilities, self.classes, self.prevalence).float()
        return probabilities.float()  # as files have them; fine-tuning answers in float64

    def _is_unusual(self, image: UInt8[Tensor, "3 h w"], *, alone: bool = False) -> bool:
        """Unlike the common diseases and, unless `alone`, unlike the support images too."""
        trust = self.bundle.trust
        if trust is None:
            return False
        found = trust.reference.typicality(
            self.learner,
            as_float(image[None].contiguous()),
            support=None if alone else self.bundle.support.support,
            false_alarms=UNUSUAL,
        )
        return bool(found.is_unusual)


def one_by_one(classifier: Classifier, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
    """Probabilities, each image sent by itself: in a batch, the last bits of an answer depend on the batch's size."""
    if not len(images):
        raise ValueError("no image to judge; give at least one")
    return torch.cat([classifier(image[None].contiguous()) for image in images])


def adapt_to(
    name: str | Path, support: str | Path | SupportSet, *, seed: int = 0, observe: Observe = ignore
) -> Predictor:
    """Adapt the learner called `name` to the photographs at `support`; `save_bundle` keeps its `bundle`.

    Args:
        support: a folder with a folder of images for each class, a table with columns path and label, or the photographs
            themselves, of the learner's size.
        seed: of the few methods whose adaptation draws at random (fine-tuning's augmentation).

    Raises:
        FileNotFoundError: if there is no such learner, or nothing at `support`.
        ValueError: as `load` and `rareshot.support_set.read_support`, or if the learner takes another number of classes.
    """
    run, learner = find_learner(name)
    refuse_steps(run)
    images = support if isinstance(support, SupportSet) else read_support(support, run.size, observe=observe)
    if images.size != run.size:
        raise ValueError(
            f"support: images of {images.size} pixels; this learner takes {run.size}: decode them to that size"
        )
    trust = calibration_of(name, learner)
    bundle = Bundle(run, Path(os.path.abspath(name)).name, learner.state(), images, seed, trust=trust)
    return Predictor(bundle, adapt_evenly(learner, images.support, seed=seed))


def load_classifier(file: str | Path) -> Predictor:
    """The classifier of a file that `rareshot adapt` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged, or no classifier that this version can make.
    """
    bundle = load_bundle(Path(file))
    try:
        predictor = Predictor(bundle, bundle.adapt())
        if bundle.trust is not None:
            refuse_misfit(bundle.trust, predictor.learner)
        return predictor
    except (ValueError, RuntimeError) as error:  # Runtime: timm's, of a network that cannot be built so
        raise ValueError(f"{file}: {error}") from error


@dataclass(frozen=True)
class Answer:
    """What is said of one image."""

    path: str
    predicted: str
    """The most probable class; empty where the image could not be read."""
    probabilities: tuple[float, ...]
    """One a class; none where the image could not be read."""
    warnings: tuple[str, ...]
    """Reasons to mistrust the answer, or why there is none."""
    among: tuple[str, ...] = ()
    """The prediction set, where the predictor makes them."""


def answer(predictor: Predictor, path: str) -> Answer:
    """The answer on one image file; a file that cannot be read has its reason in `warnings`."""
    try:
        pixels = torch.from_numpy(decode(path, predictor.size)).permute(2, 0, 1).contiguous()
    except BadFileError as error:
        reason = "is a folder without an image file" if os.path.isdir(path) else error.reason
        return Answer(path, "", (), (reason,))
    image = as_float(pixels)
    probabilities = predictor(image[None])[0]
    best = predictor.classes[int(probabilities.argmax())]
    warnings = predictor.warnings(pixels, probabilities)
    among = predictor.set_of(image) if predictor.sets else ()
    if predictor.sets and not among:
        warnings.append("fits no class as the support images fit theirs: its set is empty")
    return Answer(path, best, tuple(probabilities.tolist()), tuple(warnings), among)


def answers(predictor: Predictor, paths: Iterable[str]) -> Iterator[Answer]:
    """The answer on each file, in order."""
    return (answer(predictor, path) for path in paths)


def image_files(paths: Sequence[str | Path]) -> list[str]:
    """Files as they are named, and all images inside folders, sorted; each once. An empty folder stays, to be named.

    Hidden files and folders are left out, and so is what `is_image` does not know; links to folders are not followed.
    """
    found: list[str] = []
    for path in map(str, paths):
        found += [file for file, reason in _inside(path) if not reason] or [path]
    return list(dict.fromkeys(found))


def passed_over(paths: Sequence[str | Path]) -> list[str]:
    """What `image_files` leaves out of folders, hidden files aside: the path and the reason."""
    told = [f"{shown(file)}: {reason}" for path in paths for file, reason in _inside(str(path)) if reason]
    return list(dict.fromkeys(told))


def _inside(path: str) -> Iterator[tuple[str, str]]:
    """Each file in a folder, and why it is left out, or ""."""
    unread: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        unread.append((str(error.filename), f"cannot be read: {error.strerror}"))

    for root, folders, files in os.walk(path, onerror=note) if os.path.isdir(path) else ():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [os.path.join(root, name) for name in folders if os.path.islink(os.path.join(root, name))]
        yield from ((link, "a link to a folder is not followed") for link in links)
        for name in sorted(name for name in files if not name.startswith(".")):
            known = is_image(Path(root, name))
            yield os.path.join(root, name), "" if known else "is not an image file by its suffix"
    yield from unread


def _folder_of(name: str | Path) -> Path:
    """Where the learner called `name` lies, or would lie."""
    packaged = PACKAGED / str(name)
    return packaged if str(name) in WORDS and not (Path(name) / "run.json").is_file() else Path(name)

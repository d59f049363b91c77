"""`rareshot predict CLASSIFIER IMAGES`: what does an adapted classifier say of new images?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from rareshot.atomic import write_atomically
from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE, STATUS, data_progress
from rareshot.data.files import shown
from rareshot.machine import settle
from rareshot.predict import (
    Answer,
    Predictor,
    answers,
    image_files,
    load_classifier,
    passed_over,
)
from rareshot.predictions import line_of, refuse_column, write_answers

MANY = 20
"""Images from which on a progress bar is worth its line; names that are shown of what is left out."""


@dataclass(frozen=True)
class Predict:
    """Judge images by a classifier that `rareshot adapt` wrote: a probability for each class.

    Each image is judged by itself: its answer is the same alone and among a thousand others. A file that cannot be read is
    named and has a row without probabilities; the exit code is 0 if at least one image was judged, else 2.

    Probabilities are calibrated where the learner was (`rareshot calibrate`); an image unlike those that it was fitted on
    has a warning. The columns of --out: path, predicted, one a class, set (with --sets), warnings. A research tool, not a
    medical device.

    Example: rareshot predict lesions.safetensors new/ another.jpg --out predictions.csv --report page.html
    """

    classifier: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLASSIFIER")]
    """A file of `rareshot adapt`."""
    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="IMAGES [IMAGES ...]", help_behavior_hint="(required)"),
    ]
    """Image files, and folders: all images inside."""
    out: Path | None = None
    """A .csv for the answers, replaced if it is there; None: they are printed."""
    report: Path | None = None
    """A .html page to file: images, probabilities with ranges, what speaks for each answer, support images, how it was made;
    replaced if it is there. It shows patients' images. It takes some seconds."""
    prevalence: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """CLASS=SHARE, once for each class: how frequent it is among those who are judged, as df=0.3. The shares sum to 1. None:
    all alike."""
    sets: bool = False
    """Also give the set of classes that an image may be of, which holds the right one as often as promised. It costs one more
    pass of the support images for each image, and needs 2 images a class."""
    threads: int = 1
    """CPU threads. Work on one image is too small to share out; with one thread the bits of an answer are the same anywhere."""


def predict(args: Sequence[str]) -> None:
    """Parse and run `rareshot predict`."""
    options = parse(Predict, args, "rareshot predict")
    settle(options.threads)
    if options.out is not None and (options.out.suffix.lower() != ".csv" or options.out.is_dir()):
        raise ValueError(f"--out {options.out}: the answers go into a file whose name ends in .csv")
    report = options.report
    if report is not None and (report.suffix.lower() != ".html" or report.is_dir()):
        raise ValueError(f"--report {report}: the page goes into a file whose name ends in .html")
    if not options.images:
        raise ValueError(
            "predict needs images: rareshot predict CLASSIFIER IMAGE-OR-FOLDER [MORE] --out predictions.csv"
        )
    files = image_files(options.images)
    shares = prevalence_of(options.prevalence)
    predictor = replace(load_classifier(options.classifier), prevalence=shares, sets=options.sets)
    refuse_column(predictor.classes, sets=options.sets)
    left_out = passed_over(options.images)
    more = [f"left out: and {len(left_out) - MANY} more"] if len(left_out) > MANY else []
    for caution in [*predictor.cautions(), *(f"left out: {one}" for one in left_out[:MANY]), *more]:
        STATUS.print(f"caution: {caution}", markup=False, soft_wrap=True)
    told = []
    with data_progress("predict") as show:
        for done, one in enumerate(answers(predictor, files), 1):
            told.append(one)
            if len(files) >= MANY:
                show(done, len(files))
    unread = [one for one in told if not one.probabilities]
    for one in unread:
        STATUS.print(line_of(one, predictor.classes), markup=False, soft_wrap=True)
    if options.out is not None:
        write_answers(options.out, predictor.classes, told, sets=options.sets)
    if report is not None:
        _write_report(report, predictor, told)
    if len(unread) == len(told):
        raise ValueError(f"none of {len(told)} images could be read; the first: {line_of(told[0], predictor.classes)}")
    if options.sets:
        STATUS.print(f"sets: {predictor.promise()}", markup=False, soft_wrap=True)
    if options.out is None:
        for one in told:
            if one.probabilities:
                CONSOLE.print(line_of(one, predictor.classes), markup=False, soft_wrap=True)
        return
    counts = Counter(one.predicted for one in told if one.probabilities)
    words = ", ".join(f"{count} {shown(name)}" for name, count in counts.most_common())
    failed = f"; {len(unread)} could not be read" if unread else ""
    CONSOLE.print(f"{len(told)} images: {words}{failed}; answers: {options.out}", markup=False, soft_wrap=True)


def _write_report(file: Path, predictor: Predictor, told: Sequence[Answer]) -> None:
    from rareshot.answer_page import answer_page  # here: answers alone need none of what draws the page

    with data_progress("report") as show:
        text = answer_page(predictor, [one.path for one in told], told, observe=show)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())
    STATUS.print(f"report: {file} (shows the photographs: treat it as patient data)", markup=False, soft_wrap=True)


def prevalence_of(told: Sequence[str]) -> dict[str, float]:
    """CLASS=SHARE, of which the last = counts: a class's name may hold others.

    Raises:
        ValueError: if there is no =, the share is no number, or a class is named twice.
    """
    shares: dict[str, float] = {}
    for one in told:
        name, equals, share = one.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            equals = ""
        if not equals or name in shares:
            raise ValueError(f"--prevalence {one}: give CLASS=SHARE once for each class, as --prevalence df=0.3")
        shares[name] = value
    return shares

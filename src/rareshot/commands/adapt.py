"""`rareshot adapt LEARNER`: a few photographs of each condition in, a classifier out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rareshot.bundle import save_bundle
from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE, STATUS, data_progress
from rareshot.data.files import shown
from rareshot.machine import settle
from rareshot.methods import taught_by
from rareshot.predict import Predictor, adapt_to
from rareshot.run_record import refuse_seed

SHOWN = 10
"""Lines of the ranking."""


@dataclass(frozen=True)
class Adapt:
    """Adapt a learner to a few photographs of each condition and write a classifier: one file, for `rareshot predict`.

    Put 1 to 5 photographs (more is fine, up to 1,000) of each of two or more conditions into a folder each, named after the
    condition: photographs/dermatofibroma/1.jpg, photographs/angioma/1.jpg. Nothing leaves this machine.

    THE FILE HOLDS THE PHOTOGRAPHS, in small, and their file names: treat it as patient data. It is a research tool, not a
    medical device.

    With 2 photographs a class or more it ranks them by suspicion: how little each is expected by the others. Look at the
    labels of the first.

    Example: rareshot adapt isic2018-transfer --support photographs/ --out lesions.safetensors

    Then: rareshot predict lesions.safetensors new/ --out predictions.csv
    """

    learner: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LEARNER")]
    """A run's folder; or a word. isic2018-transfer: for dermoscopy, an ImageNet network trained further on common lesions;
    isic2018: a smaller one, meta-trained on them. Both come with rareshot, not for commercial use. pretrained: for anything, the
    ImageNet network itself (extra `pretrained`). A run's folder of that name comes before a word."""
    support: Path
    """The photographs: a folder with a folder a class, or a table of path,label."""
    out: Path
    """The classifier's file, new; .safetensors by custom."""
    seed: int = 0
    """Of methods whose adaptation draws at random (finetune); the others ignore it."""
    threads: int = 1
    """CPU threads. A few photographs are too small a task to share out; more help with hundreds of them."""


def adapt(args: Sequence[str]) -> None:
    """Parse and run `rareshot adapt`."""
    options = parse(Adapt, args, "rareshot adapt")
    settle(options.threads)
    if options.out.exists():
        raise ValueError(f"{options.out} is there already; choose another --out, or remove it first")
    refuse_seed(options.seed)
    begun = time.perf_counter()
    with data_progress("reading photographs") as show:
        predictor = adapt_to(options.learner, options.support, seed=options.seed, observe=show)
    seconds = time.perf_counter() - begun
    bundle = predictor.bundle
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(options.out, bundle)
    common = ", ".join(map(shown, bundle.run.data.get("common", ()))) or "diseases that are not recorded"
    trained = taught_by(bundle.run.method, common)
    _say(f"learner: {shown(bundle.learner)} ({shown(bundle.run.name)}, {bundle.run.size} px), trained on {trained}")
    if bundle.run.licence:
        _say(f"licence of those images, and so of the learner: {bundle.run.licence}")
    _say("classes: " + ", ".join(f"{shown(name)} ({count})" for name, count in bundle.support.counts.items()))
    for caution in bundle.support.cautions():
        STATUS.print(f"caution: {caution}", markup=False, soft_wrap=True)
    _say_suspects(predictor)
    _say(f"adapted in {seconds:.1f} s; classifier: {options.out} (holds the photographs: treat it as patient data)")
    _say(f"next: rareshot predict {options.out} IMAGE-OR-FOLDER --out predictions.csv")


def _say_suspects(predictor: Predictor) -> None:
    """The support images by suspicion, and what a warning would mean."""
    bundle = predictor.bundle
    support, k = bundle.support, bundle.shot
    if k < 2:
        return
    found = predictor.suspects()
    names = [f"{support.classes[label]}/{name}" for label, name in zip(support.labels, support.names, strict=True)]
    _say("suspects: probability of each photograph's own label, by the features of the others")
    for at in found.order.tolist()[:SHOWN]:
        _say(f"  {found.own[at]:.3f}  {shown(names[at])}")
    if len(names) > SHOWN:
        _say(f"  and {len(names) - SHOWN} less suspect ones")
    limit = bundle.trust.threshold(len(bundle.classes), k) if bundle.trust else None
    if limit is None:
        if bundle.trust is None:
            why = "not calibrated"
        elif len(bundle.classes) in bundle.trust.ways:
            why = "calibrated without a threshold for it"
        else:
            why = f"calibrated on {bundle.trust.told_ways()} classes only"
        _say(f"  a ranking only, no warning: this learner is {why}")
    elif found.warning:
        STATUS.print(
            f"caution: {shown(names[int(found.order[0])])} fits its label worse than the worst photograph does in 9 of 10 clean "
            f"support sets of common diseases with k = {limit[0]}: is the label right?",
            markup=False,
            soft_wrap=True,
        )


def _say(text: str) -> None:
    CONSOLE.print(text, markup=False, soft_wrap=True)

"""`rareshot calibrate RUN`: how far can a learner be taken at its word? Measured once, on held-out common lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from rareshot.bundle import refuse_transductive
from rareshot.checkpoint import load_learner
from rareshot.commands.options import Machine, load_images, parse
from rareshot.commands.terminal import CONSOLE, progress
from rareshot.run_record import read_run
from rareshot.trust_file import Trust, save_trust
from rareshot.validation import held_out

FEWEST = 20
"""Images of another kind, in each half."""


@dataclass(frozen=True)
class Calibrate:
    """Measure how far a learner can be taken at its word, and write RUN/trust.safetensors beside it.

    `adapt` and `predict` then give calibrated probabilities, warn of support images that may be mislabelled, and of images
    unlike those that the learner was fitted on. Only lesions of the common classes that were held out of training are
    asked; the rare ones stay unseen. It takes some minutes on a laptop.

    Example: rareshot calibrate runs/daml --data isic2018/
    """

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    data: Path
    """The data set that it was fitted on."""
    rare: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A class that was kept unseen, as for `fit`; say it once for each. None: as the data set's card says."""
    shots: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Support images a class to measure for; another k is served by the nearest."""
    episodes: int = 60
    """Tasks for each temperature. Two draws of 60 may differ by some tenths; take 200 or more where time allows."""
    others: Path | None = None
    """Images that the learner is not for, as phone photographs for a dermoscopy learner: a data set, any classes. The warning
    is tuned to find their like, on half of the patients (groups); the share that is found is said of the other half."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def calibrate(args: Sequence[str]) -> None:
    """Parse and run `rareshot calibrate`."""
    options = parse(Calibrate, args, "rareshot calibrate")
    options.machine.start()
    if options.episodes < 1:
        raise ValueError(f"--episodes {options.episodes}: at least 1 is needed")
    run, learner = read_run(options.run), load_learner(options.run)
    refuse_transductive(str(options.run), learner)
    known = run.data.get("common")
    if not known:
        raise ValueError(
            f"{options.run} does not say which classes it was fitted on, so which lesions it knows is not known"
        )
    common = load_images(options.data, run.size, options.rare).of(known)
    if common.fingerprint() != run.data.get("fingerprint"):
        raise ValueError(
            f"{options.run} was fitted on {run.data.get('name')} with fingerprint {run.data.get('fingerprint')}; the same "
            f"classes of {options.data} have {common.fingerprint()}: give the data that it was fitted on, as only there is it "
            f"known which lesions were held out"
        )
    # A method that trains on nothing has no share of its own.
    train, held = held_out(common, getattr(run.method, "held_out", 0.2))
    if held is None:
        raise ValueError(
            f"{options.run} was fitted with held_out=0: no lesion is left to measure on; fit with held_out=0.2"
        )
    others = load_images(options.others, run.size, ()) if options.others else None
    if others is not None and (fewest := min(int((others.groups % 2 == part).sum()) for part in (0, 1))) < FEWEST:
        raise ValueError(
            f"--others {options.others}: each half of its patients needs at least {FEWEST} images, and one has {fewest}: "
            f"give more, or leave it out"
        )
    with progress("calibrate", 0) as show:
        trust = Trust.of(
            learner,
            train,
            held,
            way=getattr(run.method, "way", 2),
            shots=options.shots,
            episodes=options.episodes,
            others=None if others is None else others.images(np.flatnonzero(others.groups % 2 == 0)),
            others_name="" if others is None else others.card.name,
            observe=lambda done, total, what: show(done, total, note=what),
        )
    file = save_trust(options.run, trust)
    for shot, temperature in trust.temperatures.items():
        limit = f", suspects below log odds {trust.thresholds[shot]:.2f}" if shot in trust.thresholds else ""
        CONSOLE.print(f"k = {shot}: temperature {temperature:.2f}{limit}", markup=False)
    if others is not None:
        judged = others.images(np.flatnonzero(others.groups % 2 == 1))
        share = float(trust.reference.typicality(learner, judged).is_unusual.double().mean())
        CONSOLE.print(
            f"{share:.1%} of the {len(judged)} other images that were kept for this are called unlike", markup=False
        )
    CONSOLE.print(f"calibration: {file}", markup=False, soft_wrap=True)
    CONSOLE.print(f"next: rareshot adapt {options.run} --support PHOTOGRAPHS --out FILE", markup=False, soft_wrap=True)

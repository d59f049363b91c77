"""`rareshot calibrate RUN`: a learner's temperature and warnings, measured once, on held-out common lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from rareshot.checkpoint import load_learner
from rareshot.commands.options import Machine, load_images, parse
from rareshot.commands.terminal import CONSOLE, progress
from rareshot.data.collection import LabelledImages
from rareshot.federated import refuse_other_than_episodic
from rareshot.federated.client import enough
from rareshot.federated.simulation import split_by
from rareshot.run_record import Run, read_run
from rareshot.trust.left_out import refuse_transductive
from rareshot.trust_file import Trust, save_trust, ways_of
from rareshot.validation import held_out

FEWEST = 20
"""Images of another kind, in each half."""


@dataclass(frozen=True)
class Calibrate:
    """Calibrate a learner's probabilities and warnings, and write RUN/trust.safetensors.

    `adapt` and `predict` then give calibrated probabilities, warn of support images that may be mislabelled, and of images
    unlike those that the learner was fitted on. Only lesions of the common classes that were held out of training are
    asked; the rare ones stay unseen. It takes some minutes on a laptop.

    Example: rareshot calibrate runs/daml --data isic2018/
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run's folder."""
    data: Path
    """The data set that it was fitted on; of a learner that hospitals share, the images of the one that asks."""
    rare: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A class that was kept unseen, as for `fit`; say it once for each. None: as the data set's card says."""
    client: str = ""
    """Of a run of `rareshot federate simulate`: whose lesions to ask, as one hospital would that took part."""
    shots: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Support images a class to measure for; another k is served by the nearest."""
    episodes: int = 60
    """Tasks for each temperature: one for each k, and for 2, 3 and 4 classes as far as there are common ones. Two draws of 60
    may differ by some tenths; take 200 or more where time allows."""
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
    refuse_transductive(learner, str(options.run))
    if options.client and not ("clients" in run.data and "by" in run.data):
        raise ValueError(
            f"--client {options.client}: {options.run} is no run of `rareshot federate simulate`; leave it out"
        )
    if run.data.get("clients"):
        hospital, common = _of_hospital(options, run)
    else:
        hospital, common = "", _fitted_on(options, run)
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
            ways=ways_of(run.method, held),
            shots=options.shots,
            episodes=options.episodes,
            others=None if others is None else others.images(np.flatnonzero(others.groups % 2 == 0)),
            others_name="" if others is None else others.card.name,
            hospital=hospital,
            observe=lambda done, total, what: show(done, total, note=what),
        )
    file = save_trust(options.run, trust)
    if hospital:
        CONSOLE.print(f"measured on the lesions that {hospital} held out", markup=False)
    for way, temperatures in trust.temperatures.items():
        limits = trust.thresholds[way]
        for shot, temperature in temperatures.items():
            limit = f", suspects below log odds {limits[shot]:.2f}" if shot in limits else ""
            CONSOLE.print(f"{way} classes, k = {shot}: temperature {temperature:.2f}{limit}", markup=False)
    if others is not None:
        judged = others.images(np.flatnonzero(others.groups % 2 == 1))
        share = float(trust.reference.typicality(learner, judged).is_unusual.double().mean())
        CONSOLE.print(
            f"{share:.1%} of the {len(judged)} other images that were kept for this are called unlike", markup=False
        )
    CONSOLE.print(f"calibration: {file}", markup=False, soft_wrap=True)
    CONSOLE.print(f"next: rareshot adapt {options.run} --support PHOTOGRAPHS --out FILE", markup=False, soft_wrap=True)


def _fitted_on(options: Calibrate, run: Run) -> LabelledImages:
    """The images that the run was fitted on, those held out among them.

    Raises:
        ValueError: if the data are others.
    """
    known = run.data.get("common")
    if not known:
        raise ValueError(
            f"{options.run} does not say which classes it was fitted on, so which lesions it knows is not known"
        )
    common = load_images(options.data, run.size, options.rare).common().of(known)
    if common.fingerprint() != run.data.get("fingerprint"):
        raise ValueError(
            f"{options.run} was fitted on {run.data.get('name')} with fingerprint {run.data.get('fingerprint')}; the same "
            f"classes of {options.data} have {common.fingerprint()}: give the data that it was fitted on, as only there is it "
            f"known which lesions were held out"
        )
    return common


def _of_hospital(options: Calibrate, run: Run) -> tuple[str, LabelledImages]:
    """Which of the hospitals that trained together these images are of, and those that it took part with.

    Raises:
        ValueError: if they are of none.
    """
    method = refuse_other_than_episodic(run.method, run.name)
    clients, by = run.data["clients"], run.data.get("by")
    images = load_images(options.data, run.size, options.rare).common()
    if by is None:
        common = enough(method, images)
    elif options.client in clients:
        common = split_by(method, images, str(by))[0].get(options.client, images)
    else:
        raise ValueError(
            f"{options.run} was simulated, with clients by {by}: say whose held-out lesions to ask with --client, one of "
            f"{', '.join(clients)}" + (f"; got {options.client}" if options.client else "")
        )
    found = common.fingerprint()
    for name, facts in clients.items():
        if facts.get("fingerprint") == found:
            return name, common
    raise ValueError(
        f"{options.run} was trained by {', '.join(clients)} together, and the common classes of {options.data} (fingerprint "
        f"{found}) are of none of them: give all images that one of them took part with, and its --rare, as only there is it "
        f"known which lesions were held out"
    )

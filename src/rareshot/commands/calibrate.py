"""`rareshot calibrate RUN`: how far can a learner be taken at its word? Measured once, on held-out common lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rareshot.bundle import refuse_transductive
from rareshot.checkpoint import load_learner, read_run
from rareshot.commands.options import Machine, load_images, parse
from rareshot.commands.terminal import CONSOLE, progress
from rareshot.trust_file import Trust, save_trust
from rareshot.validation import held_out


@dataclass(frozen=True)
class Calibrate:
    """Measure how far a learner can be taken at its word, and write RUN/trust.safetensors beside it.

    `adapt` and `predict` then give calibrated probabilities, warn of support images that may be mislabelled, and of images
    unlike those that the learner was fitted on. Only lesions of the common classes that were held out of training are
    asked; the rare ones stay unseen. It takes some minutes on a laptop; most of them go into the suspects.

    Example: rareshot calibrate runs/daml --data isic2018/
    """

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    data: Path
    """The data set that it was fitted on."""
    shots: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Support images a class to measure for; another k is served by the nearest."""
    episodes: int = 60
    """Tasks for each temperature. Two draws of 60 may differ by some tenths; take 200 or more where time allows."""
    slow_episodes: int = 20
    """Tasks for the warning of suspect images, k of 2 and more: each leaves out every support image in turn. At least 9."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def calibrate(args: Sequence[str]) -> None:
    """Parse and run `rareshot calibrate`."""
    options = parse(Calibrate, args, "rareshot calibrate")
    options.machine.start()
    for name in ("episodes", "slow_episodes"):
        least = 9 if name == "slow_episodes" else 1
        if getattr(options, name) < least:
            raise ValueError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: at least {least} {'are' if least > 1 else 'is'} needed"
            )
    run, learner = read_run(options.run), load_learner(options.run)
    refuse_transductive(str(options.run), learner)
    known = run.data.get("common")
    if not known:
        raise ValueError(
            f"{options.run} does not say which classes it was fitted on, so which lesions it knows is not known"
        )
    common = load_images(options.data, run.size, ()).of(known)
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
    with progress("calibrate", 0) as show:
        trust = Trust.of(
            learner,
            train,
            held,
            way=getattr(run.method, "way", 2),
            shots=options.shots,
            episodes=options.episodes,
            slow_episodes=options.slow_episodes,
            observe=lambda done, total, what: show(done, total, note=what),
        )
    file = save_trust(options.run, trust)
    for shot, temperature in trust.temperatures.items():
        limit = f", suspects below log odds {trust.thresholds[shot]:.2f}" if shot in trust.thresholds else ""
        CONSOLE.print(f"k = {shot}: temperature {temperature:.2f}{limit}", markup=False)
    CONSOLE.print(f"calibration: {file}", markup=False, soft_wrap=True)
    CONSOLE.print(f"next: rareshot adapt {options.run} --support PHOTOGRAPHS --out FILE", markup=False, soft_wrap=True)

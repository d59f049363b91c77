"""`rareshot demo`: the whole thing on synthetic images, no download."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rareshot.commands.options import Machine, parse
from rareshot.commands.terminal import CONSOLE, STATUS, stages
from rareshot.demo import run_demo
from rareshot.run_record import refuse_seed


@dataclass(frozen=True)
class Demo:
    """See the whole thing work in a few minutes, with no data and no download.

    Makes a synthetic dermoscopy set, meta-trains DAML on its common classes, adapts to the rare ones from five images each, and
    writes one HTML page with the episodes, the learning curve, ROC and the table, beside the learner before training.
    """

    out: Path = Path("demo")
    """Folder of the page."""
    seed: int = 0
    """Of the network and its training tasks; pictures and evaluation stay the same."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = Machine()


def demo(args: Sequence[str]) -> None:
    """Parse and run `rareshot demo`."""
    options = parse(Demo, args, "rareshot demo")
    refuse_seed(options.seed)
    options.machine.start()
    STATUS.print("synthetic dermoscopy pictures: no patient, and no claim about one")
    with stages() as show:
        result = run_demo(options.out, seed=options.seed, observe=show)
    CONSOLE.print(f"AUC on the rare classes, 5 images each: {result.trained}")
    CONSOLE.print(f"the same network before training:       {result.untrained}")
    CONSOLE.print(f"open {result.page}")

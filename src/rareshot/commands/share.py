"""`rareshot push RUN TARGET` and `rareshot pull SOURCE`: learners that travel, with a model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rareshot.checkpoint import load_learner, state_hash
from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE, STATUS
from rareshot.data.files import shown
from rareshot.methods import taught_by
from rareshot.methods.pretrained import Pretrained
from rareshot.sharing import pull, push


@dataclass(frozen=True)
class Push:
    """Share a learner: its weights, settings, calibration, the summaries of its evaluations, and a model card.

    No image travels, no log, no raw line of an evaluation. The card (README.md) is made from what lies in the run's folder,
    unless one of yours lies there. A new repository of the hub is private until you make it public.

    Example: rareshot push runs/daml hf://OWNER/NAME
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A finished run's folder."""
    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """A new folder, or hf://OWNER/NAME for a Hugging Face repository (`hf auth login` first, or set HF_TOKEN)."""


@dataclass(frozen=True)
class Pull:
    """Fetch a learner that somebody has shared, and check every file of it.

    It becomes a run's folder: `adapt`, `evaluate` and `calibrate` take it like one of your own.

    Example: rareshot pull hf://OWNER/NAME --out learner
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A folder, or hf://OWNER/NAME for a Hugging Face repository."""
    out: Path
    """The learner's folder, new."""


def push_command(args: Sequence[str]) -> None:
    """Parse and run `rareshot push`."""
    options = parse(Push, args, "rareshot push")
    where = push(options.run, options.target)
    CONSOLE.print(f"learner: {where}", markup=False, soft_wrap=True)
    CONSOLE.print(f"next, for others: rareshot pull {options.target} --out learner", markup=False, soft_wrap=True)


def pull_command(args: Sequence[str]) -> None:
    """Parse and run `rareshot pull`."""
    options = parse(Pull, args, "rareshot pull")
    run = pull(options.source, options.out)
    learner = load_learner(options.out)
    pretrained = isinstance(run.method, Pretrained)
    name = "ImageNet, by others" if pretrained else str(run.data.get("name", "unknown data"))
    licence = run.licence or "that of its data, which is not known here"
    taught = name if pretrained else taught_by(run.method, name)
    for text in (
        f"learner: {options.out} ({shown(run.name)}, {run.size} px), trained on {shown(taught)}",
        f"its card: {options.out}/README.md",
        f"licence: {licence}",
        f"SHA-256 of the weights: {state_hash(learner.state())}",
        f"next: rareshot adapt {options.out} --support PHOTOGRAPHS --out FILE",
    ):
        CONSOLE.print(text, markup=False, soft_wrap=True)
    if not learner.inductive:
        STATUS.print("caution: it is transductive; `evaluate` takes it, `adapt` does not", soft_wrap=True)

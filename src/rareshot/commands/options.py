"""Options that several commands share, each with its help."""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro

from rareshot.commands.terminal import STATUS, data_progress
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.machine import settle, use_device
from rareshot.run_record import LARGEST
from rareshot.scales import SCALES

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """What to compute on."""

    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int | None = None
    """CPU threads; None: all cores. Meta-training uses one for each task of an iteration, 4 at most. Plain training (finetune)
    rounds by their number: 1 to train what others can repeat."""

    def start(self) -> None:
        """Settle threads, allocator and device."""
        settle(self.threads)
        use_device(self.device)


def parse(kind: Callable[..., T], args: Sequence[str], prog: str, **more: Any) -> T:
    """Options from the command line; `--help` prints and exits.

    Raises:
        ValueError: in one line, where tyro would draw a box.
    """
    empty = [each for each in args if not each or (each.startswith("--") and each.endswith("="))]
    if empty:
        raise ValueError(f"{empty[0] or 'an argument'} is empty (an unset variable?); this folder is written as .")
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            options: T = tyro.cli(kind, args=args, prog=prog, **more)
            return options
    except SystemExit as exit_:
        if not exit_.code:
            raise
        lines = [line.strip(" │╭╮╰╯─|-+") for line in said.getvalue().splitlines()]
        told = " ".join(line for line in lines[1:] if line).split("Argument helptext:")[0].split("For full helptext")[0]
        raise ValueError(f"{' '.join(told.split())}; see {prog} --help") from exit_


def load_images(path: Path, size: int, rare: tuple[str, ...]) -> LabelledImages:
    """The images at `path`; the first time they are decoded into a store, with a progress bar."""
    with data_progress(f"decoding {path.name} to {size} px") as show:
        images = load(path, size, rare=rare, observe=show)
    left_out = images.left_out()
    if left_out:
        STATUS.print(
            f"{left_out} images of common diseases are of groups (patients, lesions) that a rare one is in too: not trained on"
        )
    return images


def size_of(size: int | None, scale: str) -> int:
    """The image size that was asked for with --size; None: that of the scale.

    Raises:
        ValueError: if it is no image's.
    """
    size = SCALES[scale].size if size is None else size
    if not 1 <= size <= LARGEST:
        raise ValueError(f"--size {size}: images have 1 to {LARGEST} pixels a side here")
    return size

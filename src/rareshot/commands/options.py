"""Options that several commands share, each with its help."""

from dataclasses import dataclass
from pathlib import Path

import torch

from rareshot.commands.terminal import data_progress
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.machine import keep_memory, pick_device, use_threads


@dataclass(frozen=True)
class Machine:
    """What to compute on."""

    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int | None = None
    """CPU threads; None: all cores."""

    def start(self) -> torch.device:
        """Settle threads and allocator; the device to use."""
        keep_memory()
        use_threads(self.threads)
        return pick_device(self.device)


def load_images(path: Path, size: int, rare: tuple[str, ...]) -> LabelledImages:
    """The images at `path`; the first time they are decoded into a store, with a progress bar."""
    with data_progress(f"decoding {path.name} to {size} px") as show:
        return load(path, size, rare=rare, observe=show)

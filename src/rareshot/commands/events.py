"""TensorBoard events, an extra."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def tensorboard_writer(folder: Path) -> Callable[[Mapping[str, Any]], None]:
    """A function that writes one record of the log as events.

    Raises:
        ValueError: if tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs the extra: pip install 'rareshot[tensorboard]'") from error
    writer = SummaryWriter(folder / "events")

    def write(record: Mapping[str, Any]) -> None:
        for name in ("loss", "meta_lr", "lr", "accuracy", "seconds", "validation_auc"):
            if record.get(name) is not None:  # an iteration whose tasks were all skipped has no loss
                writer.add_scalar(name, record[name], record["iteration"])
        for task in record.get("tasks", ()):
            if "loss" in task:
                pair = "-".join(sorted(task["classes"]))
                writer.add_scalar(f"difficulty/{pair}", task["loss"], record["iteration"])
        writer.flush()

    return write

"""Presets of size and length, from a check that everything runs to the paper's own length (§2.3; the size is ours, 84 px)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from rareshot.backbones import WIDTHS
from rareshot.evaluation import Protocol
from rareshot.types import Method

M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Scale:
    """How large the images are, and how long training and evaluation last."""

    size: int
    """Height and width of the images in pixels."""
    settings: Mapping[str, Any]
    """Field → value, for every method that has the field."""
    protocols: tuple[Protocol, ...] = ("paper", "full", "site")
    """What `reproduce` evaluates by if not told otherwise."""
    episodes: int | None = None
    """How many of each protocol's episodes `reproduce` takes; None: all."""
    seeds: int = 3
    """Training seeds of a table."""


SCALES = {
    "paper": Scale(84, {"iterations": 3000, "warmup": 1500}),
    "laptop": Scale(64, {"iterations": 1000, "warmup": 500}),
    # 32 px: the smallest that DenseNet-121 takes. Narrow, short and few: a number of this scale says nothing of a method.
    "smoke": Scale(
        32,
        {"iterations": 20, "warmup": 10, "width": 16, "batch": 16, "test_steps": 5},
        protocols=("paper",),
        episodes=20,
        seeds=1,
    ),
}
"""Preset by name."""


def at_scale(method: M, scale: str) -> M:
    """The method with a preset's settings, as far as it has them; a width only where the backbone has one."""
    known = {field.name for field in fields(method)}
    if getattr(method, "backbone", "conv4") not in WIDTHS:
        known -= {"width"}
    return replace(method, **{name: value for name, value in SCALES[scale].settings.items() if name in known})

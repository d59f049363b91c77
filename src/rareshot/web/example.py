"""Synthetic photographs, so that the page shows its use before anybody has given an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from rareshot.data.synthetic import synthetic
from rareshot.web.intake import Upload

SIZE = 64
CONDITIONS = ("lacunar", "network", "scaly")
"""Invented, as all of `rareshot.data.synthetic`."""
SUPPORT, NEW = 3, 2
"""Photographs of each condition, and of those to be judged."""


@dataclass(frozen=True)
class Example:
    """What a person would drop."""

    conditions: Mapping[str, tuple[Upload, ...]]
    new: tuple[Upload, ...]


def write_example(folder: Path) -> Example:
    """Write three invented conditions, and new images of each, into `folder`; no patient is shown."""
    folder.mkdir(parents=True, exist_ok=True)
    conditions: dict[str, tuple[Upload, ...]] = {}
    new: list[Upload] = []
    for name, pictures in _pictures().items():
        uploads = []
        for number, picture in enumerate(pictures, 1):
            file = folder / f"{name}-{number}.png"
            Image.fromarray(picture).save(file)
            uploads.append(Upload(str(file), file.name))
        conditions[name] = tuple(uploads[:SUPPORT])
        new += uploads[SUPPORT:]
    return Example(conditions, tuple(new))


@cache
def _pictures() -> Mapping[str, list]:
    drawn = synthetic(SIZE, lesions=SUPPORT + NEW, images_per_lesion=(1, 1), seed=7)
    return {name: list(drawn.pixels[drawn.labels == drawn.classes.index(name)]) for name in CONDITIONS}

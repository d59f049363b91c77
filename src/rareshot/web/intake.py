"""Uploaded files → photographs of a session: looked at once, copied into its own folder, or refused by name."""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rareshot.data.decode import decode_bytes
from rareshot.data.files import BadFileError, read_file, shown
from rareshot.web.limits import MOST_BYTES

THUMBNAIL = 96
"""Height and width on the page."""


@dataclass(frozen=True)
class Upload:
    """A file as it came: where it lies, and what the person's machine calls it."""

    file: str
    name: str


@dataclass(frozen=True)
class Photograph:
    """A picture that a session holds."""

    name: str
    """Base name of the person's file."""
    file: Path
    """The whole file, unchanged, in the session's folder."""
    thumbnail: str
    """A small JPEG as a data address."""


def take(uploads: Sequence[Upload], folder: Path) -> tuple[list[Photograph], list[str]]:
    """The photographs that can be read, each copied into `folder`, and why the others cannot.

    Every file is judged by its content, by the rules of `rareshot.data.decode`.

    Returns:
        photographs in order, and one line for each file that was refused: its name, the reason, and the rule.
    """
    taken: list[Photograph] = []
    refused: list[str] = []
    free = (folder / f"{number:06d}" for number in count(len(list(folder.iterdir()))))
    for upload in uploads:
        name = base_name(upload.name)
        try:
            data = read_file(upload.file, limit=MOST_BYTES)
            small = decode_bytes(data, THUMBNAIL, name=name).pixels
        except BadFileError as error:
            refused.append(f"{shown(name)}: {error.reason}")
            continue
        file = next(place for place in free if not place.exists())
        file.write_bytes(data)
        taken.append(Photograph(name, file, picture(small)))
    return taken, refused


def uploaded(files: Sequence[Mapping[str, Any]], folder: Path) -> list[Upload]:
    """Files as a browser names them, by `path` and `orig_name`: it may name any, and they are read and then deleted.

    Args:
        folder: of all uploads, each in a folder of its own; resolved.

    Raises:
        ValueError: if one lies elsewhere, or a link is on the way to it.
    """
    found = []
    for one in files:
        path = one.get("path")
        name = one.get("orig_name") or path
        name = base_name(name if isinstance(name, str) else "")
        if not isinstance(path, str) or not _lies_in(folder, path):
            raise ValueError(f"{shown(name)} was not uploaded to this page: drop it again.")
        found.append(Upload(path, name))
    return found


def discard(uploads: Sequence[Upload]) -> None:
    """Delete files as they came, each with the folder that it came in: the session has its own copies."""
    for upload in uploads:
        file = Path(upload.file)
        file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: somebody else's
            file.parent.rmdir()


def base_name(name: str) -> str:
    """The last part of a path of any system, at most 120 characters of it; never empty."""
    return re.split(r"[\\/]", name)[-1][-120:] or "file"


def picture(pixels: np.ndarray) -> str:
    """An (h, w, 3) uint8 array as a data address of a JPEG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _lies_in(folder: Path, path: str) -> bool:
    try:
        return Path(path).parent.parent == folder and os.path.realpath(path) == path
    except ValueError:  # no possible name
        return False

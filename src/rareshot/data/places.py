"""Where a store stands."""

import hashlib
import os
from pathlib import Path

from rareshot.data.manifest import MANIFEST, PIXELS, TABLE

CHUNKS = "chunks"
"""Folder of the decoded chunks, there only until the store is made."""


def beside(path: Path, size: int) -> Path:
    """The store's place next to its data."""
    return _home(path) / ".rareshot" / _name(path, size)


def in_cache(path: Path, size: int) -> Path:
    """The store's place in the user's cache, by the data's absolute path."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules say that a relative path there counts for nothing.
    cache = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"
    key = hashlib.sha256(os.path.realpath(_home(path)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache / "rareshot" / key / _name(path, size)


def is_writable(folder: Path) -> bool:
    """May we write there? A folder that nobody may write stays as it is, though an administrator could."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def make_folder(folder: Path) -> None:
    """Makes the folder of a store.

    Raises:
        ValueError: if there are other files in it, that a store must not mix with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours = {PIXELS, TABLE, MANIFEST, CHUNKS}
    others = [name for name in sorted(os.listdir(folder)) if name not in ours and not name.endswith(".tmp")]
    if others:
        raise ValueError(f"{folder}: holds {others[0]!r}, no part of a store; name an empty or new folder (out)")


def _home(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _name(path: Path, size: int) -> str:
    return str(size) if path.is_dir() else f"{path.stem}-{size}"

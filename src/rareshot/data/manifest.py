"""The files of a store: written whole or not at all, and told apart from changed ones by their SHA-256."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rareshot.data.files import read_file

FORMAT = 2
"""Version of the store's files."""
PIXELS, TABLE, MANIFEST = "pixels.npy", "table.json", "manifest.json"


def damage(folder: Path) -> str:
    """The name of the first file that is not as the manifest says, or ""."""
    manifest = read_manifest(folder)
    if not manifest:
        return MANIFEST
    return next((name for name in (TABLE, PIXELS) if not _is_as_stated(folder / name, manifest["files"][name])), "")


def _is_as_stated(file: Path, stated: dict[str, Any]) -> bool:
    # The size first: it costs nothing.
    return file.is_file() and file.stat().st_size == stated.get("bytes") and facts(file) == stated


def facts(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as they stand in the manifest."""
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, or nothing if it is missing, damaged or of another version."""
    try:
        manifest = json.loads(read_file(folder / MANIFEST, limit=2**20))
        stated = [manifest["files"][name] for name in (PIXELS, TABLE)]
        right = manifest["format"] == FORMAT and all(isinstance(each, dict) and "sha256" in each for each in stated)
        return dict(manifest) if right else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def digest(*values: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(as_json(values)).hexdigest()


def as_json(value: Any) -> bytes:
    """The one way of writing a value: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True).encode()

"""The store: every image decoded once, at one size, in a file that is mapped into memory.

    prepare(path, size) → folder --open_store--> LabelledImages          load(path, size): both, as needed

A store is three files: `pixels.npy`, `table.json` (labels, groups, ids, columns, card, SHA-256 of each image's file), and
`manifest.json` with the SHA-256 of the other two. It stands in `.rareshot/` beside the data, or in the user's cache where
that is not writable. It is current as long as the data's file names, sizes and times stay; a new table, or other rare
classes, only renews `table.json`.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from rareshot.atomic import replacing
from rareshot.data.cards import DataCard
from rareshot.data.collection import LabelledImages, number_groups
from rareshot.data.decode import decode, square
from rareshot.data.files import BadFileError, Observe, ignore, in_known_form, read_file
from rareshot.data.listing import Listing, refuse
from rareshot.data.manifest import (
    FORMAT,
    MANIFEST,
    PIXELS,
    TABLE,
    as_json,
    damage,
    digest,
    facts,
    read_manifest,
)
from rareshot.data.medmnist import MAX_ARRAY_BYTES
from rareshot.data.parallel import each
from rareshot.data.places import CHUNKS, beside, in_cache, is_writable, make_folder
from rareshot.data.readers import read_listing
from rareshot.data.tables import Problem
from rareshot.locks import alone

Array = npt.NDArray[Any]
Stamps = list[list[Any]]

DECODER = 1
"""Version of `decode`'s rules; a store of another one is built anew."""
CHUNK = 128
"""Images that are decoded, written and, after a kill, found again together."""
MAX_TABLE_BYTES = 512 * 2**20


def load(path: str | Path, size: int, rare: Sequence[str] = (), *, observe: Observe = ignore) -> LabelledImages:
    """The images at `path`, `size` pixels square: from the store if it is current, else after preparing it.

    Args:
        path: a data set in one of the layouts of `readers`, or a store.
        size: pixels a side, at least 1.
        rare: the rare classes; empty for those of a known data set.
        observe: told (images done, of how many) while preparing.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the data set has problems, an image cannot be decoded, or the store was changed.
    """
    _check_size(size)
    path = Path(path)
    if (path / MANIFEST).is_file() and (path / PIXELS).is_file():
        return _open_as_asked(path, size, tuple(rare))
    listing = _sound_listing(path, rare)
    if listing.pixels is not None:
        return _from_array(listing, size)
    folder = _default_folder(path, size, listing)
    if _staleness(folder, listing, _stamps(listing), size):
        prepare(path, size, rare=rare, observe=observe)
    return replace(_settled(folder), card=listing.card)  # as asked, whatever another process asks for at this moment


def prepare(
    path: str | Path,
    size: int,
    out: str | Path | None = None,
    rare: Sequence[str] = (),
    *,
    observe: Observe = ignore,
) -> Path:
    """Decodes a data set into a store and returns the store's folder; goes on where an earlier call was killed.

    Args:
        path: a data set in one of the layouts of `readers`, of image files.
        size: pixels a side, at least 1.
        out: the store's folder; None for `.rareshot/` beside the data, or the user's cache where that is not writable.
        rare: the rare classes; empty for those of a known data set.
        observe: told (images done, of how many).

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the data set has problems, an image cannot be decoded, or the store cannot be written.
    """
    _check_size(size)
    path = Path(path)
    listing = _sound_listing(path, rare)
    if listing.pixels is not None:
        raise ValueError(f"{path}: an .npz file needs no store; load reads it as it is")
    folder = Path(out) if out is not None else _default_folder(path, size, listing)
    try:
        make_folder(folder)
        with alone(folder, wait=True):
            stamps = _stamps(listing)
            stale = _staleness(folder, listing, stamps, size)
            decode_anew = stale == "pixels" or bool(damage(folder))
            if decode_anew:
                _write_pixels(path, folder, listing, stamps, size, observe)
            if decode_anew or stale:
                _write_table(folder, listing, stamps, size)
            observe(len(listing), len(listing))
    except OSError as error:
        way_out = "name another folder (out)"
        if out is None:
            way_out = (
                f"make it elsewhere, `rareshot data prepare {path} --size {size} --out STORE`, and give STORE as --data"
            )
        raise ValueError(f"{folder}: the store cannot be written ({error.strerror}); {way_out}") from error
    return folder


def open_store(folder: str | Path) -> LabelledImages:
    """The images of a store, mapped into memory, after its files were checked against their SHA-256.

    Raises:
        FileNotFoundError: if `folder` holds no store.
        ValueError: if a file of it was changed, naming the file.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder}: no store here (no {MANIFEST}); make one with: rareshot data prepare")
    changed = damage(folder)
    if changed:
        raise ValueError(f"{folder / changed}: was changed since the store was made; run prepare again")
    try:
        table = json.loads(read_file(folder / TABLE, limit=MAX_TABLE_BYTES))
        if not all(isinstance(name, str) for name in table["classes"]):
            raise ValueError("a class is called by something that is no text")
        return _assemble(table, np.lib.format.open_memmap(folder / PIXELS, mode="r"))  # neither zip nor pickle
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, TokenError) as error:
        raise ValueError(f"{folder}: is not a sound store ({error}); run prepare again") from error


def _settled(folder: Path) -> LabelledImages:
    """As `open_store`; where another process may be writing the table just now, when it is through."""
    try:
        return open_store(folder)
    except ValueError:
        if not is_writable(folder):
            raise
        with alone(folder, wait=True):
            return open_store(folder)


def _sound_listing(path: Path, rare: Sequence[str]) -> Listing:
    listing = read_listing(path, rare)
    refuse(path, listing.problems)
    return listing


def _default_folder(path: Path, size: int, listing: Listing) -> Path:
    """Beside the data, if it can be written there or a current store stands there; else in the user's cache."""
    near = beside(path, size)
    if is_writable(near.parent.parent) or not _staleness(near, listing, _stamps(listing), size):
        return near
    return in_cache(path, size)


def _check_size(size: int) -> None:
    if not 1 <= size <= 4096:
        raise ValueError(f"size must be 1 to 4096 pixels; got {size}")


def _open_as_asked(folder: Path, size: int, rare: tuple[str, ...]) -> LabelledImages:
    images = open_store(folder)
    if images.size != size:
        raise ValueError(
            f"{folder}: holds images of {images.size} pixels, not {size}; name the data set it was made from"
        )
    rare = in_known_form(rare, images.classes)
    unknown = sorted(set(rare) - set(images.classes))
    if unknown:
        raise ValueError(f"{folder}: no class {', '.join(unknown)} to be rare; there are {', '.join(images.classes)}")
    if not rare:
        return images
    common = tuple(name for name in images.classes if name not in rare)
    return replace(images, card=replace(images.card, rare=rare, common=common))


def _from_array(listing: Listing, size: int) -> LabelledImages:
    source = listing.pixels
    assert source is not None
    pixels = source
    if source.shape[1] != size:
        need = len(source) * size * size * 3
        if need > MAX_ARRAY_BYTES:
            raise ValueError(
                f"{len(source):,} images of {size} pixels take {need / 2**30:.0f} GiB of memory; at most "
                f"{MAX_ARRAY_BYTES / 2**30:.0f} are used for a .npz: take a smaller --size"
            )
        pixels = np.empty((len(source), size, size, 3), np.uint8)
        for i, image in each(lambda image: square(Image.fromarray(image), size), list(source)):
            pixels[i] = image
    return _assemble(_table(listing), pixels)


def _assemble(table: dict[str, Any], pixels: Array) -> LabelledImages:
    return LabelledImages(
        pixels=pixels,
        labels=np.array(table["labels"], dtype=np.int64),
        classes=tuple(table["classes"]),
        groups=np.array(table["groups"], dtype=np.int64),
        ids=np.array(table["ids"]),
        card=_card(table["card"]),
        columns={name: np.array(values) for name, values in table["columns"].items()},
        sources=np.array(table["sources"]) if "sources" in table else None,
    )


def _card(values: dict[str, Any]) -> DataCard:
    """As a store has written it, or a stranger: results go into a folder of its name."""
    told: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}
    card = DataCard(**told)
    texts = (card.name, card.title, card.site_column, card.licence, card.citation, *card.common, *card.rare)
    if not all(isinstance(text, str) for text in (*texts, *card.classes.values())):
        raise ValueError("its card has something that is no text where a text should be")
    if card.name in (".", "..") or set(card.name) & set("/\\\0"):
        raise ValueError(f"its card is called {card.name!r}, which is no folder's name")
    return card


def _table(listing: Listing) -> dict[str, Any]:
    number = {name: label for label, name in enumerate(listing.classes)}
    return {
        "classes": listing.classes,
        "labels": [number[name] for name in listing.labels],
        "groups": number_groups(listing.groups).tolist(),
        "ids": listing.ids,
        "columns": dict(listing.columns),
        "card": asdict(listing.card),
    }


def _write_pixels(path: Path, folder: Path, listing: Listing, stamps: Stamps, size: int, observe: Observe) -> None:
    n, image_bytes = len(listing), size * size * 3
    step = max(1, min(CHUNK, 32 * 2**20 // image_bytes))
    chunks = folder / CHUNKS
    chunks.mkdir(exist_ok=True)
    spans = [range(start, min(start + step, n)) for start in range(0, n, step)]
    files = [chunks / f"{digest(DECODER, size, [stamps[i] for i in span])[:32]}.npy" for span in spans]
    todo = [i for i, file in enumerate(files) if not file.is_file()]
    need = sum(len(spans[i]) for i in todo) * image_bytes + n * image_bytes
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ValueError(
            f"{folder}: needs {need >> 20} MiB of disk to prepare, {free >> 20} are free; choose another out"
        )

    def decode_chunk(i: int) -> list[Problem]:
        pixels, bad = np.empty((len(spans[i]), size, size, 3), np.uint8), []
        for row, image in enumerate(spans[i]):
            try:
                pixels[row] = decode(listing.root / listing.files[image], size)
            except BadFileError as error:
                bad.append(Problem(listing.files[image], error.reason))
        if not bad:
            with replacing(files[i]) as out:
                np.save(out, pixels, allow_pickle=False)
        return bad

    done, bad = n - sum(len(spans[i]) for i in todo), []
    observe(done, n)
    for position, problems in each(decode_chunk, todo):
        bad += problems
        done += len(spans[todo[position]])
        observe(done, n)
    refuse(path, sorted(bad, key=lambda problem: problem.name), of="unreadable image")
    with replacing(folder / PIXELS) as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, size, size, 3)}
        np.lib.format.write_array_header_1_0(out, header)
        for file in files:
            out.write(np.load(file, allow_pickle=False).data)


def _write_table(folder: Path, listing: Listing, stamps: Stamps, size: int) -> None:
    sources = [facts(listing.root / file)["sha256"] for file in listing.files]
    table = {**_table(listing), "sources": sources}
    with replacing(folder / TABLE) as out:
        out.write(as_json(table))
    images = _assemble(table, np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False))
    manifest = {
        "format": FORMAT,
        "size": size,
        "images": len(images),
        "layout": listing.layout,
        "source": digest(DECODER, size, stamps),
        "table": digest(_table(listing)),
        "fingerprint": images.fingerprint(),
        "files": {name: facts(folder / name) for name in (PIXELS, TABLE)},
        "versions": {"pillow": PIL.__version__, "numpy": np.__version__},
    }
    with replacing(folder / MANIFEST) as out:
        out.write(as_json(manifest))
    shutil.rmtree(folder / CHUNKS, ignore_errors=True)


def _staleness(folder: Path, listing: Listing, stamps: Stamps, size: int) -> str:
    """What a store lacks to be that of `listing`: "pixels", "table" or ""."""
    manifest = read_manifest(folder)
    if manifest.get("source") != digest(DECODER, size, stamps):
        return "pixels"
    return "" if manifest.get("table") == digest(_table(listing)) else "table"


def _stamps(listing: Listing) -> Stamps:
    """What tells that an image file is still the same: name, size, time of change."""
    stamps: Stamps = []
    root = os.fspath(listing.root)
    for file in listing.files:
        try:
            status = os.stat(os.path.join(root, file))
            stamps.append([file, status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([file, -1, -1])
    return stamps

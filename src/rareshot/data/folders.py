"""Folders as they are: what a folder holds, and the layout "a folder a class", Dermofit's among them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rareshot.data.cards import DERMOFIT, DataCard
from rareshot.data.decode import SUFFIXES
from rareshot.data.files import is_bare_dicom
from rareshot.data.listing import Entry, Listing, list_entries
from rareshot.data.tables import SUFFIXES as TABLE_SUFFIXES
from rareshot.data.tables import Problem, header_of


@dataclass(frozen=True)
class Folder:
    """Names in a folder, sorted; hidden ones left out. Links count as what they point to."""

    path: Path
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def scan(path: Path) -> Folder:
    """What `path` holds; a folder that is missing or may not be read is empty and says so in `problems`."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        return Folder(path, problems=(Problem(str(path), f"folder cannot be read: {error.strerror or error}"),))
    return Folder(path, tuple(sorted(files)), tuple(sorted(folders)))


def is_image(path: Path) -> bool:
    """Is this an image file by its suffix, or DICOM without one?"""
    return _has_suffix(path.name) or is_bare_dicom(path)


def read_folder_a_class(
    root: Path, names: Folder, rare: tuple[str, ...], *, known: Sequence[DataCard]
) -> Listing | None:
    """The listing of a folder a class, or None if no folder in `root` holds an image.

    A folder inside a class is a group (Dermofit: a lesion); an image directly in its class is a group of its own.
    """
    problems: list[Problem] = list(names.problems)
    left_out = [Problem(name, "is in no class folder") for name in names.files if is_image(root / name)]
    entries: list[Entry] = []
    for label in names.folders:
        folder = scan(root / label)
        problems += folder.problems
        before = len(entries)
        entries += _images(folder, label, "", left_out)
        for group in folder.folders:
            inner = scan(root / label / group)
            if _has_suffix(group):
                problems.append(Problem(f"{label}/{group}", "is a folder, not an image file"))
                continue
            problems += inner.problems
            entries += _images(inner, label, group, left_out)
            left_out += [
                Problem(f"{label}/{group}/{deep}", "folder is too deep to look into") for deep in inner.folders
            ]
        if len(entries) == before:
            left_out.append(Problem(label, "holds no image file, so it is no class"))
    if not entries and not problems:
        return None
    if {entry.label for entry in entries} == {"images"}:
        problems.append(
            Problem("images", "is the only folder, and there is no labels.csv beside it to name the classes")
        )
    for name in (name for name in names.files if name.lower().endswith(TABLE_SUFFIXES)):
        header = set(header_of(root / name))
        if {"path", "label"} <= header or {"image_id", "dx"} <= header:
            problems.append(
                Problem(name, "names labels, and beside it the folders do: give the table itself, or move it away")
            )
        else:
            left_out.append(Problem(name, "is not read: the folders name the classes"))
    has_lesions = any(entry.group != entry.file for entry in entries)
    is_dermofit = has_lesions and len(names.folders) > 1 and set(names.folders) <= set(DERMOFIT.classes)
    if is_dermofit:
        left_out += [Problem(entry.file, "is a mask") for entry in entries if _is_mask(entry.file)]
        entries = [entry for entry in entries if not _is_mask(entry.file)]
        problems += [
            Problem(name, "is not unpacked")
            for name in names.files
            if name.endswith(".zip") and name[:-4] in DERMOFIT.classes and name[:-4] not in names.folders
        ]
    return list_entries(
        root,
        "Dermofit; groups are lesions" if is_dermofit else "a folder a class; groups are the folders inside, if any",
        entries,
        name=root.resolve().name,
        card=DERMOFIT if is_dermofit else None,
        known=known,
        rare=rare,
        problems=problems,
        left_out=left_out,
    )


def _images(folder: Folder, label: str, group: str, left_out: list[Problem]) -> list[Entry]:
    prefix = f"{label}/{group}/" if group else f"{label}/"
    entries = []
    for name in folder.files:
        file = prefix + name
        if is_image(folder.path / name):
            entries.append(Entry(file, label, f"{label}/{group}" if group else file, file, file))
        else:
            left_out.append(Problem(file, "is not an image file by its suffix"))
    return entries


def _has_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _is_mask(file: str) -> bool:
    return os.path.splitext(file)[0].lower().endswith("mask")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: a file that cannot be opened, which decoding will name
        return False

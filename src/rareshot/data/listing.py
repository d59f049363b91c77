"""`Listing`: what a data set holds, before an image is opened (§2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rareshot.data.cards import DataCard
from rareshot.data.files import in_known_form, one_form
from rareshot.data.tables import Problem

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """One image as a layout describes it."""

    id: str
    label: str
    group: str
    """Lesion or patient: images of one group never stand on both sides of an episode."""
    file: str
    """Path relative to the root, or "" where pixels come in an array."""
    where: str
    """What an error calls it: a row of a table, or the file."""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a data set by name; one entry an image in `ids`, `labels`, `groups`, `files` and each column."""

    root: Path
    layout: str
    """Which of the known layouts it has, in words."""
    card: DataCard
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    files: tuple[str, ...]
    """Paths relative to `root`; all "" where `pixels` is given."""
    columns: Mapping[str, tuple[str, ...]]
    pixels: Array | None = None
    """(n, h, w, 3) uint8, in the order of the ids, for an .npz file."""
    problems: tuple[Problem, ...] = ()
    """What is wrong; `load` refuses the set if there is any."""
    left_out: tuple[Problem, ...] = ()
    """Files that are there and that nobody asks for, with the reason."""

    def __len__(self) -> int:
        return len(self.ids)


def list_entries(
    root: Path,
    layout: str,
    entries: Sequence[Entry],
    *,
    name: str,
    card: DataCard | None = None,
    known: Sequence[DataCard] = (),
    rare: tuple[str, ...] = (),
    problems: Sequence[Problem] = (),
    left_out: Sequence[Problem] = (),
    pixels: Array | None = None,
) -> Listing:
    """Puts entries together, leaving out, by name, those with a doubled id, no label or group, or an unknown label.

    Args:
        root: the folder that the files are relative to.
        layout: its layout, in words.
        entries: the images.
        name: the name of a set of one's own.
        card: the card, where the layout says which; else one of `known` whose classes are all there, else a new one.
        known: cards to choose from by class names.
        rare: the rare classes; all others are common. Empty: as the card says.
        problems: what the layout has found wrong already.
        left_out: files nobody asks for.
        pixels: the images, where they come in an array; kept in step with the entries.
    """
    found = list(problems)
    kept = _sound(entries, found)
    seen = {entry.label for _, entry in kept}
    fitting = [one for one in known if set(one.classes) <= seen and not (rare and seen - set(one.classes))]
    chosen = card or next(iter(fitting), None)
    if chosen is not None:
        classes = tuple(chosen.classes)
        for _, entry in kept:
            if entry.label not in chosen.classes:
                reason = f"label {entry.label!r} is not a class of {chosen.name} ({', '.join(classes)}); "
                found.append(
                    Problem(entry.where, reason + "correct it, or name the rare classes of your own set (rare)")
                )
        kept = [(i, entry) for i, entry in kept if entry.label in chosen.classes]
    else:
        classes = tuple(sorted(seen))
        chosen = DataCard(name=name, title=name, classes={label: label for label in classes}, common=classes)
    found += _alike(classes)
    chosen = _with_rare(chosen, rare, found)
    if not kept and not found:
        found.append(Problem(str(root), "holds no image"))
    names = list(dict.fromkeys(column for _, entry in kept for column in entry.columns))
    return Listing(
        root=root,
        layout=layout,
        card=chosen,
        classes=classes,
        ids=tuple(entry.id for _, entry in kept),
        labels=tuple(entry.label for _, entry in kept),
        groups=tuple(entry.group for _, entry in kept),
        files=tuple(entry.file for _, entry in kept),
        columns={column: tuple(entry.columns.get(column, "") for _, entry in kept) for column in names},
        pixels=pixels if pixels is None or len(kept) == len(pixels) else pixels[[i for i, _ in kept]],
        problems=tuple(found),
        left_out=tuple(left_out),
    )


def refuse(path: Path, problems: Sequence[Problem], *, of: str = "problem") -> None:
    """Raises if there are problems: how many, the first three, and where the whole list is.

    Raises:
        ValueError: as said.
    """
    if problems:
        first = "; ".join(map(str, problems[:3])) + ("; …" if len(problems) > 3 else "")
        count = f"{len(problems)} {of}{'' if len(problems) == 1 else 's'}"
        raise ValueError(f"{path}: {count}: {first}. The whole list: rareshot data check {path}")


def _sound(entries: Sequence[Entry], found: list[Problem]) -> list[tuple[int, Entry]]:
    first: dict[str, Entry] = {}
    of_file: dict[str, Entry] = {}
    kept = []
    for i, entry in enumerate(entries):
        reason = ""
        if not entry.label:
            reason = "has no label"
        elif not entry.group:
            reason = "has no group; an image that stands alone is a group of its own: give it a name"
        elif not _is_text(entry.id + entry.label + entry.group + entry.file):
            reason = "has a file name that is not UTF-8 text; rename it"
        elif before := first.get(entry.id) or of_file.get(entry.file):
            same = entry.label == before.label
            what = repr(entry.id) if entry.id == before.id else f"the file {entry.file!r}"
            reason = f"repeats {what} of {before.where}" + ("" if same else ", with another label")
        if reason:
            found.append(Problem(entry.where, reason))
        else:
            first[entry.id] = entry
            if entry.file:
                of_file[entry.file] = entry
            kept.append((i, entry))
    return kept


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _alike(classes: Sequence[str]) -> list[Problem]:
    """Names that are one to a reader: a class would be trained on under the one, and kept unseen under the other."""
    first: dict[str, str] = {}
    return [
        Problem(name, f"is the class {first[key]!r} but for case or the form of its letters: give both one name")
        for name in classes
        if first.setdefault(key := one_form(name).casefold(), name) != name
    ]


def _with_rare(card: DataCard, rare: tuple[str, ...], found: list[Problem]) -> DataCard:
    if not rare:
        return card
    rare = in_known_form(rare, card.classes)
    unknown = [label for label in rare if label not in card.classes]
    for label in unknown:
        found.append(Problem(f"rare class {label!r}", f"is not in the data; there are {', '.join(card.classes)}"))
    rare = tuple(dict.fromkeys(label for label in rare if label in card.classes))
    return replace(card, rare=rare, common=tuple(label for label in card.classes if label not in rare))

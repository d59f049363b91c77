"""From a path to a `Listing`: finds which of the known layouts a data set has; reads names, labels and groups.

1. ISIC 2018 Task 3 as published: ISIC2018_Task3_Training_Input/, …GroundTruth.csv (one-hot), …LesionGroupings.csv
2. HAM10000 as published: HAM10000_images_part_1/, _2/, HAM10000_metadata
3. images/ and labels.csv with columns image_id, dx, and patient_id or lesion_id
4. a table (CSV, TSV) with columns path, label [, group] [, split] [, more]; paths relative to the table
5. a folder a class; folders inside a class are groups
6. a MedMNIST-style .npz
7. Dermofit: a folder a class, a folder a lesion; masks left out
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from rareshot.data.cards import DERMOFIT, ISIC2018, PAD_UFES_20, DataCard
from rareshot.data.decode import SUFFIXES
from rareshot.data.files import BadFileError, is_bare_dicom, one_form
from rareshot.data.folders import Folder, is_image, read_folder_a_class, scan
from rareshot.data.listing import Entry, Listing, list_entries
from rareshot.data.medmnist import read_npz
from rareshot.data.tables import SUFFIXES as SUFFIXES_OF_TABLES
from rareshot.data.tables import Problem, Row, Table, read_table

TABLE_SUFFIXES = (*SUFFIXES_OF_TABLES, ".txt")
GROUP_COLUMNS = ("group", "patient_id", "lesion_id")
"""Which column says the group, the first that is there: two lesions of one patient are closer than two patients."""
KNOWN = (ISIC2018, PAD_UFES_20, DERMOFIT)
"""Cards that a set of names and labels alone can be recognised by."""

_ISIC = "ISIC2018_Task3_Training"
_HELP = (
    "known are: images/ with labels.csv (image_id, dx, lesion_id or patient_id); a table of path,label[,group]; "
    "a folder a class; a MedMNIST .npz; ISIC 2018 Task 3, HAM10000 and Dermofit as published"
)


def read_listing(path: str | Path, rare: Sequence[str] = (), *, known: Sequence[DataCard] = KNOWN) -> Listing:
    """What is at `path`, without opening an image.

    Args:
        path: a folder, a table or an .npz file.
        rare: the rare classes; empty for those of a known data set.
        known: cards by which a table of labels, or folders, may be known.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it has none of the known layouts. Single faults are not raised but listed in `problems`.
    """
    path, rare = Path(path), tuple(rare)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: no such folder or file; give the folder of a data set, a table or an .npz"
        ) from error
    except (OSError, ValueError) as error:
        raise BadFileError(str(path), f"cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        return _read_folder(path, rare, known)
    suffix = path.suffix.lower()
    if not stat.S_ISREG(mode):
        raise BadFileError(str(path), "is not a regular file but a pipe, socket or device")
    if suffix == ".npz":
        return read_npz(path, rare)
    if suffix not in TABLE_SUFFIXES:
        raise BadFileError(str(path), f"is not a folder, a table ({', '.join(TABLE_SUFFIXES)}) or an .npz file")
    return _read_labels(path.parent, path.stem, read_table(path), rare, known)


def _read_folder(root: Path, rare: tuple[str, ...], known: Sequence[DataCard]) -> Listing:
    names = scan(root)
    if f"{_ISIC}_Input" in names.folders:
        return _read_isic(root, rare)
    metadata = [name for name in names.files if name.lower().split(".")[0] == "ham10000_metadata"]
    if metadata:
        return _read_ham(root, names, metadata[0], rare)
    labels = [name for name in ("labels.csv", "labels.tsv") if name in names.files]
    if labels:
        return _read_labels(root, root.resolve().name, read_table(root / labels[0]), rare, known)
    listing = read_folder_a_class(root, names, rare, known=known)
    if listing is not None:
        return listing
    if {"manifest.json", "pixels.npy"} <= set(names.files):
        raise BadFileError(
            str(root),
            "is a store made by `data prepare`: give it as --data as it is, and look over the set that it was made of",
        )
    archives = [name for name in names.files if name.lower().endswith((".zip", ".tar", ".gz", ".7z"))]
    if archives:
        raise BadFileError(str(root), f"holds only archives ({', '.join(archives[:3])}): unpack them there first")
    arrays = [name for name in names.files if name.lower().endswith(".npz")]
    if arrays:
        raise BadFileError(str(root), f"holds .npz files; name one of them, for instance {root / arrays[0]}")
    tables = [name for name in names.files if name.lower().endswith(TABLE_SUFFIXES)]
    if tables:
        raise BadFileError(
            str(root), f"has no labels.csv; if {tables[0]} is the table of path,label, name that: {root / tables[0]}"
        )
    images = sum(is_image(root / name) for name in names.files)
    if images:
        raise BadFileError(
            str(root),
            f"holds {images} images and no labels: put those of each class into a folder of their own; {_HELP}",
        )
    raise BadFileError(str(root), f"has no layout that rareshot knows; {_HELP}")


def _read_labels(root: Path, name: str, table: Table, rare: tuple[str, ...], known: Sequence[DataCard]) -> Listing:
    has_images = (root / "images").is_dir() and not {"path", "label"} <= set(table.header)
    return (_read_images if has_images else _read_table_of_paths)(root, name, table, rare, known)


def _read_isic(root: Path, rare: tuple[str, ...]) -> Listing:
    truth_name, groups_name = f"{_ISIC}_GroundTruth", f"{_ISIC}_LesionGroupings.csv"
    truth = _read_first(root / truth_name / f"{truth_name}.csv", root / f"{truth_name}.csv")
    grouping = _read_first(root / groups_name, root / truth_name / groups_name)
    columns = {name.upper(): name for name in ISIC2018.classes}
    lacking = truth.lacking(("image", *columns)) + grouping.lacking(("image", "lesion_id"))
    problems = [*truth.problems, *grouping.problems, *lacking]
    if lacking:
        truth, grouping = Table(truth.name), Table(grouping.name)
    lesions = {row.fields["image"]: row for row in grouping.rows}
    images = _Images((scan(root / f"{_ISIC}_Input"),), root)
    entries = []
    for row in truth.rows:
        name, positive = row.fields["image"], [column for column in columns if _is_one(row.fields[column])]
        file = images.find(row, name, problems)
        if len(positive) != 1:
            problems.append(
                Problem(row.where, f"must have 1 in one class column; has it in {', '.join(positive) or 'none'}")
            )
        elif file and name not in lesions:
            problems.append(Problem(row.where, f"image {name!r} has no row in {groups_name}, so its lesion is unknown"))
        elif file:
            lesion = lesions[name].fields
            extra = {"lesion_id": lesion["lesion_id"]}
            if "diagnosis confirm type" in lesion:
                extra["dx_type"] = lesion["diagnosis confirm type"]
            entries.append(Entry(name, columns[positive[0]], lesion["lesion_id"], file, row.where, extra))
    left_out = images.left_out()
    layout = "ISIC 2018 Task 3 as published; groups are lesions"
    return list_entries(
        root, layout, entries, name=root.name, card=ISIC2018, rare=rare, problems=problems, left_out=left_out
    )


def _read_ham(root: Path, names: Folder, metadata: str, rare: tuple[str, ...]) -> Listing:
    table = read_table(root / metadata)
    problems = [*table.problems, *table.lacking(("lesion_id", "image_id", "dx"))]
    parts = [name for name in names.folders if name.lower().startswith("ham10000_images")]
    if not parts:
        problems.append(Problem(root.name, "has no folder HAM10000_images_part_1 or _2; unpack the images there"))
    images = _Images([scan(root / part) for part in parts], root)
    rows = () if table.lacking(("lesion_id", "image_id", "dx")) else table.rows
    # The Dataverse edition calls the acquisition site "dataset".
    rows = tuple(
        Row(row.where, {"site" if key == "dataset" else key: value for key, value in row.fields.items()})
        for row in rows
    )
    entries = _entries(rows, images, "lesion_id", problems) if parts else []
    return list_entries(
        root,
        "HAM10000 as published; groups are lesions",
        entries,
        name=root.name,
        card=ISIC2018,
        rare=rare,
        problems=problems,
        left_out=images.left_out(),
    )


def _read_images(root: Path, name: str, table: Table, rare: tuple[str, ...], known: Sequence[DataCard]) -> Listing:
    lacking = table.lacking(("image_id", "dx"))
    if lacking:
        lacking.append(Problem(table.name, "needs image_id and dx with a folder images/, or path and label"))
    images = _Images((scan(root / "images"),), root)
    problems = [*table.problems, *lacking, *images.folders[0].problems]
    entries = [] if lacking else _entries(table.rows, images, _group_column(table.header), problems)
    return list_entries(
        root,
        f"images/ and {table.name}; {_group_words(table)}",
        entries,
        name=name,
        known=known,
        rare=rare,
        problems=problems,
        left_out=images.left_out(),
    )


def _read_table_of_paths(
    root: Path, name: str, table: Table, rare: tuple[str, ...], known: Sequence[DataCard]
) -> Listing:
    lacking = table.lacking(("path", "label"))
    if lacking:
        lacking.append(Problem(table.name, "needs path and label, or image_id and dx with a folder images/ beside it"))
    problems = [*table.problems, *lacking]
    group = _group_column(table.header)
    inside = _Inside(root)
    entries = []
    for row in () if lacking else table.rows:
        fault, file = inside.check(row.fields["path"])
        if fault:
            problems.append(Problem(row.where, fault))
            continue
        extra = {column: value for column, value in row.fields.items() if column not in ("path", "label")}
        entries.append(Entry(file, row.fields["label"], row.fields[group] if group else file, file, row.where, extra))
    layout = f"table of paths, {table.name}; {_group_words(table)}"
    return list_entries(root, layout, entries, name=name, known=known, rare=rare, problems=problems)


def _entries(rows: Sequence[Row], images: "_Images", group: str, problems: list[Problem]) -> list[Entry]:
    entries = []
    for row in rows:
        name = row.fields["image_id"]
        file = images.find(row, name, problems)
        if file:
            extra = {column: value for column, value in row.fields.items() if column not in ("image_id", "dx")}
            entries.append(Entry(name, row.fields["dx"], row.fields[group] if group else name, file, row.where, extra))
    return entries


def _read_first(*paths: Path) -> Table:
    return read_table(next((path for path in paths if os.path.lexists(path)), paths[0]))


def _is_one(text: str) -> bool:
    try:
        return float(text) == 1
    except ValueError:
        return False


def _group_column(header: Sequence[str]) -> str:
    by_name = {column.casefold(): column for column in reversed(header)} | {column: column for column in header}
    return next((by_name[column] for column in GROUP_COLUMNS if column in by_name), "")


def _group_words(table: Table) -> str:
    column = _group_column(table.header)
    return f"groups are {column}" if column else "no group column, so each image is its own group"


class _Images:
    """The image files of some folders by name, with and without suffix; the first folder that has a name gives it."""

    def __init__(self, folders: Sequence[Folder], root: Path) -> None:
        self.folders = tuple(folders)
        self._found: dict[str, list[str]] = {}
        self._used: set[str] = set()
        for folder in folders:
            here: dict[str, list[str]] = {}
            for name in (*folder.files, *folder.folders):
                stem, suffix = os.path.splitext(name)
                file = f"{folder.path.relative_to(root).as_posix()}/{name}"
                if suffix.lower() in SUFFIXES:
                    here.setdefault(one_form(stem), []).append(file)
                    here.setdefault(one_form(name), []).append(file)
                elif is_bare_dicom(folder.path / name):
                    here.setdefault(one_form(name), []).append(file)
            self._found = here | self._found

    def find(self, row: Row, name: str, problems: list[Problem]) -> str:
        """The file of an image, or "" and a problem."""
        files = self._found.get(one_form(name), [])
        self._used.update(files)
        if len(files) == 1:
            return files[0]
        folders = ", ".join(f"{folder.path.name}/" for folder in self.folders)
        if not name:
            reason = "names no image"
        elif files:
            reason = f"image {name!r} could be {' or '.join(files)}: name it with its suffix"
        else:
            reason = f"image {name!r} is not in {folders or 'any folder'}"
        problems.append(Problem(row.where, reason))
        return ""

    def left_out(self) -> list[Problem]:
        """Image files that no row of the table names."""
        files = sorted({file for files in self._found.values() for file in files} - self._used)
        return [Problem(file, "has no row in the table") for file in files]


class _Inside:
    """Keeps the paths of a table inside its folder: no way up, no absolute path, no link that leads out."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._real: dict[str, str] = {}
        self._forms: dict[str, dict[str, str]] = {}

    def check(self, text: str) -> tuple[str, str]:
        """(what is wrong or "", the path with forward slashes)."""
        if not text:
            return "has no path", ""
        path = PurePosixPath(text.replace("\\", "/"))
        windows = PureWindowsPath(text)
        if path.is_absolute() or windows.drive or windows.root or ".." in path.parts:
            return f"path {text!r} must be relative to the table and inside its folder: no .., no absolute path", ""
        try:
            return self._check_links(text, path)
        except (OSError, ValueError) as error:
            return f"path {text!r} cannot be followed: {error}", ""

    def _check_links(self, text: str, path: PurePosixPath) -> tuple[str, str]:
        if not os.path.lexists(os.path.join(self._root, path)):
            path = self._as_on_disk(path)
        full = os.path.join(self._root, path)
        parent = os.path.dirname(full)
        real = self._real.setdefault(parent, os.path.realpath(parent))
        target = os.path.realpath(full) if os.path.islink(full) else os.path.join(real, path.name)
        if os.path.commonpath((self._root, target)) != self._root:
            return f"path {text!r} leads out of the folder of the table through a symbolic link", ""
        if not os.path.lexists(full):
            return f"file {text!r} does not exist", ""
        return "", str(path)

    def _as_on_disk(self, path: PurePosixPath) -> PurePosixPath:
        """With each name in the form that it has there (`one_form`)."""
        found = PurePosixPath()
        for part in path.parts:
            folder = os.path.join(self._root, found)
            if folder not in self._forms:
                self._forms[folder] = (
                    {one_form(name): name for name in os.listdir(folder)} if os.path.isdir(folder) else {}
                )
            found /= self._forms[folder].get(one_form(part), part)
        return found

"""MedMNIST-style .npz files: {train,val,test}_{images,labels}, 28 to 224 pixels, grey or RGB, no lesion ids."""

import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rareshot.data.cards import DERMAMNIST, DataCard
from rareshot.data.files import BadFileError
from rareshot.data.listing import Entry, Listing, list_entries

Array = npt.NDArray[Any]

SPLITS = ("train", "val", "test")
DERMAMNIST_LABELS = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Class names in the order of DermaMNIST's label numbers."""
MAX_ARRAY_BYTES = 8 * 2**30
"""Of all arrays together, unpacked; DermaMNIST at 224 pixels has 1.5 GB."""
MAX_IMAGES = 1_000_000
"""Of one array: each becomes a row in memory, however few bytes its pixels have; DermaMNIST has 10,015."""


def read_npz(path: Path, rare: tuple[str, ...]) -> Listing:
    """The listing of a MedMNIST-style file, with its pixels.

    Raises:
        ValueError: if the file is damaged, lacks an array, or holds images or labels of another shape.
    """
    arrays = _read_arrays(path)
    parts, numbers, splits = [], [], []
    for split in SPLITS:
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            raise BadFileError(str(path), f"has only one of {split}_images and {split}_labels")
        parts.append(_rgb(path, split, images))
        numbers += _numbers(path, split, labels, len(images))
        splits += [split] * len(images)
    if not parts:
        raise BadFileError(str(path), "needs train_images and train_labels (and val_, test_), and holds none of them")
    if len({part.shape[1:] for part in parts}) > 1:
        raise BadFileError(str(path), "holds images of different sizes in its splits")
    is_derma = "dermamnist" in path.stem.lower()
    outside = [number for number in numbers if number < 0 or (is_derma and number >= len(DERMAMNIST_LABELS))]
    if outside:
        raise BadFileError(
            str(path), f"holds label {outside[0]}; labels of this set start at 0" + (" and end at 6" * is_derma)
        )
    names = {number: DERMAMNIST_LABELS[number] if is_derma else str(number) for number in sorted(set(numbers))}
    entries = [
        Entry(f"{split}_{i:06d}", names[number], f"{split}_{i:06d}", "", f"{path.name} image {i}", {"split": split})
        for i, (number, split) in enumerate(zip(numbers, splits, strict=True))
    ]
    classes = {name: name for name in names.values()}
    own = DataCard(path.stem, f"{path.stem}; carries no lesion or patient ids", classes, common=tuple(classes))
    return list_entries(
        path.parent,
        "MedMNIST-style .npz; no lesion or patient ids, so each image is its own group",
        entries,
        name=path.stem,
        card=DERMAMNIST if is_derma else own,
        rare=rare,
        pixels=np.concatenate(parts),
    )


def _read_arrays(path: Path) -> dict[str, Array]:
    wanted = {f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename in wanted]
            size = sum(member.file_size for member in members)
            if size > MAX_ARRAY_BYTES:
                raise BadFileError(str(path), f"unpacks to {size} bytes; at most {MAX_ARRAY_BYTES} are read")
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = _read_array(path, file, member)
            return arrays
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        struct.error,
        UnicodeDecodeError,
        MemoryError,
    ) as error:
        raise BadFileError(str(path), f"is not a sound .npz file: {error}") from error


def _read_array(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> Array:
    # The header is read first: numpy would set aside whatever memory a forged shape asks for.
    name = member.filename
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        TokenError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise BadFileError(str(path), f"array {name} is not a sound array: {str(error)[:200]}") from error
    if dtype.kind not in "iu" or fortran:
        raise BadFileError(str(path), f"array {name} must hold integers in C order; got {dtype}")
    need = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= need <= member.file_size:
        raise BadFileError(str(path), f"array {name} claims {shape} {dtype}, more than the file holds")
    if shape and shape[0] > MAX_IMAGES:
        raise BadFileError(str(path), f"array {name} has {shape[0]:,} rows; at most {MAX_IMAGES:,} are read")
    data = file.read()
    if len(data) != need:
        raise BadFileError(str(path), f"array {name} is truncated: {len(data)} of {need} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _rgb(path: Path, split: str, images: Array) -> Array:
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)) or 0 in images.shape[1:]:
        raise BadFileError(
            str(path), f"{split}_images must be (n, h, w) or (n, h, w, 3) uint8; got {images.shape} {images.dtype}"
        )
    if images.shape[1] != images.shape[2]:
        raise BadFileError(str(path), f"{split}_images must be square; got {images.shape[1]} x {images.shape[2]}")
    return np.repeat(images[..., None], 3, axis=3) if grey else images


def _numbers(path: Path, split: str, labels: Array, n: int) -> list[int]:
    if labels.shape not in ((n,), (n, 1)):
        raise BadFileError(str(path), f"{split}_labels must be one number an image, ({n}, 1); got {labels.shape}")
    numbers: list[int] = labels.reshape(-1).tolist()
    return numbers

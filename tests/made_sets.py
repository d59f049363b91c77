"""Small data sets in each known layout, made for the tests of the data room."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hostile import encoded, noise
from PIL import Image

ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def picture(kind: str = "JPEG") -> bytes:
    return encoded(Image.fromarray(noise(30, 40)), kind)


def put(file: Path, kind: str = "JPEG") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture(kind))


def table(file: Path, header: str, rows: Sequence[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return file


def make_isic(root: Path, *, beside: bool = False, each: int = 4) -> Path:
    """ISIC 2018 Task 3 as published; two images a lesion."""
    prefix = "ISIC2018_Task3_Training"
    truth, lesions = [], []
    for label in range(7 * each):
        name = f"ISIC_{label:07d}"
        put(root / f"{prefix}_Input" / f"{name}.jpg")
        truth.append(name + "," + ",".join("1.0" if label // each == column else "0.0" for column in range(7)))
        lesions.append(f"{name},HAM_{label // 2:07d},histopathology")
    folder = root if beside else root / f"{prefix}_GroundTruth"
    table(folder / f"{prefix}_GroundTruth.csv", "image," + ",".join(ISIC_CLASSES), truth)
    table(root / f"{prefix}_LesionGroupings.csv", "image,lesion_id,diagnosis confirm type", lesions)
    return root


def make_ham(root: Path, *, metadata: str = "HAM10000_metadata.csv", each: int = 4) -> Path:
    """HAM10000 as published; two images a lesion."""
    rows = []
    separator = "\t" if metadata.endswith(".tab") else ","
    for i in range(7 * each):
        name, label = f"ISIC_{i:07d}", ISIC_CLASSES[i // each].lower()
        put(root / f"HAM10000_images_part_{1 + i % 2}" / f"{name}.jpg")
        rows.append(separator.join((f"HAM_{i // 2}", name, label, "histo", "45", "male", "back", "rosendahl")))
    header = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")
    table(root / metadata, separator.join(header), rows)
    return root


def make_images(root: Path, labels: Sequence[str], *, each: int = 4, column: str = "lesion_id") -> Path:
    """images/ and labels.csv; two images a group."""
    rows = []
    for i in range(len(labels) * each):
        put(root / "images" / f"p{i:03d}.jpg")
        rows.append(f"p{i:03d},{labels[i // each]},g{i // 2},site{i % 3}")
    table(root / "labels.csv", f"image_id,dx,{column},site", rows)
    return root


def make_table(root: Path, rows: Sequence[str], *, header: str = "path,label,group", name: str = "set.csv") -> Path:
    """A table of paths, with the files a.jpg, sub/b.jpg and c.png beside it."""
    put(root / "a.jpg")
    put(root / "sub" / "b.jpg")
    put(root / "c.png", "PNG")
    return table(root / name, header, rows)


def make_class_folders(root: Path, *, each: int = 4) -> Path:
    """A folder a class: wart, mole, scar."""
    for label in ("wart", "mole", "scar"):
        for i in range(each):
            put(root / label / f"{i}.png", "PNG")
    return root


def make_dermofit(root: Path, *, lesions: int = 2) -> Path:
    """Dermofit: a folder a class, a folder a lesion, an image and its mask."""
    for label in ("AK", "BCC", "ML", "SCC", "SK", "IEC", "PYO", "VASC", "DF", "MEL"):
        for lesion in range(lesions):
            put(root / label / f"{label}{lesion}" / f"{label}{lesion}.png", "PNG")
            put(root / label / f"{label}{lesion}" / f"{label}{lesion}mask.png", "PNG")
    return root


def make_npz(file: Path, *, size: int = 28, grey: bool = False, classes: int = 7, **other: np.ndarray) -> Path:
    """A MedMNIST-style file with 14 training, 7 validation and 7 test images."""
    arrays: dict[str, np.ndarray] = {}
    for split, n in (("train", 14), ("val", 7), ("test", 7)):
        shape = (n, size, size) if grey else (n, size, size, 3)
        arrays[f"{split}_images"] = np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    np.savez(file, **(arrays | other))
    return file

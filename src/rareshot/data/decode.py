"""One image file → a square RGB array: the centre square, resized with antialiasing.

By content: what Pillow reads (`FORMATS`) here; HEIC by pillow-heif (extra `heic`); DICOM in `dicom` (extra `dicom`).

What becomes of each kind of picture, so that two readers of one file agree:

- turned as its EXIF orientation says (HEIC: as the file's own turns say), then the centre square; colour profiles are
  not applied;
- 16-bit grey: v / 257, rounded: 0 to 65535 becomes 0 to 255 (a plain `convert("RGB")` would clip at 255);
- 32-bit integer grey: read as 16-bit if every value is within 0 to 65535, else the least and largest value become black
  and white;
- floating-point grey: white is the smallest of 1, 255, 65535 that no value exceeds; if none, or with negative values,
  the least and largest value become black and white; values that are not finite are refused;
- transparent parts, of a palette too, lie on white; CMYK, YCbCr, LAB, palettes and 1-bit pictures become RGB;
- of several pages or frames the first counts; of a HEIC file the one that it calls primary.
"""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from rareshot.data.files import BadFileError, is_dicom, read_file
from rareshot.data.limits import MAX_PIXELS, RefusedError, TimedBytes, quiet, refuse_scans, refuse_size, too_large

Array = npt.NDArray[Any]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
"""The only formats that are opened with Pillow alone; by content, whatever the suffix says."""
SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
        *(".dcm", ".dicom", ".heic", ".heif"),
    ]
)
"""Names of image files, in lower case; DICOM files may have none (`files.is_bare_dicom`)."""
MAX_BYTES = 512 * 2**20

_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"GIF8")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture as an array, and the width and height that its file states."""

    pixels: Array
    width: int
    height: int


def decode(path: str | Path, size: int) -> Array:
    """The centre square of an image file as (size, size, 3) uint8 RGB.

    Raises:
        ValueError: naming the file and the reason, if it is not a readable image of at most 100 megapixels.
    """
    return decode_bytes(read_file(path, limit=MAX_BYTES), size, name=str(path)).pixels


def decode_bytes(data: bytes, size: int, *, name: str) -> Decoded:
    """As `decode`, from the bytes of a file; `name` is what an error calls it.

    Raises:
        ValueError: as `decode`.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}")
    try:
        with quiet(), _opened(data) as image:
            width, height = image.size
            _refuse_bomb(image, data)
            # DCT scaling of a JPEG, to no less than twice what is needed: the rest is resized with antialiasing.
            if image.format != "HEIF":  # there it would take the preview instead of the picture
                image.draft(None, (2 * size, 2 * size))
            image.load()
            return Decoded(square(_to_rgb(_upright(image)), size), width, height)
    except Exception as error:  # Pillow's plugins raise nearly every kind there is on a forged file
        raise BadFileError(name, _reason(error, data)) from error


def square(image: Image.Image, size: int) -> Array:
    """The centre square of an RGB image as (size, size, 3) uint8, resized with antialiasing (bicubic)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: `resize(box=...)` would mix in pixels from beyond the box.
    cropped = image.crop((left, top, left + side, top + side))
    return np.array(cropped.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)


def _opened(data: bytes) -> Image.Image:
    """The picture, its pixels not decoded yet but for DICOM, where `read_dicom` keeps to the limits."""
    if is_dicom(data):
        try:
            from rareshot.data.dicom import read_dicom
        except ModuleNotFoundError as error:
            raise RefusedError(_missing("DICOM", "dicom")) from error
        return read_dicom(data)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        try:
            from pillow_heif import HeifImageFile
        except ModuleNotFoundError as error:
            raise RefusedError(_missing("HEIC", "heic")) from error
        for box in re.finditer(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", data, re.DOTALL):  # what is coded; shown may be a part
            refuse_size(*struct.unpack(">II", box[1]))
        return HeifImageFile(TimedBytes(data))  # type: ignore[no-untyped-call]
    return Image.open(TimedBytes(data), formats=FORMATS)


def _missing(kind: str, extra: str) -> str:
    return f"is {kind}, which is read only with an extra: pip install 'rareshot[{extra}]'"


def _refuse_bomb(image: Image.Image, data: bytes) -> None:
    refuse_size(*image.size)
    if image.format in ("JPEG", "MPO"):
        refuse_scans(data)
    tags = getattr(image, "tag_v2", {})
    tile = [int(tags.get(tag) or 0) for tag in (322, 323)]  # TileWidth, TileLength
    if math.prod(tile) > MAX_PIXELS:
        raise RefusedError(too_large(f"tiles of {tile[0]} x {tile[1]} pixels"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return image  # EXIF that nobody can read does not spoil the picture
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey_to_8_bit(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode != "F" and values.min() >= 0 and values.max() <= 65535:
        eight_bit = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        see_through = image.info.get("transparency")
        if isinstance(see_through, int):
            eight_bit[values == see_through] = 255
        return Image.fromarray(eight_bit)
    if not np.isfinite(values).all():
        raise RefusedError("has pixel values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 65535:
        low, high = 0.0, next(white for white in (1.0, 255.0, 65535.0) if high <= white)
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return too_large("too many pixels")
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, UnidentifiedImageError):
        if data.startswith(_SIGNATURES):
            return "is truncated or damaged: its header cannot be read"
        return f"is not an image: not {', '.join(FORMATS)}, DICOM or HEIC by its content"
    text = " ".join(str(error).split()) or type(error).__name__
    if data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 > len(data):
        text = "truncated WEBP"
    if isinstance(error, EOFError) or any(
        word in text.lower() for word in ("truncated", "unexpected end", "not enough")
    ):
        return f"is truncated: the file ends before the picture does ({text})"
    return f"is damaged: {text}"

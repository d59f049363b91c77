"""One image file → a square RGB array (§2.1): the centre square, resized with antialiasing.

What becomes of each kind of picture, so that two readers of one file agree:

- turned as its EXIF orientation says, then the centre square; colour profiles are not applied;
- 16-bit grey: v / 257, rounded: 0 to 65535 becomes 0 to 255 (a plain `convert("RGB")` would clip at 255);
- 32-bit integer grey: read as 16-bit if every value is within 0 to 65535, else the least and largest value become black
  and white;
- floating-point grey: white is the smallest of 1, 255, 65535 that no value exceeds; if none, or with negative values,
  the least and largest value become black and white; values that are not finite are refused;
- transparent parts, of a palette too, lie on white; CMYK, YCbCr, LAB, palettes and 1-bit pictures become RGB;
- of several pages or frames the first counts.
"""

import io
import logging
import math
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from rareshot.data.files import BadFileError, read_file

Array = npt.NDArray[Any]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
"""The only formats that are opened; by content, whatever the suffix says."""
SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"))
"""Names of image files, in lower case."""
MAX_PIXELS = 100_000_000
MAX_SIDE = 100_000
MAX_BYTES = 512 * 2**20
MAX_SCANS = 100
"""Scans of one JPEG: real ones have 10 or so, and each costs a pass over the whole picture."""
MAX_SECONDS = 20.0
"""Time to read one file; a real picture needs less than 3 s, a forged chain of headers may need hours."""

_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"GIF8")
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
_TRUNCATED = ("truncated", "unexpected end", "not enough", "incomplete")


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
        with _quiet(), Image.open(_TimedBytes(data), formats=FORMATS) as image:
            width, height = image.size
            _refuse_bomb(image, data)
            # DCT scaling of a JPEG, to no less than twice what is needed: the rest is resized with antialiasing.
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


def _refuse_bomb(image: Image.Image, data: bytes) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _RefusedError(_too_large(f"{width} x {height} pixels"))
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
        raise _RefusedError(f"has more than {MAX_SCANS} scans, as no real JPEG has: it would take very long to decode")
    tags = getattr(image, "tag_v2", {})
    tile = [int(tags.get(tag) or 0) for tag in (322, 323)]  # TileWidth, TileLength
    if math.prod(tile) > MAX_PIXELS:
        raise _RefusedError(_too_large(f"tiles of {tile[0]} x {tile[1]} pixels"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, LookupError):
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
        raise _RefusedError("has pixel values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 65535:
        low, high = 0.0, next(white for white in (1.0, 255.0, 65535.0) if high <= white)
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


class _RefusedError(Exception):
    """Why we refuse a picture that Pillow would open."""


class _TimedBytes(io.BytesIO):
    """Bytes that stop answering after `MAX_SECONDS`: headers may be chained so that following them takes hours."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._deadline = time.monotonic() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._deadline:
            raise _RefusedError(f"takes more than {MAX_SECONDS:g} s to read, as no real picture does")
        return super().read(size)


_lock = threading.Lock()
_no_log = logging.NullHandler()
_decoding = 0
_caught = warnings.catch_warnings()


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning of Pillow's gets out while any thread decodes.

    Counted, because `catch_warnings` of several threads at once would restore each other's filters in the wrong order.
    """
    global _decoding, _caught
    with _lock:
        if _decoding == 0:
            logging.getLogger("PIL").addHandler(_no_log)
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("ignore")
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if _decoding == 0:
                _caught.__exit__(None, None, None)


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return _too_large("too many pixels")
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, UnidentifiedImageError):
        if data.startswith(_SIGNATURES):
            return "is truncated or damaged: its header cannot be read"
        return f"is not an image: not {', '.join(FORMATS[:-1])} or {FORMATS[-1]} by its content"
    text = str(error) or type(error).__name__
    if data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 > len(data):
        text = "truncated WEBP"
    if isinstance(error, EOFError) or any(
        word in text.lower() for word in ("truncated", "unexpected end", "not enough")
    ):
        return f"is truncated: the file ends before the picture does ({text})"
    return f"is damaged: {text}"


def _too_large(what: str) -> str:
    return f"has {what}; at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side are decoded"

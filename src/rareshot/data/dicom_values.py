"""Stored values of a DICOM picture → 8-bit grey or RGB, as DICOM's part 3, C.11 says.

    stored → modality (rescale slope and intercept, or a table) → window (centre and width, or a table) → 0 to 255

All of it is done once for each value that can be stored, at most 65,536, and then looked up for each pixel.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from rareshot.data.limits import RefusedError, TimedBytes

Array = npt.NDArray[Any]

MAX_VALUE = 256 * 1024
"""Bytes of one element but the pixels; the longest that is real, a table of 65,536 entries, has half of it."""
LARGEST = 1e30
"""Of the numbers that a picture is rescaled to; beyond it differences and squares overflow."""


def element(header: Dataset, keyword: str) -> Any:
    """The value of an element, or None if it is missing or empty.

    Raises:
        RefusedError: if it is longer than any real one.
    """
    raw = _raw(header, keyword)
    if isinstance(raw, RawDataElement) and len(raw.value or b"") > MAX_VALUE:
        raise RefusedError(f"has a DICOM header with a {keyword} of {len(raw.value or b'')} bytes, as no real one has")
    value = header.get(keyword)
    return None if value == "" or value == [] else value


def number(header: Dataset, keyword: str, default: float) -> float:
    """A number, the first of several.

    Raises:
        RefusedError: if it is not finite.
    """
    value = element(header, keyword)
    if value is None:
        return default
    found = float(value[0] if not isinstance(value, float | int | str) else value)
    if not math.isfinite(found):
        raise RefusedError(f"has a DICOM header with a {keyword} that is not a finite number")
    return found


def grey_table(header: Dataset, bits: int, present: Array, *, signed: bool, inverted: bool) -> Array:
    """What becomes of each value that `bits` can store: (2**bits,) uint8.

    Without a window, pictures of up to 8 bits keep their brightness: the whole range goes from black to white. Of more
    bits, where few of the values that could be stored occur, the least and the largest that do become black and white.

    Args:
        header: the elements of the file.
        bits: stored bits of a value, 1 to 16.
        present: which values the picture has, (2**bits,) bool.
        signed: are values two's complements?
        inverted: is the least value white?
    """
    values = _stored(bits, signed)
    table = _first_item(header, "ModalityLUTSequence")
    if table is not None:
        values, _ = _look_up(table, "LUT", values, signed)
    else:
        rescale = _of_first_frame(header, "PixelValueTransformationSequence")
        values = values * number(rescale, "RescaleSlope", 1.0) + number(rescale, "RescaleIntercept", 0.0)
        if not np.abs(values).max() <= LARGEST:
            raise RefusedError("has a DICOM header whose rescaling gives numbers that no picture has")
    shown = _window(_of_first_frame(header, "FrameVOILUTSequence"), values, values[present] if bits > 8 else values)
    return np.asarray(np.rint(255 * (1 - shown if inverted else shown)), dtype=np.uint8)


def palette_table(header: Dataset, bits: int) -> Array:
    """The colour of each value that `bits` can store: (2**bits, 3) uint8."""
    colours = []
    for colour in ("Red", "Green", "Blue"):
        if _raw(header, f"Segmented{colour}PaletteColorLookupTableData") is not None:
            raise RefusedError("has a palette in segments, which is not read; export it as RGB")
        values, white = _look_up(header, f"{colour}PaletteColorLookupTable", _stored(bits, False), False)
        colours.append(np.rint(values * (255 / white)).astype(np.uint8))
    return np.stack(colours, axis=-1)


def _stored(bits: int, signed: bool) -> Array:
    """The number that each pattern of bits stands for, as two's complement if `signed`."""
    values = np.arange(2**bits, dtype=np.float64)
    if signed:
        values[2 ** (bits - 1) :] -= 2**bits
    return values


def _window(header: Dataset, values: Array, whole: Array) -> Array:
    """From 0, black, to 1, white; without a window from the least of `whole` to its largest."""
    table = _first_item(header, "VOILUTSequence")
    if table is not None:
        shown, white = _look_up(table, "LUT", values, signed=bool(values.min() < 0))
        return shown / white
    width = number(header, "WindowWidth", 0.0)
    if element(header, "WindowCenter") is None or element(header, "WindowWidth") is None:
        low, high = float(whole.min()), float(whole.max())
        return np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    if width <= 0:
        raise RefusedError("has a window whose width is not above 0")
    centre, function = number(header, "WindowCenter", 0.0), element(header, "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR" and width >= 1:  # C.11.2.1.2.1: pixels, not a continuum, hence the halves
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _look_up(header: Dataset, name: str, values: Array, signed: bool) -> tuple[Array, float]:
    """Values through a table of the header, and the largest value that the table can hold."""
    entries, first, bits = (int(one) for one in element(header, f"{name}Descriptor"))
    entries = entries % 2**16 or 2**16
    # Whether the first value mapped is signed is not told by the file where the value representation is implicit.
    first = first - 2**16 if signed and first >= 2**15 else first if signed else first % 2**16
    if not 8 <= bits <= 16:
        raise RefusedError("has a table of values that are not of 8 to 16 bits")
    data = element(header, f"{name}Data")
    if isinstance(data, bytes):
        one_byte = len(data) in (entries, entries + entries % 2) and bits == 8
        data = np.frombuffer(data, np.uint8 if one_byte else ">u2" if header.original_encoding[1] is False else "<u2")
    # Numbers may have been read as signed.
    table = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    if len(table) < entries:
        raise RefusedError("has a table of values that is shorter than it says")
    white = 2.0**bits - 1
    positions = np.clip(values - first, 0, entries - 1).astype(np.int64)
    return np.minimum(table[positions], white).astype(np.float64), white


def _of_first_frame(header: Dataset, keyword: str) -> Dataset:
    """Where what holds for the first frame stands: in the groups of a multi-frame file, else in the header itself."""
    for place in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = _first_item(header, place)
        found = None if groups is None else _first_item(groups, keyword)
        if found is not None:
            return found
    return header


def _raw(header: Dataset, keyword: str) -> Any:
    tag = tag_for_keyword(keyword)
    return header.get_item(tag) if tag is not None and tag in header else None


def _first_item(header: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, without reading the others, of which there may be millions."""
    raw = _raw(header, keyword)
    if not isinstance(raw, RawDataElement):
        return raw.value[0] if raw is not None and raw.value else None
    if not raw.value:
        return None
    data = TimedBytes(raw.value)
    length = int.from_bytes(data.read(8)[4:], "little" if raw.is_little_endian else "big")
    return read_dataset(
        data, raw.is_implicit_VR, raw.is_little_endian, None if length == 0xFFFFFFFF else length, at_top_level=False
    )

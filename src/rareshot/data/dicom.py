"""A DICOM file → its first frame as an 8-bit picture. Needs the extra `dicom`.

Only the elements that say how a picture looks are taken from the file (`_WANTED`); the patient's are skipped over, and
no text of the file or of pydicom's, which may quote it, stands in a reason.

- Uncompressed, RLE, JPEG (8 bits), JPEG 2000: by Pillow; JPEG Lossless, JPEG of 12 bits, JPEG-LS: by pylibjpeg.
- Deflated files are refused: pydicom would unpack them into memory, however large that is.
- What the header says is checked against what is there before anything is decoded: rows and columns against the limits
  and against the compressed picture's own, the number of frames against the bytes.
- All of it may run in several threads at once. They gain little: pydicom is plain Python and keeps the interpreter lock
  (0.4 ms a file), as does most of the arithmetic; only what Pillow decodes runs beside it.
"""

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame, parse_basic_offsets, parse_fragments
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag

from rareshot.data.dicom_values import element, grey_table, palette_table
from rareshot.data.limits import RefusedError, TimedBytes, refuse_scans, refuse_size

Array = npt.NDArray[Any]
Result = TypeVar("Result")

MAX_ELEMENTS = 100_000
"""Elements of a header, without those in sequences; real ones have a few hundred."""

_WANTED = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "TotalPixelMatrixColumns"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    "PixelData",
)
_TAGS = tuple(tag for tag in map(tag_for_keyword, _WANTED) if tag is not None)
_INSTALL = "pip install 'rareshot[dicom]'"
_PIXEL_DATA = 0x7FE00010
_CHARACTER_SET = 0x00080005

_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3}
_SAMPLES |= {"YBR_ICT": 3, "YBR_RCT": 3}
_NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
_FRAME_HEADERS = {  # transfer syntax → (decoder, markers that may begin the header of its frames)
    uid.JPEGBaseline8Bit: ("pillow", b"\xc0\xc1"),
    uid.JPEGExtended12Bit: ("pylibjpeg", b"\xc0\xc1"),
    uid.JPEGLossless: ("pylibjpeg", b"\xc3"),
    uid.JPEGLosslessSV1: ("pylibjpeg", b"\xc3"),
    uid.JPEGLSLossless: ("pylibjpeg", b"\xf7"),
    uid.JPEGLSNearLossless: ("pylibjpeg", b"\xf7"),
    uid.JPEG2000Lossless: ("pillow", b""),
    uid.JPEG2000: ("pillow", b""),
}


def read_dicom(data: bytes) -> Image.Image:
    """The first frame of a DICOM file, RGB or 8-bit grey.

    Raises:
        RefusedError: if it holds no picture, or one that is not decoded; the reason quotes nothing of the file.
    """
    syntax, start = _transfer_syntax(data)
    header = _guarded(lambda: _header(data, start, syntax), "is damaged: its DICOM header cannot be read")
    return _guarded(lambda: _picture(header, syntax), "is damaged: its DICOM picture cannot be decoded")


def _guarded(work: Callable[[], Result], otherwise: str) -> Result:
    """The answer of `work`, whose errors are replaced, not chained: pydicom's can quote the patient's name."""
    try:
        return work()
    except (RefusedError, MemoryError):
        raise
    except RecursionError:
        raise RefusedError("has a DICOM header of sequences nested too deeply") from None
    except Exception:  # pydicom raises nearly every kind there is on a forged file
        raise RefusedError(otherwise) from None


def _transfer_syntax(data: bytes) -> tuple[uid.UID, int]:
    """How the file is coded, and where its data set begins; read here, because pydicom would inflate at once."""
    position, found, count = 132, None, 0
    while data[position : position + 2] == b"\2\0":
        count += 1
        if count > MAX_ELEMENTS:
            raise RefusedError(f"has a DICOM header of more than {MAX_ELEMENTS} elements, as no real one has")
        short = data[position + 4 : position + 6] not in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        layout = "<H" if short else "<I"
        begin = position + (8 if short else 12)
        if begin > len(data):
            break
        (length,) = struct.unpack_from(layout, data, position + (6 if short else 8))
        if data[position + 2 : position + 4] == b"\x10\0":
            found = uid.UID(data[begin : begin + min(length, 64)].rstrip(b"\0 ").decode("ascii", "replace"))
        position = begin + length
    if found is None or position > len(data):
        raise RefusedError("is truncated or damaged: its DICOM header does not say how it is coded")
    if found == uid.DeflatedExplicitVRLittleEndian:
        raise RefusedError("is a deflated DICOM file (Deflated Explicit VR Little Endian), which is not read")
    if found not in (*_NATIVE, uid.RLELossless, *_FRAME_HEADERS):
        known = found.name if found.name != found else "one that is not in the standard"
        raise RefusedError(f"is a DICOM file of a transfer syntax that is not read: {known}")
    return found, position


def _header(data: bytes, start: int, syntax: uid.UID) -> Dataset:
    count = 0

    def stop(tag: BaseTag, _: str | None, length: int) -> bool:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS:
            raise RefusedError(f"has a DICOM header of more than {MAX_ELEMENTS} elements, as no real one has")
        if tag == _CHARACTER_SET and length > 1024:
            raise RefusedError("has a DICOM header with a list of character sets longer than any real one")
        return int(tag) > _PIXEL_DATA

    file = TimedBytes(data)
    file.seek(start)
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    try:
        return read_dataset(file, implicit, little, stop_when=stop, specific_tags=list(_TAGS))
    except OSError:
        file.read(0)  # raises where the time was over, which pydicom turns into an error of its own
        raise


def _picture(header: Dataset, syntax: uid.UID) -> Image.Image:
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    if rows is None or columns is None:
        raise RefusedError("is a DICOM file without a picture, or cut off before it")
    if rows < 1 or columns < 1:
        raise RefusedError(f"has {columns} x {rows} pixels")
    refuse_size(columns, rows)
    if "TotalPixelMatrixColumns" in header:
        raise RefusedError("is a whole slide in tiles; export the part that matters as one picture")
    if "PixelData" not in header:
        raise RefusedError("is truncated: the DICOM file ends before the picture does, or holds none")
    kind, samples, allocated, bits, signed = _coding(header)
    frame = _first_frame(header, syntax, rows * columns * samples * allocated, kind)
    if syntax in _FRAME_HEADERS:
        frame = _check_stream(frame, syntax, (columns, rows, samples))
    decoder, planar = syntax, _whole(header, "PlanarConfiguration") or 0
    if syntax == uid.RLELossless:
        frame = _unpack_rle(frame, rows * columns, samples * allocated // 8, allocated // 8)
        decoder, planar = uid.ExplicitVRLittleEndian, 1
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": samples,
        "photometric_interpretation": kind,
        "planar_configuration": planar,
        "bits_allocated": allocated,
        "bits_stored": bits,
        "pixel_representation": int(signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if syntax == uid.RLELossless else header["PixelData"].VR,
    }
    plugin = "" if decoder in _NATIVE else _plugin(syntax, bits)
    source = frame if decoder in _NATIVE else encapsulate([frame])
    pixels, properties = get_decoder(decoder).as_array(source, index=0, raw=True, decoding_plugin=plugin, **options)
    if str(properties["photometric_interpretation"]) in ("YBR_FULL", "YBR_FULL_422"):
        # Where a JPEG says by itself that it is RGB, its decoder has told so.
        pixels = np.asarray(Image.frombytes("YCbCr", (columns, rows), pixels.tobytes()).convert("RGB"))
    return _rendered(header, pixels, kind, bits, signed)


def _rendered(header: Dataset, pixels: Array, kind: str, bits: int, signed: bool) -> Image.Image:
    # The bits above those stored may hold anything, overlays for instance.
    patterns = pixels.astype(pixels.dtype.newbyteorder("="), copy=False).view(f"u{pixels.dtype.itemsize}")
    patterns = patterns & (2**bits - 1)
    if kind == "PALETTE COLOR":
        return Image.fromarray(palette_table(header, bits)[patterns])
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        present = np.zeros(2**bits, np.bool_)
        present[patterns] = True
        table = grey_table(header, bits, present, signed=signed, inverted=kind == "MONOCHROME1")
        return Image.fromarray(table[patterns])
    table = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
    return Image.fromarray(table[patterns])


def _whole(header: Dataset, keyword: str) -> int | None:
    value = element(header, keyword)
    return None if value is None else int(value)


def _coding(header: Dataset) -> tuple[str, int, int, int, bool]:
    """Kind of picture, samples a pixel, bits allocated and stored, signed; all as read here or refused."""
    kind = str(element(header, "PhotometricInterpretation") or "")
    if kind not in _SAMPLES:
        raise RefusedError(f"has a photometric interpretation that is not one of {', '.join(_SAMPLES)}")
    samples = _whole(header, "SamplesPerPixel") or 1
    if samples != _SAMPLES[kind]:
        raise RefusedError(f"says it is {kind} with {samples} samples a pixel; such have {_SAMPLES[kind]}")
    allocated = _whole(header, "BitsAllocated") or 0
    stored = _whole(header, "BitsStored") or allocated
    if allocated not in (1, 8, 16) or not 1 <= stored <= allocated or (allocated == 1 and samples > 1):
        raise RefusedError(f"has {stored} of {allocated} bits a value; read are 1, 8 and 16, and what fits into them")
    if kind.startswith("YBR_FULL") and (allocated, stored) != (8, 8):
        raise RefusedError(f"is {kind} of {stored} of {allocated} bits a value; read are 8")
    high = _whole(header, "HighBit")
    if high not in (None, stored - 1):
        raise RefusedError(f"stores its {stored} bits up to bit {high}, not {stored - 1}, which is not read")
    return kind, samples, allocated, stored, _whole(header, "PixelRepresentation") == 1


def _first_frame(header: Dataset, syntax: uid.UID, bits: int, kind: str) -> bytes:
    """The bytes of the first frame; refused if the file holds fewer frames than it says."""
    frames = _whole(header, "NumberOfFrames") or 1
    if frames < 1:
        raise RefusedError(f"says it has {frames} frames")
    data = bytes(header.PixelData)
    if syntax in _NATIVE:
        if kind == "YBR_FULL_422":  # two pixels share their colour
            bits = bits * 2 // 3
        if len(data) < (frames * bits + 7) // 8:
            raise RefusedError("is truncated: the DICOM file holds fewer pixels than its header says")
        # An even number, as pydicom expects; words of big-endian files it swaps by itself.
        length = (bits + 15) // 16 * 2
        return data[:length].ljust(length, b"\0")
    file = TimedBytes(data)
    parse_basic_offsets(file)
    if parse_fragments(file)[0] < frames:
        raise RefusedError(f"is truncated or damaged: the DICOM file holds fewer than the {frames} frames it says")
    file.seek(0)
    return get_frame(file, 0, number_of_frames=frames)


def _unpack_rle(frame: bytes, pixels: int, segments: int, width: int) -> bytes:
    """A frame of run lengths (part 5, G), a segment for each byte of each sample, highest first → samples one by one.

    By Pillow, into as much as the header says: run lengths can grow 64-fold.
    """
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != segments:
        raise RefusedError("is damaged: its run lengths have not one segment for each byte of a pixel")
    planes = np.empty((segments // width, pixels, width), np.uint8)
    ends = [*offsets[1:count], len(frame)]
    for i, (begin, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        plane = Image.frombytes("L", (pixels, 1), frame[begin:end], "packbits", "L")
        planes[i // width, :, width - 1 - i % width] = np.asarray(plane)[0]
    return planes.tobytes() + bytes(planes.size % 2)


def _check_stream(frame: bytes, syntax: uid.UID, stated: tuple[int, int, int]) -> bytes:
    """The compressed picture, if its own header agrees with the file's (columns, rows, samples), so with the limits."""
    own = _jpeg_2000_size(frame) if not _FRAME_HEADERS[syntax][1] else _jpeg_size(frame, _FRAME_HEADERS[syntax][1])
    if own != stated:
        shape, said = (f"{width} x {height} with {samples} samples" for width, height, samples in (own, stated))
        raise RefusedError(f"is damaged: its compressed picture is {shape}, its DICOM header says {said}")
    return frame[max(0, frame.find(b"\xff\x4f\xff\x51")) :] if not _FRAME_HEADERS[syntax][1] else frame


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int]:
    # Some devices wrap the code stream into a JP2 file, against the standard.
    position = frame.find(b"\xff\x4f\xff\x51", 0, 4096) if frame[4:8] == b"jP  " else 0
    if position < 0 or frame[position : position + 4] != b"\xff\x4f\xff\x51":
        raise RefusedError("is damaged: its DICOM picture is not the JPEG 2000 that its header says")
    right, lower, left, upper, wide, high, from_x, from_y = struct.unpack_from(">8I", frame, position + 8)
    tiles = -(-(right - from_x) // wide) * -(-(lower - from_y) // high) if wide and high else 0
    own = right - left, lower - upper, int.from_bytes(frame[position + 40 : position + 42])
    refuse_size(*own[:2])
    position += 2
    while frame[position : position + 1] == b"\xff" and frame[position + 1] != 0x90:
        position += 2 + int.from_bytes(frame[position + 2 : position + 4])
    found = set()
    while frame[position : position + 2] == b"\xff\x90" and position + 12 <= len(frame):
        number, length = struct.unpack_from(">HI", frame, position + 4)
        found.add(number)
        position = position + length if length else len(frame.rstrip(b"\0")) - 2
    # Where tiles are missing, Pillow leaves them black.
    if len(found) != tiles or frame[position : position + 2] != b"\xff\xd9":
        raise RefusedError("is truncated or damaged: parts of its JPEG 2000 picture are missing")
    return own


def _jpeg_size(frame: bytes, markers: bytes) -> tuple[int, int, int]:
    refuse_scans(frame)
    # pylibjpeg would decode what there is, and fill up the rest.
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise RefusedError("is truncated or damaged: the JPEG in the DICOM file has no end")
    position = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while position + 10 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker in markers:
            _, height, width, samples = struct.unpack_from(">BHHB", frame, position + 4)
            return width, height, samples
        # Another kind of JPEG, or the pixels already: nothing that this transfer syntax may hold.
        if marker in b"\xd9\xda\xde\xdf" or (0xC0 <= marker <= 0xCF and marker not in b"\xc4\xcc"):
            break
        position += 2 + int.from_bytes(frame[position + 2 : position + 4]) if marker != 0xFF else 1
    raise RefusedError("is damaged: its DICOM picture is not the JPEG that its header says")


def _plugin(syntax: uid.UID, bits: int) -> str:
    # Pillow reads "extended" JPEG only of 8 bits.
    plugin = "pillow" if syntax == uid.JPEGExtended12Bit and bits == 8 else _FRAME_HEADERS[syntax][0]
    if plugin not in get_decoder(syntax).available_plugins:
        raise RefusedError(f"is {syntax.name}, whose decoder is not installed: {_INSTALL}")
    return plugin

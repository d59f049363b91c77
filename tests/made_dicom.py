"""Made DICOM files for the tests: written with pydicom, or byte by byte where pydicom would not write them."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile import encoded, noise
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

NAME, PATIENT_ID = "Mustermann^Erika", "PAT-4711"
"""Stand in every made file, and may stand in nothing that the package says."""
EXPLICIT, IMPLICIT, BIG = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def dicom(pixels: np.ndarray | bytes, syntax: str = EXPLICIT, *, bare: bool = False, **elements: Any) -> bytes:
    """A DICOM file of a picture of grey or RGB; elements by keyword, None to leave one out."""
    file = FileDataset("", {}, preamble=bytes(128), is_implicit_VR=syntax == IMPLICIT, is_little_endian=syntax != BIG)
    file.file_meta = FileMetaDataset()
    file.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    file.file_meta.TransferSyntaxUID = uid.UID(syntax)
    file.SpecificCharacterSet = "ISO_IR 100"
    file.PatientName, file.PatientID, file.PatientBirthDate = NAME, PATIENT_ID, "19640812"
    file.SOPClassUID, file.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3.4"
    if not bare:
        shape = pixels.shape if isinstance(pixels, np.ndarray) else (16, 16)
        width = pixels.dtype.itemsize * 8 if isinstance(pixels, np.ndarray) else 8
        file.Rows, file.Columns = shape[:2]
        file.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
        file.PhotometricInterpretation = "RGB" if len(shape) == 3 else "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = width
        file.HighBit = width - 1
        file.PixelRepresentation = int(isinstance(pixels, np.ndarray) and pixels.dtype.kind == "i")
        if len(shape) == 3:
            file.PlanarConfiguration = 0
        data = pixels if isinstance(pixels, bytes) else pixels.astype(pixels.dtype.newbyteorder("><"[syntax != BIG]))
        file.PixelData = data if isinstance(data, bytes) else data.tobytes()
        file["PixelData"].VR = "OB" if width == 8 else "OW"
        if file.file_meta.TransferSyntaxUID.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
            file["PixelData"].is_undefined_length = True
    for keyword, value in elements.items():
        if value is None:
            delattr(file, keyword)
        else:
            setattr(file, keyword, value)
    if "BitsStored" in elements and "HighBit" not in elements:
        file.HighBit = file.BitsStored - 1
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def raw(body: bytes = b"", syntax: str = EXPLICIT, meta: bytes | None = None) -> bytes:
    """A DICOM file by hand: `body` after the patient's name and a meta group of the transfer syntax alone."""
    meta = tag(0x0002, 0x0010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2)) if meta is None else meta
    return bytes(128) + b"DICM" + meta + tag(0x0010, 0x0010, b"PN", NAME.encode()) + body


def tag(group: int, number: int, vr: bytes, value: bytes = b"", length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, number, vr, 0, length) + value
    return struct.pack("<HH2sH", group, number, vr, length) + value


def item(**elements: Any) -> Sequence:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return Sequence([made])


def lut(values: np.ndarray, first: int, bits: int) -> Sequence:
    made = Dataset()
    made.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    made.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return Sequence([made])


def palette(colours: np.ndarray, bits: int = 16) -> dict[str, Any]:
    """Elements of a palette of (entries, 3) colours of 16 bits."""
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [len(colours), 0, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = colours[:, i].astype("<u2").tobytes()
    return elements


def rle(pixels: np.ndarray) -> bytes:
    """A frame of run lengths, a literal for every 128 bytes; pixels (h, w) or (h, w, samples)."""
    samples = pixels.reshape(*pixels.shape[:2], -1)
    big = samples.astype(pixels.dtype.newbyteorder(">"))
    planes = np.frombuffer(big.tobytes(), np.uint8).reshape(-1, samples.shape[2] * pixels.dtype.itemsize).T
    segments = []
    for plane in planes:
        data = plane.tobytes()
        parts = [data[i : i + 128] for i in range(0, len(data), 128)]
        packed = b"".join(bytes([len(part) - 1]) + part for part in parts)
        segments.append(packed + bytes(len(packed) % 2))
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def lossless_jpeg(pixels: np.ndarray, bits: int, *, width: int | None = None) -> bytes:
    """A lossless JPEG (process 14, first predictor) of grey; every length of a difference has a code of 5 bits."""
    values = pixels.astype(np.int64)
    before = np.roll(values, 1, axis=1)
    before[1:, 0] = values[:-1, 0]
    before[0, 0] = 2 ** (bits - 1)
    text = []
    for one in (values - before).ravel():
        size = int(abs(one)).bit_length()
        text.append(f"{size:05b}" + (f"{one if one > 0 else one + 2**size - 1:0{size}b}" if size else ""))
    stream = "".join(text)
    stream += "1" * (-len(stream) % 8)
    body = bytes(int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)).replace(b"\xff", b"\xff\0")
    table = b"\0" + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    frame = struct.pack(">BHHBBBB", bits, pixels.shape[0], width or pixels.shape[1], 1, 1, 0x11, 0)
    parts = {b"\xff\xc4": table, b"\xff\xc3": frame, b"\xff\xda": bytes([1, 1, 0, 1, 0, 0])}
    heads = b"".join(marker + struct.pack(">H", len(part) + 2) + part for marker, part in parts.items())
    return b"\xff\xd8" + heads + body + b"\xff\xd9"


def valid_dicom() -> dict[str, bytes]:
    """Name → more than 30 odd DICOM files that must be readable."""
    rgb, deep = noise(16, 16), RAMP.astype(np.uint16) * 16
    jpeg, wave = encoded(Image.fromarray(rgb), "JPEG"), encoded(Image.fromarray(rgb), "JPEG2000", no_jp2=True)
    odd = noise(15, 17, 1)
    lossless = encapsulate([lossless_jpeg(deep, 12)])
    ybr = Image.fromarray(rgb).convert("YCbCr")
    half = np.asarray(ybr).reshape(-1, 2, 3)
    shared = np.concatenate([half[:, :, 0], half[:, :1, 1], half[:, :1, 2]], axis=1)
    jpeg_2000 = {"PhotometricInterpretation": "YBR_RCT"}
    files = {
        "grey": dicom(RAMP),
        "rgb": dicom(rgb),
        "implicit": dicom(RAMP, IMPLICIT),
        "big_endian": dicom(deep, BIG, BitsStored=12),
        "odd_size": dicom(odd.tobytes() + b"\0", Rows=15, Columns=17),
        "one_bit": dicom(np.packbits(RAMP % 2, bitorder="little").tobytes(), BitsAllocated=1, BitsStored=1),
        "signed": dicom(deep.astype(np.int16) - 2000, RescaleSlope="1", RescaleIntercept="-24"),
        "no_bits_stored": dicom(RAMP, BitsStored=None, HighBit=None),
        "two_windows": dicom(RAMP, WindowCenter=["40", "90"], WindowWidth=["80", "9"]),
        "narrow_window": dicom(RAMP, WindowCenter="40", WindowWidth="0.5"),
        "window_of_one": dicom(RAMP, WindowCenter="40", WindowWidth="1"),
        "sigmoid": dicom(RAMP, WindowCenter="40", WindowWidth="1e-3", VOILUTFunction="SIGMOID"),
        "empty_elements": dicom(RAMP, WindowCenter="", WindowWidth="", RescaleSlope="", NumberOfFrames=""),
        "frames": dicom(np.tile(RAMP, (3, 1)), Rows=16, NumberOfFrames="3"),
        "palette": dicom(RAMP, **palette(np.arange(256)[:, None] * [1, 2, 3] * 80)),
        "planar": dicom(rgb.transpose(2, 0, 1).tobytes(), **colours("RGB", planar=1)),
        "ybr_full": dicom(np.asarray(ybr), PhotometricInterpretation="YBR_FULL"),
        "ybr_422": dicom(shared.tobytes(), **colours("YBR_FULL_422")),
        "rgb_16": dicom(rgb.astype(np.uint16) * 257),
        "jpeg": dicom(encapsulate([jpeg]), uid.JPEGBaseline8Bit, **colours("YBR_FULL_422")),
        "jpeg_in_fragments": dicom(encapsulate([jpeg], 4), uid.JPEGBaseline8Bit, **colours("YBR_FULL_422")),
        "jpeg_frames": dicom(encapsulate([jpeg] * 3), uid.JPEGBaseline8Bit, NumberOfFrames="3", **colours("YBR_FULL")),
        "jpeg_no_offsets": dicom(encapsulate([jpeg], has_bot=False), uid.JPEGBaseline8Bit, **colours("YBR_FULL_422")),
        "jpeg_2000": dicom(encapsulate([wave]), uid.JPEG2000Lossless, **colours("RGB") | jpeg_2000),
        "jp2": dicom(
            encapsulate([encoded(Image.fromarray(rgb), "JPEG2000")]), uid.JPEG2000, **colours("RGB") | jpeg_2000
        ),
        "lossless": dicom(lossless, uid.JPEGLosslessSV1, BitsAllocated=16, BitsStored=12),
        "rle": dicom(encapsulate([rle(rgb)]), uid.RLELossless, **colours("RGB")),
        "rle_16": dicom(encapsulate([rle(deep)]), uid.RLELossless, BitsAllocated=16, BitsStored=12),
        "one_pixel": dicom(b"\x80\0", Rows=1, Columns=1),
        "wrong_character_set": dicom(RAMP).replace(b"ISO_IR 100", b"ISO_XX 999"),
        "after_the_pixels": dicom(RAMP) + tag(0xFFFC, 0xFFFC, b"OB", bytes(64)),
        "preamble_of_tiff": b"II*\0" + dicom(RAMP)[4:],
        "private": dicom(RAMP).replace(tag(0x0010, 0x0010, b"PN", NAME.encode()), private_sequence()),
    }
    return files


def private_sequence() -> bytes:
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return tag(0x0009, 0x0010, b"LO", b"MAKER ") + tag(0x0009, 0x1001, b"SQ", inner + end, 0xFFFFFFFF)


def colours(kind: str, planar: int = 0) -> dict[str, Any]:
    return {"SamplesPerPixel": 3, "PhotometricInterpretation": kind, "PlanarConfiguration": planar}


def hostile_dicom() -> dict[str, tuple[bytes, str]]:
    """Name → (file, the reason for which it must be refused); more than 55 of them."""
    whole = dicom(RAMP)
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x0010))
    rgb = noise(16, 16)
    jpeg = encoded(Image.fromarray(rgb), "JPEG")
    wave = encoded(Image.fromarray(rgb), "JPEG2000", no_jp2=True)
    sof = jpeg.index(b"\xff\xc0")
    large_jpeg = jpeg[: sof + 5] + struct.pack(">HH", 65500, 65500) + jpeg[sof + 9 :]
    large_wave = wave[:8] + struct.pack(">II", 60_000, 60_000) + wave[16:]
    many_tiles = wave[:24] + struct.pack(">II", 1, 1) + wave[32:]
    ybr = colours("YBR_FULL_422")

    def compressed(frame: bytes, syntax: str, **elements: Any) -> bytes:
        return dicom(encapsulate([frame + bytes(len(frame) % 2)]), syntax, **elements)

    def nested(depth: int) -> bytes:
        level = tag(0x0040, 0xA730, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        return raw(level * depth)

    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflated.compress(bytes(50 * 2**20)) + deflated.flush()
    packed = rle(RAMP)
    cannot, damaged = "picture cannot be decoded", "is (truncated or )?damaged"
    many = tag(0x0008, 0x0000, b"UL", bytes(4)) * 100_001
    make: dict[str, Callable[[], tuple[bytes, str]]] = {
        "cut_in_the_pixels": lambda: (whole[:-50], "holds fewer pixels than its header says"),
        "cut_before_the_pixels": lambda: (whole[:at], "ends before the picture does"),
        "cut_in_the_header": lambda: (whole[: at - 60], "without a picture, or cut off before it|bits a value"),
        "cut_in_the_meta": lambda: (whole[:150], "does not say how it is coded"),
        "preamble_only": lambda: (bytes(128) + b"DICM", "does not say how it is coded"),
        "length_beyond": lambda: (whole[: at + 8] + b"\xf0\xff\xff\xff" + whole[at + 12 :][:99], "fewer pixels"),
        "length_undefined": lambda: (
            whole[: at + 8] + b"\xff\xff\xff\xff" + whole[at + 12 :],
            "without a picture, or cut off before it",
        ),
        "huge": lambda: (dicom(RAMP, Rows=65535, Columns=65535), "65535 x 65535 pixels; at most 100 megapixels"),
        "huge_frames": lambda: (dicom(RAMP, NumberOfFrames="2147483647"), "fewer pixels than its header says"),
        "endless_frames": lambda: (dicom(RAMP, NumberOfFrames="999999999999"), "fewer pixels|cannot be"),
        "negative_frames": lambda: (dicom(RAMP, NumberOfFrames="-1"), "says it has -1 frames"),
        "no_rows": lambda: (dicom(RAMP, Rows=0), "16 x 0 pixels"),
        "report": lambda: (dicom(b"", bare=True), "is a DICOM file without a picture"),
        "no_pixels": lambda: (dicom(RAMP, PixelData=None), "or holds none"),
        "deflated": lambda: (raw(bomb, uid.DeflatedExplicitVRLittleEndian), "is a deflated DICOM file"),
        "video": lambda: (raw(b"", uid.MPEG2MPML), "a transfer syntax that is not read: MPEG2"),
        "syntax_of_a_name": lambda: (raw(b"", NAME), "not read: one that is not in the standard"),
        "meta_beyond": lambda: (raw(meta=tag(2, 1, b"OB", b"", 0xFFFFFFF0)), "does not say how it is coded"),
        "nested": lambda: (nested(5_000), "nested too deeply"),
        "nested_a_little": lambda: (nested(40), "without a picture|cannot be read"),
        "elements": lambda: (raw(many), "more than 100000 elements"),
        "character_sets": lambda: (raw(tag(8, 5, b"CS", b"\\" * 60_000)), "list of character sets"),
        "junk_jpeg": lambda: (compressed(bytes(500), uid.JPEGBaseline8Bit, **ybr), "has no end"),
        "junk_jpeg_2000": lambda: (compressed(bytes(500), uid.JPEG2000, **ybr), "is not the JPEG 2000 that"),
        "junk_rle": lambda: (compressed(b"\xff" * 500, uid.RLELossless), "run lengths have not one segment"),
        "junk_items": lambda: (dicom(b"\xfe\xff\0\xe0" + b"\xff" * 60, uid.JPEGBaseline8Bit, **ybr), f"{damaged}|ends"),
        "no_items": lambda: (
            dicom(encapsulate([b"ab"], has_bot=False)[:8], uid.JPEGBaseline8Bit, **ybr),
            "fewer than the 1 frames",
        ),
        "fewer_items": lambda: (compressed(jpeg, uid.JPEGBaseline8Bit, NumberOfFrames="9", **ybr), "than the 9 frames"),
        "jpeg_bomb": lambda: (compressed(large_jpeg, uid.JPEGBaseline8Bit, **ybr), "is 65500 x 65500 with 3 samples"),
        "jpeg_2000_bomb": lambda: (
            compressed(large_wave, uid.JPEG2000, **ybr),
            "60000 x 60000 pixels; at most 100 megapixels",
        ),
        "jpeg_2000_tiles": lambda: (compressed(many_tiles, uid.JPEG2000, **ybr), "parts of its JPEG 2000 picture are"),
        "jpeg_2000_cut": lambda: (compressed(wave[:-90], uid.JPEG2000, **ybr), "parts of its JPEG 2000 picture are"),
        "jpeg_cut": lambda: (compressed(jpeg[:-99], uid.JPEGBaseline8Bit, **ybr), "in the DICOM file has no end"),
        "jpeg_of_another_kind": lambda: (compressed(jpeg, uid.JPEGLosslessSV1, **ybr), "is not the JPEG that"),
        "jpeg_samples": lambda: (
            compressed(jpeg, uid.JPEGBaseline8Bit),
            "3 samples, its DICOM header says 16 x 16 with 1",
        ),
        "jpeg_scans": lambda: (
            compressed(jpeg[:-2] + b"\xff\xda" * 200 + b"\xff\xd9", uid.JPEGBaseline8Bit, **ybr),
            "more than 100 scans",
        ),
        "lossless_cut": lambda: (
            compressed(lossless_jpeg(RAMP, 8)[:-60], uid.JPEGLosslessSV1),
            "in the DICOM file has no end",
        ),
        "rle_short": lambda: (compressed(packed[:100], uid.RLELossless), cannot),
        "rle_outside": lambda: (compressed(packed[:4] + b"\xff" * 60 + packed[64:], uid.RLELossless), cannot),
        "window_nan": lambda: (
            dicom(RAMP, WindowCenter="40", WindowWidth="80").replace(b"DS\2\x0080", b"DS\4\x00nan "),
            "not a finite number|picture cannot be decoded",
        ),
        "window_infinite": lambda: (dicom(RAMP, WindowCenter="1e999", WindowWidth="80"), "not a finite number"),
        "window_negative": lambda: (dicom(RAMP, WindowCenter="40", WindowWidth="-80"), "width is not above 0"),
        "window_of_a_name": lambda: (
            dicom(RAMP, WindowCenter="11", WindowWidth="80").replace(b"DS\2\x0011", b"DS\x10\0" + NAME.encode()),
            cannot,
        ),
        "slope_infinite": lambda: (dicom(RAMP, RescaleSlope="1e400"), "RescaleSlope that is not a finite number"),
        "bits_zero": lambda: (dicom(RAMP, BitsAllocated=0), "of 0 bits a value"),
        "bits_many": lambda: (dicom(RAMP, BitsAllocated=32, BitsStored=32), "32 of 32 bits a value"),
        "bits_more": lambda: (dicom(RAMP, BitsStored=12), "12 of 8 bits a value"),
        "bits_high": lambda: (dicom(RAMP, BitsStored=6, HighBit=7), "stores its 6 bits up to bit 7, not 5"),
        "samples": lambda: (dicom(RAMP, SamplesPerPixel=3, PlanarConfiguration=0), "MONOCHROME2 with 3 samples"),
        "kind": lambda: (dicom(RAMP, PhotometricInterpretation="HSV"), "photometric interpretation that is not one of"),
        "palette_missing": lambda: (dicom(RAMP, PhotometricInterpretation="PALETTE COLOR"), cannot),
        "palette_short": lambda: (
            dicom(RAMP, **palette(np.zeros((9, 3))) | {"RedPaletteColorLookupTableDescriptor": [256, 0, 16]}),
            "table of values that is shorter than it says",
        ),
        "palette_segments": lambda: (
            dicom(RAMP, SegmentedRedPaletteColorLookupTableData=bytes(8), **palette(np.zeros((9, 3)))),
            "has a palette in segments",
        ),
        "table_bits": lambda: (dicom(RAMP, VOILUTSequence=lut(RAMP.ravel(), 0, 40)), "not of 8 to 16 bits"),
        "whole_slide": lambda: (dicom(RAMP, TotalPixelMatrixColumns=99), "is a whole slide in tiles"),
    }
    files = {name: build() for name, build in make.items()}
    rng = np.random.default_rng(1)
    for i in range(6):
        scrambled = bytearray(whole)
        scrambled[132:at] = rng.bytes(at - 132)
        files[f"scrambled_{i}"] = bytes(scrambled), "does not say how it is coded"
    return files

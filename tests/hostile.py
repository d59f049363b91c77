"""Made files for the tests of the data room: 200 that are damaged or hostile, 54 that are odd but valid."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

RNG = np.random.default_rng(0)
FORMATS = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "GIF": "gif"}


def noise(height: int = 40, width: int = 50, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, body: bytes = b"", before: bytes = b"", colour: int = 2) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A little-endian TIFF of one directory; tags are (tag, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following)


def damaged_bytes() -> dict[str, bytes]:
    """Name → content of the damaged and hostile files that are plain files."""
    files: dict[str, bytes] = {}
    picture = Image.fromarray(noise())
    for kind, suffix in FORMATS.items():
        data = encoded(picture, kind)
        for percent in (1, 2, 5, 10, 20, 30, 40, 50, 60, 70):
            files[f"cut_{percent}.{suffix}"] = data[: max(1, len(data) * percent // 100)]
        for shift in range(6):
            files[f"not_{shift}.{suffix}"] = bytes([shift]) + data
        files[f"random.{suffix}"] = RNG.bytes(3000)
        files[f"text.{suffix}"] = b"<html>not found</html>" * 20
        files[f"empty.{suffix}"] = b""
        files[f"zeros.{suffix}"] = bytes(5000)
        files[f"signature.{suffix}"] = data[:8]
        files[f"signature_random.{suffix}"] = data[:10] + RNG.bytes(2000)
    jpeg = encoded(picture, "JPEG")
    sof = jpeg.index(b"\xff\xc0")
    for name, size in {"huge": (65500, 65500), "tall": (65500, 40000), "zero": (0, 0), "wide": (1, 65500)}.items():
        forged = jpeg[: sof + 5] + struct.pack(">HH", *size) + jpeg[sof + 9 :]
        files[f"lies_{name}.jpg"] = forged if name != "wide" else forged[: sof + 300]
    # 20,000 times the same scan: each costs a pass.
    progressive = encoded(Image.fromarray(noise(64, 64)), "JPEG", progressive=True)
    scan = progressive.index(b"\xff\xda")
    files["scans.jpg"] = progressive[:-2] + progressive[scan : scan + 20] * 20_000 + b"\xff\xd9"
    for name, size in {
        "bomb": (60_000, 60_000),
        "wide": (2**31 - 1, 1),
        "over": (2**31 + 5, 2**31),
        "zero": (0, 9),
    }.items():
        files[f"lies_{name}.png"] = png(*size, body=zlib.compress(bytes(10**6)))
    long_text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 * 2**20), 1))
    files["text_bomb.png"] = png(9, 9, body=zlib.compress(bytes(28 * 9)), before=long_text)
    profile = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(80 * 2**20), 1))
    files["xmp_bomb.png"] = png(9, 9, body=zlib.compress(bytes(28 * 9)), before=profile)
    files["short_rows.png"] = png(90, 90, body=zlib.compress(bytes(100)))
    files["bad_zlib.png"] = png(90, 90, body=RNG.bytes(400))
    files["no_body.png"] = png(90, 90)
    files["length.png"] = png(9, 9)[:33] + b"\xff\xff\xff\xff" + b"IDAT" + RNG.bytes(100)
    files["colour.png"] = png(9, 9, body=zlib.compress(bytes(28 * 9)), colour=77)
    basic = ((256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1))
    files["cycle.tif"] = tiff(*basic, following=8)
    files["cycle_sub.tif"] = tiff(*basic, (330, 4, 1, 8), (34665, 4, 1, 8), following=8)
    files["no_strips.tif"] = tiff(*basic)
    files["strips_outside.tif"] = tiff(*basic, (273, 4, 1, 10**9), (278, 4, 1, 9), (279, 4, 1, 81))
    files["huge.tif"] = tiff((256, 4, 1, 10**6), (257, 4, 1, 10**6), *basic[2:], (273, 4, 1, 8), (279, 4, 1, 81))
    files["count.tif"] = tiff(*basic, (273, 4, 2**31, 8), (279, 4, 2**31, 8))
    files["samples.tif"] = tiff(*basic[:4], (277, 4, 1, 2**31), (273, 4, 1, 8), (279, 4, 1, 81))
    files["tiles.tif"] = tiff(
        *basic, (259, 3, 1, 8), (322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (325, 4, 1, 81)
    )
    files["self.tif"] = b"II*\0\0\0\0\0"
    files["bmp_huge.bmp"] = (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    files["bmp_rle.bmp"] = (
        b"BM"
        + struct.pack("<IHHI", 2000, 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, 10**8, 1, 1, 8, 1, 0, 0, 0, 0, 0)
        + bytes(1024)
        + b"\0\2\xff\xff" * 50
    )
    files["gif_huge.gif"] = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(9) + b"\2\0;"
    files["riff.webp"] = b"RIFF\xff\xff\xff\xffWEBPVP8 " + RNG.bytes(300)
    files["archive.jpg"] = b"PK\3\4" + RNG.bytes(300)
    files["script.jpg"] = b"%!PS-Adobe-3.0 EPSF-3.0\n(rm) run\n"
    files["vector.png"] = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    files["icon.png"] = encoded(picture, "ICO")
    files["targa.bmp"] = encoded(picture, "TGA")
    files["pdf.tif"] = b"%PDF-1.7\n" + RNG.bytes(200)
    files["not_finite.tif"] = encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF")
    return files


def make_damaged(folder: Path) -> set[str]:
    """Writes 200 damaged or hostile things into `folder`; their names."""
    files = damaged_bytes()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    (folder / "loop_a.jpg").symlink_to("loop_b.jpg")
    (folder / "loop_b.jpg").symlink_to("loop_a.jpg")
    (folder / "nowhere.png").symlink_to("not_there.png")
    (folder / "zero_device.png").symlink_to("/dev/zero")
    (folder / "random_device.gif").symlink_to("/dev/urandom")
    names = {*files, "folder.jpg", "loop_a.jpg", "loop_b.jpg", "nowhere.png", "zero_device.png", "random_device.gif"}
    os.mkfifo(folder / "pipe.jpg")
    with open(folder / "sparse.png", "wb") as file:
        file.truncate(2**40)
    _make_socket(folder, "socket.bmp")
    os.link(folder / "random.jpg", folder / "-rf.jpg")
    os.link(folder / "random.jpg", folder / "line\nbreak.jpg")
    os.link(folder / "random.jpg", folder / "$(touch x);.jpg")
    names |= {"pipe.jpg", "sparse.png", "socket.bmp", "-rf.jpg", "line\nbreak.jpg", "$(touch x);.jpg"}
    while len(names) < 200:
        name = f"static_{len(names)}.jpg"
        (folder / name).write_bytes(RNG.bytes(500))
        names.add(name)
    return names


def _make_socket(folder: Path, name: str) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the address of a socket may have 100 characters or so, a folder of a test has more
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    finally:
        os.chdir(here)


def valid_bytes() -> dict[str, bytes]:
    """Name → content of more than 50 odd images that must be readable."""
    rgb, grey = Image.fromarray(noise()), Image.fromarray(noise(channels=1))
    rgba = Image.fromarray(noise(channels=4))
    deep = RNG.integers(0, 65536, (40, 50), dtype=np.uint16)
    files = {f"plain.{suffix}": encoded(rgb, kind) for kind, suffix in FORMATS.items()}
    files |= {f"grey.{suffix}": encoded(grey, kind) for kind, suffix in FORMATS.items()}
    files |= {f"orientation_{i}.jpg": encoded(rgb, "JPEG", exif=_turned(i)) for i in range(1, 10)}
    files |= {f"mode_1.{FORMATS[kind]}": encoded(rgb.convert("1"), kind) for kind in ("PNG", "TIFF", "BMP")}
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    sizes = {"pixel": (1, 1), "thin": (1, 5000), "flat": (5000, 1), "strip": (3, 20_000), "line": (50_000, 2)}
    files |= {f"{name}.png": encoded(Image.fromarray(noise(*size, 1).reshape(size))) for name, size in sizes.items()}
    many: dict[str, Callable[[], bytes]] = {
        "deep.png": lambda: encoded(Image.fromarray(deep)),
        "deep.tif": lambda: encoded(Image.fromarray(deep), "TIFF"),
        "deep_big_endian.tif": lambda: encoded(
            Image.frombytes("I;16B", (50, 40), deep.astype(">u2").tobytes()), "TIFF"
        ),
        "integer.tif": lambda: encoded(Image.fromarray(deep.astype(np.int32) - 500), "TIFF"),
        "float.tif": lambda: encoded(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "constant_float.tif": lambda: encoded(Image.fromarray(np.full((9, 9), -3, np.float32)), "TIFF"),
        "cmyk.jpg": lambda: encoded(rgb.convert("CMYK"), "JPEG"),
        "cmyk.tif": lambda: encoded(rgb.convert("CMYK"), "TIFF"),
        "lab.tif": lambda: encoded(rgb.convert("LAB"), "TIFF"),
        # Uncompressed, Pillow before 13 calls its own file truncated.
        "ycbcr.tif": lambda: encoded(rgb.convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        "alpha.png": lambda: encoded(rgba),
        "alpha.webp": lambda: encoded(rgba, "WEBP"),
        "alpha.tif": lambda: encoded(rgba, "TIFF"),
        "grey_alpha.png": lambda: encoded(rgba.convert("LA")),
        "palette.png": lambda: encoded(palette),
        "palette_see_through.png": lambda: encoded(palette, transparency=bytes(range(256))),
        "palette_one.gif": lambda: encoded(palette, "GIF", transparency=3),
        "rgb_key.png": lambda: encoded(rgb, transparency=(1, 2, 3)),
        "moving.gif": lambda: encoded(rgb, "GIF", save_all=True, append_images=[grey, rgb], duration=50),
        "pages.tif": lambda: encoded(rgb, "TIFF", save_all=True, append_images=[grey]),
        "progressive.jpg": lambda: encoded(rgb, "JPEG", progressive=True, quality=100),
        "packed.tif": lambda: encoded(rgb, "TIFF", compression="tiff_lzw"),
    }
    files |= {name: make() for name, make in many.items()}
    files["JPEG_BY_CONTENT.PNG"] = encoded(rgb, "JPEG")
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000)
    files["a name with blanks, ü.png"] = encoded(rgb, pnginfo=info)
    files["broken_exif.jpg"] = encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    return files


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif

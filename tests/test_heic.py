"""HEIC: upright, the right way up once, within the limits; refused by name where damaged or without the extra."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

pytest.importorskip("pillow_heif", reason="needs the extra heic: pip install 'rareshot[heic]'")

import pillow_heif

from rareshot.data.decode import decode_bytes, square
from rareshot.data.readers import read_listing


def picture(height: int = 64, width: int = 96) -> Image.Image:
    ramp = np.add.outer(np.arange(height), np.arange(width) * 1.5).astype(np.uint8)
    return Image.fromarray(np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], axis=-1))


def heic(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=95, **options)
    return out.getvalue()


WHOLE = heic(picture())
SIZE = WHOLE.index(b"ispe") + 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int) -> None:
    image, exif = picture(), Image.Exif()
    exif[0x0112] = orientation
    got = decode_bytes(heic(image, exif=exif.tobytes()), 32, name="made")
    image.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(image)
    assert (got.width, got.height) == upright.size
    assert np.abs(got.pixels.astype(int) - square(upright, 32)).mean() < 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_modes_become_rgb_and_transparent_parts_lie_on_white(mode: str) -> None:
    image = picture().convert(mode)
    if mode == "RGBA":
        image.putalpha(0)
    pixels = decode_bytes(heic(image), 8, name="made").pixels
    assert pixels.shape == (8, 8, 3)
    assert (pixels.min() > 250) == (mode == "RGBA")


def test_the_picture_is_read_and_not_its_preview() -> None:
    image = picture(256, 256)
    with_preview = pillow_heif.from_pillow(image)
    with_preview.info["thumbnails"] = [64]
    out = io.BytesIO()
    with_preview.save(out, quality=95)
    assert pillow_heif.open_heif(io.BytesIO(out.getvalue())).info["thumbnails"]
    got = decode_bytes(out.getvalue(), 16, name="made").pixels
    np.testing.assert_array_equal(got, decode_bytes(heic(image), 16, name="made").pixels)


def test_ten_bits_become_eight() -> None:
    deep = np.asarray(picture()).astype(np.uint16) * 257
    out = io.BytesIO()
    pillow_heif.encode("RGB;16", (96, 64), deep.tobytes(), quality=95, fp=out)
    got = decode_bytes(out.getvalue(), 32, name="made").pixels
    assert np.abs(got.astype(int) - square(picture(), 32)).mean() < 4


def test_odd_sizes_are_read() -> None:
    for size in ((1, 1), (3, 200), (65, 17)):
        decoded = decode_bytes(heic(picture(*size)), 8, name="made")
        assert (decoded.height, decoded.width) == size


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (WHOLE[:20], "is damaged: .*too small"),
        (WHOLE[:200], "is (damaged|truncated)"),
        (WHOLE[:-50], "is truncated: the file ends before the picture does"),
        (WHOLE[:12] + bytes(900), "is damaged"),
        (WHOLE[:12] + b"\xff" * 900, "is damaged"),
        (WHOLE[:SIZE] + struct.pack(">II", 30_000, 30_000) + WHOLE[SIZE + 8 :], "30000 x 30000 pixels; at most"),
        (WHOLE[:SIZE] + struct.pack(">II", 9_000, 9_000) + WHOLE[SIZE + 8 :], "is damaged: .*size"),
        (WHOLE[:SIZE] + bytes(8) + WHOLE[SIZE + 8 :], "is damaged: .*[Zz]ero"),
        (WHOLE.replace(b"hvcC", b"avcC"), "is (damaged|truncated)"),
        (WHOLE.replace(b"pitm", b"free"), "is damaged"),
        (WHOLE.replace(b"iloc", b"free"), "is damaged"),
        (WHOLE.replace(b"ftypheic", b"ftypqt  "), "is not an image"),
    ],
    ids=range(12),
)
def test_damaged_and_hostile_heic_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"made: .*{reason}") as caught:
        decode_bytes(data, 8, name="made")
    assert "\n" not in str(caught.value)


def test_heic_without_the_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"x: is HEIC, .*pip install 'rareshot\[heic\]'"):
        decode_bytes(WHOLE, 8, name="x")


def test_heic_does_not_change_what_pillow_opens_elsewhere() -> None:
    decode_bytes(WHOLE, 8, name="made")
    assert "HEIF" not in Image.OPEN


def test_heic_files_are_listed_by_suffix(tmp_path: Path) -> None:
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        for name in ("a.heic", "b.HEIF"):
            (tmp_path / label / name).write_bytes(WHOLE)
    assert len(read_listing(tmp_path)) == 4

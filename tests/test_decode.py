"""`decode`: what becomes of each kind of picture, and that a hostile file ends in one named `ValueError`."""

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile import encoded, make_damaged, noise, png, tiff, valid_bytes
from PIL import Image, ImageOps

from rareshot.data import decode as room
from rareshot.data import limits
from rareshot.data.decode import decode, decode_bytes
from rareshot.data.files import shown

VALID = valid_bytes()


def read(image: Image.Image, size: int, kind: str = "PNG", **options: object) -> np.ndarray:
    return decode_bytes(encoded(image, kind, **options), size, name="made").pixels


@pytest.mark.parametrize("name", VALID)
def test_odd_but_valid_image_is_read_without_a_warning(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(VALID[name])
    pixels = decode(tmp_path / name, 12)
    assert pixels.shape == (12, 12, 3)
    assert pixels.dtype == np.uint8


def test_every_damaged_file_is_refused_by_name_and_in_time(tmp_path: Path) -> None:
    for name in make_damaged(tmp_path):
        began = time.monotonic()
        with pytest.raises(ValueError, match=r": (is|has|does|may|takes|needs|cannot) ") as caught:
            decode(tmp_path / name, 12)
        assert shown(str(tmp_path / name)) in str(caught.value)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, world", "is not an image: not JPEG, PNG, TIFF, BMP, WEBP, GIF, DICOM or HEIC by its content"),
        (encoded(Image.fromarray(noise()), "JPEG")[:900], "is truncated: the file ends before the picture does"),
        (encoded(Image.fromarray(noise()), "WEBP")[:900], "is truncated: the file ends before the picture does"),
        (png(20_000, 20_000), "too many pixels; at most 100 megapixels"),
        (png(9_900, 10_200), "9900 x 10200 pixels; at most 100 megapixels"),
        (png(100_001, 2), "100001 x 2 pixels; at most 100 megapixels and 100000 pixels a side"),
        (encoded(Image.fromarray(np.full((9, 9), np.inf, np.float32)), "TIFF"), "values that are not finite numbers"),
    ],
)
def test_reason_is_said_in_plain_words(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "made.png"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"made\.png: .*{reason}"):
        decode(file, 8)


def test_a_folder_a_missing_file_and_an_impossible_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, not a file"):
        decode(tmp_path, 8)
    with pytest.raises(ValueError, match="does not exist"):
        decode(tmp_path / "nothing.png", 8)
    with pytest.raises(ValueError, match="is not a possible file name"):
        decode("with\0nul.png", 8)
    with pytest.raises(ValueError, match="its name is too long"):
        decode(tmp_path / ("x" * 5000), 8)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(VALID["plain.png"])

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # the tests may run as root, whom no mode bit stops
    with pytest.raises(ValueError, match=r"secret\.png: may not be read: permission denied"):
        decode(file, 8)


@pytest.mark.parametrize(
    "data", [b"\xff\xd8" + b"\xff" * 20_000_000, b"\xff\xd8\xff\xe0" + b"\0\2\xff\xe0" * 9_000_000]
)
def test_headers_that_take_for_ever_are_given_up(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"takes more than 0\.2 s to read"):
        decode_bytes(data, 8, name="chain")


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    expected = np.rint(values / 257).astype(np.uint8)
    for image in (Image.fromarray(values), Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes())):
        np.testing.assert_array_equal(read(image, 8, "TIFF")[..., 0], expected)
    np.testing.assert_array_equal(read(Image.fromarray(values), 8)[..., 2], expected)


def test_wide_integers_within_16_bits_are_read_as_16_bits_and_else_stretched() -> None:
    values = np.arange(64, dtype=np.int32).reshape(8, 8)
    np.testing.assert_array_equal(read(Image.fromarray(values * 257), 8, "TIFF")[..., 0], values)
    stretched = read(Image.fromarray(values * 10**6 - 5), 8, "TIFF")[..., 0]
    np.testing.assert_array_equal(stretched, np.rint(values * 255 / 63))


@pytest.mark.parametrize(("white", "scale"), [(1.0, 255), (200.0, 1), (65535.0, 1 / 257)])
def test_float_grey_takes_the_smallest_white_that_holds_it(white: float, scale: float) -> None:
    values = np.linspace(0, white, 64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_array_equal(read(Image.fromarray(values), 8, "TIFF")[..., 1], np.rint(values * np.float64(scale)))


def test_transparent_parts_lie_on_white() -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 2, 4))
    pixels = read(image, 4)
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert pixels[0, 3].tolist() == [255, 255, 255]
    half = read(Image.new("LA", (4, 4), (0, 128)), 4)
    assert half[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "I;16"])
def test_a_transparent_colour_lies_on_white(mode: str) -> None:
    key = {"P": 0, "RGB": (7, 7, 7), "L": 7, "I;16": 700}[mode]
    image = Image.new(mode, (4, 4), key)
    if mode == "P":
        image.putpalette([7, 7, 7] * 256)
    assert (read(image, 4) == read(image, 4)[0, 0]).all()
    assert read(image, 4)[0, 0, 0] < 10
    assert (read(image, 4, transparency=key) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_of_exif_is_applied_once(orientation: int, kind: str) -> None:
    ramp = np.add.outer(np.arange(32) * 2, np.arange(48) * 3).astype(np.uint8)
    image = Image.merge("RGB", (Image.fromarray(ramp), Image.fromarray(ramp[::-1].copy()), Image.new("L", (48, 32), 9)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    got = read(image, 32, kind, exif=exif, **options)
    image.getexif()[0x0112] = orientation
    expected = room.square(ImageOps.exif_transpose(image), 32)
    assert np.abs(got.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"II*\0", b"II*\0\x08\0", b"II+\0"])
def test_exif_that_nobody_can_read_does_not_spoil_the_picture(exif: bytes, kind: str) -> None:
    picture = Image.new("RGB", (32, 32), (200, 100, 50))
    np.testing.assert_array_equal(read(picture, 8, kind, exif=b"Exif\0\0" + exif), read(picture, 8, kind))


def test_crop_is_the_centre_square() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (read(Image.fromarray(pixels), 5) == 255).all()
    assert (read(Image.fromarray(pixels.transpose(1, 0, 2).copy()), 5) == 255).all()


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = read(Image.fromarray(stripes), 8)[:, 2:-2]
    assert np.abs(inner.astype(int) - 127).max() < 10


def test_a_large_jpeg_by_draft_is_the_same_picture() -> None:
    image = Image.fromarray(noise(20, 30)).resize((1200, 800), Image.Resampling.BICUBIC)
    got = read(image, 40, "JPEG", quality=95)
    assert np.abs(got.astype(int) - room.square(image, 40)).mean() < 2


def test_cmyk_and_palette_become_the_same_rgb() -> None:
    image = Image.new("RGB", (9, 9), (200, 100, 50))
    for mode in ("CMYK", "P"):
        assert np.abs(read(image.convert(mode), 3, "TIFF").astype(int) - (200, 100, 50)).max() <= 26


def test_threads_neither_warn_nor_disturb_the_filters_of_warnings() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        shapes = pool.map(lambda item: decode_bytes(item[1], 9, name=item[0]).pixels.shape, list(VALID.items()) * 3)
    assert set(shapes) == {(9, 9, 3)}
    assert warnings.filters == before


def test_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1 pixel; got 0"):
        decode_bytes(VALID["plain.png"], 0, name="x")


def test_of_a_tiff_of_several_pages_the_first_is_read() -> None:
    pages = [Image.new("L", (4, 4), grey) for grey in (30, 60, 90)]
    assert (read(pages[0], 4, "TIFF", save_all=True, append_images=pages[1:]) == 30).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"])
def test_compressed_tiff_is_the_same_picture(compression: str) -> None:
    image = Image.fromarray(np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8).convert("RGB")
    got = read(image, 16, "TIFF", compression=compression).astype(int)
    assert np.abs(got - np.asarray(image)).max() <= (8 if compression == "jpeg" else 0)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
def test_compressed_tiff_of_16_bits_is_scaled_and_not_clipped(compression: str) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    got = read(Image.fromarray(values), 8, "TIFF", compression=compression)
    np.testing.assert_array_equal(got[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_fax_tiff_is_black_and_white(compression: str) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, 4:] = 255
    got = read(Image.fromarray(pixels).convert("1"), 8, "TIFF", compression=compression)
    np.testing.assert_array_equal(got[..., 0], pixels)


def test_tiff_bomb_is_refused_by_the_size_in_its_header() -> None:
    lzw = ((258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1), (277, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 81))
    data = tiff((256, 4, 1, 12_000), (257, 4, 1, 9_000), *lzw)
    with pytest.raises(ValueError, match="12000 x 9000 pixels; at most 100 megapixels"):
        decode_bytes(data, 8, name="bomb")

"""DICOM: what becomes of each kind of picture, that a hostile file ends in one named error, that no patient is named."""

import logging
import struct
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom: pip install 'rareshot[dicom]'")
pytest.importorskip("libjpeg", reason="needs the extra dicom: pip install 'rareshot[dicom]'")

from hostile import encoded, noise
from made_dicom import (
    BIG,
    IMPLICIT,
    NAME,
    PATIENT_ID,
    RAMP,
    colours,
    dicom,
    hostile_dicom,
    item,
    lossless_jpeg,
    lut,
    palette,
    raw,
    rle,
    tag,
    valid_dicom,
)
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from rareshot.cli import main
from rareshot.data import dicom as room
from rareshot.data import limits
from rareshot.data.decode import decode, decode_bytes
from rareshot.data.readers import read_listing

VALID, HOSTILE = valid_dicom(), hostile_dicom()
DEEP = RAMP.astype(np.uint16) * 16


def read(data: bytes, size: int = 16) -> np.ndarray:
    return decode_bytes(data, size, name="made").pixels


def grey(pixels: np.ndarray, syntax: str = uid.ExplicitVRLittleEndian, **elements: Any) -> np.ndarray:
    return read(dicom(pixels, syntax, **elements))[..., 0]


@pytest.mark.parametrize("name", VALID)
def test_odd_but_valid_dicom_is_read_without_a_warning(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(VALID[name])
    pixels = decode(tmp_path / name, 12)
    assert pixels.shape == (12, 12, 3)
    assert name == "one_pixel" or pixels.std() > 10


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_dicom_is_refused_by_name_and_in_time(tmp_path: Path, name: str) -> None:
    data, reason = HOSTILE[name]
    (tmp_path / name).write_bytes(data)
    began = time.monotonic()
    with pytest.raises(ValueError, match=rf"{name}: .*({reason})"):
        decode(tmp_path / name, 12)
    assert time.monotonic() - began < 5


def chain(error: BaseException | None) -> str:
    """All that a traceback of an error would print of its causes."""
    if error is None:
        return ""
    shown = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{error!r} {chain(shown)}"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_error_warning_or_log_names_the_patient(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=name) as caught:
        decode_bytes(HOSTILE[name][0], 12, name=name)
    said = chain(caught.value) + caplog.text
    for secret in (NAME, "Mustermann", PATIENT_ID, "19640812"):
        assert secret not in said
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]


def test_nothing_but_the_picture_is_taken_from_the_file() -> None:
    header = room._header(VALID["grey"], room._transfer_syntax(VALID["grey"])[1], uid.ExplicitVRLittleEndian)
    assert {element.tag.group for element in header} == {0x0008, 0x0028, 0x7FE0}
    assert [element.keyword for element in header.group_dataset(0x0008)] == ["SpecificCharacterSet"]


def test_check_and_prepare_name_no_patient_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    names = ["grey", "rgb", "wrong_character_set", "private"]
    for label in ("one", "two"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for name in names:
            (tmp_path / "data" / label / f"{name}.dcm").write_bytes(VALID[name])
    bad = tmp_path / "data" / "one" / "bad.dcm"
    bad.write_bytes(HOSTILE["window_of_a_name"][0])
    said = ""
    for command in (["check"], ["prepare", "--size", "16"], ["prepare", "--size", "16"]):
        main(["data", command[0], str(tmp_path / "data"), *command[1:]])
        printed = capsys.readouterr()
        said += printed.out + printed.err
        if command[0] == "prepare":
            bad.unlink(missing_ok=True)
    store = tmp_path / "data" / ".rareshot" / "16"
    said += (store / "table.json").read_text() + (store / "manifest.json").read_text() + caplog.text
    assert "bad.dcm: is damaged: its DICOM picture cannot be decoded" in said.replace("\n", " ")
    for secret in ("Mustermann", "Erika", PATIENT_ID, "19640812", "Traceback"):
        assert secret not in said


def test_eight_bits_without_a_window_are_shown_as_stored() -> None:
    np.testing.assert_array_equal(grey(RAMP // 2 + 20), RAMP // 2 + 20)


def test_more_bits_without_a_window_go_from_the_least_to_the_largest_value() -> None:
    np.testing.assert_array_equal(grey(DEEP // 16 + 1000, BitsStored=12), RAMP)


def test_least_value_of_monochrome1_is_white() -> None:
    np.testing.assert_array_equal(grey(RAMP, PhotometricInterpretation="MONOCHROME1"), 255 - RAMP)


@pytest.mark.parametrize(
    ("function", "shown"),
    [("LINEAR", (0, 126, 255)), ("LINEAR_EXACT", (0, 125, 255)), ("SIGMOID", (30, 125, 225))],
)
def test_window_is_applied_as_the_standard_says(function: str, shown: tuple[int, int, int]) -> None:
    got = grey(RAMP, WindowCenter="101", WindowWidth="101", VOILUTFunction=function).ravel()
    # By hand, part 3, C.11.2.1.2 and 3; LINEAR at 100: ((100 - 100.5) / 100 + 0.5) * 255 = 126.2.
    assert tuple(got[[50, 100, 152]]) == shown


def test_rescale_comes_before_the_window() -> None:
    stored = (RAMP.astype(np.int16) - 100) * 4
    got = grey(stored, RescaleSlope="0.25", RescaleIntercept="100", WindowCenter="128", WindowWidth="256")
    np.testing.assert_array_equal(got, RAMP)


def test_falling_rescale_inverts() -> None:
    np.testing.assert_array_equal(grey(RAMP, RescaleSlope="-1", RescaleIntercept="0"), 255 - RAMP)


@pytest.mark.parametrize("slope", ["1e308", "-1e308", "1e31"])
def test_a_rescale_that_overflows_is_refused(slope: str) -> None:
    with pytest.raises(ValueError, match="whose rescaling gives numbers that no picture has"):
        grey(RAMP, RescaleSlope=slope, RescaleIntercept="0")


def test_tables_of_modality_and_window_are_looked_up_and_beat_numbers() -> None:
    square = np.arange(256) ** 2
    np.testing.assert_array_equal(
        grey(RAMP, VOILUTSequence=lut(square, 0, 16), WindowCenter="3", WindowWidth="3").ravel(),
        np.rint(square / 65535 * 255),
    )
    back = lut(np.arange(256)[::-1], 0, 8)
    np.testing.assert_array_equal(grey(RAMP, ModalityLUTSequence=back), 255 - RAMP)


def test_values_beyond_a_table_take_its_ends() -> None:
    got = grey(RAMP.astype(np.int16) - 128, VOILUTSequence=lut(np.array([10, 20, 30]), -1, 8)).ravel()
    assert got[[0, 127, 128, 129, 255]].tolist() == [10, 10, 20, 30, 30]


def test_of_several_frames_the_first_is_read_with_its_own_window() -> None:
    frames = np.concatenate([RAMP, RAMP // 3, RAMP // 5])
    per_frame = item(FrameVOILUTSequence=item(WindowCenter="64.5", WindowWidth="129"))
    elements: dict[str, Any] = {"Rows": 16, "NumberOfFrames": "3"}
    np.testing.assert_array_equal(grey(frames, **elements), RAMP)
    shared = item(PixelValueTransformationSequence=item(RescaleSlope="0.5", RescaleIntercept="0"))
    both = {"PerFrameFunctionalGroupsSequence": per_frame, "SharedFunctionalGroupsSequence": shared}
    np.testing.assert_array_equal(grey(frames, **elements, **both), np.rint(np.clip(RAMP / 2 / 128, 0, 1) * 255))


def test_bits_above_the_stored_ones_are_ignored() -> None:
    overlaid = RAMP % 64 | (RAMP % 3 << 6).astype(np.uint8)
    np.testing.assert_array_equal(grey(overlaid, BitsStored=6), np.rint((RAMP % 64) * np.float64(255 / 63)))


def test_negative_values_of_fewer_bits_are_windowed_as_such() -> None:
    stored = RAMP.astype(np.int16) - 128
    np.testing.assert_array_equal(grey(stored, BitsStored=12, WindowCenter="0", WindowWidth="256"), RAMP)


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG])
def test_byte_orders_and_implicit_elements_give_the_same_picture(syntax: str) -> None:
    elements: dict[str, Any] = {"BitsStored": 12, "WindowCenter": "900", "WindowWidth": "1000"}
    np.testing.assert_array_equal(grey(DEEP, syntax, **elements), grey(DEEP, **elements))


def test_planes_and_pixels_give_the_same_colours() -> None:
    rgb = noise(16, 16)
    planes = dicom(rgb.transpose(2, 0, 1).tobytes(), **colours("RGB", planar=1))
    np.testing.assert_array_equal(read(dicom(rgb)), rgb)
    np.testing.assert_array_equal(read(planes), rgb)


@pytest.mark.parametrize("name", ["ybr_full", "ybr_422"])
def test_luminance_and_colour_differences_become_rgb(name: str) -> None:
    ybr = np.asarray(Image.new("RGB", (16, 16), (200, 100, 50)).convert("YCbCr"))
    half = ybr.reshape(-1, 2, 3)
    shared = np.concatenate([half[:, :, 0], half[:, :1, 1], half[:, :1, 2]], axis=1)
    kind, data = ("YBR_FULL", ybr) if name == "ybr_full" else ("YBR_FULL_422", shared)
    got = read(dicom(data.tobytes(), **colours(kind)))
    assert np.abs(got.astype(int) - (200, 100, 50)).max() <= 2


def test_palette_gives_its_colours() -> None:
    table = np.stack([np.arange(256) * 257, np.arange(256)[::-1] * 257, np.full(256, 65535)], axis=1)
    got = read(dicom(RAMP, **palette(table)))
    np.testing.assert_array_equal(got, np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 255)], axis=-1))


def test_run_lengths_and_lossless_jpeg_give_the_stored_values() -> None:
    rgb = noise(16, 16)
    np.testing.assert_array_equal(read(dicom(encapsulate([rle(rgb)]), uid.RLELossless, **colours("RGB"))), rgb)
    elements: dict[str, Any] = {"BitsAllocated": 16, "BitsStored": 12, "WindowCenter": "900", "WindowWidth": "1000"}
    frames = {uid.RLELossless: rle(DEEP), uid.JPEGLosslessSV1: lossless_jpeg(DEEP, 12)}
    for syntax, frame in frames.items():
        got = read(dicom(encapsulate([frame]), syntax, **elements))[..., 0]
        np.testing.assert_array_equal(got, grey(DEEP, **elements))


def test_jpeg_in_dicom_is_the_picture_that_the_jpeg_is() -> None:
    data = encoded(Image.fromarray(noise(4, 4)).resize((16, 16)), "JPEG", quality=95)
    got = read(dicom(encapsulate([data]), uid.JPEGBaseline8Bit, **colours("YBR_FULL_422")))
    assert np.abs(got.astype(int) - read(data)).max() <= 2


def test_megapixels_count_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PIXELS", 255)
    for name in ("grey", "jpeg", "lossless", "rle"):
        with pytest.raises(ValueError, match="16 x 16 pixels; at most"):
            read(VALID[name])


def test_headers_that_take_for_ever_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.0)
    with pytest.raises(ValueError, match="takes more than 0 s to read"):
        read(VALID["grey"])


def test_millions_of_items_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.1)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 300_000
    with pytest.raises(ValueError, match=r"takes more than 0\.1 s to read"):
        read(raw(tag(0x5200, 0x9230, b"SQ", items, 0xFFFFFFFF)))


def test_millions_of_elements_before_the_data_set_are_given_up() -> None:
    with pytest.raises(ValueError, match="a DICOM header of more than 100000 elements"):
        read(bytes(128) + b"DICM" + b"\2\0\0\0UL\0\0" * 100_001)


def test_dicom_without_the_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for name in ("rareshot.data.dicom", "rareshot.data.dicom_values"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ValueError, match=r"x: is DICOM, .*pip install 'rareshot\[dicom\]'"):
        decode_bytes(VALID["grey"], 8, name="x")


def test_a_missing_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import JPEGLosslessSV1Decoder

    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    with pytest.raises(ValueError, match=r"is JPEG Lossless.*not installed: pip install 'rareshot\[dicom\]'"):
        read(VALID["lossless"])


def test_threads_read_dicom_without_disturbing_warnings_or_logs() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        shapes = set(pool.map(lambda name: read(VALID[name], 9).shape, list(VALID) * 3))
    assert shapes == {(9, 9, 3)}
    assert warnings.filters == before
    assert logging.getLogger("pydicom").propagate


def test_dicom_files_are_listed_with_and_without_suffix(tmp_path: Path) -> None:
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        for name in ("a.dcm", "b.DICOM", "IM000001", "1.2.840.7"):
            (tmp_path / label / name).write_bytes(VALID["grey"])
        (tmp_path / label / "README").write_text("no image")
        (tmp_path / label / "DICOMDIR").write_bytes(VALID["grey"])
    listing = read_listing(tmp_path)
    assert {file for file in listing.files if file.startswith("one/")} == {
        *("one/1.2.840.7", "one/IM000001", "one/a.dcm", "one/b.DICOM")
    }
    assert [problem.name for problem in listing.left_out][:2] == ["one/DICOMDIR", "one/README"]


def test_a_table_finds_dicom_files_without_suffix(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("IM1", "1.2.840.7", "scan.dcm"):
        (tmp_path / "images" / name).write_bytes(VALID["grey"])
    (tmp_path / "labels.csv").write_text("image_id,dx\nIM1,a\n1.2.840.7,b\nscan,a\n")
    listing = read_listing(tmp_path)
    assert listing.files == ("images/IM1", "images/1.2.840.7", "images/scan.dcm")
    assert not listing.problems

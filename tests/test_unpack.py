"""Unpacking: a hostile or broken archive leaves nothing, whatever it tries."""

import stat
import zipfile
from pathlib import Path

import pytest
from lying_server import BODY, Web, names, zip_of

from rareshot.data.fetch import FetchError, fetch


def member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


# Archives


def test_an_archive_without_its_folder_gets_one(zipped: Web, tmp_path: Path) -> None:
    zipped.files["made.zip"] = zip_of(("labels.csv", b"image"), ("deep/er/note.txt", b"x"))
    folder = fetch("made", tmp_path, base_url=zipped.base)
    assert (folder / "labels.csv").read_bytes() == b"image"
    assert (folder / "deep" / "er" / "note.txt").read_bytes() == b"x"
    assert names(tmp_path) == ["checksums.json", "made"]


def test_what_lies_beside_the_right_folder_is_dropped(zipped: Web, tmp_path: Path) -> None:
    zipped.files["made.zip"] = zip_of(("made/a", b"a"), ("__MACOSX/made/._a", b"x"))
    assert names(fetch("made", tmp_path, base_url=zipped.base)) == ["a"]
    assert names(tmp_path) == ["checksums.json", "made"]


def test_leftovers_of_a_killed_unpacking_do_not_matter(zipped: Web, tmp_path: Path) -> None:
    (tmp_path / "made.zip.unpacking" / "made").mkdir(parents=True)
    (tmp_path / "made.zip.unpacking" / "made" / "half").write_text("x")
    zipped.files["made.zip"] = zip_of(("made/a", b"a"))
    assert names(fetch("made", tmp_path, base_url=zipped.base)) == ["a"]


HOSTILE = {
    "slip": (zip_of(("../evil", b"x")), r"'\.\./evil' leads outside the folder"),
    "deep slip": (zip_of(("made/../../evil", b"x")), "leads outside the folder"),
    "absolute": (zip_of(("/evil", b"x")), "'/evil' has an absolute path"),
    "drive": (zip_of(("C:/evil", b"x")), "'C:/evil' has an absolute path"),
    "backslash": (zip_of(("made\\..\\evil", b"x")), "no part of a file name"),
    "empty part": (zip_of(("made//evil", b"x")), "leads outside the folder"),
    "link": (zip_of((member("made/link", stat.S_IFLNK | 0o777), b"/etc/passwd")), "is a link or a special file"),
    "pipe": (zip_of((member("made/pipe", stat.S_IFIFO | 0o644), b"")), "is a link or a special file"),
    "file called a folder": (zip_of((member("made/x", stat.S_IFDIR | 0o755), b"")), "is a link or a special file"),
    "bomb": (zip_of(("made/zeros", bytes(99_000))), "grows from .* to 99,000 bytes, more than 100-fold"),
    "too large": (zip_of(("made/a", BODY[:60_000]), ("made/b", BODY[:60_000])), "120,000 bytes when unpacked, at most"),
    "too many": (zip_of(*((f"made/{i}", b"") for i in range(6))), "6 members, at most 5 expected"),
    "same name in other case": (zip_of(("made/a", b"1"), ("made/A", b"2")), "'made/A' stands twice"),
    "same name in another Unicode form": (zip_of(("made/\u00e9", b"1"), ("made/e\u0301", b"2")), "stands twice"),
    "file and folder": (zip_of(("made/a", b"1"), ("made/a/b", b"2")), "'made/a' is a file and a folder at once"),
    "thousands of folders": (
        zip_of(("made/" + "a/" * 30_000 + "x", b"1")),
        "has a name of more than 16 parts, or a part",
    ),
    "long name": (zip_of(("made/" + "é" * 128, b"1")), "or a part of more than 255 bytes"),
    "bzip2": (zip_of(("made/a", b"1"), method=zipfile.ZIP_BZIP2), "is compressed by method 12"),
    "no zip": (b"hello" * 100, "not a sound zip"),
    "cut zip": (zip_of(("made/a", b"1" * 100))[:-30], "not a sound zip"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_leaves_nothing(zipped: Web, tmp_path: Path, case: str) -> None:
    zipped.files["made.zip"], why = HOSTILE[case]
    out = tmp_path / "out"
    with pytest.raises(FetchError, match=f"made.zip from .* was not unpacked: .*{why}.*; the download was thrown away"):
        fetch("made", out, base_url=zipped.base)
    assert names(out) == []
    assert names(tmp_path) == ["out"]


def test_a_name_that_stands_twice_is_refused(zipped: Web, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped.files["made.zip"] = zip_of(("made/a", b"1"), ("made/a", b"2"))
    with pytest.raises(FetchError, match="'made/a' stands twice"):
        fetch("made", tmp_path, base_url=zipped.base)


def test_an_encrypted_member_is_refused(zipped: Web, tmp_path: Path) -> None:
    plain_zip = bytearray(zip_of(("made/a", b"1")))
    plain_zip[plain_zip.index(b"PK\x01\x02") + 8] |= 1
    zipped.files["made.zip"] = bytes(plain_zip)
    with pytest.raises(FetchError, match="'made/a' is encrypted"):
        fetch("made", tmp_path, base_url=zipped.base)


def test_a_wrong_crc_is_refused_and_nothing_is_kept(zipped: Web, tmp_path: Path) -> None:
    content = BODY[:2000]
    zipped.files["made.zip"] = zip_of(("made/a", content), method=zipfile.ZIP_STORED).replace(content, content[::-1])
    with pytest.raises(FetchError, match="not a sound zip: Bad CRC-32"):
        fetch("made", tmp_path, base_url=zipped.base)
    assert names(tmp_path) == []


def test_a_member_that_unpacks_to_more_than_it_says_stops_at_what_it_says(zipped: Web, tmp_path: Path) -> None:
    honest = zip_of(("made/a", bytes(range(200)) * 100))
    size = (20_000).to_bytes(4, "little")
    zipped.files["made.zip"] = honest.replace(size, (500).to_bytes(4, "little"))
    with pytest.raises(FetchError, match="not a sound zip: Bad CRC-32"):
        fetch("made", tmp_path, base_url=zipped.base)


def test_unpacked_files_cannot_be_executed(zipped: Web, tmp_path: Path) -> None:
    zipped.files["made.zip"] = zip_of((member("made/run", stat.S_IFREG | 0o4777), b"#!/bin/sh"))
    mode = (fetch("made", tmp_path, base_url=zipped.base) / "run").stat().st_mode
    assert not mode & (stat.S_IXUSR | stat.S_ISUID)
